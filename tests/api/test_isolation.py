"""From inside a sandbox, as its root: look out, reach out, break out, eat everything. All of it is
contained, and the emulator keeps answering others.

probe.c makes the raw system calls; the tables here say what must become of each.
"""

import json
import math
import os
import re
import time

import pytest

from conftest import HERE, cannot_run
from harness import proc
from harness.stream import settle
from harness.wire import check_error

# --- the probe ------------------------------------------------------------------------------------

# How a filter or a missing privilege answers; anything else means the call got through to its work.
REFUSED = {"EPERM", "EACCES", "ENOSYS"}
# Files: not there at all is as good, and read-only says it plainly.
REFUSED_FILE = REFUSED | {"EROFS", "ENOENT", "ENXIO", "ENODEV"}

MUST_FAIL = {
    name: REFUSED for name in """
        mount_tmpfs mount_proc mount_bind mount_remount mount_propagation mount_cgroup2 mount_cgroup1
        mount_overlay umount_proc umount_root fsopen open_tree mount_setattr pivot_root
        unshare_mount unshare_net unshare_pid unshare_cgroup setns_own_mnt setns_init_user
        init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct syslog
        bpf perf_event_open userfaultfd io_uring_setup add_key keyctl request_key open_by_handle
        ioperm iopl clock_settime settimeofday nice realtime raise_rlimit raise_core
        ptrace_init vm_read_init read_init_environ read_init_mem list_init_fds init_root pidfd_getfd_init
        quotactl set_dumpable_regain_caps setdomainname
    """.split()
}  # fmt: skip
MUST_FAIL |= {name: REFUSED | {"ENOSPC"} for name in ("unshare_user", "clone_user", "clone3_user")}
MUST_FAIL |= {
    name: REFUSED_FILE for name in """
        open_init_exe read_init_exe dev_mem dev_kmsg dev_fuse dev_kvm dev_tun dev_loop dev_sda dev_vda
        write_core_pattern write_hostname write_overcommit write_sysrq write_modprobe write_binfmt
        write_uevent_helper read_kmsg read_sched_debug read_firmware lower_oom_score
    """.split()
}  # fmt: skip
MUST_FAIL |= {
    "mlock_huge": REFUSED | {"ENOMEM", "EAGAIN"},
    "packet_socket": REFUSED | {"EAFNOSUPPORT"},
    "vsock": REFUSED | {"EAFNOSUPPORT"},
    "alg_socket": REFUSED | {"EAFNOSUPPORT"},
    "tiocsti": REFUSED | {"ENOTTY", "EIO"},
}
# Masked files may also read as empty (/dev/null laid over them).
EMPTY_OR_REFUSED = {"read_kcore", "read_keys", "read_kmsg"}

MUST_WORK = {
    "fork", "tmp_file", "chown", "setuid", "unix_socket", "memfd", "null", "urandom", "own_mem", "ptrace_child",
}  # fmt: skip


@pytest.fixture(scope="session")
def probe_binary(compiled) -> bytes:
    return compiled("probe.c", "-static").read_bytes()


@pytest.fixture
def probe(api, sandbox, probe_binary):
    """probe(*args) runs the probe in the test's sandbox and returns exec's result."""
    api.put_file(sandbox, "/tmp/probe", probe_binary, "0755")
    return lambda *args, **fields: api.exec(sandbox, ["/tmp/probe", *args], **fields)


# One sandbox tries everything; each attempt is a test of its own, so that a report names it. The sandbox
# is gone before the first of them, so that the audit after it sees the same host as ever.
@pytest.fixture(scope="module")
def attempts(emulator, probe_binary):
    api = emulator.api("ork_probe_module")
    sandbox = api.create()["id"]
    try:
        api.put_file(sandbox, "/tmp/probe", probe_binary, "0755")
        result = api.exec(sandbox, ["/tmp/probe"], timeout_seconds=120)
        alive = api.sh(sandbox, "echo alive")
    finally:
        api.delete(f"/v1/sandboxes/{sandbox}")
    assert alive == "alive\n"
    assert result["exit_code"] == 0, result
    return {line["name"]: line for line in map(json.loads, result["stdout"].splitlines())}


