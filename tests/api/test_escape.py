"""Ways out of a container that others have found, each named for what it became known by, and tried here from inside a
sandbox as its root. What a single system call can try is in test_isolation.py; these need more than one."""

import fcntl
import hashlib
import io
import os
import secrets
import shutil
import socket
import subprocess
import tarfile

import pytest

from conftest import HERE, cannot_run
from harness import proc
from harness.emulator import run

F_GET_SEALS, F_SEAL_WRITE = 1034, 8
REFUSED = {"EPERM", "EACCES", "ENOSYS", "EROFS", "ENOENT"}


def compiled(folder, name, *flags, source="escape.c"):
    if not shutil.which("gcc"):
        cannot_run("gcc is not here: apt-get install gcc")
    path = folder / name
    done = subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-o", path, HERE / source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


@pytest.fixture(scope="session")
def escape_binary(scratch):
    return compiled(scratch, "escape", "-static")


@pytest.fixture(scope="session")
def audit_library(scratch):
    if os.uname().machine != "x86_64":
        cannot_run("escape.c makes its system calls by hand, for x86-64 alone")
    return compiled(scratch, "audit.so", "-DAUDIT", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector")


@pytest.fixture
def escape(api, sandbox, escape_binary):
    """escape(word, ...) -> the lines it printed."""
    api.put_file(sandbox, "/tmp/escape", escape_binary, "0755")
    return lambda *args, **fields: api.sh(sandbox, ["/tmp/escape", *args], **fields).splitlines()


# --- the program's own file: CVE-2019-5736 --------------------------------------------------------


def overwrite(api, sandbox, escape_binary, audit_library):
    """What became of writing to /proc/self/exe where that is the emulator; None if it never got that far."""
    api.put_file(sandbox, "/tmp/escape", escape_binary, "0755")
    api.put_file(sandbox, "/tmp/audit.so", audit_library, "0755")
    api.put_file(sandbox, "/tmp/script", b"#!/proc/self/exe\n", "0755")
    for command in (["/proc/self/exe", "version"], ["/tmp/script"]):
        result = api.exec(sandbox, command, env={"LD_AUDIT": "/tmp/audit.so"})
        if "write" in result["stdout"] or "open" in result["stdout"]:
            yield dict(line.split(" ", 1) for line in result["stdout"].splitlines())


def test_cve_2019_5736_overwriting_the_emulator_through_proc_self_exe(api, sandbox, emulator, escape_binary, audit_library):
    before = hashlib.sha256(emulator.binary.read_bytes()).digest()
    tries = list(overwrite(api, sandbox, escape_binary, audit_library))
    assert tries, "the sandbox can run the emulator's program, or this test proves nothing"
    for found in tries:
        assert "memfd" in found["file"], found
        assert found.get("open") in REFUSED | {"ETXTBSY"} or found.get("write") in REFUSED, found
    assert hashlib.sha256(emulator.binary.read_bytes()).digest() == before


def test_cve_2019_5736_every_process_runs_from_a_sealed_copy(api, sandbox, emulator):
    """So that it holds even for a sandbox whose root owns the program's file (a single-id map)."""
    looked = 0
    for pid in emulator.family():
        try:
            fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        except OSError:
            continue  # as an ordinary user, of an init
        try:
            assert fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, proc.describe(pid)
        finally:
            os.close(fd)
        looked += 1
    assert looked >= 2


# --- what came along: CVE-2024-21626 --------------------------------------------------------------


def test_cve_2024_21626_no_descriptor_comes_along(escape):
    assert {line.split()[0] for line in escape("fds")} == {"0", "1", "2"}


def test_cve_2024_21626_no_descriptor_comes_along_into_a_stream_or_a_terminal(api, sandbox, escape_binary):
    api.put_file(sandbox, "/tmp/escape", escape_binary, "0755")
    for fields in ({"stdin": "x"}, {"pty": {"rows": 24, "cols": 80}}, {"background": True}):
        answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": "/tmp/escape fds > /tmp/out", **fields})
        assert answer.status in (200, 201, 202), answer
        numbers = api.sh(sandbox, "sleep 0.2; cut -d' ' -f1 /tmp/out").split()
        assert set(numbers) == {"0", "1", "2"}, (fields, numbers)


@pytest.mark.parametrize("base", ["/proc/self/fd", "/proc/1/fd", "/proc/thread-self/fd"])
def test_cve_2024_21626_a_working_folder_of_the_hosts(api, sandbox, base):
    """A cwd through a descriptor that leaked from whoever starts the command."""
    for number in range(3, 20):
        command = "cat etc/os-release ../etc/os-release ../../../../etc/os-release"
        answer = api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": command, "cwd": f"{base}/{number}"})
        if answer.status == 200:
            assert {line for line in answer.json["stdout"].splitlines() if line.startswith("ID=")} <= {"ID=tiny"}, (number, answer)
        else:
            assert answer.status == 400 and answer.code == "path_invalid", (number, answer)


def test_cve_2024_21626_the_first_working_folder_is_inside(api, sandbox):
    assert api.sh(sandbox, "readlink /proc/self/cwd; readlink /proc/self/root").split() == ["/workspace", "/"]
    assert api.exec(sandbox, "ls /proc/1/cwd/")["exit_code"] != 0


# --- cgroups and kernel helpers: CVE-2022-0492 and its like ---------------------------------------


def test_cve_2022_0492_release_agent(api, sandbox):
    """The host runs what a v1 hierarchy's release_agent names; and unshare(2) was the way to one that is writable."""
    for command in (
        "for f in $(ls -d /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent 2>/dev/null); do echo /tmp/x > $f && exit 7; done; exit 1",
        "echo 1 > /sys/fs/cgroup/notify_on_release",
        "echo 1 > /sys/fs/cgroup/memory/notify_on_release",
        "mkdir /sys/fs/cgroup/x",
        "mkdir /sys/fs/cgroup/memory/x",
        "unshare -UrmC sh -c 'mount -t cgroup -o memory cgroup /mnt'",
        "unshare -C true",
        "mount -t cgroup -o rdma cgroup /mnt",
        "mount -t cgroup2 none /mnt",
    ):
        result = api.exec(sandbox, command)
        assert result["exit_code"] not in (0, 7), (command, result)


@pytest.mark.parametrize("helper", ["core_pattern", "modprobe", "hotplug", "poweroff_cmd", "usermodehelper/bset"])
def test_no_helper_of_the_kernel_can_be_named(api, sandbox, helper):
    """The kernel starts these as the host's root."""
    assert api.exec(sandbox, f"echo '|/tmp/x' > /proc/sys/kernel/{helper}")["exit_code"] != 0
    assert api.exec(sandbox, f"mkdir -p /tmp/k && mount --bind /proc/sys /tmp/k && echo x > /tmp/k/kernel/{helper}")["exit_code"] != 0


# --- nested namespaces ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "unshare -Ur true", "unshare -Urm mount -t tmpfs none /mnt", "unshare -Urn true", "unshare -Urp --fork true",
        "unshare -m mount --bind / /mnt", "unshare -Urm mount -t overlay -o lowerdir=/etc,upperdir=/tmp,workdir=/tmp x /mnt",
        "unshare -Urm umount -l /proc/sys", "unshare -Urm mount -o remount,rw /proc/sys",
    ],
)  # fmt: skip
def test_mount_tricks_in_a_nested_namespace(api, sandbox, command):
    """CVE-2022-0185, CVE-2023-0386 and CVE-2022-0492 all began with a namespace of one's own."""
    assert api.exec(sandbox, command)["exit_code"] != 0


