"""Many lives of sandboxes, one after the other: nothing grows but the rows of the database. 300 of them as part of the
suite; 20,000 with ORKESTR_TEST_LONG=1 (`make soak`)."""

import os
import secrets
import sqlite3
import time
from pathlib import Path

from harness import proc

LONG = os.environ.get("ORKESTR_TEST_LONG") == "1"
CYCLES = int(os.environ.get("ORKESTR_TEST_CYCLES", 20000 if LONG else 300))
# Caches, arenas and the pool have their size by then; in a long run what is bounded by a number of its own, too: the
# journal (8,192 events), the bills of sandboxes that have ended (4,096), SQLite's pages (2 MB).
WARM_UP = 5000 if LONG else 100


def measure(emulator):
    """What must not grow, once nothing lives."""
    emulator.settle()
    core = sorted(emulator.core())
    state, own = Path(emulator.state_dir), os.readlink("/proc/self/ns/mnt")
    return {
        "rss": {proc.name(pid) or str(pid): proc.status_kb(pid, "VmRSS") for pid in core},
        "fds": {proc.name(pid) or str(pid): len(proc.fds(pid) or []) for pid in core},
        # In its own mount namespaces; the host's changes with whatever else happens there.
        "mounts": {name: len(proc.mounts(pid) or []) for name, pid in proc.namespaces(set(core), "mnt").items() if name != own},
        "processes": len(emulator.family()),
        "cgroups": sum(len(proc.subfolders(folder)) for folder in emulator.cgroups),
        "files": sum(len(files) + len(folders) for _, folders, files in os.walk(state) if "disk/l" not in _),
        "database": sum(path.stat().st_size for path in state.glob("orkestr.db*")),
    }


def rows(emulator):
    with sqlite3.connect(f"file:{emulator.state_dir}/orkestr.db?mode=ro", uri=True) as db:
        return db.execute("SELECT count(*) FROM sandbox").fetchone()[0]


def live_once(api, turn):
    sandbox = api.create(cpu=0.1, memory_mb=64, metadata={"turn": str(turn)})["id"]
    assert api.sh(sandbox, "echo $((6 * 7))") == "42\n"
    if turn % 10 == 0:
        api.put_file(sandbox, "/workspace/data", secrets.token_bytes(20000))
        assert api.files("GET", sandbox, "/workspace/data").status == 200
    if turn % 25 == 0:  # something still runs, and listens, when it ends
        api.exec(sandbox, "sleep 300 & (trap '' TERM; sleep 300) & true")
    if turn % 50 == 0:
        assert api.post(f"/v1/sandboxes/{sandbox}/pause").status in (200, 501)
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"


def test_nothing_grows(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_soak_account")
    for turn in range(WARM_UP):
        live_once(api, turn)
    before, began, rows_before = measure(emulator), time.monotonic(), rows(emulator)
    half = before
    for turn in range(CYCLES):
        if turn == CYCLES // 2:
            half = measure(emulator)
        live_once(api, turn)
    after, seconds = measure(emulator), time.monotonic() - began
    made = rows(emulator) - rows_before
    print(f"\nsoak: {CYCLES} lives in {seconds:.0f} s; before {before}; half {half}; after {after}; {made} rows")
    assert made == CYCLES
    for what in ("processes", "cgroups", "files"):
        assert after[what] <= before[what] + 2, (what, before, after)
    for what in ("fds", "mounts"):
        for name, number in after[what].items():
            # The egress process's stock of blank sockets goes up and down.
            slack = 64 if name == "ork-egress" and what == "fds" else 4
            assert number <= before[what].get(name, 0) + slack, (what, name, before, after)
    # The allocator may have a few more pages, but in the second half of a long run none: 100 bytes a life are 1 MB of
    # 10,000.
    for name, kb in after["rss"].items():
        if b"__asan_init" in emulator.binary.read_bytes():
            break  # what the sanitizers keep says nothing
        assert kb <= before["rss"].get(name, 0) + 1536, (name, before, after)
        assert not LONG or kb <= half["rss"].get(name, 0) + 768, (name, half, after)
    # The database beyond its rows: a write-ahead log of at most some MB, and about 1 KB a row with its indexes.
    assert after["database"] - before["database"] <= made * 1200 + (6 << 20), (before, after)
    emulator.audit()
