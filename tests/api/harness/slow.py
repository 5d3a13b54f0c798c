"""ORKESTR_TEST_SLOW=10: this machine is that many times slower than the tests' time-outs were written for.

An emulated CPU, valgrind, a machine with too many tenants. Once installed, everything in this process that waits
for something to happen waits that many times longer: `time.monotonic()` goes that many times slower (so a test's
own deadlines and upper bounds are of the slow machine), and time-outs of sockets, child processes and futures are
multiplied. What is not touched: `time.sleep`, and `time.perf_counter`, by which a test says that something must
*not* be quicker than so long.

Time-outs below a second are left alone: with those a test goes away on purpose, before an answer comes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time

FACTOR = max(1.0, float(os.environ.get("ORKESTR_TEST_SLOW") or 1))


def longer(seconds: float | None) -> float | None:
    return seconds if seconds is None or seconds < 1 else seconds * FACTOR


def command(fields: dict) -> dict:
    """The fields of an exec: a command's time-out is longer, too, unless it is what the test is about."""
    enough = fields.get("timeout_seconds", 60)  # the service's own default
    if FACTOR == 1 or not isinstance(enough, (int, float)) or enough < 20:
        return fields
    return {**fields, "timeout_seconds": min(3600, int(longer(enough)))}


def pause(seconds: float) -> None:
    """As long as this machine takes for what takes another one so long."""
    time.sleep(seconds * FACTOR)


def _scale(owner: type, name: str, position: int) -> None:
    """Multiplies the argument `timeout` of a method, which is also its argument number `position`."""
    method = getattr(owner, name)

    def scaled(self, *args, **named):
        if len(args) > position:
            args = (*args[:position], longer(args[position]), *args[position + 1 :])
        elif "timeout" in named:
            named["timeout"] = longer(named["timeout"])
        return method(self, *args, **named)

    setattr(owner, name, scaled)


def install() -> None:
    if FACTOR == 1:
        return
    fast = time.monotonic
    time.monotonic = lambda: fast() / FACTOR
    _scale(socket.socket, "settimeout", 0)
    _scale(subprocess.Popen, "wait", 0)
    _scale(subprocess.Popen, "communicate", 1)
    _scale(threading.Condition, "wait", 0)
