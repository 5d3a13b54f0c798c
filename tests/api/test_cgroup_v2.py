"""cgroup v2, seen from the host: what a sandbox was promised is what the kernel was told, and what the kernel
counts is what is answered. The unit tests have the readings; test_isolation.py what it is like inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import cannot_run
from harness import proc
from harness.stream import settle
from test_isolation import probe_binary  # noqa: F401

pytestmark = pytest.mark.vm
MIB = 1 << 20


@pytest.fixture(scope="module")
def limits(emulator) -> dict:
    """What the emulator says of its control groups here."""
    info = emulator.info()["cgroups"]
    if info["backend"] != "v2":
        cannot_run(f"control groups here are {info['backend']}, not v2: make test-vm")
    return info


@pytest.fixture
def made(api, limits):
    """made(**fields) -> a sandbox's id and its control group's folder."""

    def make(**fields) -> tuple[str, Path]:
        sandbox = api.create(**fields)["id"]
        seconds = str(100000 + int.from_bytes(os.urandom(3), "big"))
        api.post(f"/v1/sandboxes/{sandbox}/exec", {"command": ["sleep", seconds], "background": True})
        pid = settle(lambda: proc.running(["sleep", seconds]))
        return sandbox, next(folder for folder in proc.cgroups_of(pid) if folder.name.startswith("s-"))

    return make


def read(group: Path, name: str) -> str:
    return (group / name).read_text().strip()


def events(group: Path, name: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in read(group, name).splitlines())}


def test_limits_are_in_the_kernels_files(made, limits):
    _, group = made(cpu=0.5, memory_mb=256)
    assert limits["memory"] and limits["pids"]
    assert read(group, "memory.max") == str(256 * MIB)
    if (group / "memory.swap.max").exists():
        assert read(group, "memory.swap.max") == "0"
    assert int(read(group, "pids.max")) > 0
    if limits["cpu"]:
        assert read(group, "cpu.max") == "50000 100000"
    else:
        assert not (group / "cpu.max").exists()


def test_an_oom_kill_is_the_kernels_count(api, made, probe_binary):  # noqa: F811
    sandbox, group = made(memory_mb=64)
    api.put_file(sandbox, "/tmp/probe", probe_binary, "0755")
    assert events(group, "memory.events")["oom_kill"] == 0
    result = api.exec(sandbox, ["/tmp/probe", "hog"])
    assert (result["reason"], result["signal"]) == ("oom", "SIGKILL"), result
    assert events(group, "memory.events")["oom_kill"] == 1
    assert api.status_of(sandbox) == "running"


def test_too_many_processes_are_refused_and_counted(api, made):
    sandbox, group = made()
    most = int(read(group, "pids.max"))
    result = api.exec(sandbox, f"i=0; while [ $i -lt {most + 10} ]; do sleep 300 >/dev/null 2>&1 & i=$((i+1)); done")
    assert result["exit_code"] != 0, result
    assert events(group, "pids.events")["max"] > 0
    assert int(read(group, "pids.current")) <= most


def test_a_pause_is_the_kernels_freezer(api, made):
    sandbox, group = made()
    assert (read(group, "cgroup.freeze"), events(group, "cgroup.events")["frozen"]) == ("0", 0)
    assert api.post(f"/v1/sandboxes/{sandbox}/pause", timeout=120).json["status"] == "paused"
    assert (read(group, "cgroup.freeze"), events(group, "cgroup.events")["frozen"]) == ("1", 1)
    assert api.post(f"/v1/sandboxes/{sandbox}/resume", timeout=120).json["status"] == "running"
    assert (read(group, "cgroup.freeze"), events(group, "cgroup.events")["frozen"]) == ("0", 0)
    assert api.sh(sandbox, "echo thawed") == "thawed\n"


def test_the_end_takes_everything_in_the_group(api, made, limits):
    assert limits["kill"]
    sandbox, group = made()
    api.sh(sandbox, "for i in 1 2 3; do (trap '' TERM HUP; setsid sleep 4000 & sleep 4000) >/dev/null 2>&1 & done; sleep 0.2")
    pids = [int(pid) for pid in read(group, "cgroup.procs").split()]
    assert len(pids) >= 5, pids
    assert api.delete(f"/v1/sandboxes/{sandbox}").json["status"] == "terminated"
    assert settle(lambda: not group.exists())
    assert not [pid for pid in pids if proc.name(pid) == "sleep"]


def test_memory_is_the_working_set(api, made):
    """memory.current less inactive_file: 48 MiB of a file just written are no use of memory."""
    sandbox, group = made(memory_mb=512)
    api.sh(sandbox, "dd if=/dev/zero of=/workspace/cache bs=1M count=48 2>/dev/null; sync")

    def agree() -> bool:
        charged = int(read(group, "memory.current"))
        inactive = events(group, "memory.stat")["inactive_file"]
        told = api.get(f"/v1/sandboxes/{sandbox}/metrics").json["memory"]["usage_bytes"]
        return inactive >= 24 * MIB and abs(told - (charged - inactive)) < 2 * MIB

    assert settle(agree, 30)
