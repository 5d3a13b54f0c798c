"""Exec, buffered: what a command wrote, how it ended, and when the answer comes."""

import json
import time
from signal import Signals

import pytest

from harness.wire import check_error
from test_lifecycle import wait_for_process

RESULT_FIELDS = {
    "stdout", "stderr", "exit_code", "duration_ms", "stdout_truncated", "stderr_truncated", "reason", "signal",
    "network_blocked",
}  # fmt: skip
MIB = 1 << 20


def processes(api, sandbox):
    return api.sh(sandbox, "cat /proc/[0-9]*/comm 2>/dev/null || true").split()


# --- the result -----------------------------------------------------------------------------------


@pytest.mark.vm
def test_the_result_has_the_documented_fields(api, sandbox):
    result = api.exec(sandbox, "echo out; echo err >&2; exit 3")
    assert result.keys() >= RESULT_FIELDS
    assert result["stdout"] == "out\n"
    assert result["stderr"] == "err\n"
    assert result["exit_code"] == 3
    assert isinstance(result["duration_ms"], int) and 0 <= result["duration_ms"] < 5000
    assert (result["reason"], result["signal"]) == ("exited", None)
    assert (result["stdout_truncated"], result["stderr_truncated"]) == (False, False)
    assert result["network_blocked"] == []


def test_duration_is_the_commands_own(api, sandbox):
    assert 290 <= api.exec(sandbox, "sleep 0.3")["duration_ms"] < 2000


ENDINGS = [
    ("true", 0), ("false", 1), ("exit 255", 255), ("exit 126", 126), ("no-such-command-at-all", 127),
    ("/etc/passwd", 126), ("/no/such/file", 127), ("set -e; false; echo not here", 1), ("sh -c 'exit 42'", 42),
    ("echo 'unterminated", 2), ("# just a comment", 0), ("true\n\nfalse\n", 1),
]  # fmt: skip


@pytest.mark.parametrize("command, code", ENDINGS)
def test_exit_codes(api, sandbox, command, code):
    result = api.exec(sandbox, command)
    assert (result["exit_code"], result["reason"], result["signal"]) == (code, "exited", None), result


@pytest.mark.parametrize("signal", [1, 2, 3, 6, 9, 10, 13, 14, 15])
def test_signals_are_128_plus_n(api, sandbox, signal):
    result = api.exec(sandbox, f"kill -{signal} $$; sleep 5")
    ended = (result["exit_code"], result["reason"], result["signal"])
    assert ended == (128 + signal, "signal", Signals(signal).name), result


ARGV = [
    (["echo", "a b", "$HOME", "*"], "a b $HOME *\n"), (["printf", "%s|", "", "x"], "|x|"),
    (["/bin/echo", "'\"\\"], "'\"\\\n"), (["sh", "-c", "echo $0-$1", "zero", "one"], "zero-one\n"),
    (["cat"], ""), (["echo", "-n", "line\nbreak"], "line\nbreak"),
]  # fmt: skip


@pytest.mark.parametrize("argv, out", ARGV, ids=str)
def test_arrays_run_without_a_shell(api, sandbox, argv, out):
    result = api.exec(sandbox, argv)
    assert (result["stdout"], result["exit_code"]) == (out, 0), result


@pytest.mark.parametrize("argv, code", [(["no-such-program"], 127), (["/etc/passwd"], 126), (["/workspace"], 126)], ids=str)
def test_arrays_that_cannot_start_end_like_a_shells(api, sandbox, argv, code):
    result = api.exec(sandbox, argv)
    assert (result["exit_code"], result["reason"]) == (code, "exited"), result
    assert result["stderr"], result


def test_cmd_is_another_name_for_command(api, sandbox):
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"cmd": "echo yes"})
    assert answer.json["stdout"] == "yes\n"


# --- what a command finds -------------------------------------------------------------------------


def test_the_default_place_is_workspace(api, sandbox):
    assert api.sh(sandbox, "pwd") == "/workspace\n"
    assert api.sh(sandbox, "pwd", cwd="/tmp") == "/tmp\n"
    assert api.sh(sandbox, ["pwd"], cwd="/") == "/\n"


