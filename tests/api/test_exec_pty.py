"""Terminals: a shell and full-screen programs driven over HTTP."""

import base64
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from conftest import cannot_run
from harness import slow
from harness.stream import Stream, output, settle
from harness.wire import check_error, check_invalid
from test_exec_sessions import exec_path, get, processes


class Terminal(Stream):
    """A command on a terminal: its output is a stream, keys go in by requests."""

    def __init__(self, api, sandbox, command, rows=24, cols=80, **fields):
        super().__init__(api, sandbox, command, pty={"rows": rows, "cols": cols}, **fields)
        self.api, self.sandbox = api, sandbox

    def type(self, keys: str | bytes) -> None:
        data = keys if isinstance(keys, bytes) else keys.encode()
        body = {"data": base64.b64encode(data).decode(), "encoding": "base64"}
        answer = self.api.post(exec_path(self.sandbox, self.exec_id, "stdin"), body)
        assert answer.status == 200, answer

    def resize(self, rows: int, cols: int):
        return self.api.post(exec_path(self.sandbox, self.exec_id, "resize"), {"rows": rows, "cols": cols})


class Screen:
    """As much of an xterm as less and vi need: where each character ends up."""

    SEQUENCE = re.compile(r"\x1b\[([?>!]?)([0-9;]*)([A-Za-z@])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b([=>78MDEc])|\x1b")

    def __init__(self, rows: int, cols: int):
        self.rows, self.cols = rows, cols
        self.row = self.col = 0
        self.top, self.bottom = 0, rows - 1
        self.cells = [[" "] * cols for _ in range(rows)]
        self.rest = ""

    def feed(self, text: str) -> None:
        text, self.rest = self.rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = self.SEQUENCE.match(text, at)
                if match.group() == "\x1b":  # the rest comes with the next chunk
                    self.rest = text[at:]
                    return
                self._control(match)
                at = match.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, char: str) -> None:
        if char == "\r":
            self.col = 0
        elif char == "\n":
            self._down()
        elif char == "\b":
            self.col = max(0, self.col - 1)
        elif char == "\t":
            self.col = min(self.cols - 1, (self.col // 8 + 1) * 8)
        elif char >= " ":
            if self.col == self.cols:
                self.col = 0
                self._down()
            self.cells[self.row][self.col] = char
            self.col += 1

    def _down(self) -> None:
        if self.row == self.bottom:
            del self.cells[self.top]
            self.cells.insert(self.bottom, [" "] * self.cols)
        else:
            self.row = min(self.rows - 1, self.row + 1)

    def _up(self) -> None:
        if self.row == self.top:
            del self.cells[self.bottom]
            self.cells.insert(self.top, [" "] * self.cols)
        else:
            self.row = max(0, self.row - 1)

    def _control(self, match) -> None:
        private, numbers, final, single = match.group(1, 2, 3, 4)
        if single == "M":
            self._up()
        if final is None or private:
            if private == "?" and final == "h" and numbers == "1049":
                self._erase(0, self.rows)
            return
        n = [int(x or 0) for x in numbers.split(";")]
        first = max(1, n[0])
        if final in "Hf":
            self.row, self.col = min(self.rows, first) - 1, min(self.cols, max(1, n[1] if len(n) > 1 else 1)) - 1
        elif final == "A":
            self.row = max(0, self.row - first)
        elif final == "B":
            self.row = min(self.rows - 1, self.row + first)
        elif final == "C":
            self.col = min(self.cols - 1, self.col + first)
        elif final == "D":
            self.col = max(0, self.col - first)
        elif final == "G":
            self.col = first - 1
        elif final == "d":
            self.row = first - 1
        elif final == "J":
            if n[0] == 2:
                self._erase(0, self.rows)
            else:
                self.cells[self.row][self.col :] = [" "] * (self.cols - self.col)
                self._erase(self.row + 1, self.rows)
        elif final == "K":
            start, end = {0: (self.col, self.cols), 1: (0, self.col + 1), 2: (0, self.cols)}[n[0]]
            self.cells[self.row][start:end] = [" "] * (end - start)
        elif final == "r":
            self.top, self.bottom = first - 1, (n[1] if len(n) > 1 and n[1] else self.rows) - 1
            self.row = self.col = 0
        elif final == "L":
            for _ in range(first):
                del self.cells[self.bottom]
                self.cells.insert(self.row, [" "] * self.cols)
        elif final == "M":
            for _ in range(first):
                del self.cells[self.row]
                self.cells.insert(self.bottom, [" "] * self.cols)

    def _erase(self, start: int, end: int) -> None:
        for row in range(start, end):
            self.cells[row] = [" "] * self.cols

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]


def watch(terminal: Terminal, screen: Screen, condition) -> None:
    """Feeds the screen until it is as it should be."""
    terminal.connection.sock.settimeout(10)
    while not condition(screen.lines):
        try:
            event = next(terminal, None)
        except TimeoutError:
            raise AssertionError("\n".join(screen.lines)) from None
        assert event and not event["is_final"], (event, screen.lines)
        screen.feed(event["data"])


def install(api, sandbox, program: str) -> None:
    """A program of this host, its libraries and the description of xterm-256color into the sandbox."""
    path = shutil.which(program)
    if not path:
        cannot_run(f"{program} is not here")
    path = os.path.realpath(path)
    entry = next((p for p in map(Path, ("/lib/terminfo/x/xterm-256color", "/usr/share/terminfo/x/xterm-256color")) if p.exists()), None)
    if not entry:
        cannot_run("no terminfo entry for xterm-256color here")
    libraries = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True).stdout, re.M)
    there = api.sh(sandbox, f"for f in {' '.join(libraries)}; do [ -e $f ] && echo $f; done; true").split()
    api.put_file(sandbox, f"/usr/bin/{program}", Path(path).read_bytes(), "0755")
    api.put_file(sandbox, "/usr/share/terminfo/x/xterm-256color", entry.read_bytes())
    for library in set(libraries) - set(there):
        api.put_file(sandbox, library, Path(os.path.realpath(library)).read_bytes(), "0755")


