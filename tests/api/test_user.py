"""As an ordinary user: no root anywhere. Started by root, these make a user for the occasion; started by a
user, the whole suite already runs as one."""

import os
import pwd
import secrets
import shutil
import stat
import subprocess
import time

import pytest

from conftest import cannot_run
from harness import slow
from harness.emulator import Emulator, run
from harness.wire import check_error

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def someone(binary, tiny_tar, tmp_path_factory):
    """An ordinary user's home, the program and the archive in it, and how to run things as that user."""
    if os.getuid() != 0:
        cannot_run("the suite runs as an ordinary user already; run it as root for a second one")
    if not shutil.which("useradd"):
        cannot_run("useradd is not here: apt-get install passwd")
    name = f"ork-test-{secrets.token_hex(3)}"
    made = subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], capture_output=True, text=True)
    if made.returncode != 0:
        cannot_run(f"useradd failed: {made.stderr.strip()}")
    try:
        who = pwd.getpwnam(name)
        home = who.pw_dir
        os.chmod(home, 0o700)
        program = shutil.copy(binary, f"{home}/orkestr-emulator")
        archive = shutil.copy(tiny_tar, f"{home}/tiny.tar")
        for path in (program, archive):
            os.chown(path, who.pw_uid, who.pw_gid)
        environment = {"PATH": "/usr/bin:/bin", "HOME": home, "USER": name, "LANG": "C.UTF-8"}
        popen = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": [], "cwd": home, "env": environment}
        yield who, program, archive, popen
    finally:
        subprocess.run(["userdel", "--remove", name], capture_output=True)


@pytest.fixture(scope="module")
def users_state(someone):
    from pathlib import Path

    who, program, archive, popen = someone
    state = Path(who.pw_dir) / "state"
    done = run(program, "template", "import", "--state-dir", str(state), "tiny", archive, **popen)
    assert done.returncode == 0, done
    yield state
    done = run(program, "clean", "--state-dir", str(state), **popen)
    assert done.returncode == 0, done
    assert not state.exists(), "clean works without root, files of subordinate ids included"


@pytest.fixture(scope="module")
def users_emulator(someone, users_state):
    _, program, _, popen = someone
    with Emulator(program, users_state, "--auth", "any", popen=popen) as emulator:
        yield emulator


@pytest.fixture
def api(users_emulator):
    from conftest import terminate_all

    api = users_emulator.api("ork_user")
    yield api
    terminate_all(api)
    users_emulator.audit()


@pytest.fixture
def sandbox(api):
    return api.create()["id"]


def test_kill_9_of_the_daemon_is_survived_without_root_too(someone, tmp_path):
    from pathlib import Path

    who, program, archive, popen = someone
    state = Path(who.pw_dir) / "state-killed"
    assert run(program, "template", "import", "--state-dir", str(state), "tiny", archive, **popen).returncode == 0
    emulator = Emulator(program, state, "--auth", "any", popen=popen).start()
    try:
        api = emulator.api("ork_user_killed")
        sandbox, paused = api.create()["id"], api.create()["id"]
        command = f"sleep {slow.FACTOR:g}; echo out"  # beyond the second kill: what has ended is not taken over
        exec_id = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": command, "background": True}).json["exec_id"]
        can_pause = api.post(f"/v1/sandboxes/{paused}/pause", {}).status == 200  # there may be no cgroup for a user
        for _ in range(2):
            emulator.kill_daemon()
            emulator.again()
            api.port = emulator.port
        assert api.sh(sandbox, "echo here") == "here\n"
        assert api.status_of(paused) == ("paused" if can_pause else "running")
        deadline = time.monotonic() + 10
        while (state_of := api.get(f"/v1/sandboxes/{sandbox}/exec/{exec_id}").json)["state"] != "ended":
            assert time.monotonic() < deadline, state_of
            time.sleep(0.05)
        assert state_of["stdout"] == "out\n" and state_of["exit_code"] == 0
        for row in (sandbox, paused):
            assert api.delete(f"/v1/sandboxes/{row}").status == 200
        emulator.check_accounted(0)
        assert emulator.stop() == 0
        emulator.check_nothing_left()
    finally:
        emulator.kill_all()
        assert run(program, "clean", "--state-dir", str(state), **popen).returncode == 0


