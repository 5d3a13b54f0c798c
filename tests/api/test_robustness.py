"""The emulator's own life: a clean stop, a crash and what the next start makes of it, and two at once."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import time
import uuid

import pytest

from conftest import cannot_run
from harness import proc
from harness.emulator import run
from harness.stream import settle
from harness.wire import check_error


def serve_and_fail(binary, *args, **more):
    """serve that must refuse to start, and leave no process; its standard error."""
    tag = uuid.uuid4().hex
    done = run(binary, "serve", *args, timeout=20, env={**os.environ, proc.TAG: tag}, **more)
    assert done.returncode not in (0, None) and done.returncode > 0, done
    settle(lambda: not proc.family(-1, tag), 20)
    assert done.stderr.strip(), "a refusal says why"
    return done.stderr


# --- a clean stop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_and_leaves_nothing(new_emulator, new_state, run_in_background, sig):
    state = new_state("tiny")
    emulator = new_emulator("--auth", "any", state=state)
    api = emulator.api("ork_stop")
    ids = [api.create(cpu=0.1, memory_mb=64)["id"] for _ in range(5)]
    for sandbox in ids[:3]:
        api.exec(sandbox, "(trap '' TERM; while :; do sleep 1; done) > /dev/null 2>&1 & true")
    running = run_in_background(attempt, api.post, f"/v1/sandboxes/{ids[0]}/exec", {"command": "echo begun; sleep 60"})
    time.sleep(0.3)
    started = time.monotonic()
    assert emulator.stop(sig) == 0, emulator.log()
    assert time.monotonic() - started < 10
    emulator.check_nothing_left()
    running.result(10)
    again = new_emulator("--auth", "any", state=state)
    rows = {row["id"]: row for row in again.api("ork_stop").get("/v1/sandboxes").json["sandboxes"]}
    assert {(rows[i]["status"], rows[i]["termination_reason"]) for i in ids} == {("terminated", "user")}


def attempt(function, *args):
    try:
        return function(*args)
    except (OSError, AssertionError, Exception) as error:  # a closed connection is a fine answer to a stop
        return error


def test_a_stop_does_not_wait_for_idle_connections(new_emulator):
    emulator = new_emulator("--auth", "any")
    sockets = [socket.create_connection(("127.0.0.1", emulator.port)) for _ in range(20)]
    sockets[0].sendall(b"POST /v1/sandboxes HTTP/1.1\r\nContent-Le")
    started = time.monotonic()
    assert emulator.stop() == 0
    assert time.monotonic() - started < 5
    for sock in sockets:
        sock.close()


def test_two_signals_are_no_more_than_one(new_emulator):
    emulator = new_emulator("--auth", "any")
    emulator.api("ork_key_x").create()
    for _ in range(3):
        emulator.process.send_signal(signal.SIGTERM)
    assert emulator.process.wait(10) in (0, -signal.SIGTERM)
    emulator.check_nothing_left()


# --- a crash --------------------------------------------------------------------------------------


def crashed(emulator):
    """Waits until what is left of a crashed emulator, if anything, has come to rest; ends a launcher that
    stays behind, as whoever started it would."""
    try:
        emulator.process.wait(5)
    except subprocess.TimeoutExpired:
        emulator.process.kill()
        emulator.process.wait(5)


def nothing_but_parked(emulator):
    emulator.settle()
    ready = len(emulator.parked())
    assert len(emulator.slots()) == ready
    assert emulator.trash() == set()
    for folder in emulator.cgroups:  # the same folder for every start on one state dir
        assert len([name for name in proc.subfolders(folder) if name.startswith("s-")]) == ready, folder


# The daemon (which was the launcher) alone: see test_adopt.py.
@pytest.mark.parametrize("victims", ["keeper", "all"])
def test_after_kill_9_the_next_start_is_clean(new_emulator, new_state, victims):
    state = new_state("tiny")
    emulator = new_emulator("--auth", "any", state=state)
    api = emulator.api("ork_crash")
    live, ended = api.create()["id"], api.create()["id"]
    api.delete(f"/v1/sandboxes/{ended}")
    api.exec(live, "(trap '' TERM HUP; while :; do sleep 1; done) > /dev/null 2>&1 & true")
    family = emulator.family()
    core = emulator.core()
    if victims == "keeper":
        targets = core - {emulator.daemon_pid, emulator.process.pid}
        if not targets:
            pytest.skip("the keeper is not a process of its own here")
    else:
        targets = core
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):  # one may go with another
            os.kill(pid, signal.SIGKILL)
    crashed(emulator)

    again = new_emulator("--auth", "any", state=state)
    mine = again.api("ork_crash")
    row = mine.get(f"/v1/sandboxes/{live}").json
    assert row["status"] in ("terminated", "failed"), row
    assert row["terminated_at"] and row["termination_reason"], row
    assert mine.get(f"/v1/sandboxes/{ended}").json["termination_reason"] == "user"
    check_error(mine.post(f"/v1/sandboxes/{live}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    deadline = time.monotonic() + 5
    # The old janitor looks for a while whether the new emulator leaves it something to take away.
    while left := {pid for pid in family & proc.family(-1, emulator.tag) if "orkestr-janitor" not in proc.describe(pid)}:
        assert time.monotonic() < deadline, [proc.describe(pid) for pid in left]
        time.sleep(0.05)
    nothing_but_parked(again)
    fresh = mine.create()["id"]
    assert mine.sh(fresh, "echo works") == "works\n"
    mine.delete(f"/v1/sandboxes/{fresh}")


def test_crashes_in_the_middle_of_work_leave_nothing_either(new_emulator, new_state, run_in_background):
    """A few rounds of load, kill -9 of all of it at a random moment, and an audit."""
    state = new_state("tiny")
    for round_ in range(4):
        emulator = new_emulator("--auth", "any", state=state)
        api = emulator.api(f"ork_round_{round_}")
        load = [run_in_background(attempt, churn, api) for _ in range(4)]
        time.sleep(0.1 + 0.17 * round_)
        for pid in emulator.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        crashed(emulator)
        for future in load:
            future.result(90)
    last = new_emulator("--auth", "any", state=state)
    for round_ in range(4):
        for status in ("creating", "running", "terminating"):
            rows = last.api(f"ork_round_{round_}").get("/v1/sandboxes", query={"status": status}).json["sandboxes"]
            assert rows == []
    nothing_but_parked(last)


def churn(api):
    while True:
        row = api.create(cpu=0.1, memory_mb=64)
        api.exec(row["id"], "sleep 30 & seq 1000 > /tmp/x")
        api.delete(f"/v1/sandboxes/{row['id']}")


def test_an_init_that_dies_is_noticed(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_key_init")
    row = api.create()
    api.exec(row["id"], "sleep 4242 & true")
    (child,) = [pid for pid in emulator.parked() if "sleep 4242" in proc.describe(pid)]
    os.kill(proc.table()[child][0], signal.SIGKILL)  # orphans are PID 1's
    deadline = time.monotonic() + 5
    while (row := api.get(f"/v1/sandboxes/{row['id']}").json)["status"] in ("running", "terminating"):
        assert time.monotonic() < deadline, row
        time.sleep(0.02)
    assert row["status"] in ("failed", "terminated") and row["termination_reason"] in ("failed", "oom"), row
    emulator.audit()


# --- two at once, and other refusals --------------------------------------------------------------


def test_a_second_emulator_on_the_same_state_dir_is_refused(new_emulator, binary):
    emulator = new_emulator("--auth", "any")
    error = serve_and_fail(binary, "--listen", "127.0.0.1:0", "--state-dir", str(emulator.state_dir))
    assert str(emulator.state_dir) in error or "state" in error
    assert emulator.healthy()
    sandbox = emulator.api("ork_key_a").create()
    emulator.api("ork_key_a").delete(f"/v1/sandboxes/{sandbox['id']}")


def test_a_port_in_use_is_refused(new_emulator, new_state, binary):
    emulator = new_emulator("--auth", "any")
    other = new_state("tiny")
    error = serve_and_fail(binary, "--listen", f"127.0.0.1:{emulator.port}", "--state-dir", str(other))
    assert str(emulator.port) in error and "in use" in error.lower()
    new_emulator("--auth", "any", state=other)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "127.0.0.1", ":", "256.1.1.1:80", "127.0.0.1:-1", "127.0.0.1:x"])
def test_a_bad_address_is_refused(binary, new_state, listen):
    error = serve_and_fail(binary, "--listen", listen, "--state-dir", str(new_state("tiny")))
    assert listen.rpartition(":")[0] in error


@pytest.mark.parametrize("spec", ["", "ork_alice01:nosuchplan", "ork_alice01:team:fly", "ork_alice01:team:read:more", "ork_" + "x" * 5000])
def test_a_bad_key_is_refused(binary, new_state, spec):
    serve_and_fail(binary, "--listen", "127.0.0.1:0", "--state-dir", str(new_state("tiny")), "--api-key", spec)


def test_another_users_state_dir_is_refused(binary, scratch):
    if os.getuid() != 0:
        cannot_run("needs root, to make a folder of another user's")
    state = scratch / "foreign"
    state.mkdir()
    os.chown(state, 12345, 12345)
    try:
        error = serve_and_fail(binary, "--listen", "127.0.0.1:0", "--state-dir", str(state))
        assert str(state) in error
        assert os.listdir(state) == [], "nothing is put into it"
    finally:
        state.rmdir()


def test_a_state_dir_that_can_not_be_is_refused(binary, scratch):
    (scratch / "a-file").write_text("x")
    for path in ("/proc/nope", str(scratch / "a-file"), str(scratch / "a-file" / "below")):
        error = serve_and_fail(binary, "--listen", "127.0.0.1:0", "--state-dir", path)
        assert path in error or str(scratch / "a-file") in error


def test_a_damaged_store_is_refused_and_kept(new_emulator, new_state, binary):
    state = new_state("tiny")
    emulator = new_emulator("--auth", "any", state=state)
    assert emulator.stop() == 0
    (store,) = [path for path in state.iterdir() if path.suffix == ".db" or path.suffix == ".sqlite"]
    for extra in state.glob(f"{store.name}-*"):
        extra.unlink()
    damaged = b"this is no database" * 1000
    store.write_bytes(damaged)
    error = serve_and_fail(binary, "--listen", "127.0.0.1:0", "--state-dir", str(state))
    assert store.name in error
    assert store.read_bytes() == damaged, "it must not be replaced"


# --- files named on the command line --------------------------------------------------------------


def test_a_state_dir_and_port_file_in_a_folder_only_the_caller_may_enter(new_emulator, new_state, scratch):
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
    emulator = new_emulator("--auth", "any")
    assert emulator.port_file.parent == scratch
    assert emulator.port_file.read_text().strip() == str(emulator.port)
    assert emulator.port_file.stat().st_uid == os.getuid()


def test_a_relative_state_dir(new_emulator, new_state, monkeypatch):
    from pathlib import Path

    state = new_state("tiny")
    monkeypatch.chdir(state.parent)
    emulator = new_emulator("--auth", "any", state=Path(state.name))
    row = emulator.api("ork_key_rel").create()
    assert emulator.api("ork_key_rel").delete(f"/v1/sandboxes/{row['id']}").status == 200


def test_a_generated_key_is_printed_and_kept_private(new_emulator, new_state):
    state = new_state("tiny")
    emulator = new_emulator(state=state, warm=None)
    key = printed_key(emulator)
    assert key.startswith("ork_") and len(key) >= 40
    assert emulator.api(key).get("/v1/sandboxes").status == 200
    check_error(emulator.api("ork_other").get("/v1/sandboxes"), 401, "unauthorized")
    holders = [path for path in state.iterdir() if path.is_file() and key.encode() in path.read_bytes()]
    assert holders, "the key is kept in the state dir"
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert emulator.stop() == 0
    again = new_emulator(state=state, warm=None)
    assert printed_key(again) == key, "the same key after a restart"


def printed_key(emulator) -> str:
    lines = [line for line in emulator.log().splitlines() if "export ORKESTR_API_KEY=" in line]
    assert lines, emulator.log()
    assert f"127.0.0.1:{emulator.port}" in emulator.log()
    return lines[0].split("export ORKESTR_API_KEY=", 1)[1].split()[0].strip("'\"")


def test_a_unix_socket_with_curl(new_emulator, scratch):
    path = scratch / "api.sock"
    emulator = new_emulator("--auth", "any", "--unix", str(path))
    try:
        subprocess.run(["curl", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        cannot_run("curl is not here: apt-get install curl")
    curl = ["curl", "-sS", "--max-time", "20", "--unix-socket", str(path), "-H", "Authorization: Bearer ork_unix"]
    out = subprocess.run(
        [*curl, "-d", '{"template": "tiny"}', "http://localhost/v1/sandboxes"], capture_output=True, text=True, check=True
    ).stdout
    sandbox = json.loads(out)["id"]
    assert emulator.api("ork_unix").status_of(sandbox) == "running"
    subprocess.run([*curl, "-X", "DELETE", f"http://localhost/v1/sandboxes/{sandbox}"], capture_output=True, check=True)
    assert emulator.api("ork_unix").status_of(sandbox) == "terminated"
    assert emulator.stop() == 0
    assert not path.exists(), "the socket is removed at the end"


# --- load -----------------------------------------------------------------------------------------


def test_many_sandboxes_at_once(new_emulator, run_in_background):
    emulator = new_emulator("--auth", "any")
    apis = [emulator.api(f"ork_many_{n}") for n in range(8)]
    created = [run_in_background(api.create, cpu=0.1, memory_mb=64) for api in apis for _ in range(10)]
    ids = [future.result(60)["id"] for future in created]
    owners = [api for api in apis for _ in range(10)]
    execs = [run_in_background(api.exec, i, f"echo {i}; hostname") for api, i in zip(owners, ids)]
    for sandbox, future in zip(ids, execs):
        assert future.result(60)["stdout"].startswith(sandbox)
    assert emulator.daemon_rss_kb() < 32 * 1024
    ends = [run_in_background(api.delete, f"/v1/sandboxes/{i}") for api, i in zip(owners, ids)]
    assert {future.result(60).status for future in ends} == {200}
    emulator.audit()


def test_a_hundred_lives_do_not_grow_the_daemon(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_cycle")

    def live():
        sandbox = api.create(cpu=0.1, memory_mb=64)["id"]
        api.exec(sandbox, "seq 100")
        api.put_file(sandbox, "/tmp/x", b"x" * 1000)
        api.delete(f"/v1/sandboxes/{sandbox}")

    for _ in range(30):
        live()
    before = emulator.daemon_rss_kb()
    for _ in range(100):
        live()
    assert emulator.daemon_rss_kb() - before < 2048
    emulator.audit()
