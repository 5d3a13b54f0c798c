"""kill -9 of the daemon, and the commands that were running: they go on, and can be asked for."""

import time

import pytest

from harness import slow
from harness.stream import Stream, settle
from harness.wire import check_error
from test_adopt import restart
from test_exec_sessions import background, exec_path, get, wait_ended


@pytest.fixture
def emulator(new_emulator):
    return new_emulator("--auth", "any")


@pytest.fixture
def api(emulator):
    return emulator.api("ork_adopt_execs")


@pytest.fixture
def sandbox(api):
    return api.create(timeout_seconds=600)["id"]


def read_file(api, sandbox, path):
    return api.sh(sandbox, f"cat {path} 2>/dev/null || true")


def test_a_stream_goes_on_behind_its_last_event(emulator, api, sandbox):
    command = f"i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep {0.03 * slow.FACTOR}; done; echo done >&2; exit 5"
    stream = Stream(api, sandbox, command, timeout_seconds=100)
    stream.until("line 20\n")
    last = stream.ids[-1]
    restart(emulator, api)
    state = get(api, sandbox, stream.exec_id)
    assert (state["state"], state["command"], state["timeout_seconds"]) == ("running", command, 100)
    assert state["pid"] > 1
    with Stream.attach(api, sandbox, stream.exec_id, after=last) as again:
        events = list(again)
    gaps = [e["missed_bytes"] for e in events if e.get("gap")]
    lines = [line for line in "".join(e["data"] for e in events if e["stream"] == "stdout").splitlines() if line]
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers[-1] == 199 and numbers == list(range(numbers[0], 200)), "nothing is missing after the gap"
    # What was read by the daemon and not by us is counted to the byte.
    missing = sum(len(f"line {n}\n") for n in range(21, numbers[0]))
    assert sum(gaps) == missing, (gaps, missing)
    assert events[-1]["is_final"] and events[-1]["exit_code"] == 5
    assert again.ids == sorted(again.ids) and again.ids[0] > last


def test_a_new_reader_is_told_of_all_that_is_lost(emulator, api, sandbox):
    exec_id = background(api, sandbox, f"printf 0123456789; sleep {3 * slow.FACTOR}; echo new")
    settle(lambda: get(api, sandbox, exec_id)["stdout"] == "0123456789")
    restart(emulator, api)
    with Stream.attach(api, sandbox, exec_id) as stream:
        events = list(stream)
    assert [e["missed_bytes"] for e in events if e.get("gap")] == [10]
    assert stream.text == "new\n"
    state = wait_ended(api, sandbox, exec_id)
    assert state["stdout_truncated"] and state["exit_code"] == 0
    assert "10 bytes left out" in state["stdout"] and state["stdout"].endswith("new\n")


def test_what_is_written_while_no_daemon_runs_waits(emulator, api, sandbox):
    exec_id = background(api, sandbox, "sleep 0.5; echo while; echo err >&2; sleep 0.1; exit 7")
    emulator.kill_daemon()
    time.sleep(1.5)
    emulator.again()
    api.port = emulator.port
    state = wait_ended(api, sandbox, exec_id)
    assert (state["stdout"], state["stderr"], state["exit_code"], state["reason"]) == ("while\n", "err\n", 7, "exited")
    assert state["duration_ms"] >= 500


def test_a_full_pipe_without_a_daemon_blocks_and_does_not_kill(emulator, api, sandbox):
    exec_id = background(api, sandbox, "yes | head -c 3000000 | sha256sum > /tmp/sum; yes | head -c 3000000; echo $? > /tmp/status")
    emulator.kill_daemon()
    time.sleep(1)
    emulator.again()
    api.port = emulator.port
    state = wait_ended(api, sandbox, exec_id)
    assert state["exit_code"] == 0 and read_file(api, sandbox, "/tmp/status") == "0\n"


def test_a_background_child_that_holds_the_pipe_lives(emulator, api, sandbox):
    api.sh(sandbox, "(while echo tick; do echo $((n=n+1)) > /tmp/n; sleep 0.02; done; echo broken > /tmp/broken) & true")
    for _ in range(3):
        restart(emulator, api)
        time.sleep(0.3)
        before = int(read_file(api, sandbox, "/tmp/n") or 0)
        settle(lambda: int(read_file(api, sandbox, "/tmp/n") or 0) > before)
    assert read_file(api, sandbox, "/tmp/broken") == ""


def test_stdin_stays_open_and_can_be_closed(emulator, api, sandbox):
    exec_id = background(api, sandbox, "cat; echo end", stdin_open=True)
    path = exec_path(sandbox, exec_id, "stdin")
    assert api.post(path, {"data": "before\n"}).status == 200
    settle(lambda: get(api, sandbox, exec_id)["stdout"] == "before\n")
    restart(emulator, api)
    assert get(api, sandbox, exec_id)["stdin_open"] is True
    assert api.post(path, {"data": "after\n"}).status == 200
    settle(lambda: get(api, sandbox, exec_id)["stdout"].endswith("after\n"))
    assert api.post(path, {"data": "", "eof": True}).status == 200
    assert wait_ended(api, sandbox, exec_id)["stdout"].endswith("after\nend\n")