# What some of them became known by; the rest of such stories is in test_escape.py.
KNOWN_AS = {
    "fsopen": "CVE-2022-0185", "userfaultfd": "CVE-2021-22555", "packet_socket": "CVE-2020-14386", "add_key": "CVE-2016-0728",
    "io_uring_setup": "CVE-2022-29582", "bpf": "CVE-2021-31440", "perf_event_open": "CVE-2013-2094",
    "open_by_handle": "CVE-2014-3519", "tiocsti": "CVE-2023-28339", "ptrace_init": "CVE-2019-13272", "open_init_exe": "CVE-2019-5736",
    "init_root": "CVE-2018-15664", "mount_overlay": "CVE-2023-0386", "mount_cgroup1": "CVE-2022-0492", "write_core_pattern": "CVE-2022-0492",
    "vsock": "CVE-2021-26708", "alg_socket": "CVE-2019-8912", "unshare_user": "CVE-2024-1086",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MUST_FAIL), ids=lambda name: "-".join(filter(None, (name, KNOWN_AS.get(name)))))
@pytest.mark.vm
def test_attempt_is_refused(attempts, name):
    if name not in attempts and name == "kexec_file_load":
        pytest.skip("no such system call on this machine")
    attempt = attempts[name]
    if name in EMPTY_OR_REFUSED and attempt.get("value") == 0:
        return
    assert not attempt["ok"], attempt
    if "signal" in attempt:
        assert attempt["signal"] == 31, attempt  # SIGSYS
    else:
        assert attempt["errno"] in MUST_FAIL[name], attempt


@pytest.mark.parametrize("name", sorted(EMPTY_OR_REFUSED))
def test_kernel_secrets_read_as_nothing(attempts, name):
    attempt = attempts[name]
    assert (attempt["ok"] and attempt["value"] == 0) or attempt.get("errno") in REFUSED_FILE | {"EIO"}, attempt


@pytest.mark.parametrize("name", sorted(MUST_WORK))
def test_attempt_works(attempts, name, emulator):
    if name in ("chown", "setuid") and emulator.info()["id_map"] == "single":
        assert attempts[name]["errno"] == "EINVAL", attempts[name]
    else:
        assert attempts[name]["ok"], attempts[name]


# --- looking out ----------------------------------------------------------------------------------


