"""The Debian package on a user's machine: installs with what it needs, runs as dev's service under systemd, comes back
after a crash, and goes without a trace. In the VM, as root; ORKESTR_DEB names the package. Needs the mirror."""

import os
import re
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))

from harness import proc, slow, tiny  # noqa: E402
from harness.stream import settle  # noqa: E402
from harness.wire import Api  # noqa: E402

slow.install()
DEB = os.environ["ORKESTR_DEB"]
PROGRAM = "/usr/bin/orkestr-emulator"
DEV = pwd.getpwnam("dev")
RUNTIME = f"/run/user/{DEV.pw_uid}"
AS_DEV = {
    "user": DEV.pw_uid, "group": DEV.pw_gid, "extra_groups": [], "cwd": DEV.pw_dir,
    "env": {
        "PATH": "/usr/bin:/bin", "HOME": DEV.pw_dir, "USER": "dev", "XDG_RUNTIME_DIR": RUNTIME,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={RUNTIME}/bus",
    },
}  # fmt: skip


def do(*words: str, **more) -> str:
    done = subprocess.run(words, capture_output=True, text=True, **more)
    assert done.returncode == 0, done
    return done.stdout


def systemctl(*words: str) -> str:
    return do("systemctl", "--user", *words, **AS_DEV)


def main_pid() -> int:
    return int(systemctl("show", "--value", "-p", "MainPID", "orkestr-emulator"))


def key() -> str:
    path = Path(DEV.pw_dir, ".local/state/orkestr-emulator/api-key")
    return path.read_text().strip() if path.exists() else ""


def answers() -> bool:
    try:
        return Api(4520, None).get("/_emulator/health").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module", autouse=True)
def installed():
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    do("apt-get", "update", "-qq")
    do("apt-get", "install", "-y", "-qq", "--no-install-recommends", DEB, env=environment)
    files = [path for path in do("dpkg", "-L", "orkestr-emulator").splitlines() if "orkestr" in path]
    assert PROGRAM in files
    yield
    do("apt-get", "purge", "-y", "-qq", "orkestr-emulator", env=environment)
    assert not [path for path in files if Path(path).exists()]


@pytest.fixture(scope="module")
def service(installed, tmp_path_factory):
    archive = tiny.build(tmp_path_factory.mktemp("tiny") / "tiny.tar")
    with open(archive, "rb") as tar:
        do(PROGRAM, "template", "import", "tiny", "-", stdin=tar, **AS_DEV)
    systemctl("daemon-reload")
    systemctl("enable", "--now", "orkestr-emulator")
    settle(answers, 30)
    yield
    systemctl("disable", "--now", "orkestr-emulator")
    assert systemctl("show", "--value", "-p", "Result", "orkestr-emulator").strip() == "success"
    do(PROGRAM, "clean", "--yes", **AS_DEV)
    assert not Path(DEV.pw_dir, ".local/state/orkestr-emulator").exists()


def test_what_is_installed(installed):
    assert do(PROGRAM, "version").startswith("orkestr-emulator ")
    listed = do("dpkg", "-L", "orkestr-emulator").splitlines()
    for path in ("share/man/man1/orkestr-emulator.1.gz", "share/bash-completion/completions/orkestr-emulator",
                 "share/zsh/vendor-completions/_orkestr-emulator", "lib/systemd/user/orkestr-emulator.service"):  # fmt: skip
        assert f"/usr/{path}" in listed and Path("/usr", path).exists()
    assert not do("dpkg", "--verify", "orkestr-emulator")
    assert "--network-errors" in do("man", "orkestr-emulator", env={**os.environ, "MANPAGER": "cat", "MANWIDTH": "100"})
    ask = "source /usr/share/bash-completion/bash_completion; _completion_loader orkestr-emulator; complete -p orkestr-emulator"
    assert "_orkestr_emulator" in do("bash", "-c", ask)


def test_it_runs_as_a_users_service(service):
    api = Api(4520, settle(key, 20))
    info = api.get("/_emulator/info").json
    assert (info["cgroups"]["backend"], info["cgroups"]["memory"], info["cgroups"]["why"]) == ("v2", True, None), info
    sandbox = api.create(memory_mb=128)["id"]
    api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": ["sleep", "65432"], "background": True})
    group = settle(lambda: proc.cgroups_of(proc.running(["sleep", "65432"]))[0])
    # A scope of its own, so that the keeper's sandboxes outlive a service that is killed and started again.
    assert re.search(r"/user@\d+\.service/app\.slice/orkestr-emulator-\w+\.scope/", str(group)), group
    assert (group / "memory.max").read_text().strip() == str(128 << 20)
    assert api.sh(sandbox, "echo $((6 * 7))") == "42\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


def test_it_comes_back_after_a_crash(service):
    first = main_pid()
    os.kill(first, signal.SIGKILL)
    settle(lambda: main_pid() not in (0, first) and answers(), 60)
    api = Api(4520, settle(key, 20))
    sandbox = api.create()["id"]
    assert api.sh(sandbox, "echo back") == "back\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


def test_a_stop_ends_everything(service):
    Api(4520, key()).create()
    systemctl("stop", "orkestr-emulator")
    time.sleep(0.5)
    left = [proc.describe(pid) for pid in proc.table() if (proc.name(pid) or "").startswith("ork")]
    assert not left, left
    systemctl("start", "orkestr-emulator")
    settle(answers, 30)
