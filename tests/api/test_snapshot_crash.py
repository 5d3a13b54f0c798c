"""kill -9 before each system call that leaves something behind (killat.c): a snapshot is never half there. What was
paused is paused whole, or it is not paused; nothing stays in the trash, no half of a file anywhere."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import cannot_run
from harness.emulator import Emulator, run
from test_pause import files_of, pause, resume, snapshots
from test_snapshot import KEY

MAKE = "cd /workspace; mkdir d; for i in 1 2 3; do head -c 20000 /dev/urandom > d/$i; done; ln d/1 d/l; rm /etc/group; sha256sum d/* > sums"
CHECK = "cd /workspace && sha256sum -c sums > /dev/null && [ ! -e /etc/group ] && echo whole"
STEPS_MAX = 90


@pytest.fixture(scope="module")
def killat(compiled, scratch) -> Path:
    path = compiled("killat.c")
    probe = subprocess.run([path, "run", "999999", "/bin/true"], capture_output=True, text=True)
    if probe.returncode != 10:
        cannot_run(f"ptrace(2) is not to be had here: {probe.stderr}")
    victim = scratch / "killat-probe"
    victim.touch()
    with subprocess.Popen(["sh", "-c", 'read go; exec rm "$0"', victim], stdin=subprocess.PIPE) as shell:
        with subprocess.Popen([path, "daemon", str(shell.pid), "1"], stdout=subprocess.PIPE, text=True) as probe:
            ready = probe.stdout.readline()
            shell.communicate(b"go\n", 20)
            probe.communicate(timeout=20)
    if ready != "ready\n" or not victim.exists():  # user-mode Linux
        cannot_run("ptrace(2) does not tell here which system call a process makes that it was attached to")
    return path


@pytest.fixture
def assassin(killat):
    """assassin(mode, pid, n) attaches; .done() tells whether it has struck (and detaches)."""
    running = []

    class Assassin:
        def __init__(self, mode, pid, n):
            self.process = subprocess.Popen([killat, mode, str(pid), str(n)], stdout=subprocess.PIPE, text=True)
            running.append(self.process)
            if self.process.stdout.readline() != "ready\n":
                cannot_run("ptrace(2) does not attach to the daemon here")

        def done(self) -> str | None:
            self.process.terminate()
            text = self.process.communicate(timeout=20)[0]
            return text.strip() or None

    yield Assassin
    for process in running:
        process.kill()
        process.wait()


class Life:
    """One state dir, an emulator on it that dies and comes back."""

    def __init__(self, binary, state):
        self.binary, self.state = binary, state
        self.emulator = None
        self.tag = None

    def start(self):
        self.emulator = Emulator(self.binary, self.state, "--auth", "any", "--warm", "1", warm=None)
        # The keeper of an earlier one may live on with its sandboxes: all are one family.
        self.tag = self.emulator.tag = self.tag or self.emulator.tag
        self.emulator.start()
        self.api = self.emulator.api(KEY)
        return self.api

    def come_back(self):
        """After the daemon's death. What it left running is the next start's to find."""
        if self.emulator.process.poll() is None:
            self.emulator.process.wait(10)
        self.emulator = None
        self.start()

    def check_clean(self, sandbox, status):
        """No half of anything: what is there belongs to a paused one, whole."""
        deadline = time.monotonic() + 10
        while self.emulator.trash():
            assert time.monotonic() < deadline, self.emulator.trash()
            time.sleep(0.02)
        assert snapshots(self.emulator) == (files_of(sandbox) if status == "paused" else set()), status

    def end(self, sandbox):
        """Of one that runs and is whole."""
        assert self.api.sh(sandbox, CHECK) == "whole\n"
        assert self.api.delete(f"/v1/sandboxes/{sandbox}").status == 200
        self.check_clean(sandbox, "gone")


@pytest.fixture
def life(binary, new_state):
    life = Life(binary, new_state("tiny"))
    yield life
    if life.emulator:
        assert life.emulator.stop() == 0, life.emulator.log()
        life.emulator.check_nothing_left()


def settle(life, sandbox, seen):
    """Whatever it is now: whole, and it can be gone on with. Ends it."""
    api = life.api
    status = api.status_of(sandbox)
    assert status in ("paused", "running", "failed"), api.get(f"/v1/sandboxes/{sandbox}").json
    life.check_clean(sandbox, status)
    seen[status] = seen.get(status, 0) + 1
    if status == "failed":
        assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
        life.check_clean(sandbox, "gone")
        return
    if status == "paused":
        resume(api, sandbox)
    life.end(sandbox)


def attempt(api, path) -> int | None:
    try:
        return api.post(path, timeout=60).status
    except Exception as error:  # noqa: BLE001 - the daemon died under it
        assert not isinstance(error, AssertionError)
        return None


class Attempt(NamedTuple):
    """One pause or resume with an assassin behind it, who strikes before the nth system call that leaves something."""

    n: int
    sandbox: str
    status: int | None  # the answer's, if one came
    struck: str | None  # where


def attempts(life, assassin, who, verb, make, stride=lambda n: 1):
    """n = 1, 2, ... until it comes to its end unharmed; each on a new sandbox of make()."""
    n = 1
    while n < STEPS_MAX:
        sandbox = make(life)
        killer = assassin(who, life.emulator.daemon_pid, n)
        status = attempt(life.api, f"/v1/sandboxes/{sandbox}/{verb}")
        yield (last := Attempt(n, sandbox, status, killer.done()))
        if not last.struck:
            assert status == 200
            return
        n += stride(n)


def daemon_dies(life, assassin, verb, make, **more) -> tuple[int, dict]:
    """At each step; the last step's number, and how often a sandbox was found in which status."""
    life.start()
    seen = {}
    for at in attempts(life, assassin, "daemon", verb, make, **more):
        if at.struck:
            life.come_back()
        if at.n == 1 and verb == "resume":
            assert life.api.status_of(at.sandbox) == "paused", "nothing had been done yet"
        settle(life, at.sandbox, seen)
    return at.n, seen