# --- a shell --------------------------------------------------------------------------------------


def test_a_shell_can_be_driven(api, sandbox):
    with Terminal(api, sandbox, ["sh"], env={"PS1": "ready> "}) as shell:
        first = next(shell)
        assert (first["data"], first["exec_id"]) == ("", shell.exec_id)
        assert shell.until("ready> ")
        shell.type("tty; echo $TERM $((6*7))\r")
        assert shell.until("/dev/pts/0\r\nxterm-256color 42\r\nready> ")
        shell.type("cat; echo after\r")
        shell.until("after\r\n")
        shell.type("typed\r")
        assert shell.until("typed\r\ntyped\r\n"), "echoed by the terminal, then by cat"
        assert api.post(exec_path(sandbox, shell.exec_id, "stdin"), {"eof": True}).status == 200
        assert shell.until("after\r\nready> ")
        shell.type("sleep 77\r")
        settle(lambda: "sleep 77" in processes(api, sandbox))
        shell.type("\x03")  # the terminal turns it into SIGINT for the foreground
        assert shell.until("ready> ")
        assert "sleep 77" not in processes(api, sandbox)
        shell.type("exit 5\r")
        events = list(shell)
    last = events[-1]
    assert (last["exit_code"], last["reason"], last["is_final"]) == (5, "exited", True)
    state = get(api, sandbox, shell.exec_id)
    assert state["pty"] == {"rows": 24, "cols": 80} and state["timeout_seconds"] is None
    assert state["stderr"] == "" and "xterm-256color 42" in state["stdout"]