@pytest.mark.parametrize("cwd", ["/no/such/place", "/etc/passwd"])
def test_a_cwd_that_is_no_directory_is_an_error(api, sandbox, cwd):
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "true", "cwd": cwd})
    assert answer.status in (400, 404, 422), answer
    assert cwd in json.dumps(answer.json)


def test_env_of_sandbox_and_exec_merge(api):
    sandbox = api.create(env={"A": "sandbox", "B": "sandbox", "EMPTY": "", "UTF": "ü ✓", "MULTI": "a\nb"})["id"]
    out = api.sh(sandbox, 'echo "$A $B $C $EMPTY. $UTF $MULTI"', env={"B": "exec", "C": "exec"})
    assert out == "sandbox exec exec . ü ✓ a\nb\n"
    assert api.sh(sandbox, 'echo "$A $B $C."') == "sandbox sandbox .\n"


def test_the_environment_is_sensible_and_not_ours(api, sandbox):
    env = dict(line.split("=", 1) for line in api.sh(sandbox, ["env"]).splitlines())
    assert env["HOME"] == "/root"
    assert {"/usr/bin", "/bin"} <= set(env["PATH"].split(":"))
    assert "UTF-8" in env.get("LANG", env.get("LC_ALL", "")).upper()
    assert not [name for name in env if name.startswith(("ORKESTR", "XDG_", "LISTEN_", "NOTIFY_")) or name == "TMPDIR"]


@pytest.mark.vm
def test_a_command_has_three_descriptors_and_no_others(api, sandbox):
    # The shell expands the pattern with a descriptor of its own open, which is gone when ls runs.
    assert api.sh(sandbox, ["ls", "/proc/self/fd"]).split() == ["0", "1", "2", "3"]  # 3 is ls reading the folder


def test_signal_mask_and_dispositions_are_clean(api, sandbox):
    status = api.sh(sandbox, ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    reserved = 3 << 31  # 32 and 33 are the C library's own: it lets nobody reset them
    assert [int(line.split()[1], 16) & ~reserved for line in status.splitlines()] == [0, 0], status


def test_stdin(api, sandbox):
    assert api.sh(sandbox, "cat", stdin="hello\nüñ\n") == "hello\nüñ\n"
    assert api.sh(sandbox, "cat; echo end", stdin="") == "end\n"
    assert api.sh(sandbox, "cat; echo end") == "end\n"
    big = "0123456789abcdef" * (2 * MIB // 16)
    assert api.sh(sandbox, "wc -c", stdin=big).strip() == str(2 * MIB)
    assert api.exec(sandbox, "true", stdin=big)["exit_code"] == 0  # one that never reads it
    assert api.sh(sandbox, "head -c 5", stdin=big) == "01234"


# --- output ---------------------------------------------------------------------------------------

BYTES = [
    (r"printf 'a\377b'", "a�b"), (r"printf '\303\274 \342\234\223 \360\237\230\200'", "ü ✓ 😀"),
    (r"printf '\303'", "�"), (r"printf '\342\234'", "�"), (r"printf '\355\240\200'", "���"),
    (r"printf 'a\000b'", "a\0b"), (r"printf '\001\033[31m\r\n\t'", "\x01\x1b[31m\r\n\t"),
    (r"printf '\360\237\230'; sleep 0.1; printf '\200'", "😀"), (r"printf '\300\200'", "��"), ("printf ' '", " "),
    ("echo '\"' \"'\"", '" \'\n'), (r"printf '\\'", "\\"),
]  # fmt: skip


@pytest.mark.parametrize("command, text", BYTES, ids=[case[0] for case in BYTES])
def test_output_is_utf8_whatever_the_bytes(api, sandbox, command, text):
    assert api.sh(sandbox, command) == text


def test_a_megabyte_arrives_whole(api, sandbox):
    result = api.exec(sandbox, "seq 200000; seq 100000 >&2")
    assert result["stdout"] == "".join(f"{n}\n" for n in range(1, 200001))
    assert result["stderr"] == "".join(f"{n}\n" for n in range(1, 100001))


def test_output_beyond_16_mib_keeps_head_and_tail(api, sandbox):
    result = api.exec(sandbox, "echo HEAD; head -c 20971520 /dev/zero | tr '\\0' x; echo; echo TAIL; echo small >&2")
    out = result["stdout"]
    assert result["exit_code"] == 0
    assert (result["stdout_truncated"], result["stderr_truncated"]) == (True, False)
    assert out.startswith("HEAD\nxxx") and out.endswith("xxx\nTAIL\n")
    assert 15 * MIB <= len(out) <= 17 * MIB
    assert result["stderr"] == "small\n"


def test_exactly_16_mib_is_not_truncated(api, sandbox):
    result = api.exec(sandbox, f"head -c {16 * MIB} /dev/zero | tr '\\0' x")
    assert (len(result["stdout"]), result["stdout_truncated"]) == (16 * MIB, False)


def test_endless_output_ends_with_the_timeout_in_bounded_memory(api, sandbox, emulator):
    before = emulator.daemon_rss_kb()
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "yes", "timeout_seconds": 1})
    body = check_error(answer, 408, "exec_timeout")
    assert body["stdout"].startswith("y\ny\n")
    assert emulator.daemon_rss_kb() - before < 64 * 1024


