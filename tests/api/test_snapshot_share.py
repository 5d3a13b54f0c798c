"""One folder of snapshots, two emulators: what was paused on one is resumed on one of them, never on both. And what a
resume without the processes brings back, to the last attribute."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest

from conftest import cannot_run
from harness.emulator import run
from harness.internet import world
from harness.netbox import Box
from harness.wire import check_error
from test_pause import COUNT, MAKE_ALL_KINDS, crash, files_of, manifest, pause, resume, snapshots
from test_snapshot import KEY, call


@pytest.fixture
def pair(new_emulator, new_state, scratch):
    """Two emulators, each with a state dir of its own, and the folder they share. Same templates."""
    count = len(os.listdir(scratch))
    shared = scratch / f"shared-{count}"
    emulators = [new_emulator("--auth", "any", "--snapshot-dir", str(shared), state=new_state("tiny"), warm=None) for _ in range(2)]
    return emulators, shared


def visible(shared: Path) -> set[str]:
    return {name for name in os.listdir(shared) if not name.startswith(".holder-")}


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)
    return value


def test_paused_here_resumed_there(pair):
    (a, b), shared = pair
    here, there = a.api(KEY), b.api(KEY)
    sandbox = here.create(env={"COLOR": "red"}, metadata={"m": "1"}, timeout_seconds=700)["id"]
    here.sh(sandbox, "echo first > /workspace/x; sleep 1000 > /dev/null 2>&1 &")
    check_error(there.get(f"/v1/sandboxes/{sandbox}"), 404, "sandbox_not_found")
    row = pause(here, sandbox).json
    assert visible(shared) == files_of(sandbox) and snapshots(a) == set()
    # The other one sees it at once, as the first does: paused, the same times.
    other = there.get(f"/v1/sandboxes/{sandbox}").json
    assert {k: v for k, v in other.items()} == {k: v for k, v in row.items()}
    assert [r["id"] for r in there.get("/v1/sandboxes").json["sandboxes"]] == [sandbox]
    check_error(b.api("ork_somebody_else").get(f"/v1/sandboxes/{sandbox}"), 404, "sandbox_not_found")
    check_error(b.api("ork_somebody_else").post(f"/v1/sandboxes/{sandbox}/resume"), 404, "sandbox_not_found")
    answer = resume(there, sandbox)
    assert "memory-lost" in answer.divergences and answer.json["metadata"] == {"m": "1"}
    assert there.sh(sandbox, "cat /workspace/x; echo $COLOR") == "first\nred\n"
    assert visible(shared) == set()
    # The first one says so, and its frozen processes end.
    gone = wait_for(lambda: (r := here.get(f"/v1/sandboxes/{sandbox}").json)["status"] == "terminated" and r)
    assert gone["termination_reason"] == "moved"
    wait_for(lambda: len(a.slots()) == len(a.parked()))
    check_error(here.post(f"/v1/sandboxes/{sandbox}/resume"), 409, "sandbox_not_ready")
    # And back again.
    there.sh(sandbox, "echo second >> /workspace/x")
    pause(there, sandbox)
    assert here.status_of(sandbox) == "paused"
    resume(here, sandbox)
    assert here.sh(sandbox, "cat /workspace/x; echo $COLOR") == "first\nsecond\nred\n"
    assert wait_for(lambda: there.status_of(sandbox) == "terminated")
    assert here.delete(f"/v1/sandboxes/{sandbox}").json["termination_reason"] == "user"
    assert visible(shared) == set()


def test_of_two_that_resume_one_wins(pair, run_in_background):
    (a, b), shared = pair
    outcomes = set()
    for n in range(12):
        api = [a.api(KEY), b.api(KEY)]
        sandbox = api[n % 2].create()["id"]
        api[n % 2].sh(sandbox, f"echo {n} > /workspace/n")
        pause(api[n % 2], sandbox)
        api[(n + 1) % 2].status_of(sandbox)
        tries = [run_in_background(x.post, f"/v1/sandboxes/{sandbox}/resume") for x in (api if n % 3 else api[::-1])]
        answers = [t.result(30) for t in tries]
        assert sorted(x.status for x in answers) == [200, 409], answers
        statuses = [x.status_of(sandbox) for x in api]
        assert statuses.count("running") == 1, statuses
        winner = api[statuses.index("running")]
        outcomes.add(statuses.index("running"))
        assert winner.sh(sandbox, "cat /workspace/n") == f"{n}\n"
        assert winner.delete(f"/v1/sandboxes/{sandbox}").status == 200
        assert visible(shared) == set()
    assert outcomes, "nobody ever won"


def test_a_terminate_on_one_and_a_resume_on_the_other(pair, run_in_background):
    (a, b), shared = pair
    for _ in range(6):
        sandbox = a.api(KEY).create()["id"]
        pause(a.api(KEY), sandbox)
        ending = run_in_background(a.api(KEY).delete, f"/v1/sandboxes/{sandbox}")
        answer = b.api(KEY).post(f"/v1/sandboxes/{sandbox}/resume")
        assert ending.result(30).json["status"] == "terminated"
        assert answer.status in (200, 404, 409), answer
        if answer.status == 200:
            assert ending.result().json["termination_reason"] == "moved"
            assert b.api(KEY).sh(sandbox, "echo on") == "on\n"
            b.api(KEY).delete(f"/v1/sandboxes/{sandbox}")
        assert visible(shared) == set()


def test_paused_ones_outlive_a_stop(pair, new_emulator):
    (a, b), shared = pair
    sandbox = a.api(KEY).create()["id"]
    a.api(KEY).sh(sandbox, "echo kept > /workspace/x")
    pause(a.api(KEY), sandbox)
    b.api(KEY).status_of(sandbox)
    for emulator in (b, a):
        assert emulator.stop() == 0
        emulator.check_nothing_left()
        assert visible(shared) == files_of(sandbox)
    again = new_emulator("--auth", "any", "--snapshot-dir", str(shared), state=a.state_dir, warm=None)
    assert again.api(KEY).status_of(sandbox) == "paused"
    resume(again.api(KEY), sandbox)
    assert again.api(KEY).sh(sandbox, "cat /workspace/x") == "kept\n"
    late = new_emulator("--auth", "any", "--snapshot-dir", str(shared), state=b.state_dir, warm=None)
    assert late.api(KEY).get(f"/v1/sandboxes/{sandbox}").json["termination_reason"] == "moved"


def test_the_caps_count_what_is_there(pair, call):
    (a, b), shared = pair
    boxes = [a.api(KEY).create(size="small")["id"] for _ in range(10)]
    for box in boxes:
        pause(a.api(KEY), box)
    one_more = b.api(KEY).create(size="small")["id"]
    b.api(KEY).get("/v1/sandboxes")
    check_error(b.api(KEY).post(f"/v1/sandboxes/{one_more}/pause"), 402, "snapshot_cap_reached")
    call(a.state_dir, "rm", "--snapshot-dir", shared, boxes[0])
    pause(b.api(KEY), one_more)
    for box in boxes[1:]:
        b.api(KEY).delete(f"/v1/sandboxes/{box}")


def test_a_claim_of_a_dead_emulator_is_put_back(pair):
    """As after kill -9 in the middle of a resume: the claim of one that lives stays, that of a dead one does not."""
    (a, b), shared = pair
    sandbox = a.api(KEY).create()["id"]
    a.api(KEY).sh(sandbox, "echo here > /workspace/x")
    pause(a.api(KEY), sandbox)
    b.api(KEY).status_of(sandbox)
    holder = (b.state_dir / "holder").read_text()
    os.rename(shared / f"{sandbox}.json", shared / f".claim-{sandbox}-{holder}.json")
    assert wait_for(lambda: a.api(KEY).status_of(sandbox) == "terminated"), "B has it"
    assert visible(shared) == {f".claim-{sandbox}-{holder}.json", f"{sandbox}.tar.zst"}
    crash(b)
    assert wait_for(lambda: a.api(KEY).status_of(sandbox) == "paused")
    resume(a.api(KEY), sandbox)
    assert a.api(KEY).sh(sandbox, "cat /workspace/x") == "here\n"
    assert visible(shared) == set()


def test_whose_folder_it_is(binary, scratch, new_state):
    if os.geteuid() != 0:
        cannot_run("giving a folder to another user needs root")
    folder = scratch / "somebodys"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    done = run(binary, "serve", "--listen", "127.0.0.1:0", "--state-dir", str(new_state("tiny")), "--snapshot-dir", str(folder))
    assert done.returncode == 1 and "belongs to uid 12345" in done.stderr, done
    os.chown(folder, 0, 0)
    (folder / "letter").write_text("mine")
    done = run(binary, "serve", "--listen", "127.0.0.1:0", "--state-dir", str(new_state("tiny")), "--snapshot-dir", str(folder))
    assert done.returncode == 1 and "must be empty" in done.stderr, done
    assert (folder / "letter").read_text() == "mine" and os.stat(folder).st_uid == 0


# --- what comes back, to the last attribute -------------------------------------------------------


def disk(state: Path, mark: str) -> dict[str, tuple]:
    """Every path below the one sandbox's upper folder that has `mark`: kind, mode, owner, links, times, attributes,
    content. Of a deletion only that it is one."""
    [upper] = [p.parent.parent for p in (state / "disk" / "s").glob(f"*/u/{mark}")] if "/" not in mark else [
        p for p in (state / "disk" / "s").glob("*/u") if (p / mark).exists()
    ]
    seen = {}
    for folder, folders, files in os.walk(os.fsencode(upper)):
        for name in [b"", *files, *[f for f in folders if os.path.islink(os.path.join(folder, f))]]:
            path = os.path.join(folder, name).rstrip(b"/")
            s = os.lstat(path)
            key = os.path.relpath(path, os.fsencode(upper))
            if stat.S_ISCHR(s.st_mode):
                seen[key] = ("deleted",)
                continue
            attributes = {
                a: os.getxattr(path, a, follow_symlinks=False) for a in os.listxattr(path, follow_symlinks=False)
                if not a.startswith("user.overlay.") or a == "user.overlay.opaque"
            }  # fmt: skip
            content = None
            if stat.S_ISLNK(s.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(s.st_mode):
                with open(path, "rb") as f:
                    content = (s.st_size, hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(f.read()).hexdigest())
            links = 0 if stat.S_ISDIR(s.st_mode) else s.st_nlink
            seen[key] = (stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, links, s.st_mtime_ns, attributes, content)
    return seen


def test_every_path_mode_owner_attribute_time_and_content(new_emulator):
    first = new_emulator("--auth", "any", warm=None)
    api = first.api(KEY)
    sandbox = api.create()["id"]
    api.sh(sandbox, MAKE_ALL_KINDS)
    api.sh(sandbox, COUNT + " sleep 1000 > /dev/null 2>&1 &")
    [upper] = [p for p in (first.state_dir / "disk/s").glob("*/u") if (p / "workspace/d").exists()]
    try:
        os.setxattr(upper / "workspace/d/plain", "user.note", b"with\0nul")
        os.setxattr(upper / "workspace/d", "user.on-a-folder", b"x" * 1000)
        os.setxattr(upper / "workspace/d/empty", "user.\u00fc", b"")
    except OSError as error:
        cannot_run(f"no extended attributes in the state dir: {error}")
    pause(api, sandbox)
    told = manifest(first, sandbox)
    before = disk(first.state_dir, "workspace/d/plain")
    assert len(before) > 25 and before[b"workspace/d/plain"][6] == {"user.note": b"with\0nul"}
    listed = api.get(f"/_emulator/sandboxes/{sandbox}").json
    assert listed["snapshot"]["processes"] == told["processes"] and not listed["memory_lost"] and listed["lost"] is None
    assert "row" not in listed["snapshot"]
    crash(first)
    second = new_emulator("--auth", "any", state=first.state_dir, warm=None)
    api = second.api(KEY)
    assert "memory-lost" in resume(api, sandbox).divergences
    after = disk(second.state_dir, "workspace/d/plain")
    assert after.keys() == before.keys()
    assert {k: (before[k], after[k]) for k in before if before[k] != after[k]} == {}
    lost = api.get(f"/_emulator/sandboxes/{sandbox}")
    assert lost.json["memory_lost"] and "memory-lost" in lost.divergences
    assert lost.json["lost"]["processes"] == told["processes"] and lost.json["lost"]["listening"] == told["listening"]
    assert any("sleep 1000" in p["command"] for p in lost.json["lost"]["processes"])
    assert lost.json["snapshot"] is None
    check_error(second.api("ork_somebody_else").get(f"/_emulator/sandboxes/{sandbox}"), 404, "sandbox_not_found")
    # Live again: from here on nothing is lost.
    pause(api, sandbox)
    resume(api, sandbox)
    assert api.get(f"/_emulator/sandboxes/{sandbox}").json["memory_lost"], "it still runs without what was lost then"


def test_listening_ports_are_named(new_emulator, scratch, compiled):
    source = scratch / "listen.c"
    source.write_text(
        "#include <netinet/in.h>\n#include <unistd.h>\nint main(void){struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(8123),"
        ".sin_addr.s_addr=htonl(INADDR_LOOPBACK)};int s=socket(AF_INET,SOCK_STREAM,0);"
        "return bind(s,(void*)&a,sizeof a)||listen(s,5)||pause();}\n"
    )
    first = new_emulator("--auth", "any", warm=None)
    api = first.api(KEY)
    sandbox = api.create()["id"]
    api.put_file(sandbox, "/workspace/listen", compiled(source, "-static").read_bytes(), "0755")
    api.sh(sandbox, "/workspace/listen > /dev/null 2>&1 & sleep 0.3")
    pause(api, sandbox)
    crash(first)
    second = new_emulator("--auth", "any", state=first.state_dir, warm=None)
    api = second.api(KEY)
    resume(api, sandbox)
    lost = api.get(f"/_emulator/sandboxes/{sandbox}").json["lost"]
    assert {"protocol": "tcp", "address": "127.0.0.1", "port": 8123} in lost["listening"]
    assert any(p["command"] == "/workspace/listen" for p in lost["processes"])


def test_the_same_content_has_the_same_digest(new_emulator):
    """Two sandboxes, made in another order, at other times, under other keys."""
    emulator = new_emulator("--auth", "any")
    digests = []
    for key, order in (("ork_digest_one", "a b c d"), ("ork_digest_two", "d b a c")):
        api = emulator.api(key)
        sandbox = api.create(env={"K": key})["id"]
        api.sh(sandbox, f"cd /workspace; for f in {order}; do mkdir $f; for n in $f 2 1; do echo $f$n > $f/$n; chmod 640 $f/$n; ln $f/$n $f/h$n; done; done; "
               "rm -r /opt; rm /etc/group; touch s; truncate -s 1M s; chown -R 5:6 b; touch -d '2020-01-01 01:02:03.4' */* . * /etc /")  # fmt: skip
        pause(api, sandbox)
        digests.append(manifest(emulator, sandbox)["tar_sha256"])
        time.sleep(1.1)
    assert digests[0] == digests[1]
    api.sh(resume(api, sandbox).json["id"], "touch -d '2020-01-01 01:02:03.5' /workspace/s")
    pause(api, sandbox)
    assert manifest(emulator, sandbox)["tar_sha256"] != digests[0], "a time of 0.1 s more is another content"


def test_restricted_still_enforces_after_a_cold_resume(binary, new_emulator, net_state, internet, netprobe):
    args = world(internet)
    first = new_emulator(*args, state=net_state, warm=None)
    api = first.api(KEY)
    answer = api.post("/v1/sandboxes", {"template": "netbox", "network": "restricted"})
    if answer.status == 503 and answer.code == "network_unavailable":
        cannot_run(answer.json["detail"])
    api.delete(f"/v1/sandboxes/{answer.json['id']}")
    box = Box(api, netprobe, "restricted")
    allowed, refused = "curl -sS http://deb.debian.org/a", "curl -sS -m 5 http://elsewhere.example/a"
    assert "deb.debian.org" in box.run(allowed)["stdout"]
    pause(api, box.id)
    crash(first)
    second = new_emulator(*args, state=net_state, warm=None)
    box.api = api = second.api(KEY)
    answer = resume(api, box.id)
    assert "memory-lost" in answer.divergences and answer.json["network"] == "restricted"
    assert "deb.debian.org" in box.run(allowed)["stdout"]
    result = box.run(refused)
    assert (result.get("code"), "elsewhere.example" in json.dumps(result)) == ("network_policy", True), result
    assert box.dns("elsewhere.example")[0] != 0
    ledger = api.get(f"/_emulator/sandboxes/{box.id}/network").json
    assert ledger["mode"] == "restricted" and ledger["counters"]["blocked"] >= 1
    assert api.delete(f"/v1/sandboxes/{box.id}").status == 200