def test_no_process_of_it_is_roots(users_emulator, api, sandbox, someone):
    assert {_uid(pid) for pid in users_emulator.family()} & {0} == set()


def _uid(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("Uid:")).split()[1])


def test_a_sandboxs_life(api):
    row = api.create(metadata={"as": "user"})
    assert row["status"] == "running"
    api.put_file(row["id"], "/workspace/run.sh", b"#!/bin/sh\necho $((6 * 7)); id -u\n", "0755")
    assert api.sh(row["id"], "./run.sh") == "42\n0\n"
    assert api.delete(f"/v1/sandboxes/{row['id']}").json["status"] == "terminated"


def test_exec_and_files(api, sandbox):
    result = api.exec(sandbox, "echo out; echo err >&2; exit 5")
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("out\n", "err\n", 5)
    api.put_file(sandbox, "/a/b/c", b"\0\xff")
    assert [entry["name"] for entry in api.files("GET", sandbox, "/a/b").json["entries"]] == ["c"]
    assert api.files("DELETE", sandbox, "/a", query={"recursive": "true"}).status == 204
    check_error(api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "sleep 9", "timeout_seconds": 1}), 408, "exec_timeout")


def test_inside_is_a_root_that_is_none(api, sandbox):
    status = dict(line.split(":\t", 1) for line in api.sh(sandbox, "cat /proc/self/status").splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["0"] * 4 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert api.exec(sandbox, "mount -t tmpfs none /mnt")["exit_code"] != 0
    assert api.exec(sandbox, "unshare -U true")["exit_code"] != 0
    devices = [line.split(":")[0].strip() for line in api.sh(sandbox, "cat /proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]


def test_what_a_user_can_not_have_is_declared(api, users_emulator):
    """Limits that this host does not give to a user are a declared divergence, not a silence."""
    answer = api.post("/v1/sandboxes", {"template": "tiny", "memory_mb": 64})
    assert answer.status == 201
    sandbox = answer.json["id"]
    info = users_emulator.info()
    if not info["cgroups"]["memory"]:
        assert "limits-unenforced" in {divergence["slug"] for divergence in info["divergences"]}
        assert "limits-unenforced" in answer.divergences
        assert info["cgroups"]["why"]
        return
    mem = api.sh(sandbox, "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
    assert int(mem) == 64 << 20


def test_metrics_whatever_counts(api, users_emulator):
    """By a cgroup, or where a user has none that counts, by /proc, which is then declared. A known load: 50 MB that a
    process holds, and a loop that says itself how much CPU time it got."""
    row = api.create(cpu=1, memory_mb=256)
    path = f"/v1/sandboxes/{row['id']}"
    idle = api.get(f"{path}/metrics")
    assert idle.status == 200, idle
    groups = users_emulator.info()["cgroups"]
    assert ("usage-estimated" in idle.divergences) == (groups["backend"] == "none")
    before = idle.json["lifetime"]["cpu_seconds"]
    command = "(head -c 52428800 /dev/zero | tail -c 52428800 | sleep 600) & echo $$ > /tmp/pid; while :; do :; done"
    assert api.post(f"{path}/exec", {"command": command, "background": True, "timeout_seconds": 600}).status < 300
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.5)
        m = api.get(f"{path}/metrics").json
        if m["memory"]["usage_bytes"] - idle.json["memory"]["usage_bytes"] > 45 << 20 and len(m["samples"]) > 3:
            break
    fields = api.sh(row["id"], "cat /proc/$(cat /tmp/pid)/stat").rsplit(")", 1)[1].split()
    m = api.get(f"{path}/metrics").json
    assert 45 << 20 < m["memory"]["usage_bytes"] - idle.json["memory"]["usage_bytes"] < 70 << 20
    used = (int(fields[11]) + int(fields[12])) / 100
    # besides the loop: head and tail, and what was run to look
    assert 0.85 * used < m["lifetime"]["cpu_seconds"] - before < 1.2 * used + slow.FACTOR
    assert max(s["cpu_percent"] for s in m["samples"]) > 5
    api.delete(path)
    over = api.get(f"{path}/metrics").json
    assert over["cpu"] is None and over["lifetime"]["cpu_seconds"] >= m["lifetime"]["cpu_seconds"]
    assert api.get("/v1/limits").json["usage_cpu_hours_used"] > 0


def test_a_package_managers_ids_work(api, sandbox, users_emulator):
    """With a subordinate range, chown to any id works; with a single id that is a declared divergence."""
    result = api.exec(sandbox, "touch x && chown 33:33 x && stat -c %u:%g x")
    if users_emulator.info()["id_map"] == "single":
        assert result["exit_code"] != 0
        return
    assert result["stdout"] == "33:33\n", result


def test_the_state_dir_is_private(users_state, someone):
    who = someone[0]
    assert users_state.stat().st_uid == who.pw_uid
    assert stat.S_IMODE(users_state.stat().st_mode) & 0o077 == 0 or stat.S_IMODE(os.stat(who.pw_dir).st_mode) == 0o700


def test_roots_state_dir_is_refused(someone, scratch):
    _, program, _, popen = someone
    done = run(program, "serve", "--listen", "127.0.0.1:0", "--state-dir", "/root/x", **popen, timeout=20)
    assert done.returncode > 0 and "/root/x" in done.stderr, done


def test_doctor_says_what_is_missing_and_how_to_get_it(someone, users_state):
    import json

    _, program, _, popen = someone
    done = run(program, "doctor", "--json", "--state-dir", str(users_state), **popen)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["can_run"], done
    for check in found["checks"]:
        assert check["status"] in ("ok", "skip") or check["means"] or check["fix"], check


def test_a_second_emulator_on_the_same_state_dir_is_refused(someone, users_state, users_emulator):
    _, program, _, popen = someone
    done = run(program, "serve", "--listen", "127.0.0.1:0", "--state-dir", str(users_state), **popen, timeout=20)
    assert done.returncode > 0 and done.stderr.strip(), done


def test_a_refused_connection_has_its_owner(users_emulator, compiled):
    """Of several commands; what a sandbox's processes are, /proc tells where no cgroup does."""
    api = users_emulator.api("ork_user_net")
    answer = api.post("/v1/sandboxes", {"template": "tiny", "network": "restricted"})
    if answer.json.get("code") == "network_unavailable":
        cannot_run(answer.json["detail"])
    sandbox = answer.json["id"]
    execs = f"/v1/sandboxes/{sandbox}/exec"
    other = api.post(execs, {"command": "sleep 30", "background": True})
    api.put_file(sandbox, "/tmp/netprobe", compiled("netprobe.c", "-static").read_bytes(), "0755")
    mine = api.post(execs, {"command": "/tmp/netprobe tcp 10.9.8.7 80; exit 1"})
    blocked = mine.json.get("blocked") or mine.json["network_blocked"]
    assert {(line["ip"], line["exec"]) for line in blocked} == {("10.9.8.7", mine.headers["x-exec-id"])}, blocked
    assert mine.headers["x-exec-id"] != other.headers["x-exec-id"]
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


def test_a_custom_template(api, users_state):
    import time

    steps = ["mkdir -p /opt/x && echo kept > /opt/x/file && chown 7:7 /opt/x/file 2>/dev/null; id -u"]
    made = api.post("/v1/templates", {"name": "n", "base": "tiny", "steps": steps, "network": "off"})
    assert made.status == 202, made
    deadline = time.monotonic() + 60
    while (row := api.get(f"/v1/templates/{made.json['id']}").json)["status"] == "building":
        assert time.monotonic() < deadline, row
        time.sleep(0.05)
    assert row["status"] == "ready", row
    sandbox = api.create(template=row["id"])["id"]
    assert api.sh(sandbox, "cat /opt/x/file") == "kept\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert api.delete(f"/v1/templates/{row['id']}").status == 204