# --- children in the background -------------------------------------------------------------------


@pytest.mark.parametrize("command", [
    "sleep 20 & echo started", "nohup sleep 20 & echo started", "(sleep 20 &) ; echo started",
    "setsid sleep 20 & echo started", "sh -c 'sleep 20 & exec sleep 20' & echo started",
])  # fmt: skip
def test_exec_returns_when_its_own_process_has_ended(api, sandbox, command):
    started = time.monotonic()
    result = api.exec(sandbox, command)
    assert result["exit_code"] == 0 and result["stdout"].endswith("started\n")
    assert time.monotonic() - started < 3
    wait_for_process(api, sandbox, "sleep")  # the child lives on (and may have been about to start)


def test_a_background_child_may_go_on_writing(api, sandbox):
    """Its pipe stays open and is emptied, so it neither blocks nor dies of SIGPIPE."""
    api.exec(sandbox, "(while :; do seq 2000; echo alive > /tmp/alive; done) & echo started")
    api.sh(sandbox, "sleep 0.3; rm -f /tmp/alive; sleep 0.3; cat /tmp/alive")


def test_what_was_written_before_the_end_is_all_there(api, sandbox):
    for _ in range(5):
        assert len(api.sh(sandbox, "sleep 3 & seq 30000").split()) == 30000


def test_orphans_are_reaped(api, sandbox):
    api.exec(sandbox, "for i in $(seq 50); do (true &) ; done")
    time.sleep(0.2)
    states = api.sh(sandbox, "grep -h ^State: /proc/[0-9]*/status 2>/dev/null || true")
    assert "Z (zombie)" not in states


# --- timeouts -------------------------------------------------------------------------------------


@pytest.mark.vm
def test_a_timeout_is_408_with_the_output_so_far(api, sandbox):
    started, exactly = time.monotonic(), time.perf_counter()
    answer = api.post(
        f"/v1/sandboxes/{sandbox}/exec", {"command": "echo so far; echo oops >&2; sleep 30", "timeout_seconds": 1}
    )
    assert time.perf_counter() - exactly > 0.9
    took = time.monotonic() - started
    body = check_error(answer, 408, "exec_timeout")
    assert (body["stdout"], body["stderr"]) == ("so far\n", "oops\n")
    assert took < 5, took
    assert "sleep" not in processes(api, sandbox)
    assert api.sh(sandbox, "echo still here") == "still here\n"


