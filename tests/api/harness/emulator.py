"""One emulator: started, stopped, and audited for what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

from . import proc
from .wire import Api

READY_SECONDS = 15.0
STOP_SECONDS = 10.0
AUDIT_SECONDS = 5.0
EGRESS_STOCK = 4 * 40 + 32  # sockets kept blank (netpolicy/egress_pool.c), and what it listens on


class Emulator:
    """`orkestr-emulator serve` as a child process, on a port of its own choosing.

    args: further arguments of serve. popen: further arguments of Popen (user, group). Not started yet:
    call start(), or use it as a context manager, which also stops and checks it.
    """

    def __init__(self, binary: Path, state_dir: Path, *args: str, popen: dict | None = None, warm: str | None = "tiny"):
        self.binary = binary
        self.state_dir = state_dir
        self.args = args
        self.popen = popen or {}
        self.warm = warm
        self.tag = uuid.uuid4().hex
        beside = state_dir.parent if os.access(state_dir.parent, os.W_OK) else Path(tempfile.gettempdir())
        self.log_path = beside / f"{state_dir.name}.{self.tag[:6]}.log"
        self.port_file = beside / f"{state_dir.name}.{self.tag[:6]}.port"
        self.process: subprocess.Popen | None = None
        self.port = 0
        self.daemon_pid: int | None = None
        self.baseline: dict | None = None
        self.cgroups: list[Path] = []  # the emulator's own groups; each live sandbox has one below

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> Emulator:
        command = [
            str(self.binary), "serve", "--listen", "127.0.0.1:0", "--port-file", str(self.port_file),
            "--state-dir", str(self.state_dir), *self.args,
        ]  # fmt: skip
        self._launch(command)
        if self.warm:
            self._warm_up()
        self.settle()
        self.baseline = self._look()
        return self

    def _launch(self, command: list[str]) -> None:
        environment = {**self.popen.get("env", os.environ), proc.TAG: self.tag}
        self.port_file.unlink(missing_ok=True)
        with open(self.log_path, "ab") as log:  # what an earlier run left may still write to it
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                **{**self.popen, "env": environment},
            )  # fmt: skip
        self._await_ready()
        self.daemon_pid = proc.holder(".db", {self.process.pid}) or self.process.pid

    def kill_daemon(self) -> None:
        """kill -9 of the daemon alone; what it started stays."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def again(self, *args: str) -> Emulator:
        """The next start on the same state dir, with the same tag: what is left of the one before is still
        this emulator's. args: in place of the first start's. Sandboxes may live, so there is no baseline."""
        command = [
            str(self.binary), "serve", "--listen", "127.0.0.1:0", "--port-file", str(self.port_file),
            "--state-dir", str(self.state_dir), *(args or self.args),
        ]  # fmt: skip
        self.baseline = None
        self._launch(command)
        return self

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.log()}")
            try:
                self.port = int(self.port_file.read_text())
            except (OSError, ValueError):
                time.sleep(0.01)
                continue
            if self.healthy():
                return
            time.sleep(0.01)
        raise AssertionError(f"serve was not ready after {READY_SECONDS} s:\n{self.log()}")

    def _warm_up(self) -> None:
        """One sandbox's whole life, so that what is opened on first use is part of the baseline; and
        while it lives, where its control groups are."""
        if "any" not in self.args:
            return
        api = self.api(f"ork_warm_{self.tag}")
        sandbox = api.post("/v1/sandboxes", {"template": self.warm})
        assert sandbox.status == 201, sandbox
        sandbox_id = sandbox.json["id"]
        inside = min(self.parked(), default=None)
        if inside is not None:
            self.cgroups = [folder.parent for folder in proc.cgroups_of(inside) if folder.name.startswith("s-")]
        api.exec(sandbox_id, "true")
        api.put_file(sandbox_id, "/tmp/warm", b"warm")
        assert api.delete(f"/v1/sandboxes/{sandbox_id}").status == 200

    def healthy(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/_emulator/health")
            good = connection.getresponse().status == 200
            connection.close()
            return good
        except (OSError, http.client.HTTPException):
            return False

    def settle(self) -> None:
        """Waits until nothing changes any more: what was ended is gone, and what the emulator keeps ready
        for the next create is there."""
        deadline, before = time.monotonic() + AUDIT_SECONDS, None
        while (now := self._look()) != before or self.trash():
            if time.monotonic() > deadline:
                return
            before = now
            time.sleep(0.05)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Ends it as a user does; returns the exit status."""
        self.process.send_signal(sig)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"still running {STOP_SECONDS} s after signal {sig}:\n{self.log()}") from None

    def kill_all(self) -> None:
        """The way out when something went wrong: every process of it, at once: none sees another one end."""
        family = self.family()
        for number in signal.SIGSTOP, signal.SIGKILL:
            for pid in family:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        if self.process:
            self.process.wait(STOP_SECONDS)

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(self, kind, *_) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        status = self.stop()
        if kind is None:
            assert status == 0, f"exit status {status} after SIGTERM:\n{self.log()}"
            self.check_nothing_left()

    # --- looking at it ----------------------------------------------------------------------------

    def api(self, key: str | None) -> Api:
        return Api(self.port, key)

    def log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except OSError:
            return "(no log)"

    def family(self) -> set[int]:
        # Once it was waited for, its number may be anyone's.
        return proc.family(self.process.pid if self.process.returncode is None else -1, self.tag)

    def daemon_rss_kb(self) -> int:
        """With sanitizers or under memcheck 0: what those keep (shadow, quarantine) says nothing about it."""
        if "MEMCHECK_PROGRAM" in os.environ or b"__asan_init" in self.binary.read_bytes():
            return 0
        return proc.status_kb(self.daemon_pid, "VmRSS")

    def slots(self) -> set[str]:
        return proc.contents(self.state_dir / "disk" / "s")

    def trash(self) -> set[str]:
        return proc.contents(self.state_dir / "disk" / "trash")

    def info(self) -> dict:
        answer = self.api(None).get("/_emulator/info")
        assert answer.status == 200, answer
        return answer.json

    # --- the audit --------------------------------------------------------------------------------

    def core(self) -> set[int]:
        """Launcher, keeper, daemon and their workers; the others are sandboxes' processes, or inits that
        are kept ready for the next create."""
        own = proc.pid_depth(self.process.pid)
        return {pid for pid in self.family() if proc.pid_depth(pid) == own}

    def inits(self) -> set[int]:
        """The first process of each sandbox and of each slot that is kept ready; also when the daemon is dead."""
        own = proc.pid_depth(os.getpid())
        return {pid for pid in self.family() if proc.pid_depth(pid) == own + 1 and proc.inner_pid(pid) == 1}

    def unaccounted(self, live: int) -> list[str]:
        """With this many sandboxes alive that have processes: whatever belongs to none of them, nor to one of
        those that are kept ready. Looks once."""
        inits, slots = self.inits(), self.slots()
        ready = self.info()["sandboxes"]["warm"]
        found = []
        if len(inits) != live + ready:
            found.append(f"{len(inits)} first processes for {live} sandboxes and {ready} that are kept ready")
        if len(slots) != live + ready:
            found.append(f"{len(slots)} slot folders for {live} sandboxes and {ready} that are kept ready")
        for folder in self.cgroups:
            groups = [name for name in proc.subfolders(folder) if name.startswith("s-")]
            if set(groups) != slots:
                found.append(f"{folder}: {sorted(set(groups) ^ slots)} in one of groups and folders only")
        names = Counter(proc.name(pid) for pid in self.core())
        del names["orkestr-janitor"]  # an earlier run's looks for a while whether it is left something
        if any(number > 1 for name, number in names.items() if (name or "").startswith("ork-")) or sum(names.values()) > 5:
            found.append(f"processes of the emulator's own: {dict(names)}")
        found += [f"trash {name}" for name in self.trash()]
        found += [f"mount {m}" for m in proc.mounts("self") or [] if str(self.state_dir) in m]
        return found

    def check_accounted(self, live: int) -> None:
        deadline = time.monotonic() + AUDIT_SECONDS
        while found := self.unaccounted(live):
            if time.monotonic() > deadline:
                raise AssertionError("without a row:\n  " + "\n  ".join(found) + "\n" + self.log()[-3000:])
            time.sleep(0.05)

    def parked(self) -> set[int]:
        """Those others. With no sandbox alive: inits that are kept ready, each with a slot and nothing else."""
        own = proc.pid_depth(self.process.pid)
        return {pid for pid in self.family() if proc.pid_depth(pid) > own}

    def _look(self) -> dict[str, Counter]:
        """Everything that must be the same again when no sandbox lives. Inits that are kept ready are
        used up and replaced, so of what is theirs the number counts."""
        core, inits = self.core(), self.parked()
        own_mounts = proc.mounts("self")
        seen = {
            "processes": Counter(str(pid) for pid in core),
            "processes in sandboxes": Counter({"process": len(inits)}),
            "slot folders": Counter({"folder": len(self.slots())}),
            "trash": Counter(self.trash()),
            "network namespaces": Counter({"namespace": len(proc.namespaces(core | inits, "net"))}),
            "mounts on the host": Counter(m for m in own_mounts or [] if str(self.state_dir) in m),
            "mounts in sandboxes": Counter(),
        }
        for pid in sorted(core):
            open_fds = proc.fds(pid)
            if open_fds is not None:
                seen[f"descriptors of process {pid}"] = held = Counter(_plain(fd) for fd in open_fds)
                if proc.name(pid) == "ork-egress":
                    # Its stock of blank sockets goes up and down; a connection that stays is beyond it.
                    held["socket"] = max(0, held["socket"] - EGRESS_STOCK)
        for pid in proc.namespaces(core, "mnt").values():
            inside = proc.mounts(pid)
            if inside is not None and inside != own_mounts:
                seen[f"mounts of process {pid}"] = Counter(inside)
        for pid in inits:
            seen["mounts in sandboxes"].update(re.sub(r"\bs-[0-9a-z]{26}\b", "SLOT", m) for m in proc.mounts(pid) or [])
        for folder in self.cgroups:
            seen[f"control groups in {folder}"] = Counter(
                "of a slot" if name.startswith("s-") else name for name in proc.subfolders(folder)
            )
        return seen

    def differences(self) -> list[str]:
        now, found = self._look(), []
        for what in sorted(self.baseline.keys() | now.keys()):
            was, is_ = self.baseline.get(what, Counter()), now.get(what, Counter())
            for item, number in (is_ - was).items():
                detail = proc.describe(int(item)) if what == "processes" else item
                found.append(f"{what}: left behind: {number} x {detail}")
            if what.startswith("descriptors"):  # fewer are never a leak; from now on there are that many
                self.baseline[what] = was & is_
                continue
            for item, number in (was - is_).items():
                found.append(f"{what}: gone: {number} x {item}")
        if any(line.startswith("processes in sandboxes") for line in found):
            found += [f"  in a sandbox now: {proc.describe(pid)}" for pid in self.parked()]
        return found

    def audit(self) -> None:
        """With no sandbox alive, all is as it was before the first one; waits a few seconds for it."""
        if self.process is None or self.process.returncode is not None or self.baseline is None:
            return
        if self.process.poll() is not None:
            raise AssertionError(f"the emulator ended by itself with {self.process.returncode}:\n{self.log()[-4000:]}")
        deadline = time.monotonic() + AUDIT_SECONDS
        while found := self.differences():
            if time.monotonic() > deadline:
                self.baseline = self._look()  # said once, not once a test
                raise AssertionError("the emulator is not as it was before the test:\n  " + "\n  ".join(found[:40]))
            time.sleep(0.02)

    def check_nothing_left(self) -> None:
        """After its end: no process, mount, control group, slot, trash or listening port."""
        deadline = time.monotonic() + AUDIT_SECONDS
        while found := self._left():
            if time.monotonic() > deadline:
                raise AssertionError("left after the end:\n  " + "\n  ".join(found))
            time.sleep(0.02)

    def _left(self) -> list[str]:
        found = [f"process {proc.describe(pid)}" for pid in proc.family(-1, self.tag)]
        found += [f"mount {m}" for m in proc.mounts("self") or [] if str(self.state_dir) in m]
        found += [f"control group {folder}" for folder in self.cgroups if _own_group(folder) and folder.exists()]
        found += [f"slot {slot}" for slot in self.slots()]
        if "is left to the next start" not in self.log():  # of a big trash it may, and says so
            found += [f"trash {name}" for name in self.trash()]
        if self.port and self.healthy():
            found.append(f"port {self.port} still answers")
        return found


def _own_group(folder: Path) -> bool:
    return "orkestr" in str(folder)


def _plain(fd: str) -> str:
    """A descriptor's kind: which socket or which file of the store it is does not matter."""
    return fd if fd.startswith("/") else fd.split(":")[0]


def run(binary: Path, *args: str, timeout: float = 120.0, **more) -> subprocess.CompletedProcess:
    """A verb of the command line, to its end."""
    return subprocess.run(
        [str(binary), *args], stdin=more.pop("stdin", subprocess.DEVNULL), capture_output=True, text=True,
        timeout=timeout, **more,
    )  # fmt: skip


def run_json(binary: Path, *args: str, **more):
    result = run(binary, *args, **more)
    assert result.returncode == 0, result
    return json.loads(result.stdout)
