#!/usr/bin/env python3
"""The program, with the daemon of `serve` under valgrind: give its path as ORKESTR_EMULATOR (`make valgrind` does).

valgrind (3.24 at the least) knows neither clone3 nor open_tree, which the keeper lives on. So `serve` is started without
it, killed as by `kill -9`, and what it leaves is taken over by a second start, whose daemon is the one under valgrind:
the keeper and the sandboxes' first processes are the first one's and run as they are. A keeper that keeps nothing goes
with its daemon, so the first start makes a spare sandbox; where it can't, no template being there yet, this runs without
valgrind.

The program runs from a sealed copy of itself in memory, and so must what valgrind is given, or it would run itself
again without valgrind.

Environment: MEMCHECK_PROGRAM, MEMCHECK_LOGS (a folder: PID.log of each process, PID.daemon beside a daemon's; a leak in
another is nobody's, a worker leaves what it was forked with).
"""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import proc

PROGRAM = os.environ["MEMCHECK_PROGRAM"]
LOGS = os.environ["MEMCHECK_LOGS"]
READY_SECONDS = 60
SPARE_SECONDS = 0.5
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def keeper_of_its_own(options: list[str]) -> bool:
    """Starts and kills a daemon; whether its keeper stays. Ends this process as that one ended, if it did not get
    ready."""
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        first = subprocess.Popen(
            [PROGRAM, "serve", *options, "--warm", "1", "--port-file", str(port)], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + READY_SECONDS
        while not port.exists() and time.monotonic() < deadline:
            if first.poll() is not None:
                sys.exit(first.returncode if first.returncode >= 0 else 128 - first.returncode)
            time.sleep(0.01)
        time.sleep(SPARE_SECONDS)
        first.send_signal(signal.SIGKILL)
        first.wait()
        time.sleep(SPARE_SECONDS)
        return bool(proc.family(os.getpid(), os.environ.get(proc.TAG, "-")) - {os.getpid()})


def sealed_copy() -> int:
    copy = os.memfd_create("orkestr-emulator", os.MFD_ALLOW_SEALING)
    with open(PROGRAM, "rb") as program:
        size = os.fstat(program.fileno()).st_size
        while (at := os.lseek(copy, 0, os.SEEK_CUR)) < size:
            os.sendfile(copy, program.fileno(), at, size - at)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    return copy


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] != ["serve"] or "--help" in arguments:
        os.execv(PROGRAM, [PROGRAM, *arguments])
    if not keeper_of_its_own(arguments[1:]):
        os.execv(PROGRAM, [PROGRAM, *arguments])
    (Path(LOGS) / f"{os.getpid()}.daemon").touch()
    copy = sealed_copy()
    os.set_inheritable(copy, True)
    os.execvp(
        "valgrind",
        [
            "valgrind", "-q", f"--log-file={LOGS}/%p.log", "--leak-check=full", "--show-leak-kinds=definite",
            f"/proc/self/fd/{copy}", *arguments,
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
