"""A sandbox that has taken over its first process, against the whole emulator: the program is the real one but for that
process (hostile_init.c), which lies, floods, goes silent and sends descriptors when it is told to. Whatever it does, the
daemon goes on, other sandboxes do their work, nothing grows, and its own sandbox ends with a reason or can be ended."""

import json
import os
import secrets
import socket
import statistics
import threading
import time
from pathlib import Path

import pytest

from conftest import _serve, cannot_run
from harness import proc
from harness.emulator import Emulator
from harness.stream import settle
from harness.wire import check_error

GROWTH_KB = 4096


@pytest.fixture(scope="session")
def hostile_binary(binary) -> Path:
    path = Path(binary).parent / "hostile" / "orkestr-emulator"
    if not os.access(path, os.X_OK):
        cannot_run(f"{path} is not there: run make hostile first")
    return path


@pytest.fixture(scope="module")
def emulator(hostile_binary, new_state):
    yield from _serve(hostile_binary, new_state("tiny"), "--auth", "any")


class Bystander:
    """Another account's sandbox, which must not notice anything."""

    def __init__(self, emulator):
        self.api = emulator.api(f"ork_{secrets.token_hex(16)}")
        self.may_grow_kb = GROWTH_KB
        self.id = self.api.create(cpu=1, memory_mb=256)["id"]
        self.works()

    def works(self) -> float:
        started = time.monotonic()
        assert self.api.sh(self.id, "echo fine", timeout_seconds=20) == "fine\n"
        return time.monotonic() - started

    def p50(self, n=15) -> float:
        return statistics.median(self.works() for _ in range(n))

    def end(self):
        self.works()
        assert self.api.delete(f"/v1/sandboxes/{self.id}").json["termination_reason"] == "user"


@pytest.fixture
def bystander(emulator):
    """And the daemon is the same process before and after, of more or less the same size. (Its descriptors, the keeper's,
    and all else that could be left are counted by the audit, when no sandbox lives.)"""
    other = Bystander(emulator)
    memory = emulator.daemon_rss_kb()
    yield other
    assert emulator.process.poll() is None
    assert emulator.daemon_rss_kb() - memory < other.may_grow_kb
    other.end()


@pytest.fixture
def plan(emulator):
    """plan("ready root socket 2"): what each first process does that comes to this stage from now on. They are made anew
    for it, as those that are kept ready have passed it. plan(None): nothing any more."""
    path = emulator.state_dir / "disk" / "hostile"

    def write(text: str | None) -> None:
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
            path.chmod(0o644)

    yield write
    write(None)


def trick(api, sandbox, *words, seconds=20):
    """Tells the first process of a sandbox to do that; the answer to the command by which it was told."""
    return api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": ["hostile", *map(str, words)], "timeout_seconds": seconds})