def test_cve_2024_1086_nftables(escape, api, sandbox):
    assert api.exec(sandbox, "unshare -Urn /tmp/escape nft")["exit_code"] != 0
    (answer,) = escape("nft")
    assert answer in REFUSED | {"EAFNOSUPPORT", "EPROTONOSUPPORT"}, answer


def test_cve_2021_22555_iptables(escape):
    (answer,) = escape("iptables")
    assert answer in REFUSED | {"ENOPROTOOPT"}, answer


# --- sockets --------------------------------------------------------------------------------------


def test_cve_2020_15257_an_abstract_socket_of_the_hosts(escape):
    """containerd's shim listened on one, and a container with the host's network namespace could connect."""
    name = f"orkestr-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(b"\0" + name.encode())
        host.listen(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(b"\0" + name.encode())  # here it can be reached
        assert escape("abstract", name) == ["ECONNREFUSED"]


# --- an image, or what a sandbox made of one, with links where the mounts go ----------------------

TRAPS = {
    "proc": "/etc", "dev": "/../../../../dev", "sys": "/workspace", "workspace": "/../../../tmp", "etc": "/proc/self/root/etc",
    "dev/pts": "/workspace", "dev/shm": "/etc", "proc/self": "/",
}  # fmt: skip


@pytest.fixture(scope="module")
def trapped(binary, scratch, tiny_tar, new_state):
    """A state dir with one template for each trap: the tiny image, with that folder a symlink."""
    state = new_state("tiny")
    for number, (folder, target) in enumerate(TRAPS.items()):
        path = scratch / f"trap-{number}.tar"
        with tarfile.open(tiny_tar) as old, tarfile.open(path, "w") as new:
            for member in old:
                if member.name == folder or (folder in ("etc", "dev") and member.name.startswith(f"{folder}/")):
                    continue
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
            link = tarfile.TarInfo(folder)
            link.type, link.linkname = tarfile.SYMTYPE, target
            new.addfile(link, io.BytesIO())
        done = run(binary, "template", "import", "--state-dir", str(state), f"trap-{number}", str(path))
        assert done.returncode == 0 or "Traceback" not in done.stderr, done
        path.unlink()
    return state


@pytest.mark.parametrize("number", range(len(TRAPS)), ids=[name.replace("/", "-") for name in TRAPS])
def test_cve_2019_16884_links_where_the_mounts_go(new_emulator, trapped, number):
    """And CVE-2021-30465, CVE-2023-27561, CVE-2025-31133: the mounts of /proc, /dev, ... must not follow them. A create
    from such an image is refused, or is as isolated as any."""
    emulator = new_emulator("--auth", "any", state=trapped)
    api = emulator.api("ork_trapped_image")
    if not (trapped / "templates" / f"trap-{number}.json").exists():
        return  # not even imported
    answer = api.post("/v1/sandboxes", {"template": f"trap-{number}"})
    if answer.status != 201:
        assert 400 <= answer.status < 600 and answer.json["detail"], answer
        return
    sandbox = answer.json["id"]
    kinds = dict(
        line.split(" ", 1) for line in api.sh(sandbox, "while read _ _ _ root point rest; do echo $point ${rest##* - }; done < /proc/self/mountinfo").splitlines()
    )
    assert kinds["/proc"].startswith("proc "), kinds
    assert api.exec(sandbox, "echo x > /proc/sys/kernel/hostname")["exit_code"] != 0
    assert api.sh(sandbox, "ls -d /proc/[0-9]* | wc -l").strip() in ("2", "3", "4", "5"), "its own processes only"
    assert not os.path.exists("/tmp/orkestr-trap")
    api.exec(sandbox, "touch /workspace/orkestr-trap /tmp/orkestr-trap")
    assert not os.path.exists("/tmp/orkestr-trap") and not os.path.exists("/workspace/orkestr-trap")
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200


def test_links_raced_into_place_while_the_emulator_writes(api, sandbox):
    """A folder that is a link to /proc or /dev every other moment: what is written goes into the sandbox or nowhere."""
    api.sh(sandbox, "mkdir -p /tmp/r/real && cd /tmp/r && ln -s /dev dev && ln -s /proc/sys/kernel kern")
    flip = "cd /tmp/r; while :; do ln -sfn real t; ln -sfn dev t; ln -sfn kern t; done"
    api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": flip, "background": True})
    hostname = api.sh(sandbox, "cat /proc/sys/kernel/hostname")
    for _ in range(60):
        answer = api.post(f"/v1/sandboxes/{sandbox}/files", {"path": "/tmp/r/t/hostname", "content": "ZXZpbA=="})
        assert answer.status in (200, 201, 400, 404, 409, 507), answer
    assert api.sh(sandbox, "cat /proc/sys/kernel/hostname") == hostname
