"""What the kernel knows about an emulator: its processes, mounts, namespaces, cgroups and files."""

from __future__ import annotations

import os
import re
from pathlib import Path

TAG = "ORKESTR_TEST_TAG"


def table() -> dict[int, tuple[int, str]]:
    """pid -> (parent, state) of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        found[int(name)] = (int(fields[1]), fields[0])
    return found


def family(root: int, tag: str) -> set[int]:
    """The process `root`, all that descend from it, and those that were started with the tag in their
    environment and lost their parents since (with what descends from them)."""
    processes = table()
    members = {pid for pid in processes if pid == root or _tagged(pid, tag)}
    while True:
        more = {pid for pid, (parent, _) in processes.items() if parent in members} - members
        if not more:
            return members & processes.keys()
        members |= more


def _tagged(pid: int, tag: str) -> bool:
    try:
        return f"{TAG}={tag}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        state = re.search(r"(?m)^State:\s*(\S)", Path(f"/proc/{pid}/status").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return f"{pid} {state.group(1) if state else '?'} {name}: {command[:120]}"
    except OSError:
        return f"{pid} (gone)"


def pid_depth(pid: int) -> int:
    """How many pid namespaces deep a process is (anyone may ask that, unlike for its namespaces); 0: gone."""
    try:
        match = re.search(r"(?m)^NSpid:(.*)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return len(match.group(1).split()) if match else 0


def inner_pid(pid: int) -> int:
    """Its number in the innermost pid namespace; 0: gone."""
    try:
        match = re.search(r"(?m)^NSpid:(.*)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(match.group(1).split()[-1]) if match else 0


def fds(pid: int) -> list[str] | None:
    """What each descriptor of a process is, or None where we may not look."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    found = []
    for name in names:
        try:
            found.append(re.sub(r":\[\d+\]$", "", os.readlink(f"/proc/{pid}/fd/{name}")))
        except OSError:
            pass
    return sorted(found)


def namespaces(pids: set[int], kind: str) -> dict[str, int]:
    """namespace -> one process in it."""
    found = {}
    for pid in sorted(pids):
        try:
            found.setdefault(os.readlink(f"/proc/{pid}/ns/{kind}"), pid)
        except OSError:
            pass
    return found


def mounts(pid: int | str) -> list[str] | None:
    """Mount points of a process's mount namespace, without ids and propagation numbers."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return None
    return sorted(" ".join(line.split()[3:5]) + " " + line.partition(" - ")[2] for line in lines)


def holder(suffix: str, pids: set[int]) -> int | None:
    """Which of the processes has a file whose name ends so open; the oldest, if several have."""
    for pid in sorted(pids):
        if any(fd.endswith(suffix) for fd in fds(pid) or []):
            return pid
    return None


def running(argv: list[str]) -> int | None:
    """A process, in whatever namespace, with just these arguments."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    for pid in table():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return pid
        except OSError:
            continue
    return None


def name(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def status_kb(pid: int, field: str) -> int:
    """A "VmRSS:" kind of line of /proc/PID/status, in KiB."""
    match = re.search(rf"(?m)^{field}:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match, f"no {field} for {pid}"
    return int(match.group(1))


def cgroups_of(pid: int) -> list[Path]:
    """The folders of a process's control groups, one for each mounted hierarchy."""
    found = []
    hierarchies = _hierarchies()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in hierarchies:
            root, point = hierarchies[controllers]
            inside = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
            if not inside.startswith(".."):
                found.append(Path(point, inside))
    return found


def _hierarchies() -> dict[str, tuple[str, str]]:
    """controllers (as /proc/PID/cgroup spells them, "" for v2) -> (root, mount point)."""
    found = {}
    known = {name for name in re.findall(r"(?m)^(\w+)\t", Path("/proc/cgroups").read_text())}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        if kind == "cgroup2":
            found[""] = (fields[3], fields[4])
        elif kind == "cgroup":
            names = [o for o in options.split(",") if o in known or o.startswith("name=")]
            for order in (names, names[::-1]):
                found[",".join(order)] = (fields[3], fields[4])
    return found


def subfolders(path: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)}
    except OSError:
        return set()


def contents(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except OSError:
        return set()