@pytest.mark.vm
def test_only_own_processes_are_seen(api, sandbox):
    api.exec(sandbox, "sleep 30 & true")
    pids = api.sh(sandbox, "for p in /proc/[0-9]*; do echo ${p#/proc/}; done").split()
    assert "1" in pids and 2 <= len(pids) <= 6, pids
    assert max(map(int, pids)) < 100, "the numbers are the sandbox's own"
    assert "/usr/bin/python" not in api.sh(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_init_tells_nothing_about_the_emulator(api, sandbox, emulator):
    """Its command line would name folders of the host, and the keys that were given to serve."""
    out = api.sh(sandbox, "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm; readlink /proc/1/exe /proc/1/cwd 2>&1 || true")
    assert str(emulator.state_dir) not in out and str(emulator.binary.parent) not in out, out


def test_hostname_is_its_own(api, sandbox):
    host = os.uname().nodename
    out = api.sh(sandbox, "cat /etc/hostname; uname -n; cat /proc/sys/kernel/hostname")
    names = set(out.split())
    assert len(names) == 1 and host not in names, (out, host)


@pytest.mark.vm
def test_mounts_show_nothing_of_the_host(api, sandbox, emulator):
    lines = api.sh(sandbox, "cat /proc/self/mountinfo").splitlines()
    text = "\n".join(lines)
    assert str(emulator.state_dir) not in text and "/tmp/orkestr" not in text, text
    points = {line.split()[4]: line for line in lines}
    assert " - overlay " in points.pop("/")
    for point in points:
        assert re.match(r"/(proc|sys|dev|run|tmp|etc/(hosts|hostname|resolv\.conf))(/|$)", point), lines
    kinds = {line.partition(" - ")[2].split()[0] for line in lines}
    assert kinds <= {"overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}, kinds
    for line in lines:  # of the host's /dev, single harmless nodes
        if " - devtmpfs " in line:
            assert line.split()[3] in ("/null", "/zero", "/full", "/random", "/urandom", "/tty"), line


def test_host_files_are_not_there(api, sandbox, tmp_path):
    (tmp_path / "marker").write_text("host")
    for path in (tmp_path / "marker", HERE, "/etc/shadow", "/var/lib/dpkg", "/root/.ssh"):
        assert api.exec(sandbox, ["ls", str(path)])["exit_code"] != 0, path
    assert "Tiny 1" in api.sh(sandbox, "cat /etc/os-release")


@pytest.mark.vm
def test_proc_and_sys_are_read_only_where_it_matters(api, sandbox):
    assert api.sh(sandbox, "cat /proc/timer_list /proc/keys /proc/kcore 2>/dev/null || true") == ""
    for path in """/proc/sys/kernel/core_pattern /proc/sys/kernel/panic /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger
                   /proc/irq/default_smp_affinity /proc/bus/x /proc/fs/x /sys/kernel/x /sys/power/state
                   /sys/fs/cgroup/release_agent /sys/fs/cgroup/cgroup.procs /proc/acpi/x""".split():
        result = api.exec(sandbox, f"echo 1 > {path}")
        assert result["exit_code"] != 0, path


def test_dev_is_minimal(api, sandbox):
    names = set(api.sh(sandbox, "ls /dev").split())
    assert {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr"} <= names
    assert names <= {
        "null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "shm", "pts", "ptmx",
        "mqueue", "core", "console",
    }, names  # fmt: skip
    assert api.sh(sandbox, "head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null; head -c 8 /dev/urandom | wc -c").split() == ["00"] * 4 + ["8"]
    assert api.exec(sandbox, "echo x > /dev/full")["exit_code"] != 0


@pytest.mark.vm
def test_network_off_is_loopback_only(api, sandbox):
    devices = [line.split(":")[0].strip() for line in api.sh(sandbox, "cat /proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]
    routes = api.sh(sandbox, "cat /proc/net/route").splitlines()[1:]
    assert {route.split()[0] for route in routes} <= {"lo"}, routes
    assert api.sh(sandbox, "cat /proc/net/tcp /proc/net/unix").count("\n") == 2, "nothing of the host listens here"
    flags = int(api.sh(sandbox, "cat /sys/class/net/lo/flags 2>/dev/null || echo 0x1"), 16)
    assert flags & 1, "loopback is up"


# --- who one is inside ----------------------------------------------------------------------------

# Over its own namespace only, and of those only what a root needs for apt and the like.
ALLOWED_CAPS = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot
    setfcap mknod audit_write net_raw sys_ptrace
""".split()
CAP_NUMBERS = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
    net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct
    sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap
    mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
""".split()


@pytest.mark.vm
def test_identity(api, sandbox):
    status = dict(line.split(":\t", 1) for line in api.sh(sandbox, "cat /proc/self/status").splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["0"] * 4 and status["Gid"].split() == ["0"] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    bounding = int(status["CapBnd"], 16)
    held = {name for bit, name in enumerate(CAP_NUMBERS) if bounding >> bit & 1}
    assert held <= set(ALLOWED_CAPS), held - set(ALLOWED_CAPS)
    assert bounding >> len(CAP_NUMBERS) == 0
    assert {"chown", "setuid", "setgid", "fowner", "dac_override"} <= held, "root must be able to install packages"
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(status[name], 16) & ~bounding == 0, name


def test_outside_it_has_no_power_at_all(api, sandbox, emulator):
    """On the host, a sandbox's processes have neither our id nor root's, nor each other's namespaces."""
    api.exec(sandbox, "sleep 30 & true")
    (pid,) = settle(lambda: [pid for pid in emulator.family() if " sleep:" in proc.describe(pid)])
    uid = int(re.search(r"(?m)^Uid:\t(\d+)", open(f"/proc/{pid}/status").read()).group(1))
    if os.getuid() == 0:
        assert uid not in (0, os.getuid())
    mine = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup")}
    for kind, link in mine.items():
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != link, kind
        if os.getuid() == 0:  # nobody else may look at the daemon's
            assert os.readlink(f"/proc/{emulator.daemon_pid}/ns/{kind}") != os.readlink(f"/proc/{pid}/ns/{kind}"), kind


@pytest.mark.vm
def test_sandboxes_share_no_namespace(api):
    one, two = api.create()["id"], api.create()["id"]
    listing = "readlink /proc/self/ns/*"
    ours, theirs = (set(api.sh(sandbox, listing).split()) for sandbox in (one, two))
    shared = {link for link in ours & theirs if not link.startswith("time")}
    assert not shared


def test_sandboxes_do_not_see_each_other(api):
    one, two = api.create()["id"], api.create()["id"]
    api.exec(one, "sleep 4321 & true")
    api.sh(one, "echo secret > /tmp/x; echo secret > /dev/shm/x")
    assert "4321" not in api.sh(two, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert api.exec(two, "cat /tmp/x /dev/shm/x")["stdout"] == ""


def test_init_can_not_be_killed_from_inside(api, sandbox):
    for signal in (1, 2, 9, 11, 15, 19):
        api.exec(sandbox, f"kill -{signal} 1")
    assert api.sh(sandbox, "echo alive") == "alive\n"
    assert api.status_of(sandbox) == "running"


def test_killing_everything_leaves_a_usable_sandbox(api, sandbox):
    api.exec(sandbox, "sleep 30 & true")
    api.exec(sandbox, "kill -9 -1")
    assert api.sh(sandbox, "echo alive; cat /proc/[0-9]*/comm").split().count("sleep") == 0


def test_no_core_dump_reaches_the_host(api, sandbox, probe):
    result = probe("crash")
    assert (result["exit_code"], result["reason"], result["signal"]) == (139, "signal", "SIGSEGV")
    assert api.sh(sandbox, "cat /proc/self/limits | grep 'core file'").split()[4:6] == ["0", "0"]
    assert not [name for name in os.listdir("/tmp") + os.listdir(HERE) if name.startswith("core")]


# --- limits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enforced(emulator):
    """Which limits this host lets the emulator enforce, as it declares them."""
    return {name for name in ("cpu", "memory", "pids") if emulator.info()["cgroups"][name]}


def need(enforced, what):
    if what not in enforced:
        cannot_run(f"no {what} limits on this host (divergence limits-unenforced)")


@pytest.mark.parametrize("cpu, seen", [(0.25, 1), (0.5, 1), (1, 1), (1.5, 2), (2, 2)])
def test_nproc_shows_the_sandboxs_cpus(api, cpu, seen):
    sandbox = api.create(cpu=cpu)["id"]
    assert int(api.sh(sandbox, "nproc")) == min(seen, os.cpu_count())
    assert math.ceil(cpu) == seen


@pytest.mark.vm
def test_cgroup_files_show_the_sandboxs_own_limits(api, enforced):
    need(enforced, "memory")
    sandbox = api.create(cpu=0.5, memory_mb=256)["id"]
    mem = api.sh(sandbox, "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
    assert int(mem) == 256 << 20
    cpu = api.sh(
        sandbox,
        "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us",
    )
    quota, period = map(int, cpu.split())
    assert quota / period == 0.5
    assert "s-" not in api.sh(sandbox, "cat /proc/self/cgroup"), "a cgroup namespace hides the host's paths"


@pytest.mark.vm
def test_cpu_is_limited(api, enforced):
    need(enforced, "cpu")
    sandbox = api.create(cpu=0.2)["id"]
    result = api.exec(sandbox, "timeout 2 sh -c 'while :; do :; done'; cat /proc/self/stat > /dev/null; times")
    user = [float(minutes) * 60 + float(seconds) for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", result["stdout"])]
    assert 0.1 < sum(user) < 1.0, result  # 0.4 s allowed in 2 s


@pytest.mark.vm
def test_out_of_memory_is_reported_as_such_and_hurts_nobody_else(api, enforced, probe_binary):
    need(enforced, "memory")
    victim, other = api.create(memory_mb=64)["id"], api.create()["id"]
    api.put_file(victim, "/tmp/probe", probe_binary, "0755")
    result = api.exec(victim, ["/tmp/probe", "hog"])
    assert (result["reason"], result["exit_code"], result["signal"]) == ("oom", 137, "SIGKILL"), result
    assert api.sh(other, "echo fine") == "fine\n"
    assert api.sh(victim, "echo recovered") == "recovered\n"
    assert api.status_of(victim) == "running"


def test_a_kill_is_not_mistaken_for_out_of_memory(api, enforced, probe_binary):
    need(enforced, "memory")
    sandbox = api.create(memory_mb=64)["id"]
    api.put_file(sandbox, "/tmp/probe", probe_binary, "0755")
    api.exec(sandbox, ["/tmp/probe", "hog"])
    assert api.exec(sandbox, "kill -9 $$")["reason"] == "signal"


@pytest.mark.vm
def test_out_of_memory_under_a_shell_is_reported_too(api, enforced, probe_binary):
    need(enforced, "memory")
    sandbox = api.create(memory_mb=64)["id"]
    api.put_file(sandbox, "/tmp/probe", probe_binary, "0755")
    result = api.exec(sandbox, "/tmp/probe hog; exit $?")
    assert (result["reason"], result["exit_code"]) == ("oom", 137), result


@pytest.mark.vm
def test_a_fork_bomb_is_contained(api, probe_binary, emulator):
    victim, other = api.create(cpu=0.5, memory_mb=512)["id"], api.create()["id"]
    api.put_file(victim, "/tmp/probe", probe_binary, "0755")
    count, why = api.sh(victim, ["/tmp/probe", "forks"], timeout_seconds=60).split()
    assert why == "EAGAIN" and 50 <= int(count) <= 20000, (count, why)
    assert api.sh(other, "echo fine") == "fine\n"
    started = time.monotonic()
    assert api.delete(f"/v1/sandboxes/{victim}").json["status"] == "terminated"
    assert time.monotonic() - started < 10
    assert api.sh(other, "echo fine") == "fine\n"


def test_a_shells_fork_bomb_is_ended_by_terminate(api):
    victim, other = api.create(cpu=0.5, memory_mb=256)["id"], api.create()["id"]
    api.exec(victim, "f() { f | f & }; (f) > /dev/null 2>&1 & true")
    time.sleep(1)
    assert api.sh(other, "echo fine") == "fine\n"
    assert api.delete(f"/v1/sandboxes/{victim}").json["status"] == "terminated"


@pytest.mark.vm
def test_shared_memory_is_bounded_and_charged(api, enforced):
    need(enforced, "memory")
    sandbox = api.create(memory_mb=256)["id"]
    result = api.exec(sandbox, "head -c 300000000 /dev/zero > /dev/shm/x")
    assert result["exit_code"] != 0, result
    api.exec(sandbox, "rm -f /dev/shm/x")
    assert api.sh(sandbox, "echo fine") == "fine\n"


def test_filling_all_memory_with_files_ends_the_sandbox_at_worst(api, enforced):
    """Files in memory outlive the process that is killed for them, so it may take PID 1 too: then it says so."""
    need(enforced, "memory")
    victim, other = api.create(memory_mb=32)["id"], api.create()["id"]
    result = api.post(f"/v1/sandboxes/{victim}/exec", {"command": "head -c 300000000 /dev/zero > /dev/shm/x"})
    if result.status == 200:
        assert result.json["exit_code"] != 0, result
    time.sleep(0.3)
    row = api.get(f"/v1/sandboxes/{victim}").json
    if row["status"] != "running":
        assert row["termination_reason"] == "oom", row
    assert api.sh(other, "echo fine") == "fine\n"


def test_tmp_files_in_memory_are_not_a_way_around(api, enforced):
    need(enforced, "memory")
    sandbox = api.create(memory_mb=64)["id"]
    for path in ("/dev/x", "/run/x", "/sys/fs/cgroup/x", "/sys/x"):
        result = api.exec(sandbox, f"head -c 200000000 /dev/zero > {path}; rm -f {path}")
        assert result["reason"] == "exited", (path, result)
    assert api.sh(sandbox, "echo fine") == "fine\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"


def test_many_descriptors_and_threads_do_not_reach_the_host(api, sandbox):
    api.exec(sandbox, "i=3; while [ $i -lt 9000 ]; do eval \"exec $i</dev/null\" || exit 1; i=$((i+1)); done")
    assert api.sh(sandbox, "echo fine") == "fine\n"


def test_the_upper_does_not_show_on_other_sandboxes(api):
    one = api.create()["id"]
    api.sh(one, "rm -rf /usr/bin/seq /etc/os-release; echo changed > /etc/passwd")
    two = api.create()["id"]
    assert api.sh(two, "seq 2; grep -c Tiny /etc/os-release; grep -c root /etc/passwd").split() == ["1", "2", "2", "1"]


def test_files_written_from_outside_belong_to_the_sandboxs_root(api, sandbox):
    api.put_file(sandbox, "/tmp/a/b", b"x")
    assert api.sh(sandbox, "stat -c %u:%g /tmp/a /tmp/a/b").split() == ["0:0", "0:0"]


def test_symlinked_devices_do_not_open_through_the_files_api(api, sandbox):
    api.sh(sandbox, "ln -s /dev/full f; ln -s /proc/1/mem m; ln -s /proc/self/fd/0 fd")
    for name in "f", "m", "fd":
        answer = api.files("GET", sandbox, f"/workspace/{name}", timeout=10)
        check_error(answer, answer.status, None)
        assert 400 <= answer.status < 500


# --- with a real interpreter ----------------------------------------------------------------------

IN_PYTHON = """
import ctypes, os, socket, json
out = {}
def attempt(name, f):
    try:
        out[name] = ["ok", repr(f())[:100]]
    except OSError as e:
        out[name] = ["error", e.errno]
attempt("connect", lambda: socket.create_connection(("1.1.1.1", 53), 2))
attempt("resolve", lambda: socket.getaddrinfo("example.org", 80))
attempt("loopback", lambda: socket.create_server(("127.0.0.1", 0)).getsockname()[0])
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0/tmp/.X11-unix/X0"))
attempt("cpus", lambda: os.cpu_count())
attempt("affinity", lambda: len(os.sched_getaffinity(0)))
attempt("write_self", lambda: open("/proc/self/exe", "wb"))
attempt("hosts", lambda: open("/etc/hosts").read())
print(json.dumps(out))
"""


@pytest.mark.vm
def test_from_python_inside(real_api):
    sandbox = real_api.create(template="python-3.12-bare", cpu=1)["id"]
    real_api.put_file(sandbox, "/workspace/try.py", IN_PYTHON.encode())
    out = json.loads(real_api.sh(sandbox, "python /workspace/try.py"))
    assert out["connect"][0] == "error" and out["resolve"][0] == "error" and out["abstract"][0] == "error"
    assert out["loopback"] == ["ok", "'127.0.0.1'"]
    assert out["affinity"] == ["ok", "1"]
    assert out["write_self"][0] == "error"
    assert "localhost" in out["hosts"][1]
