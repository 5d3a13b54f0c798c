"""What systemd delegates to a user decides which limits that user's sandboxes have. In the VM, as root: dev gets
memory and pids only, as from systemd before 252, and then what `doctor` says mends that, word for word."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))

from harness import proc, slow, tiny  # noqa: E402
from harness.emulator import Emulator, run  # noqa: E402

slow.install()
BINARY = Path(os.environ["ORKESTR_EMULATOR"])
DROP_INS = Path("/etc/systemd/system/user@.service.d")
OLD = DROP_INS / "00-old-systemd.conf"
FIX = DROP_INS / "delegate.conf"
DEV = pwd.getpwnam("dev")
AS_DEV = {
    "user": DEV.pw_uid, "group": DEV.pw_gid, "extra_groups": [], "cwd": DEV.pw_dir,
    "env": {"PATH": "/usr/bin:/bin", "HOME": DEV.pw_dir, "USER": "dev", "XDG_RUNTIME_DIR": f"/run/user/{DEV.pw_uid}"},
}  # fmt: skip


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True)


def delegate_anew() -> None:
    systemctl("daemon-reload")
    systemctl("restart", f"user@{DEV.pw_uid}.service")


@pytest.fixture(scope="module", autouse=True)
def old_systemd():
    DROP_INS.mkdir(exist_ok=True)
    OLD.write_text("[Service]\nDelegate=\nDelegate=memory pids\n")
    delegate_anew()
    yield
    OLD.unlink()
    FIX.unlink(missing_ok=True)
    delegate_anew()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    archive = tiny.build(tmp_path_factory.mktemp("tiny") / "tiny.tar")
    path = Path(DEV.pw_dir, "delegation-state")
    with open(archive, "rb") as tar:
        done = run(BINARY, "template", "import", "--state-dir", str(path), "tiny", "-", stdin=tar, **AS_DEV)
    assert done.returncode == 0, done
    yield path
    assert run(BINARY, "clean", "--state-dir", str(path), **AS_DEV).returncode == 0


def limits() -> dict:
    done = run(BINARY, "doctor", "--json", **AS_DEV)
    return next(check for check in json.loads(done.stdout)["checks"] if check["id"] == "cgroup")


def look(state) -> tuple[set[str], dict, str, set[str]]:
    """Divergences of a create, what /_emulator/info says of cgroups, memory.max, and which cpu.max there is."""
    with Emulator(BINARY, state, "--auth", "any", popen=AS_DEV) as emulator:
        api = emulator.api("ork_dev_delegation")
        answer = api.post("/v1/sandboxes", {"template": "tiny", "cpu": 0.5, "memory_mb": 256})
        assert answer.status == 201, answer
        sandbox = answer.json["id"]
        api.sh(sandbox, "sleep 54321 >/dev/null 2>&1 & echo started")
        group = proc.cgroups_of(proc.running(["sleep", "54321"]))[0]
        cpu = {(group / "cpu.max").read_text().strip()} if (group / "cpu.max").exists() else set()
        memory = (group / "memory.max").read_text().strip()
        info = emulator.info()["cgroups"]
        assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
        return answer.divergences, info, memory, cpu


def test_without_the_cpu_controller_that_is_said(state):
    check = limits()
    assert check["status"] == "warn" and "cpu no" in check["found"] and "memory yes" in check["found"], check
    assert check["fix"].startswith("sudo mkdir ") and "Delegate=cpu" in check["fix"], check
    divergences, info, memory, cpu = look(state)
    assert "limits-unenforced" in divergences
    assert (info["backend"], info["cpu"], info["memory"], info["pids"]) == ("v2", False, True, True), info
    assert "Delegate=cpu" in info["why"]
    assert memory == str(256 << 20) and cpu == set()


def test_what_doctor_prints_brings_it(state):
    command = limits()["fix"]
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, **AS_DEV)
    assert done.returncode == 0, (command, done)
    check = limits()
    assert check["status"] == "ok" and "enforced" in check["found"], check
    divergences, info, memory, cpu = look(state)
    assert "limits-unenforced" not in divergences
    assert info["cpu"] and info["memory"] and info["pids"], info
    assert memory == str(256 << 20) and cpu == {"50000 100000"}