def lost(api, sandbox) -> str:
    """It ended by itself, and there is a sentence that says why; ending it again changes nothing."""
    row = settle(lambda: (r := api.get(f"/v1/sandboxes/{sandbox}").json)["status"] in ("terminated", "failed") and r)
    assert row["termination_reason"] == "failed"
    answer = api.delete(f"/v1/sandboxes/{sandbox}")
    assert answer.status == 200 and answer.json["termination_reason"] == "failed"
    check_error(api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    return api.get(f"/_emulator/sandboxes/{sandbox}").json["failure"]


def ends(api, sandbox):
    started = time.monotonic()
    answer = api.delete(f"/v1/sandboxes/{sandbox}")
    assert answer.status == 200 and answer.json["status"] == "terminated", answer
    assert time.monotonic() - started < 5


def once_more(api):
    """A sandbox as it should be."""
    sandbox = api.create()["id"]
    assert api.sh(sandbox, "echo again") == "again\n"
    ends(api, sandbox)


# --- lies that are found out ----------------------------------------------------------------------

LIES = {
    "one byte": ("bytes 1", "no sense"),
    "half a report": ("bytes 20", "no sense"),
    "a report and a byte": ("bytes 41", "no sense"),
    "256 KiB": ("bytes 262144", "no sense"),
    "type 0": ("type 0", "wrong kind"),
    "type 99": ("type 99", "wrong kind"),
    "type 2^32 - 1": ("type 0xffffffff", "wrong kind"),
    "go, as if it were the keeper": ("type 1", "wrong kind"),
    "a command, as if it were the daemon": ("type 3", "wrong kind"),
    "a recall": ("type 9", "wrong kind"),
    "ready again": ("type 5", "wrong kind"),
    "failed, after it was ready": ("type 6", "wrong kind"),
    "another magic": ("type 8 1", "no sense"),
    "an end of kind 3": ("exit 3 0 0", "can't be"),
    "an end of kind -1": ("exit -1 0 0", "can't be"),
    "exit code -1": ("exit 0 -1 0", "can't be"),
    "exit code 4096": ("exit 0 4096 0", "can't be"),
    "signal 2^31 - 1": ("exit 1 0x7fffffff 0", "can't be"),
    "-2 processes left": ("exit 0 0 -2", "can't be"),
    "2^30 processes left": ("exit 0 0 0x40000000", "can't be"),
    "process 0": ("start 0", "can't be"),
    "process 1": ("start 1", "can't be"),
    "process -5": ("start -5", "can't be"),
    "process 2^30": ("start 0x40000000", "can't be"),
    "it exits": ("die 0", "ended"),
    "it exits with 3": ("die 3", "ended"),
    "it closes its reports and lives on": ("hang-up reports", "ended"),
    "it closes its socket and lives on": ("hang-up socket", "hung up"),
    "it shuts its socket and lives on": ("shut", "hung up"),
    "starts without end": ("flood starts", "without end"),
    "ends of another without end": ("flood exits", "without end"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_its_own_sandbox(api, sandbox, bystander, lie):
    words, why = LIES[lie]
    answer = trick(api, sandbox, *words.split())
    # Whoever waited for it hears of the end.
    assert answer.status == 200 and answer.json["reason"] == "terminated", answer
    bystander.works()
    failure = lost(api, sandbox)
    assert failure and (why in failure or words.startswith("die")), failure


# --- lies that harm nobody but itself --------------------------------------------------------------


def test_ends_of_commands_that_never_were(api, sandbox, bystander, run_in_background):
    running = run_in_background(api.exec, sandbox, "sleep 2; echo done; exit 5")
    theirs = run_in_background(bystander.api.exec, bystander.id, "sleep 2; echo done; exit 6")
    time.sleep(0.5)
    assert trick(api, sandbox, "strangers").json["exit_code"] in (7, 9)
    assert theirs.result(30)["exit_code"] == 6
    assert running.result(30)["exit_code"] in (5, 9), "its own may be lied about"
    assert api.sh(sandbox, "echo on") == "on\n"
    ends(api, sandbox)


@pytest.mark.parametrize("words", ["exit 1 0 0", "exit 1 200 -1", "exit 2 4095 0", "exit 0 511 0"])
def test_ends_that_can_be_but_were_not(api, sandbox, bystander, words):
    """An answer all the same, in JSON that a client can read."""
    result = trick(api, sandbox, *words.split())
    assert result.status == 200 and isinstance(result.json["exit_code"], int) and 0 <= result.json["exit_code"] < 256, result
    assert api.sh(sandbox, "echo on") == "on\n"
    ends(api, sandbox)


KINDS = ["folder", "path", "zero", "socket", "eventfd", "fifo", "pidfd", "own", "lingering"]


@pytest.mark.parametrize("n", [1, 9, 253])
@pytest.mark.parametrize("kind", KINDS)
def test_descriptors_do_not_even_get_to_the_daemon(api, sandbox, bystander, kind, n):
    """The kernel refuses them to the sender (EPIPE). Whoever had received them would have to close them, and closing a
    connection that lingers takes as long as its maker likes."""
    before = bystander.p50(3)
    result = trick(api, sandbox, "descriptors", kind, n)
    assert result.status == 200 and result.json["exit_code"] == 32, result
    assert bystander.works() < before * 50 + 2
    ends(api, sandbox)
    assert bystander.works() < before * 50 + 2


def test_descriptors_without_end(api, sandbox, bystander):
    before = bystander.p50()
    telling = threading.Thread(target=trick, args=(api, sandbox, "flood", "descriptors"), kwargs={"seconds": 5})
    telling.start()
    assert bystander.p50() < before * 10 + 0.5
    ends(api, sandbox)
    telling.join()


def test_credentials_of_others(api, sandbox, bystander):
    assert trick(api, sandbox, "credentials").json["exit_code"] == 7
    assert api.sh(sandbox, "echo on") == "on\n"
    ends(api, sandbox)


# --- silence ---------------------------------------------------------------------------------------


def silenced(api, sandbox):
    """Its first process neither reads nor writes from now on. (That command's own time is over soon.)"""
    answer = trick(api, sandbox, "stay", seconds=1)
    check_error(answer, 408, "exec_timeout")


def test_silence(api, sandbox, bystander):
    silenced(api, sandbox)
    assert api.status_of(sandbox) == "running"
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true", "timeout_seconds": 1})
    check_error(answer, 408, "exec_timeout")
    bystander.works()
    ends(api, sandbox)


def test_silence_under_many_requests(emulator, api, sandbox, bystander):
    """What waits for one that never reads is bounded; then requests are refused with a sentence."""
    silenced(api, sandbox)
    path = f"/v1/sandboxes/{sandbox}/exec"
    bystander.may_grow_kb = 32 * 1024  # 300 connections and 256 commands at once: what they had stays the heap's
    waiting = []
    try:
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", emulator.port), timeout=20)
            body = json.dumps({"command": "true", "timeout_seconds": 3600}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
            waiting.append(sock)
        refused = settle(lambda: (a := api.post(path, {"command": "true", "timeout_seconds": 1})).status == 503 and a)
        assert len(check_error(refused, 503, "capacity")["detail"]) > 15
        bystander.works()
        # Signals wait, too, but not without end.
        ids = [x["exec_id"] for x in api.get(path).json["execs"] if x["state"] == "running"]
        assert len(ids) > 200
        for n in range(2500):
            answer = api.post(f"{path}/{ids[n % len(ids)]}/signal", {"signal": "USR1"})
            if answer.status >= 400:
                break
        assert answer.status in (409, 429, 503) and "keep up" in answer.json["detail"], answer
        bystander.works()
        assert emulator.daemon_rss_kb() < 48 * 1024
        ends(api, sandbox)
    finally:
        for sock in waiting:
            sock.close()


def test_pause_of_a_silent_one(api, sandbox, bystander, freezer):
    """The freezer asks nobody."""
    silenced(api, sandbox)
    assert api.post(f"/v1/sandboxes/{sandbox}/pause").json["status"] == "paused"
    bystander.works()
    assert api.post(f"/v1/sandboxes/{sandbox}/resume").json["status"] == "running"
    check_error(api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true", "timeout_seconds": 1}), 408, "exec_timeout")
    ends(api, sandbox)


def test_pause_and_end_of_a_silent_one(api, sandbox, bystander, freezer):
    silenced(api, sandbox)
    assert api.post(f"/v1/sandboxes/{sandbox}/pause").status == 200
    ends(api, sandbox)


# --- before it is ready ----------------------------------------------------------------------------

ROOTS = {
    "nothing": "root path 0",
    "its root alone": "root path 1",
    "a folder that can be read": "root folder 2",
    "a file": "root zero 2",
    "sockets": "root socket 2",
    "eventfds": "root eventfd 2",
    "pidfds": "root pidfd 2",
    "its own socket": "root own 2",
    "a fifo": "root fifo 2",
    "a root and a fifo that it reads itself": "root path 2 fifo",
    "a root and a socket": "root path 2 socket",
    "a root and /dev/zero": "root path 2 zero",
    "a root and a folder": "root path 2 folder",
    "three": "root path 3",
    "eight": "root path 8",
    "nine": "root path 9",
    "253": "root path 253",
    "ready twice": "ready-twice",
    "the end of a command": "exit 0 0 0",
    "one byte": "bytes 1",
    "none": "bytes 0",
    "a header that is cut": "bytes 7",
    "100 KB": "bytes 100000",
    "type 3": "type 3",
    "a failure that is no text": "failed 5 0",
    "a failure without an end": "failed -5 1",
    "it hangs up": "shut",
}


@pytest.mark.parametrize("how", ROOTS)
def test_something_else_than_ready(api, bystander, plan, how):
    plan(f"ready {ROOTS[how]}")
    answer = api.post("/v1/sandboxes", {"template": "tiny"})
    if how == "ready twice" and answer.status == 201:  # the first one was taken; the second ends it
        settle(lambda: api.get(f"/v1/sandboxes/{answer.json['id']}").json["status"] != "running")
    else:
        body = check_error(answer, 500, "internal_error")
        assert all(0x20 <= ord(c) < 0x7F for c in body["detail"]), body
    bystander.works()
    (row,) = api.get("/v1/sandboxes").json["sandboxes"]
    assert row["status"] == ("terminated" if answer.status == 201 else "failed") and row["termination_reason"] == "failed"
    assert api.get(f"/_emulator/sandboxes/{row['id']}").json["failure"]
    assert api.delete(f"/v1/sandboxes/{row['id']}").status == 200
    plan(None)
    once_more(api)


@pytest.mark.parametrize("stage", ["configured", "ready"])
def test_death_on_the_way(api, bystander, plan, stage):
    plan(f"{stage} die 3")
    check_error(api.post("/v1/sandboxes", {"template": "tiny"}), 500, "internal_error")
    bystander.works()
    (row,) = api.get("/v1/sandboxes").json["sandboxes"]
    assert row["status"] == "failed" and api.delete(f"/v1/sandboxes/{row['id']}").status == 200
    plan(None)
    once_more(api)


def test_never_ready(api, bystander, plan, run_in_background):
    """The create is given up after its time, or when its client ends it."""
    plan("ready stay")
    creating = run_in_background(api.post, "/v1/sandboxes", {"template": "tiny"})
    rows = settle(lambda: api.get("/v1/sandboxes").json["sandboxes"])
    assert rows[0]["status"] == "creating"
    for _ in range(5):
        bystander.works()
    plan(None)
    ends(api, rows[0]["id"])
    check_error(creating.result(10), 409, "sandbox_not_ready")


@pytest.mark.deadline
def test_never_ready_for_too_long(api, bystander, plan, run_in_background):
    plan("configured stay")
    answer = api.post("/v1/sandboxes", {"template": "tiny"})
    check_error(answer, 500, "internal_error")
    (row,) = api.get("/v1/sandboxes").json["sandboxes"]
    assert "not ready after" in api.get(f"/_emulator/sandboxes/{row['id']}").json["failure"]
    bystander.works()


# Nobody's yet: the pool is told, and a create that needs one of them.
@pytest.mark.parametrize("stage", ["parked", "staged"])
@pytest.mark.parametrize("what", ["die 3", "hang-up socket", "bytes 300", "root path 253", "failed 5 0"])
def test_before_it_is_anybodys(hostile_binary, new_state, stage, what):
    state = new_state("tiny")
    with Emulator(hostile_binary, state, "--auth", "any", "--warm", "0") as emulator:
        api = emulator.api("ork_parked_tests")
        other = Bystander(emulator)
        plan = state / "disk" / "hostile"
        plan.write_text(f"{stage} {what}")
        plan.chmod(0o644)
        try:
            for _ in range(3):
                check_error(api.post("/v1/sandboxes", {"template": "tiny"}), 500, "internal_error")
            other.works()
        finally:
            plan.unlink()
        once_more(api)
        other.end()
        emulator.audit()


# --- the daemon dies, and another one takes over ------------------------------------------------------

LATER = {
    "silent": ("stay", True),
    "half a report": ("bytes 20", False),
    "it floods": ("flood exits", False),
    "it floods with descriptors": ("flood descriptors", True),
    "it has hung up": ("hang-up socket", False),
    "it has closed its reports": ("hang-up reports", False),
    "it has died": ("die 0", False),
    "it lied before": ("strangers", True),
}


@pytest.mark.parametrize("what", LATER)
def test_the_next_daemon_deals_with_it(hostile_binary, new_state, what):
    """The trick begins when the daemon is dead: what was said to it meanwhile waits for the next one."""
    words, lives = LATER[what]
    emulator = Emulator(hostile_binary, new_state("tiny"), "--auth", "any").start()
    try:
        api = emulator.api("ork_adopting_hostile")
        other = Bystander(emulator)
        sandbox = api.create()["id"]
        assert trick(api, sandbox, "when-alone", *words.split()).json["exit_code"] == 0
        emulator.kill_daemon()
        time.sleep(1.5)
        emulator.again()
        api.port = other.api.port = emulator.port
        other.works()
        if lives:
            assert api.status_of(sandbox) == "running"
            ends(api, sandbox)
        else:
            lost(api, sandbox)
        other.works()
        once_more(api)
        other.end()
        assert emulator.stop() == 0, emulator.log()
        emulator.check_nothing_left()
    finally:
        emulator.kill_all()