def test_everything_is_one_terminal_and_its_own(api, sandbox):
    with Terminal(api, sandbox, "ls -l /proc/self/fd; grep -c . /proc/self/stat; echo oops >&2; cat < /dev/tty", stdin="typed first\n") as one:
        assert one.until("typed first")
        assert one.until("oops\r\n")
        with Terminal(api, sandbox, "tty; test -t 0 && test -t 1 && test -t 2 && echo all") as two:
            events = list(two)
        assert output(events) == ("/dev/pts/1\r\nall\r\n", "")
    assert api.exec(sandbox, "tty")["stdout"] == "not a tty\n"
    # The sandbox's own devpts: nothing of the host's, and nothing is left of those that have ended.
    assert settle(lambda: set(api.sh(sandbox, "ls /dev/pts").split()) == {"ptmx"})


def test_term_may_be_chosen(api, sandbox):
    def term(sandbox, **fields):
        with Terminal(api, sandbox, "echo $TERM", **fields) as terminal:
            return output(list(terminal))[0].strip()

    assert term(sandbox) == "xterm-256color"
    assert term(sandbox, env={"TERM": "vt100"}) == "vt100"
    assert term(api.create(env={"TERM": "linux"})["id"]) == "linux"
    assert api.sh(sandbox, "echo $TERM") == "dumb\n"


def test_the_last_output_is_all_there(api, sandbox):
    for _ in range(5):
        with Terminal(api, sandbox, "seq 3000; sleep 20 & exit 3") as terminal:
            events = list(terminal)
        assert output(events)[0] == "".join(f"{n}\r\n" for n in range(1, 3001)) and events[-1]["exit_code"] == 3


def test_a_slow_reader_slows_a_terminal_as_well(api, sandbox, emulator):
    command = "i=0; while [ $i -lt 100000 ]; do seq 1000; i=$((i+1)); echo $i >> /tmp/count; done"
    with Terminal(api, sandbox, command, receive_buffer=65536) as terminal:
        next(terminal)
        before = emulator.daemon_rss_kb()
        slow.pause(1.5)
        stuck = int(api.sh(sandbox, "tail -n 1 /tmp/count"))
        time.sleep(0.3)
        assert int(api.sh(sandbox, "tail -n 1 /tmp/count")) == stuck and stuck * 4000 < 4 << 20
        assert emulator.daemon_rss_kb() - before < 4096
    assert get(api, sandbox, terminal.exec_id)["state"] in ("running", "ended")
    assert settle(lambda: get(api, sandbox, terminal.exec_id)["reason"] == "terminated")


def test_a_terminal_in_the_background_and_re_attached(api, sandbox):
    answer = api.post(exec_path(sandbox), {"command": ["sh"], "background": True, "pty": True, "env": {"PS1": "# "}})
    exec_id = answer.json["exec_id"]
    assert answer.status == 202 and answer.json["pty"] == {"rows": 24, "cols": 80}
    assert api.post(exec_path(sandbox, exec_id, "stdin"), {"data": "echo here$((1+1))\r"}).status == 200
    with Stream.attach(api, sandbox, exec_id) as stream:
        assert stream.until("here2\r\n")
        seen = stream.ids[-1]
    assert api.post(exec_path(sandbox, exec_id, "stdin"), {"data": "echo again; exit\r"}).status == 200
    with Stream.attach(api, sandbox, exec_id, after=seen) as stream:
        events = list(stream)
    assert "again\r\n" in output(events)[0] and "here2" not in output(events)[0] and events[-1]["exit_code"] == 0


# --- full-screen programs -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def screen_binary(compiled) -> bytes:
    return compiled("screen.c", "-static").read_bytes()


def test_resize_is_seen_and_signalled(api, sandbox, screen_binary):
    api.put_file(sandbox, "/tmp/screen", screen_binary, "0755")
    with Terminal(api, sandbox, ["/tmp/screen"], 10, 40) as terminal:
        screen = Screen(10, 40)
        watch(terminal, screen, lambda lines: lines[1] == "| size 10x40" + " " * 27 + "|")
        assert all(line[0] == "|" and line[-1] == "|" and len(line) == 40 for line in screen.lines)
        terminal.type("ü\x1b")
        watch(terminal, screen, lambda lines: "key <c3>key <bc>key <1b>" in lines[2])
        answer = terminal.resize(17, 63)
        assert answer.status == 200 and answer.json == {"exec_id": terminal.exec_id, "rows": 17, "cols": 63}
        screen = Screen(17, 63)
        watch(terminal, screen, lambda lines: "size 17x63" in lines[1] and lines[16].endswith("|"))
        assert get(api, sandbox, terminal.exec_id)["pty"] == {"rows": 17, "cols": 63}
        terminal.type("q")
        events = list(terminal)
    assert output(events)[0].endswith("bye from xterm-256color\r\n") and events[-1]["exit_code"] == 7
    check_error(terminal.resize(5, 5), 409, "exec_ended")