def test_a_stdin_that_was_closed_stays_so(emulator, api, sandbox):
    exec_id = background(api, sandbox, "cat; sleep 1; echo end", stdin_open=True)
    assert api.post(exec_path(sandbox, exec_id, "stdin"), {"data": "x\n", "eof": True}).status == 200
    restart(emulator, api)
    assert wait_ended(api, sandbox, exec_id)["stdout"].endswith("end\n")


def test_a_terminal_goes_on(emulator, api, sandbox):
    stream = Stream(api, sandbox, "while read line; do echo got $line; stty size 2>/dev/null; done", pty={"rows": 24, "cols": 80}, timeout_seconds=100)
    path = exec_path(sandbox, stream.exec_id, "stdin")
    assert api.post(path, {"data": "one\n"}).status == 200
    stream.until("got one")
    restart(emulator, api)
    with Stream.attach(api, sandbox, stream.exec_id) as again:
        assert api.post(exec_path(sandbox, stream.exec_id, "resize"), {"rows": 40, "cols": 100}).status in (200, 204)
        assert api.post(path, {"data": "two\n"}).status == 200
        again.until("got two")
        assert api.delete(exec_path(sandbox, stream.exec_id)).status in (200, 202, 204)
        assert [e for e in again][-1]["is_final"]


def test_a_time_out_still_holds(emulator, api, sandbox):
    exec_id = background(api, sandbox, "sleep 100", timeout_seconds=4)
    time.sleep(1)
    restart(emulator, api)
    state = wait_ended(api, sandbox, exec_id)
    assert state["reason"] == "timeout" and 3900 <= state["duration_ms"] < 15000, state


def test_an_exec_of_a_paused_sandbox_stands_still(emulator, api, sandbox, freezer):
    exec_id = background(api, sandbox, "echo before; sleep 2; echo after", timeout_seconds=8)
    settle(lambda: get(api, sandbox, exec_id)["stdout"] == "before\n")
    assert api.post(f"/v1/sandboxes/{sandbox}/pause", {}).status == 200
    restart(emulator, api)
    assert get(api, sandbox, exec_id)["state"] == "running"
    time.sleep(6)
    restart(emulator, api)
    time.sleep(2.5)
    assert api.post(f"/v1/sandboxes/{sandbox}/resume", {}).status == 200
    state = wait_ended(api, sandbox, exec_id)
    assert state["reason"] == "exited" and state["stdout"].endswith("after\n"), state
    assert state["duration_ms"] < 6000, "less what it stood still"


def test_signals_reach_it_and_its_end_is_told(emulator, api, sandbox):
    one, two = background(api, sandbox, "sleep 100"), background(api, sandbox, "trap 'exit 9' USR1; while :; do sleep 0.05; done")
    restart(emulator, api)
    assert api.post(exec_path(sandbox, two, "signal"), {"signal": "USR1"}).status in (200, 202, 204)
    assert wait_ended(api, sandbox, two)["exit_code"] == 9
    assert api.delete(exec_path(sandbox, one)).status in (200, 202, 204)
    assert wait_ended(api, sandbox, one)["reason"] == "terminated"


def test_one_that_ended_before_is_forgotten_and_new_ones_work(emulator, api, sandbox):
    gone = background(api, sandbox, "echo x")
    wait_ended(api, sandbox, gone)
    restart(emulator, api)
    check_error(api.get(exec_path(sandbox, gone)), 404, "exec_not_found")
    new = background(api, sandbox, "echo y; sleep 0.1")
    assert wait_ended(api, sandbox, new)["stdout"] == "y\n"


def test_many_commands_in_many_sandboxes(emulator, api):
    sandboxes = [api.create(cpu=0.5, memory_mb=64)["id"] for _ in range(5)]
    ids = {}
    for n, sandbox in enumerate(sandboxes):
        for k in range(20):
            ids[background(api, sandbox, f"echo a{n}.{k}; sleep {3 * slow.FACTOR}; echo b{n}.{k}; exit {k}")] = (sandbox, n, k)
    restart(emulator, api)
    for exec_id, (sandbox, n, k) in ids.items():
        state = wait_ended(api, sandbox, exec_id, 60)
        assert state["exit_code"] == k and state["stdout"].endswith(f"b{n}.{k}\n"), state
    keeper = [pid for pid in emulator.core() if "ork-keeper" in open(f"/proc/{pid}/comm").read()]
    from harness import proc

    settle(lambda: sum(fd.startswith("pipe") for fd in proc.fds(keeper[0])) < 10)


def test_keep_lets_commands_go_on(new_emulator):
    emulator = new_emulator("--auth", "any", "--keep")
    api = emulator.api("ork_adopt_execs")
    sandbox = api.create()["id"]
    stream = Stream(api, sandbox, "echo begun; sleep 2; echo done")  # not detached: its client is cut off, it is not
    stream.until("begun\n")
    assert emulator.stop() == 0
    emulator.again("--auth", "any")
    api.port = emulator.port
    state = wait_ended(api, sandbox, stream.exec_id)
    assert state["exit_code"] == 0 and state["stdout"].endswith("done\n"), state
