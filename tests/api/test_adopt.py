"""kill -9 of the daemon, and a next start that takes over what it left: every sandbox with its processes."""

import http.client
import os
import random
import signal
import socket
import threading
import time

import pytest

from conftest import cannot_run
from harness import slow
from harness.emulator import run
from harness.stream import settle
from harness.wire import check_error

KILLS = 100 if os.environ.get("ORKESTR_TEST_LONG") == "1" else 8

COUNTER = "(i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done) > /dev/null 2>&1 & echo $!"


def count(api, sandbox):
    return int(api.sh(sandbox, "cat /tmp/count").strip() or 0)


def goes_on(api, sandbox, before):
    deadline = time.monotonic() + 10
    while count(api, sandbox) <= before:
        assert time.monotonic() < deadline, "its process does not go on"
        time.sleep(0.02)


def freezes(emulator):
    return emulator.info()["cgroups"]["backend"] != "none"


def pause(emulator, api, sandbox):
    if not freezes(emulator):
        cannot_run("no freezer here")
    assert api.post(f"/v1/sandboxes/{sandbox}/pause", {}).status == 200


@pytest.fixture
def emulator(new_emulator):
    return new_emulator("--auth", "any")


@pytest.fixture
def key():
    return "ork_adopt_test"


@pytest.fixture
def api(emulator, key):
    return emulator.api(key)


def restart(emulator, api, *args):
    emulator.kill_daemon()
    emulator.again(*args)
    api.port = emulator.port
    return api


# --- as it was ------------------------------------------------------------------------------------


def test_a_running_sandbox_goes_on(emulator, api):
    row = api.create(timeout_seconds=300)
    pid = api.sh(row["id"], COUNTER).strip()
    api.put_file(row["id"], "/workspace/f", b"kept")
    settle(lambda: count(api, row["id"]) > 0)
    before = count(api, row["id"])
    restart(emulator, api)
    assert api.get(f"/v1/sandboxes/{row['id']}").json == row, "deadline and all"
    goes_on(api, row["id"], before)
    assert api.sh(row["id"], f"kill -0 {pid}; cat /workspace/f") == "kept"
    emulator.check_accounted(1)
    assert api.delete(f"/v1/sandboxes/{row['id']}").json["status"] == "terminated"
    emulator.check_accounted(0)