@pytest.mark.vm
def test_a_timeout_ends_the_whole_tree_even_what_ignores_sigterm(api, sandbox):
    command = "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & setsid sleep 44 & while :; do sleep 1; done"
    started = time.monotonic()
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": command, "timeout_seconds": 1})
    check_error(answer, 408, "exec_timeout")
    assert time.monotonic() - started < 15
    deadline = time.monotonic() + 10
    while "sleep" in processes(api, sandbox):
        assert time.monotonic() < deadline, processes(api, sandbox)
        time.sleep(0.1)


# --- at the same time -----------------------------------------------------------------------------


@pytest.mark.vm
def test_many_at_once_are_neither_lost_nor_mixed(api, sandbox, run_in_background):
    futures = {n: run_in_background(api.exec, sandbox, f"sleep 0.2; echo out-{n}; echo err-{n} >&2; exit {n}") for n in range(40)}
    for n, future in futures.items():
        result = future.result(60)
        assert (result["stdout"], result["stderr"], result["exit_code"]) == (f"out-{n}\n", f"err-{n}\n", n)


def test_a_client_that_goes_away_does_not_disturb(api, sandbox, emulator):
    import socket

    body = json.dumps({"command": "echo begun; sleep 2; echo done > /tmp/done"}).encode()
    head = (
        f"POST /v1/sandboxes/{sandbox}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", emulator.port)) as sock:
        sock.sendall(head + body)
        wait_for_process(api, sandbox, "sleep")
    assert api.sh(sandbox, "echo fine") == "fine\n"


def test_commands_share_the_sandbox_and_nothing_else(api):
    one, two = api.create()["id"], api.create()["id"]
    api.sh(one, "echo mine > /tmp/note; export NOPE=1")
    assert api.sh(one, "cat /tmp/note; echo ${NOPE:-unset}") == "mine\nunset\n"
    assert api.exec(two, "cat /tmp/note")["exit_code"] == 1


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture
def stream(api, sandbox, sdk):
    """The SDK's exec_stream on a sandbox."""
    from orkestr.http import Transport

    row = api.get(f"/v1/sandboxes/{sandbox}").json
    return sdk.Sandbox(Transport(), row).exec_stream


@pytest.mark.vm
def test_stream_yields_output_then_one_last_chunk(stream):
    chunks = list(stream("echo one; echo two >&2; sleep 0.2; echo three; exit 7"))
    assert "".join(c.data for c in chunks if c.stream == "stdout") == "one\nthree\n"
    assert "".join(c.data for c in chunks if c.stream == "stderr") == "two\n"
    assert [c.is_final for c in chunks].count(True) == 1 and chunks[-1].is_final
    assert (chunks[-1].exit_code, chunks[-1].data, chunks[-1].stream) == (7, "", "stdout")
    assert all(c.exit_code is None for c in chunks[:-1])


def test_stream_comes_as_it_is_written(stream):
    started = time.monotonic()
    first = next(stream("echo now; sleep 5"))
    assert first.data == "now\n" and time.monotonic() - started < 2


def test_stream_never_splits_a_character(stream):
    text = "".join(c.data for c in stream("for i in $(seq 3000); do printf '\\342\\234\\223\\360\\237\\230\\200'; done"))
    assert text == "✓😀" * 3000


def test_ndjson_has_the_same_objects(api, sandbox, stream):
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "echo x", "stream": True}, headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[0]["data"] == "x\n" and lines[-1]["is_final"] is True


@pytest.mark.parametrize("how", ["body", "accept", "path"])
def test_an_asked_for_stream_is_never_answered_buffered(api, sandbox, how):
    """Until it exists, the answer is 501, so that a client doesn't wait for events that never come."""
    body, headers, path = {"command": "echo x"}, {}, f"/v1/sandboxes/{sandbox}/exec"
    if how == "body":
        body["stream"] = True
    elif how == "accept":
        headers["Accept"] = "text/event-stream"
    else:
        path += "/stream"
    answer = api.post(path, body, headers=headers)
    if answer.status != 200:
        assert answer.status in (404, 501), answer
        return
    assert answer.headers["content-type"].startswith("text/event-stream")