def test_less(api, sandbox):
    install(api, sandbox, "less")
    api.put_file(sandbox, "/tmp/text", "".join(f"line {n} grüße\n" for n in range(1, 201)).encode())
    with Terminal(api, sandbox, ["less", "/tmp/text"], 12, 50, env={"LESS": "", "LESSCHARSET": "utf-8"}) as terminal:
        screen = Screen(12, 50)
        watch(terminal, screen, lambda lines: lines[:11] == [f"line {n} grüße" for n in range(1, 12)] and lines[11] == "/tmp/text")
        terminal.type(" ")
        watch(terminal, screen, lambda lines: lines[:11] == [f"line {n} grüße" for n in range(12, 23)] and lines[11] == ":")
        terminal.type("G")
        watch(terminal, screen, lambda lines: lines[10] == "line 200 grüße" and "(END)" in lines[11])
        terminal.type("g/line 42 \r")
        watch(terminal, screen, lambda lines: lines[0] == "line 42 grüße" and lines[10] == "line 52 grüße")
        terminal.resize(20, 50)
        screen = Screen(20, 50)
        watch(terminal, screen, lambda lines: lines[0] == "line 42 grüße" and lines[18] == "line 60 grüße")
        terminal.type("q")
        events = list(terminal)
    assert events[-1]["exit_code"] == 0


def test_vi_edits_a_file(api, sandbox):
    install(api, sandbox, "vi")
    with Terminal(api, sandbox, ["vi", "-u", "NONE", "-n", "/tmp/note"], 15, 60) as terminal:
        screen = Screen(15, 60)
        watch(terminal, screen, lambda lines: '"/tmp/note" [New' in lines[14] and lines[1] == "~")
        terminal.type("ihello wörld\x1b")
        watch(terminal, screen, lambda lines: lines[0] == "hello wörld")
        terminal.type("yyp")
        watch(terminal, screen, lambda lines: lines[:2] == ["hello wörld"] * 2)
        terminal.type(":wq\r")
        events = list(terminal)
    assert events[-1]["exit_code"] == 0
    assert api.sh(sandbox, "cat /tmp/note") == "hello wörld\nhello wörld\n"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("pty, field", [
    ({"rows": 0, "cols": 80}, "rows"), ({"rows": 24, "cols": 10001}, "cols"), ({"rows": "x"}, "rows"), ("yes", "pty"), ([24, 80], "pty"),
])  # fmt: skip
def test_bad_sizes(api, sandbox, pty, field):
    check_invalid(api.post(exec_path(sandbox), {"command": "true", "pty": pty}), field)


def test_resize_needs_a_terminal_and_a_size(api, sandbox):
    answer = api.post(exec_path(sandbox), {"command": "sleep 30", "background": True})
    exec_id = answer.json["exec_id"]
    check_error(api.post(exec_path(sandbox, exec_id, "resize"), {"rows": 5, "cols": 5}), 409, "not_a_terminal")
    for body, field in (({}, "rows"), ({"rows": 5}, "cols"), ({"rows": 5, "cols": None}, "cols"), ({"rows": True, "cols": 5}, "rows")):
        check_invalid(api.post(exec_path(sandbox, exec_id, "resize"), body), field)


def test_a_false_pty_is_none(api, sandbox):
    assert api.exec(sandbox, "tty", pty=False)["stdout"] == "not a tty\n"
    assert api.exec(sandbox, "tty", pty=True)["stdout"] == "/dev/pts/0\r\n"
