"""A store that is damaged, cut short, or on a disk that is full: said clearly, with a way out, and nothing lost
that could be kept."""

import http.client
import os
import random
import re
import subprocess

import pytest

from conftest import cannot_run, terminate_all
from harness.emulator import run
from harness.stream import settle
from harness.wire import check_error

MIB = 1 << 20


@pytest.fixture
def small_disk(scratch):
    """A file system of 64 MiB."""
    folder = scratch / f"small-{random.randrange(1 << 30)}"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "small", folder], capture_output=True, text=True)
    if done.returncode != 0:
        folder.rmdir()
        cannot_run(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def fill(folder):
    with open(folder / "ballast", "ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_a_full_disk(small_disk, new_emulator, binary, tiny_tar):
    state = small_disk / "state"
    done = run(binary, "template", "import", "--state-dir", str(state), "tiny", str(tiny_tar))
    assert done.returncode == 0, done
    probe = run(binary, "template", "list", "--state-dir", str(state))
    assert "tiny" in probe.stdout
    emulator = new_emulator("--auth", "any", state=state, warm=None)
    api = emulator.api("ork_full_disk")
    first = api.post("/v1/sandboxes", {"template": "tiny"})
    if first.status != 201:
        cannot_run(f"no overlay on a tmpfs here: {first}")  # before Linux 6.6
    sandbox = first.json["id"]
    api.put_file(sandbox, "/workspace/f", b"before")
    fill(small_disk)

    refused = [api.post("/v1/sandboxes", {"template": "tiny"}) for _ in range(12)]
    assert {a.status for a in refused} <= {201, 507}, refused
    assert 507 in {a.status for a in refused}, "the disk is not full"
    assert all("full" in check_error(a, 507, "disk_full")["detail"] for a in refused if a.status == 507)
    assert api.sh(sandbox, "cat /workspace/f") == "before", "what runs goes on"
    assert api.exec(sandbox, "dd if=/dev/zero of=/workspace/big bs=1024 count=64 2>&1")["exit_code"] != 0
    answer = api.post(f"/v1/sandboxes/{sandbox}/pause", {})
    if answer.status != 200:
        check_error(answer, 507, "disk_full")
        assert api.status_of(sandbox) == "running"
    else:
        assert api.post(f"/v1/sandboxes/{sandbox}/resume", {}).status == 200

    # The next start on a disk that is still full: it works, or says so and leaves everything to the one after it.
    emulator.kill_daemon()
    try:
        emulator.again()
    except AssertionError:
        assert "full" in emulator.log(), emulator.log()
    else:
        emulator.kill_daemon()
    (small_disk / "ballast").unlink()
    emulator.again()
    api.port = emulator.port
    assert api.sh(sandbox, "cat /workspace/f") == "before"
    assert api.create()["status"] == "running"
    for row in api.get("/v1/sandboxes", query={"status": "running"}).json["sandboxes"]:
        assert api.delete(f"/v1/sandboxes/{row['id']}").status == 200
    emulator.check_accounted(0)


def refuses(emulator, store):
    """serve says what is wrong; the file is as it was."""
    before = store.read_bytes()
    with pytest.raises(AssertionError):
        emulator.again()
    assert emulator.process.returncode == 1, emulator.log()
    assert store.read_bytes() == before, "never replaced, never repaired in silence"
    return emulator.log()


def test_a_truncated_store_with_sandboxes_alive(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_truncated")
    for n in range(30):
        api.delete(f"/v1/sandboxes/{api.create(cpu=0.1, memory_mb=64, metadata={'n': str(n) * 200})['id']}")
    assert emulator.stop() == 0  # the log goes into the database
    emulator.again()
    api.port = emulator.port
    sandbox = api.create()["id"]
    emulator.kill_daemon()
    store = emulator.state_dir / "orkestr.db"
    saved = {path.name: path.read_bytes() for path in emulator.state_dir.glob("orkestr.db*")}
    size = store.stat().st_size
    assert size > 8192
    os.truncate(store, size // 2 // 4096 * 4096 + 100)
    (emulator.state_dir / "orkestr.db-wal").write_bytes(saved["orkestr.db-wal"][:500])
    log = refuses(emulator, store)
    assert "orkestr.db" in log and "damaged" in log
    inits = emulator.inits()
    assert inits, "its sandbox is not ended for it"

    # Put back what was there: all is well again.
    for name, data in saved.items():
        path = emulator.state_dir / name
        path.write_bytes(data)
    emulator.again()
    api.port = emulator.port
    assert api.sh(sandbox, "echo alive") == "alive\n"

    # Or the way out that the message names, to the letter.
    emulator.kill_daemon()
    os.truncate(store, 5000)
    for extra in emulator.state_dir.glob("orkestr.db-*"):
        extra.unlink()
    log = refuses(emulator, store)
    way_out = re.search(r"(mkdir damaged && mv orkestr\.db\* damaged/)", log).group(1)
    subprocess.run(way_out, shell=True, check=True, cwd=emulator.state_dir)
    emulator.again()
    api.port = emulator.port
    assert api.get("/v1/sandboxes").json["sandboxes"] == []
    emulator.check_accounted(0)  # what no row names is ended
    assert (emulator.state_dir / "damaged" / "orkestr.db").stat().st_size == 5000


def test_flipped_bits(new_emulator, scratch):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_flipped")
    for _ in range(10):
        api.delete(f"/v1/sandboxes/{api.create(cpu=0.1, memory_mb=64)['id']}")
    assert emulator.stop() == 0
    store = emulator.state_dir / "orkestr.db"
    good = store.read_bytes()
    dice = random.Random(5)
    outcomes = set()
    # What the file format calls itself, its page size, the first table's page; and anywhere.
    for at in [0, 5, 16, 100, *(dice.randrange(len(good)) for _ in range(8))]:
        bad = bytearray(good)
        bad[at] ^= 1 << dice.randrange(8)
        store.write_bytes(bytes(bad))
        for extra in emulator.state_dir.glob("orkestr.db-*"):
            extra.unlink()
        emulator.log_path.write_bytes(b"")
        try:
            emulator.again()
        except AssertionError:
            assert emulator.process.returncode == 1, f"byte {at}: {emulator.process.returncode}"
            assert re.search(r"orkestr\.db", emulator.log()), f"byte {at}: {emulator.log()}"
            assert store.read_bytes() == bytes(bad)
            outcomes.add("refused")
        else:
            answer = emulator.api("ork_flipped").get("/v1/sandboxes")
            assert answer.status in (200, 500), f"byte {at}: {answer}"
            assert emulator.stop() == 0, f"byte {at}"
            outcomes.add("served")
    assert outcomes == {"refused", "served"}
    store.write_bytes(good)
    for extra in emulator.state_dir.glob("orkestr.db-*"):
        extra.unlink()
    emulator.again()


def test_a_writer_killed_again_and_again_leaves_a_whole_store(new_emulator, run_in_background):
    """Every row that was answered is there after each kill."""
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_writer")
    answered = {}

    def write():
        try:
            while True:
                sandbox = api.create(cpu=0.1, memory_mb=64)["id"]
                answered[sandbox] = "running"
                assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
                answered[sandbox] = "terminated"
        except (OSError, http.client.HTTPException):
            pass  # the emulator is gone

    for n in range(4):
        writing = run_in_background(write)
        settle(lambda: len(answered) > 3 * (n + 1))
        emulator.kill_daemon()
        writing.result(30)
        emulator.again()
        api.port = emulator.port
        for sandbox, status in list(answered.items()):
            row = settle(lambda: (r := api.get(f"/v1/sandboxes/{sandbox}").json)["status"] != "terminating" and r)
            assert row["status"] in ({"terminated"} if status == "terminated" else {"running", "terminated"}), row
    terminate_all(api)  # one more than was answered, if the kill came between the row and the answer
    emulator.check_accounted(0)