def made(life) -> str:
    sandbox = life.api.create(size="small")["id"]
    life.api.sh(sandbox, MAKE)
    return sandbox


def paused(life) -> str:
    sandbox = made(life)
    pause(life.api, sandbox)
    time.sleep(0.05)
    return sandbox


def paused_cold(life) -> str:
    sandbox = paused(life)
    life.emulator.kill_all()
    life.emulator = None
    life.start()
    assert life.api.status_of(sandbox) == "paused"
    return sandbox


def test_the_daemon_dies_at_each_step_of_a_pause(life, assassin, freezer):
    n, seen = daemon_dies(life, assassin, "pause", made)
    assert n > 8 and seen.get("paused", 0) >= 1, (n, seen)


def test_the_daemon_dies_at_each_step_of_a_resume(life, assassin):
    n, seen = daemon_dies(life, assassin, "resume", paused)
    assert n > 3 and seen.get("paused", 0) >= 1, (n, seen)


def test_the_daemon_dies_at_each_step_of_a_cold_resume(life, assassin):
    n, seen = daemon_dies(life, assassin, "resume", paused_cold, stride=lambda n: 1 if n < 10 else 3)  # the unpacking repeats itself
    assert n > 15 and seen.get("paused", 0) >= 5, (n, seen)


@pytest.mark.parametrize("cold", [False, True], ids=["pause", "cold-resume"])
def test_the_worker_dies_at_each_step(life, assassin, cold, freezer):
    """The daemon lives and says so: a pause that failed leaves it running, a cold resume that failed paused."""
    life.start()
    make, verb, before = (paused_cold, "resume", "paused") if cold else (made, "pause", "running")
    struck_at = []
    for at in attempts(life, assassin, "worker", verb, make, stride=lambda n: 3 if cold and n >= 6 else 1):
        if at.status != 200:
            assert at.struck and at.status == 500, at
            struck_at.append(at.struck)
            assert life.api.status_of(at.sandbox) == before
            life.check_clean(at.sandbox, before)
            (resume if cold else pause)(life.api, at.sandbox)
        if not cold:
            resume(life.api, at.sandbox)
        life.end(at.sandbox)
        if at.status == 200:
            break
    assert len(struck_at) >= 4, struck_at


def left(state: Path) -> list[str]:
    """Names an import or export could have left."""
    return [n for n in os.listdir(state / "snapshots") if n.startswith(".")] + os.listdir(state / "disk" / "trash") + [
        n for n in os.listdir(state / "disk" / "l") if n.startswith(".tmp")
    ]  # fmt: skip


@pytest.fixture
def killed(killat, binary, life):
    """killed(n, "export", ...) runs a command of `snapshot` with an assassin behind it; .returncode 10: he came too late."""

    def go(n, verb, *args):
        command = [killat, "run", str(n), binary, "snapshot", verb, "--state-dir", life.state, *args]
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # it can't count them under ptrace (make asan)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=env)
        assert "killed" in done.stdout or done.returncode == 10, done
        return done

    return go


def test_an_export_dies_at_each_step(life, killed, scratch):
    life.start()
    sandbox = paused(life)
    for oci in ([], ["--oci"]):
        file = scratch / "killed-export.tar"
        for n in range(1, STEPS_MAX):
            done = killed(n, "export", *oci, sandbox, file)
            assert left(life.state) == [] and snapshots(life.emulator) == files_of(sandbox)
            assert [name for name in os.listdir(scratch) if name.startswith(".orkestr")] == []
            if "killed" not in done.stdout:
                assert file.exists(), done
                break
            assert not file.exists()
        assert n > 1
        file.unlink()
    resume(life.api, sandbox)
    life.end(sandbox)


def test_an_import_dies_at_each_step(life, killed, scratch, binary):
    life.start()
    sandbox = paused(life)
    file = scratch / "to-import.tar"
    assert run(binary, "snapshot", "export", "--state-dir", str(life.state), sandbox, str(file)).returncode == 0
    assert life.api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert life.emulator.stop() == 0
    whole, n = 0, 1
    while n < STEPS_MAX:
        done = killed(n, "import", file)
        there = {name for name in os.listdir(life.state / "snapshots") if name.endswith(".json") and not name.startswith(".")}
        if "killed" in done.stdout and n % 4 and not there:
            n += 1
            continue
        # A start sweeps the halves and finds what is whole.
        api = life.start()
        rows = api.get("/v1/sandboxes", query={"status": "paused"}).json["sandboxes"]
        assert {f"{row['id']}.json" for row in rows} == there
        assert snapshots(life.emulator) == {name for row in rows for name in files_of(row["id"])}
        for row in rows:
            resume(api, row["id"])
            assert api.sh(row["id"], CHECK) == "whole\n"
            assert api.delete(f"/v1/sandboxes/{row['id']}").status == 200
            whole += 1
        assert life.emulator.stop() == 0
        assert left(life.state) == [] or all(name.startswith(".tmp") for name in left(life.state))
        if "killed" not in done.stdout:
            break
        n += 1
    assert whole >= 1 and n > 15, (whole, n)
    assert run(binary, "snapshot", "import", "--state-dir", str(life.state), str(file)).returncode == 0
    assert left(life.state) == [], "the next import removes what the killed ones left"
    life.emulator = None
