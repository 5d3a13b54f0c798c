"""What runs out: descriptors, connections, disk, inodes, shared memory, commands. The emulator refuses with a sentence,
nobody else is disturbed, and once there is room again it goes on as before. (Memory and processes of one sandbox are in
test_isolation.py.)"""

import os
import resource
import shutil
import socket
import subprocess
import time

import pytest

from conftest import cannot_run
from harness import proc
from harness.wire import check_error


def refused_clearly(answer, *codes):
    """An error of the emulator's own, not a stack trace or a closed connection."""
    assert answer.status in (402, 409, 429, 503, 507), answer
    body = check_error(answer, answer.status, None)
    assert body["code"] in codes, answer
    assert "errno" not in body["detail"] and len(body["detail"]) > 15, answer


def until(check, seconds=10):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


# --- the daemon's own descriptors -----------------------------------------------------------------


def test_a_daemon_at_its_own_descriptor_limit(new_emulator):
    """It was started with `ulimit -n` so low that sandboxes run out of descriptors first."""
    limit = 320  # the stock of the egress process alone is 192
    emulator = new_emulator("--auth", "any", popen={"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))})
    apis = [emulator.api(f"ork_descriptors_{n}") for n in range(20)]
    live, refused = [], None
    for api in apis:
        for _ in range(14):
            answer = api.post("/v1/sandboxes", {"template": "tiny", "cpu": 0.1, "memory_mb": 64})
            if answer.status != 201:
                refused = answer
                break
            live.append((api, answer.json["id"]))
        if refused is not None:
            break
    assert refused is not None, f"{len(live)} sandboxes with {limit} descriptors"
    refused_clearly(refused, "capacity")
    assert len(live) >= 20, len(live)
    assert len(proc.fds(emulator.daemon_pid)) <= limit
    # Who is there already is not disturbed: commands and connections have descriptors that no create may take.
    api, one = live[0]
    assert api.sh(one, "echo fine") == "fine\n"
    assert api.status_of(one) == "running" and emulator.healthy()
    for owner, sandbox in live:
        assert owner.delete(f"/v1/sandboxes/{sandbox}").status == 200
    again = until(lambda: api.create(cpu=0.1, memory_mb=64))
    assert api.sh(again["id"], "echo recovered") == "recovered\n"
    assert api.delete(f"/v1/sandboxes/{again['id']}").status == 200


# --- connections ----------------------------------------------------------------------------------


def test_more_connections_than_there_may_be(new_emulator):
    """Silent ones, beyond half of the descriptors there are. A connection that was there goes on; the others are closed again, and then
    everyone is welcome as before."""
    limit = 1024
    emulator = new_emulator("--auth", "any", popen={"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))})
    api = emulator.api("ork_connections")
    sandbox = api.create()["id"]
    request = f"GET /v1/sandboxes/{sandbox} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ork_connections\r\n\r\n".encode()
    early = socket.create_connection(("127.0.0.1", emulator.port), timeout=20)
    others = []
    try:
        early.sendall(request)
        assert early.recv(4096).startswith(b"HTTP/1.1 200 ")
        for _ in range(700):
            others.append(socket.create_connection(("127.0.0.1", emulator.port), timeout=20))
        early.sendall(request)
        assert early.recv(4096).startswith(b"HTTP/1.1 200 "), "it was there first"
        assert len(proc.fds(emulator.daemon_pid)) < limit * 3 // 4
        early.sendall(request.replace(b"GET", b"POST", 1).replace(b" HTTP", b"/exec HTTP", 1)[:-2] + b"Content-Length: 18\r\n\r\n" + b'{"command":"true"}')
        assert early.recv(4096).startswith(b"HTTP/1.1 200 "), "and a command has its descriptors"
    finally:
        for sock in [early, *others]:
            sock.close()
    assert until(lambda: api.sh(sandbox, "echo recovered")) == "recovered\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


# --- disk and inodes ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(scratch):
    """small_disk(*mkfs arguments) -> a folder on an ext4 of its own, 80 MB."""
    if os.getuid() != 0 or not shutil.which("mkfs.ext4"):
        cannot_run("needs root and mkfs.ext4, to mount a small disk")
    image, point = scratch / "small.img", scratch / "small"

    def make(*args):
        with open(image, "wb") as file:
            file.truncate(80 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", *args, str(image)], check=True, capture_output=True)
        point.mkdir()
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, text=True)
        if mounted.returncode != 0:
            cannot_run(f"no loop mounts here: {mounted.stderr.strip()}")
        return point

    yield make
    subprocess.run(["umount", str(point)], capture_output=True)
    if point.exists():
        point.rmdir()
    image.unlink(missing_ok=True)


def full(new_emulator, binary, tiny_tar, disk, fill, drain):
    from harness.emulator import run

    state = disk / "state"
    done = run(binary, "template", "import", "--state-dir", str(state), "tiny", str(tiny_tar))
    assert done.returncode == 0, done
    # The port file and the log are next to the state dir: they must not fill it.
    emulator = new_emulator("--auth", "any", "--warm", "0", state=state)
    emulator_api = emulator.api("ork_full_disk")
    other_api = emulator.api("ork_full_other")
    filler, other = emulator_api.create()["id"], other_api.create()["id"]
    result = emulator_api.exec(filler, fill, timeout_seconds=120)
    assert result["exit_code"] != 0 and "No space left" in result["stderr"], result

    refused_clearly(
        emulator_api.post(f"/v1/sandboxes/{filler}/files", {"path": "/tmp/more", "content": "QUFB" * 900000}), "disk_full"
    )
    # The database is on the same disk: a create can't be remembered, or its folders can't be made.
    answer = other_api.post("/v1/sandboxes", {"template": "tiny"})
    if answer.status == 201:
        assert other_api.delete(f"/v1/sandboxes/{answer.json['id']}").status == 200
    else:
        refused_clearly(answer, "disk_full", "capacity")
    # Others read and compute as before.
    assert other_api.sh(other, "echo fine; cat /etc/os-release | wc -l").split()[0] == "fine"
    assert emulator.healthy() and other_api.status_of(other) == "running"

    assert emulator_api.exec(filler, drain)["exit_code"] == 0
    assert emulator_api.put_file(filler, "/tmp/more", b"A" * 60000).status in (200, 201)
    again = other_api.create()["id"]
    assert other_api.sh(again, "echo recovered > /tmp/x; cat /tmp/x") == "recovered\n"
    for api, sandbox in ((emulator_api, filler), (other_api, other), (other_api, again)):
        assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert emulator.stop() == 0, emulator.log()
    emulator.check_nothing_left()
    done = run(binary, "clean", "--state-dir", str(state))
    assert done.returncode == 0, done


def test_a_full_disk(small_disk, new_emulator, binary, tiny_tar):
    full(new_emulator, binary, tiny_tar, small_disk(), "cat /dev/zero > /tmp/fill", "rm /tmp/fill")


def test_no_inodes_left(small_disk, new_emulator, binary, tiny_tar):
    make = "mkdir -p /tmp/n && cd /tmp/n && i=0; while [ $i -lt 4000 ]; do : > f$i || exit 1; i=$((i+1)); done"
    full(new_emulator, binary, tiny_tar, small_disk("-N", "700"), make, "rm -rf /tmp/n")


def test_terminating_on_a_full_disk_gives_the_space_back(small_disk, new_emulator, binary, tiny_tar):
    from harness.emulator import run

    state = small_disk() / "state"
    assert run(binary, "template", "import", "--state-dir", str(state), "tiny", str(tiny_tar)).returncode == 0
    emulator = new_emulator("--auth", "any", "--warm", "0", state=state)
    api = emulator.api("ork_full_delete")
    filler = api.create()["id"]
    api.exec(filler, "cat /dev/zero > /tmp/fill; : > /tmp/more; cat /dev/zero > /tmp/more", timeout_seconds=120)
    answer = api.delete(f"/v1/sandboxes/{filler}")
    assert answer.status == 200 and answer.json["status"] == "terminated", answer
    again = until(lambda: api.create())["id"]
    assert until(lambda: api.sh(again, "head -c 10000000 /dev/zero > /tmp/x && stat -c %s /tmp/x")) == "10000000\n"
    assert api.delete(f"/v1/sandboxes/{again}").status == 200
    # Its row is on the same disk, and could not be written at first.
    assert api.get(f"/v1/sandboxes/{filler}").json["termination_reason"] == "user"
    assert emulator.stop() == 0, emulator.log()
    later = new_emulator("--auth", "any", "--warm", "0", state=state)
    assert later.api("ork_full_delete").get(f"/v1/sandboxes/{filler}").json["termination_reason"] == "user"
    assert later.stop() == 0, later.log()
    assert run(binary, "clean", "--state-dir", str(state)).returncode == 0


# --- a sandbox's own ------------------------------------------------------------------------------


def test_a_full_dev_shm(api, sandbox):
    """Its own: commands, files and other sandboxes' memory go on."""
    other = api.create()["id"]
    result = api.exec(sandbox, "for i in 1 2 3 4 5 6 7 8; do head -c 500000000 /dev/zero > /dev/shm/x$i || exit 1; done")
    assert result["exit_code"] != 0, result
    if api.status_of(sandbox) == "running":
        answer = api.post(f"/v1/sandboxes/{sandbox}/files", {"path": "/dev/shm/more", "content": "QUFB" * 20000})
        assert answer.status in (200, 201, 507), answer
        api.exec(sandbox, "rm -f /dev/shm/*")
        assert api.sh(sandbox, "echo x > /dev/shm/y; cat /dev/shm/y") == "x\n"
    assert api.sh(other, "head -c 1000000 /dev/zero > /dev/shm/x; stat -c %s /dev/shm/x") == "1000000\n"


def test_more_commands_than_there_may_be(api, sandbox):
    """Background commands until one is refused; ended with the sandbox, whatever their number."""
    other = api.create()["id"]
    refused = None
    for started in range(1500):
        answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": ["sleep", "300"], "background": True})
        if answer.status not in (200, 201, 202):
            refused = answer
            break
    if refused is not None:
        refused_clearly(refused, "capacity", "too_many_execs", "exec_limit", "sandbox_not_ready")
        assert started >= 16, refused
    assert api.sh(other, "echo fine") == "fine\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"


def test_descriptors_in_flight(emulator, api, sandbox, compiled):
    """The kernel counts what a user has sent and nobody has received (unix(7), ETOOMANYREFS), and all sandboxes are
    the same user's: one with its measure full must not keep another from starting."""
    api.put_file(sandbox, "/tmp/inflight", compiled("inflight.c", "-static").read_bytes(), "0755")
    said = api.sh(sandbox, "/tmp/inflight 2000000 > /tmp/said & while ! grep -q . /tmp/said; do sleep 0.1; done; cat /tmp/said")
    assert "Too many references" in said, said
    api = emulator.api("ork_in_flight_other")
    for _ in range(4):  # also those that are not ready yet
        other = api.create(cpu=0.1, memory_mb=64)["id"]
        assert api.sh(other, "echo fine") == "fine\n"
        assert api.sh(other, "cat", stdin="x" * 20000) == "x" * 20000
        assert api.delete(f"/v1/sandboxes/{other}").status == 200


def test_watchers_of_files(api, sandbox, compiled):
    """inotify's and fanotify's instances are counted for the user that all sandboxes are (128): one that takes what it
    gets leaves enough to others, and its root can't raise its bound."""
    program = compiled("watchers.c", "-static").read_bytes()
    raise_it = "for f in inotify_instances fanotify_groups; do echo 999 > /proc/sys/user/max_$f; done"
    api.put_file(sandbox, "/tmp/watchers", program, "0755")
    start = "/tmp/watchers > /tmp/said & while ! grep -q fanotify /tmp/said; do sleep 0.1; done; cat /tmp/said"
    said = api.sh(sandbox, f"({raise_it}) 2>/dev/null; {start}").split()
    assert said[0] == "inotify" and 8 <= int(said[1]) <= 32, said
    assert said[2] == "fanotify" and int(said[3]) <= 8, said  # none before Linux 5.13
    other = api.create()["id"]
    api.put_file(other, "/tmp/watchers", program, "0755")
    assert api.sh(other, start).split() == said


def test_commands_that_flood(emulator, api, sandbox):
    """Output without end that nobody reads, and processes that end as fast as they can be made: another sandbox's
    commands take longer, but not many times so, and the daemon's memory has its bounds."""
    other_api = emulator.api("ork_flood_other")
    other = other_api.create(cpu=1, memory_mb=256)["id"]

    def p50():
        times = []
        for _ in range(15):
            started = time.monotonic()
            other_api.sh(other, "true")
            times.append(time.monotonic() - started)
        return sorted(times)[7]

    before, memory = p50(), emulator.daemon_rss_kb()
    for _ in range(8):
        for command in ("yes", "yes >&2", "while :; do (:) & (:) & (:) & wait; done"):
            answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": command, "background": True})
            assert answer.status in (200, 201, 202), answer
    assert p50() < before * 20 + 0.5
    assert emulator.daemon_rss_kb() - memory < 64 * 1024  # 24 logs, of at most 1.3 MiB
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert p50() < before * 20 + 0.5
    assert other_api.delete(f"/v1/sandboxes/{other}").status == 200
