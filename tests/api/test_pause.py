"""Pause and resume: nothing is lost, nothing else gets in, and what can't come back is said."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from conftest import cannot_run
from harness.emulator import Emulator
from harness.wire import check_error


def pause(api, sandbox, status=200):
    answer = api.post(f"/v1/sandboxes/{sandbox}/pause", timeout=120)
    if answer.status == 501 and answer.code == "pause_unsupported":
        cannot_run("nothing on this host can freeze a sandbox: test_degraded.py")
    assert answer.status == status, answer
    return answer


def resume(api, sandbox, status=200):
    answer = api.post(f"/v1/sandboxes/{sandbox}/resume", timeout=120)
    assert answer.status == status, answer
    return answer


def snapshots(emulator) -> set[str]:
    return set(os.listdir(emulator.state_dir / "snapshots"))


def files_of(sandbox) -> set[str]:
    return {f"{sandbox}.json", f"{sandbox}.tar.zst"}


def manifest(emulator, sandbox) -> dict:
    return json.loads((emulator.state_dir / "snapshots" / f"{sandbox}.json").read_text())


def crash(emulator) -> None:
    """As a power cut would: every process at once, no goodbye."""
    emulator.kill_all()


# --- the answers ----------------------------------------------------------------------------------


@pytest.mark.vm
def test_pause_answers_paused_and_resume_running(api, sandbox):
    before = api.get(f"/v1/sandboxes/{sandbox}").json
    assert before["paused_at"] is None
    row = pause(api, sandbox).json
    assert row["id"] == sandbox and row["status"] == "paused" and row["paused_at"] and row["terminated_at"] is None
    assert api.get(f"/v1/sandboxes/{sandbox}").json == row
    assert [r["id"] for r in api.get("/v1/sandboxes", query={"status": "paused"}).json["sandboxes"]] == [sandbox]
    answer = resume(api, sandbox)
    assert answer.json["status"] == "running" and answer.json["paused_at"] is None
    assert "memory-lost" not in answer.divergences
    assert answer.json["started_at"] == before["started_at"]


def test_again_is_the_same_answer(api, sandbox):
    assert resume(api, sandbox).json["status"] == "running"
    first = pause(api, sandbox).json
    assert pause(api, sandbox).json == first
    resume(api, sandbox)
    assert resume(api, sandbox).json["status"] == "running"


def test_nothing_gets_in_while_paused(api, sandbox):
    api.put_file(sandbox, "/workspace/a", b"a")
    pause(api, sandbox)
    check_error(api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    check_error(api.files("GET", sandbox, "/workspace/a"), 409, "sandbox_not_ready")
    check_error(api.post(f"/v1/sandboxes/{sandbox}/files", {"path": "/workspace/b", "content": ""}), 409, "sandbox_not_ready")
    resume(api, sandbox)
    assert api.sh(sandbox, "ls /workspace") == "a\n"


def test_unknown_ended_and_other_peoples(api, emulator, sandbox):
    for verb in ("pause", "resume"):
        check_error(api.post(f"/v1/sandboxes/sbx_nope/{verb}"), 404, "sandbox_not_found")
        check_error(emulator.api("ork_somebody_else").post(f"/v1/sandboxes/{sandbox}/{verb}"), 404, "sandbox_not_found")
    api.delete(f"/v1/sandboxes/{sandbox}")
    for verb in ("pause", "resume"):
        check_error(api.post(f"/v1/sandboxes/{sandbox}/{verb}"), 409, "sandbox_not_ready")


def test_a_read_only_key_may_not(new_emulator):
    emulator = new_emulator("--api-key", "ork_writer1", "--api-key", "ork_reader1:team:read", warm=None)
    sandbox = emulator.api("ork_writer1").create()["id"]
    for verb in ("pause", "resume"):
        check_error(emulator.api("ork_reader1").post(f"/v1/sandboxes/{sandbox}/{verb}"), 403, "insufficient_scope")


# --- the processes --------------------------------------------------------------------------------

COUNT = "(i=0; while :; do i=$((i+1)); echo $i > /workspace/m; mv /workspace/m /workspace/n; sleep 0.01; done) > /dev/null 2>&1 &"


@pytest.mark.vm
def test_a_process_goes_on_where_it_was(api, sandbox):
    api.sh(sandbox, COUNT)
    time.sleep(0.2)
    pause(api, sandbox)
    time.sleep(0.5)
    resume(api, sandbox)
    first = int(api.sh(sandbox, "cat /workspace/n"))
    time.sleep(0.3)
    second = int(api.sh(sandbox, "cat /workspace/n"))
    assert second > first > 0
    assert first < 40, "it ran while it was paused"


def test_nothing_runs_while_paused(api, emulator, sandbox):
    api.sh(sandbox, COUNT + " while [ ! -e /workspace/n ]; do sleep 0.01; done")
    pause(api, sandbox)
    slot = next(s for s in emulator.slots() if (emulator.state_dir / "disk" / "s" / s / "u/workspace/n").exists())
    file = emulator.state_dir / "disk" / "s" / slot / "u/workspace/n"
    first = file.stat()
    time.sleep(0.3)
    assert file.stat() == first
    resume(api, sandbox)


@pytest.mark.vm
def test_a_running_exec_stays_attached(api, sandbox, run_in_background):
    running = run_in_background(api.exec, sandbox, "echo one; sleep 1; echo two", timeout_seconds=30)
    time.sleep(0.4)
    pause(api, sandbox)
    time.sleep(1.5)
    assert not running.done()
    resume(api, sandbox)
    result = running.result(20)
    assert (result["stdout"], result["exit_code"], result["reason"]) == ("one\ntwo\n", 0, "exited")
    assert result["duration_ms"] < 2000, "the pause counted"


def test_an_execs_time_out_stands_still(api, sandbox, run_in_background):
    running = run_in_background(api.exec, sandbox, "sleep 2.5; echo done", timeout_seconds=4)
    time.sleep(0.5)
    pause(api, sandbox)
    time.sleep(3)
    resume(api, sandbox)
    assert running.result(20)["stdout"] == "done\n"
    late = run_in_background(api.post, f"/v1/sandboxes/{sandbox}/exec", {"command": "sleep 30", "timeout_seconds": 2})
    time.sleep(0.3)
    pause(api, sandbox)
    time.sleep(0.3)
    resume(api, sandbox)
    check_error(late.result(20), 408, "exec_timeout")


def test_a_reader_that_leaves_during_the_pause_ends_its_command(api, emulator, sandbox, freezer):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=20)
    body = json.dumps({"command": "echo up; sleep 47", "stream": True})
    connection.request("POST", f"/v1/sandboxes/{sandbox}/exec", body, {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"})
    connection.getresponse().read(10)
    pause(api, sandbox)
    connection.sock and connection.sock.close()
    connection.close()
    time.sleep(0.3)
    resume(api, sandbox)
    deadline = time.monotonic() + 10
    while "sleep" in api.sh(sandbox, "cat /proc/[0-9]*/comm 2>/dev/null || true").split():
        assert time.monotonic() < deadline, "the command lives on"
        time.sleep(0.1)


def test_a_fork_storm_is_frozen_whole(api, emulator, sandbox):
    api.sh(sandbox, "for w in 1 2 3 4; do (while :; do (:) ; done) > /dev/null 2>&1 & done; while :; do (echo x >> /workspace/log; sleep 0.005); done > /dev/null 2>&1 &")
    for _ in range(5):
        time.sleep(0.1)
        pause(api, sandbox)
        upper = next(p for s in emulator.slots() if (p := emulator.state_dir / "disk" / "s" / s / "u/workspace/log").exists())
        size = upper.stat().st_size
        time.sleep(0.1)
        assert upper.stat().st_size == size
        resume(api, sandbox)
    assert int(api.sh(sandbox, "wc -c < /workspace/log")) >= size


def test_a_pause_during_a_heavy_write(api, sandbox):
    api.sh(sandbox, "while :; do dd if=/dev/zero of=/workspace/big bs=64k count=160 conv=fsync 2>/dev/null; done > /dev/null 2>&1 &")
    for _ in range(3):
        pause(api, sandbox)
        resume(api, sandbox)
    assert api.sh(sandbox, "echo alive") == "alive\n"


def test_twenty_cycles_change_no_byte(api, sandbox):
    api.sh(sandbox, "mkdir /workspace/d; for i in 1 2 3 4 5; do head -c 200000 /dev/urandom > /workspace/d/$i; done; ln /workspace/d/1 /workspace/d/l")
    api.sh(sandbox, "sh -c 'echo $$ > /workspace/pid; exec sleep 1000' > /dev/null 2>&1 & sleep 0.2")
    before = api.sh(sandbox, "cd /workspace/d && sha256sum *")
    pid = api.sh(sandbox, "cat /workspace/pid")
    for n in range(20):
        pause(api, sandbox)
        resume(api, sandbox)
        api.sh(sandbox, f"echo {n} > /workspace/cycle")
    assert api.sh(sandbox, "cd /workspace/d && sha256sum *") == before
    assert api.sh(sandbox, f"cat /proc/{pid.strip()}/comm") == "sleep\n"


# --- with a real interpreter ----------------------------------------------------------------------

PROGRAM = """
import http.server, threading, time
state = {"n": 0}
log = open("/workspace/open.log", "w")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(state["n"]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", 8123), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
open("/workspace/up", "w").close()
while True:
    state["n"] += 1
    log.write("%d\\n" % state["n"]); log.flush()
    time.sleep(0.01)
"""
ASK = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/').read().decode())\""


def test_a_python_server_keeps_its_memory_port_and_open_file(real_api, real_emulator):
    sandbox = real_api.create(template="python-3.12-bare")["id"]
    real_api.put_file(sandbox, "/workspace/main.py", PROGRAM.encode())
    real_api.sh(sandbox, "nohup python3 /workspace/main.py > /workspace/err 2>&1 & i=0; while [ ! -e /workspace/up ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done")
    first = int(real_api.sh(sandbox, ASK))
    lines = int(real_api.sh(sandbox, "wc -l < /workspace/open.log"))
    pause(real_api, sandbox)
    told = manifest(real_emulator, sandbox)
    assert any("/workspace/main.py" in p["command"] for p in told["processes"]), told
    assert {"protocol": "tcp", "address": "127.0.0.1", "port": 8123} in told["listening"], told
    time.sleep(1)
    resume(real_api, sandbox)
    second = int(real_api.sh(sandbox, ASK))
    assert first < second, "the counter began anew"
    assert int(real_api.sh(sandbox, "wc -l < /workspace/open.log")) > lines
    assert real_api.delete(f"/v1/sandboxes/{sandbox}").status == 200


# --- many at once, and what interrupts ------------------------------------------------------------


def test_fifty_at_once(new_emulator, run_in_background):
    emulator = new_emulator("--auth", "any")
    pairs = []
    for n in range(50):
        api = emulator.api(f"ork_fifty_{n // 10}")  # the plan keeps ten snapshots an account
        pairs.append((api, api.create(size="small")["id"]))
    for api, sandbox in pairs:
        api.sh(sandbox, f"echo {sandbox} > /workspace/who")
    rows = [f.result(120).json for f in [run_in_background(pause, api, s) for api, s in pairs]]
    assert {row["status"] for row in rows} == {"paused"}
    assert snapshots(emulator) == set().union(*(files_of(s) for _, s in pairs))
    for f in [run_in_background(resume, api, s) for api, s in pairs]:
        assert f.result(60).json["status"] == "running"
    for api, sandbox in pairs:
        assert api.sh(sandbox, "cat /workspace/who").strip() == sandbox


@pytest.mark.vm
def test_terminating_a_paused_one_removes_its_snapshot(api, emulator, sandbox):
    api.sh(sandbox, "sleep 1000 > /dev/null 2>&1 &")
    pause(api, sandbox)
    assert snapshots(emulator) >= files_of(sandbox)
    row = api.delete(f"/v1/sandboxes/{sandbox}").json
    assert (row["status"], row["termination_reason"]) == ("terminated", "user")
    assert not snapshots(emulator) & files_of(sandbox)


def test_resuming_removes_the_snapshot(api, emulator, sandbox):
    pause(api, sandbox)
    resume(api, sandbox)
    assert not snapshots(emulator) & files_of(sandbox)


@pytest.mark.parametrize("wait", [0, 0.002, 0.01, 0.05, 0.3])
def test_delete_while_pausing(api, emulator, sandbox, run_in_background, wait, freezer):
    api.sh(sandbox, "head -c 60000000 /dev/urandom > /workspace/big")
    paused = run_in_background(api.post, f"/v1/sandboxes/{sandbox}/pause")
    time.sleep(wait)
    row = api.delete(f"/v1/sandboxes/{sandbox}").json
    assert row["status"] == "terminated"
    answer = paused.result(30)
    assert answer.status in (200, 409), answer
    deadline = time.monotonic() + 10
    while left := {f for f in snapshots(emulator) if sandbox in f}:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_everything_else_waits_while_pausing(api, sandbox, run_in_background):
    api.sh(sandbox, "head -c 100000000 /dev/urandom > /workspace/big")
    paused = run_in_background(pause, api, sandbox)
    seen = set()
    while not paused.done():
        status = api.status_of(sandbox)
        seen.add(status)
        if status == "pausing":
            answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true"})
            if api.status_of(sandbox) == "pausing":
                check_error(answer, 409, "sandbox_not_ready")
                answers = {api.post(f"/v1/sandboxes/{sandbox}/{verb}").status for verb in ("pause", "resume")}
                assert answers <= {409, 200}
                break
    paused.result(60)
    assert "pausing" in seen


def test_a_stop_with_paused_ones_leaves_nothing(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_stoptest")
    for _ in range(3):
        pause(api, api.create()["id"])
    assert emulator.stop() == 0
    emulator.check_nothing_left()
    assert snapshots(emulator) == set()


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.deadline
def test_the_lifetime_stands_still_while_paused(api):
    row = api.create(timeout_seconds=10)
    sandbox = row["id"]
    time.sleep(1)
    pause(api, sandbox)
    time.sleep(11)
    assert api.status_of(sandbox) == "paused"
    answer = resume(api, sandbox).json
    from datetime import datetime

    moved = datetime.fromisoformat(answer["expires_at"][:-1]) - datetime.fromisoformat(row["expires_at"][:-1])
    assert 11 <= moved.total_seconds() < 13
    time.sleep(5)
    assert api.status_of(sandbox) == "running"
    deadline = time.monotonic() + 8
    while api.status_of(sandbox) != "terminated":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert api.get(f"/v1/sandboxes/{sandbox}").json["termination_reason"] == "timeout"


# --- plans ----------------------------------------------------------------------------------------


def test_paused_ones_count_as_snapshots_and_not_as_running(new_emulator):
    emulator = new_emulator("--api-key", "ork_freebie1:free", "--api-key", "ork_protest1:pro", warm=None)
    api = emulator.api("ork_freebie1")
    first = api.create(size="small")["id"]
    check_error(api.post("/v1/sandboxes", {"template": "tiny", "size": "small"}), 402, "concurrent_limit")
    pause(api, first)
    second = api.create(size="small")["id"]
    check_error(api.post(f"/v1/sandboxes/{second}/pause"), 402, "snapshot_cap_reached")
    assert api.status_of(second) == "running"
    assert api.sh(second, "echo on") == "on\n"
    check_error(api.post(f"/v1/sandboxes/{first}/resume"), 402, "concurrent_limit")
    assert api.status_of(first) == "paused"
    api.delete(f"/v1/sandboxes/{second}")
    resume(api, first)
    pro = emulator.api("ork_protest1")
    boxes = [pro.create(size="small")["id"] for _ in range(4)]
    for box in boxes[:3]:
        pause(pro, box)
    check_error(pro.post(f"/v1/sandboxes/{boxes[3]}/pause"), 402, "snapshot_cap_reached")
    pro.delete(f"/v1/sandboxes/{boxes[0]}")
    pause(pro, boxes[3])


# --- without the processes ------------------------------------------------------------------------

MAKE_ALL_KINDS = r"""
cd /workspace
mkdir -p d/e/f; chmod 1751 d; echo text > d/plain; chmod 4755 d/plain; : > d/empty
ln d/plain d/hard; ln -s ../nowhere d/sym; mkfifo -m 640 d/fifo
truncate -s 50M d/sparse; printf x | dd of=d/sparse bs=1 seek=20000000 conv=notrunc 2>/dev/null
head -c 3000000 /dev/urandom > d/random; chmod 0 d/random
chown 1000:2000 d/empty; chown -h 7:8 d/sym; chown 65534:65534 d/e
printf 'sp ace\n' > 'd/sp ace'; printf u > d/$(printf '\303\274\360\237\230\200'); printf b > d/$(printf 'bad\377name')
touch -d '2001-02-03 04:05:06.123456789' d/empty; touch -h -d '1999-01-01 00:00:00.5' d/sym
long=$(printf '%0200d' 7); mkdir -p d/$long/$long/$long; echo deep > d/$long/$long/$long/$long
rm /etc/nsswitch.conf; rm -r /home; mkdir /home; echo new > /home/new; echo more >> /etc/passwd; chmod 700 /opt; mv /etc/group /etc/group2
touch -d '2003-03-03 03:03:03.3' d
"""
LIST_ALL = r"""cd /; for t in workspace etc home opt root; do ls -laiR --time-style=full-iso $t >/dev/null; done
list() { for f in "$1"/* "$1"/.[!.]*; do [ -e "$f" ] || [ -h "$f" ] || continue
stat -c '%n|%F|%a|%u:%g|%h|%s|%y' "$f"; [ -h "$f" ] && readlink "$f"
if [ -d "$f" ] && [ ! -h "$f" ]; then list "$f"; elif [ -f "$f" ] && [ ! -h "$f" ]; then sha256sum < "$f"; fi; done; }
for t in workspace etc home opt root; do list $t; done; stat -c '%n %a %u %b' workspace/d/sparse | sed 's/ [0-9]*$//'; ls /"""


def listing(api, sandbox) -> str:
    text = api.sh(sandbox, LIST_ALL)
    # A folder's size and link count are the file system's own business.
    keep = []
    for line in text.splitlines():
        part = line.split("|")
        if part[0] == "etc/resolv.conf":
            part[6:] = []  # a mount of the emulator's own
            line = "|".join(part)
        keep.append("|".join(part[:4] + part[6:]) if len(part) == 7 and part[1] == "directory" else line)
    return "\n".join(keep)


@pytest.mark.vm
def test_the_disk_comes_back_exactly_without_the_processes(mortal):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    row = api.create(env={"COLOR": "blue"}, timeout_seconds=600, metadata={"a": "b"})
    sandbox = row["id"]
    api.sh(sandbox, MAKE_ALL_KINDS)
    api.sh(sandbox, "sleep 1000 > /dev/null 2>&1 &")
    before = listing(api, sandbox)
    paused = pause(api, sandbox).json
    first = manifest(emulator, sandbox)
    assert any(p["command"].startswith("sleep 1000") for p in first["processes"])
    crash(emulator)

    again = mortal(state=emulator.state_dir)
    api = again.api("ork_coldtest")
    assert api.get(f"/v1/sandboxes/{sandbox}").json == paused
    check_error(api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    answer = resume(api, sandbox)
    assert answer.json["status"] == "running" and "memory-lost" in answer.divergences
    assert answer.json["metadata"] == {"a": "b"}
    assert listing(api, sandbox) == before
    assert api.sh(sandbox, "echo $COLOR") == "blue\n"
    assert "sleep" not in api.sh(sandbox, "cat /proc/[0-9]*/comm").split()
    assert int(api.sh(sandbox, "stat -c %b /workspace/d/sparse")) < 2000, "the hole was filled"
    # The same content, the same digest.
    pause(api, sandbox)
    second = manifest(again, sandbox)
    assert second["tar_sha256"] == first["tar_sha256"]
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


def test_strict_resume_refuses(mortal):
    emulator = mortal()
    sandbox = emulator.api("ork_coldtest").create()["id"]
    pause(emulator.api("ork_coldtest"), sandbox)
    crash(emulator)
    again = mortal("--strict-resume", state=emulator.state_dir)
    api = again.api("ork_coldtest")
    check_error(api.post(f"/v1/sandboxes/{sandbox}/resume"), 409, "memory_lost")
    assert api.status_of(sandbox) == "paused"
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"
    assert snapshots(again) == set()


def test_a_damaged_snapshot_is_refused_and_named(mortal):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    boxes = [api.create()["id"] for _ in range(4)]
    for box in boxes:
        api.sh(box, "head -c 100000 /dev/urandom > /workspace/x")
        pause(api, box)
    crash(emulator)
    folder = emulator.state_dir / "snapshots"
    flipped = bytearray((folder / f"{boxes[0]}.tar.zst").read_bytes())
    flipped[len(flipped) // 2] ^= 0x55
    (folder / f"{boxes[0]}.tar.zst").write_bytes(flipped)
    with open(folder / f"{boxes[1]}.tar.zst", "ab") as f:
        f.write(b"more")
    (folder / f"{boxes[2]}.json").write_text("{nonsense")
    again = mortal(state=emulator.state_dir)
    api = again.api("ork_coldtest")
    check_error(api.post(f"/v1/sandboxes/{boxes[0]}/resume"), 503, "snapshot_damaged")
    assert api.status_of(boxes[0]) == "paused"
    assert [api.status_of(b) for b in boxes[1:]] == ["failed", "failed", "paused"]
    resume(api, boxes[3])
    assert len(api.sh(boxes[3], "cat /workspace/x | base64")) > 100000


def test_a_template_that_is_gone_is_named(mortal, binary, tiny_tar):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    sandbox = api.create()["id"]
    pause(api, sandbox)
    crash(emulator)
    template = emulator.state_dir / "templates" / "tiny.json"
    text = template.read_text()
    template.write_text(text.replace("sha256:", "sha256:0", 1))
    again = mortal(state=emulator.state_dir)
    api = again.api("ork_coldtest")
    assert "tiny" in check_error(api.post(f"/v1/sandboxes/{sandbox}/resume"), 503, "template_unavailable")["detail"]
    template.unlink()
    assert "tiny" in check_error(api.post(f"/v1/sandboxes/{sandbox}/resume"), 503, "template_unavailable")["detail"]
    template.write_text(text)
    os.chown(template, *(os.stat(template.parent).st_uid, os.stat(template.parent).st_gid))
    resume(api, sandbox)


def test_running_ones_fail_and_old_snapshots_go(mortal):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    running = api.create()["id"]
    (emulator.state_dir / "snapshots" / "sbx_stray.tar.zst").write_bytes(b"x")
    crash(emulator)
    again = mortal(state=emulator.state_dir)
    assert again.api("ork_coldtest").status_of(running) == "failed"
    assert snapshots(again) == set()


def test_cold_resume_and_terminate_at_once(mortal, run_in_background):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    sandbox = api.create()["id"]
    api.sh(sandbox, "head -c 50000000 /dev/urandom > /workspace/big")
    pause(api, sandbox)
    crash(emulator)
    again = mortal(state=emulator.state_dir)
    api = again.api("ork_coldtest")
    resumed = run_in_background(api.post, f"/v1/sandboxes/{sandbox}/resume")
    time.sleep(0.05)
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"
    assert resumed.result(30).status in (200, 409)
    assert snapshots(again) == set()


def test_a_cold_one_can_be_paused_and_resumed_live_again(mortal):
    emulator = mortal()
    api = emulator.api("ork_coldtest")
    sandbox = api.create()["id"]
    pause(api, sandbox)
    crash(emulator)
    again = mortal(state=emulator.state_dir)
    api = again.api("ork_coldtest")
    resume(api, sandbox)
    api.sh(sandbox, COUNT)
    pause(api, sandbox)
    resume(api, sandbox)
    assert int(api.sh(sandbox, "sleep 0.1; cat /workspace/n")) > 0
    pause(api, sandbox)
    crash(again)
    third = mortal(state=emulator.state_dir)
    api = third.api("ork_coldtest")
    assert "memory-lost" in resume(api, sandbox).divergences
    assert int(api.sh(sandbox, "cat /workspace/n")) > 0


# --- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_leaves_it_running(binary, scratch, tiny_tar, request):
    from harness.emulator import run
    place = scratch / "small-disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(place)]).returncode:
        cannot_run("mounting a small tmpfs needs root")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(place)]))
    state = place / "state"
    assert run(binary, "template", "import", "--state-dir", str(state), "tiny", str(tiny_tar)).returncode == 0
    with Emulator(binary, state, "--auth", "any", warm=None) as emulator:
        api = emulator.api("ork_fulltest")
        answer = api.post("/v1/sandboxes", {"template": "tiny"})
        if answer.status != 201:
            cannot_run(f"no overlay on tmpfs here: {answer}")
        sandbox = answer.json["id"]
        api.sh(sandbox, COUNT)
        api.exec(sandbox, "head -c 35000000 /dev/urandom > /workspace/big")
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        api.exec(sandbox, f"head -c {free - 8_000_000} /dev/zero > /workspace/fill")
        check_error(api.post(f"/v1/sandboxes/{sandbox}/pause"), 507, "disk_full")
        assert api.status_of(sandbox) == "running"
        assert snapshots(emulator) == set()
        first = int(api.sh(sandbox, "cat /workspace/n") or 0)
        time.sleep(0.3)
        assert int(api.sh(sandbox, "cat /workspace/n") or 0) != first, "it was not thawed"
        api.sh(sandbox, "rm /workspace/fill")
        pause(api, sandbox)
        resume(api, sandbox)
        api.delete(f"/v1/sandboxes/{sandbox}")