def test_a_paused_sandbox_stays_paused_with_its_memory(emulator, api):
    row = api.create(timeout_seconds=300)
    api.sh(row["id"], COUNTER)
    settle(lambda: count(api, row["id"]) > 0)
    pause(emulator, api, row["id"])
    for _ in range(2):
        restart(emulator, api)
        assert api.status_of(row["id"]) == "paused"
        check_error(api.post(f"/v1/sandboxes/{row['id']}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    time.sleep(1)
    answer = api.post(f"/v1/sandboxes/{row['id']}/resume", {})
    assert answer.status == 200 and answer.json["status"] == "running" and not answer.divergences, answer
    goes_on(api, row["id"], count(api, row["id"]))
    assert answer.json["expires_at"] > row["expires_at"], "its clock stood still"
    emulator.check_accounted(1)


def test_a_paused_one_can_be_paused_and_resumed_cold_afterwards(emulator, api):
    """What a snapshot needs to know of the sandbox came along too."""
    sandbox = api.create()["id"]
    api.put_file(sandbox, "/workspace/f", b"on disk")
    restart(emulator, api)
    pause(emulator, api, sandbox)
    emulator.kill_all()
    emulator.again()
    api.port = emulator.port
    assert api.status_of(sandbox) == "paused"
    answer = api.post(f"/v1/sandboxes/{sandbox}/resume", {})
    assert answer.status == 200 and "memory-lost" in answer.divergences, answer
    assert api.sh(sandbox, "cat /workspace/f") == "on disk"


def test_a_deadline_that_passes_meanwhile_ends_it(emulator, api):
    short, longer = api.create(timeout_seconds=10), api.create(timeout_seconds=300)
    emulator.kill_daemon()
    time.sleep(10.5)
    emulator.again()
    api.port = emulator.port
    row = settle(lambda: (r := api.get(f"/v1/sandboxes/{short['id']}").json)["status"] == "terminated" and r)
    assert row["termination_reason"] == "timeout"
    assert api.status_of(longer["id"]) == "running"
    emulator.check_accounted(1)


def test_a_deadline_still_holds_after_it(emulator, api):
    row = api.create(timeout_seconds=10)
    restart(emulator, api)
    settle(lambda: api.status_of(row["id"]) == "terminated", 15)
    assert api.get(f"/v1/sandboxes/{row['id']}").json["termination_reason"] == "timeout"


def test_one_whose_first_process_died_meanwhile_has_failed(emulator, api):
    gone, stays = api.create()["id"], api.create()["id"]
    inits = {api.sh(s, "readlink /proc/self/ns/pid").strip(): s for s in (gone, stays)}
    try:
        victims = [pid for pid in emulator.inits() if inits.get(os.readlink(f"/proc/{pid}/ns/pid")) == gone]
    except PermissionError:
        cannot_run("whose first process is whose is for root to see")
    emulator.kill_daemon()
    os.kill(victims[0], signal.SIGKILL)
    time.sleep(0.1)
    emulator.again()
    api.port = emulator.port
    row = api.get(f"/v1/sandboxes/{gone}").json
    assert (row["status"], row["termination_reason"]) == ("failed", "failed")
    assert api.sh(stays, "echo here") == "here\n"
    emulator.check_accounted(1)


def test_more_sandboxes_after_it(emulator, api):
    """Numbers and names go on from where they were."""
    old = api.create(network="open")["id"]
    restart(emulator, api)
    new = [api.create(network=network)["id"] for network in ("off", "open", "restricted")]
    for sandbox in (old, *new):
        assert api.exec(sandbox, "echo $$; sleep 0 & wait")["exit_code"] == 0
    emulator.check_accounted(4)


# --- a stop that keeps ----------------------------------------------------------------------------


def test_keep_leaves_sandboxes_for_the_next_start(new_emulator, key):
    emulator = new_emulator("--auth", "any", "--keep")
    api = emulator.api(key)
    if not freezes(emulator):
        cannot_run("no freezer here")
    running, paused = api.create()["id"], api.create()["id"]
    api.sh(running, COUNTER)
    pause(emulator, api, paused)
    settle(lambda: count(api, running) > 0)
    before = count(api, running)
    assert emulator.stop() == 0, emulator.log()
    assert len(emulator.slots()) == 2, "what was kept ready for a create is gone"
    emulator.again("--auth", "any")  # and this one does not keep
    api.port = emulator.port
    goes_on(api, running, before)
    assert api.status_of(paused) == "paused"
    assert emulator.stop() == 0
    emulator.check_nothing_left()


def test_keep_with_nothing_to_keep_leaves_nothing(new_emulator):
    emulator = new_emulator("--auth", "any", "--keep")
    assert emulator.stop() == 0
    emulator.check_nothing_left()


def test_clean_ends_what_a_keeper_keeps(new_emulator, binary, key, new_state):
    state = new_state("tiny")
    emulator = new_emulator("--auth", "any", state=state)
    emulator.api(key).create()
    assert "keeper" not in run(binary, "doctor", "--state-dir", str(state)).stdout
    emulator.kill_daemon()
    assert "A keeper in" in run(binary, "doctor", "--state-dir", str(state)).stdout
    done = run(binary, "clean", "--state-dir", str(state), "--yes")
    assert done.returncode == 0, done
    assert "keeper" in done.stdout and not state.exists(), done
    emulator.check_nothing_left()


# --- another version ------------------------------------------------------------------------------


def test_a_keeper_of_another_version_is_ended_and_not_misread(new_emulator, new_state):
    state = new_state("tiny")
    first = new_emulator("--auth", "any", state=state)
    assert first.stop() == 0
    told = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here = os.getcwd()
    os.chdir(state)  # a socket's name is at most 108 bytes long
    try:
        listener.bind("keeper.sock")
    finally:
        os.chdir(here)
    os.chown(state / "keeper.sock", os.stat(state).st_uid, os.stat(state).st_gid)
    listener.listen(4)

    def keeper():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            told.append(message := sock.recv(4096))
            if message[4:8] == b"\x03\0\0\0":
                listener.close()
            sock.close()

    thread = threading.Thread(target=keeper, daemon=True)
    thread.start()
    second = new_emulator("--auth", "any", state=state)
    thread.join(slow.longer(5))
    assert [m[:4] for m in told] == [b"1pko"] * len(told) and len(told) == 2, told
    assert told[1][4:8] == b"\x03\0\0\0", "KEEPER_STOP, which every version knows"
    assert "an earlier run left a keeper of" in second.log()


# --- under load -----------------------------------------------------------------------------------


class Client(threading.Thread):
    """Works until the emulator is gone, and knows what each of its sandboxes may be by then."""

    def __init__(self, emulator, name, seed, known):
        super().__init__(daemon=True)
        self.api = emulator.api(f"ork_load_{name}")
        self.random = random.Random(seed)
        self.known = known  # id -> the statuses it may have
        self.actions = ["exec", "exec", "write", "delete", "stream"] + ["pause"] * freezes(emulator)
        self.failure = None

    def run(self):
        try:
            while True:
                self.step()
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the emulator is gone
        except BaseException as error:
            self.failure = error

    def step(self):
        mine = [i for i, may in self.known.items() if not may & {"terminated", "failed"}]
        if len(mine) < 3:
            network = self.random.choice(["off", "off", "restricted", "open"])
            row = self.api.create(cpu=0.1, memory_mb=64, network=network)
            self.known[row["id"]] = {"running"}
            self.api.exec(row["id"], "echo $$ > /tmp/mark; sleep 7777 > /dev/null 2>&1 & echo $! > /tmp/pid")
            return
        sandbox = self.random.choice(mine)
        may = self.known[sandbox]
        if may == {"paused"}:
            self.change(sandbox, "resume", "running")
            return
        action = self.random.choice(self.actions)
        if action == "exec":
            self.api.exec(sandbox, "seq 200 > /tmp/x; cat /tmp/x")
        elif action == "stream":
            self.api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "seq 5000; sleep 0.01; seq 5000", "stream": True})
        elif action == "write":
            self.api.put_file(sandbox, "/workspace/w", os.urandom(20000))
        elif action == "pause":
            self.change(sandbox, "pause", "paused")
        else:
            self.known[sandbox] = may | {"terminated"}
            assert self.api.delete(f"/v1/sandboxes/{sandbox}").status == 200
            self.known[sandbox] = {"terminated"}

    def change(self, sandbox, verb, to):
        self.known[sandbox] = {"running", "paused"}
        answer = self.api.post(f"/v1/sandboxes/{sandbox}/{verb}", {})
        assert answer.status == 200, answer
        self.known[sandbox] = {to}


def settled(api):
    rows = []
    for status in ("creating", "pausing", "resuming", "terminating"):
        rows += api.get("/v1/sandboxes", query={"status": status}).json["sandboxes"]
    return not rows


def check_after_kill(emulator, clients):
    live = 0
    for client in clients:
        client.api.port = emulator.port
        settle(lambda: settled(client.api))
        rows = {}
        for status in ("running", "paused", "terminated", "failed"):
            answer = client.api.get("/v1/sandboxes", query={"status": status, "limit": 200})
            rows.update({row["id"]: row["status"] for row in answer.json["sandboxes"]})
        for sandbox, may in client.known.items():
            assert rows.get(sandbox) in may, f"{sandbox} is {rows.get(sandbox)}, may be {may}\n{emulator.log()[-3000:]}"
        for sandbox, status in rows.items():
            if status in ("running", "paused"):
                live += 1
            if status == "running" and sandbox in client.known:
                assert client.api.exec(sandbox, "test ! -e /tmp/pid || kill -0 $(cat /tmp/pid)")["exit_code"] == 0
            client.known[sandbox] = {status}
    emulator.check_accounted(live)


def test_kill_9_at_any_moment_under_load(new_emulator):
    seed = int(os.environ.get("ORKESTR_TEST_SEED", random.randrange(1 << 30)))
    print(f"ORKESTR_TEST_SEED={seed}")
    moments = random.Random(seed)
    emulator = new_emulator("--auth", "any")
    known = [{} for _ in range(4)]
    for kill in range(KILLS):
        clients = [Client(emulator, n, seed + kill * 10 + n, known[n]) for n in range(len(known))]
        for client in clients:
            client.start()
        time.sleep(moments.uniform(0.01, 0.7))
        emulator.kill_daemon()
        for client in clients:
            client.join(slow.longer(30))
            assert not client.is_alive(), "a request that never ends"
            assert not client.failure, f"kill {kill}: {client.failure!r}\n{emulator.log()[-3000:]}"
        emulator.again()
        check_after_kill(emulator, clients)
    for client in clients:
        for sandbox in client.known:
            assert client.api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    emulator.check_accounted(0)
    assert emulator.stop() == 0
    emulator.check_nothing_left()
