"""The Python README's quick start and API walk, shown call by call as an interpreter would show it.

Each step is source text that is printed and then run as it stands, and a check that must hold; the first
one that fails ends the walk with exit code 1. Needs ORKESTR_BASE_URL and ORKESTR_API_KEY.
"""

import ast
import contextlib
import io
import sys
import time
import traceback

import orkestr

TTY = sys.stdout.isatty()
BOLD, DIM, CYAN, GREEN, RED, OFF = ("\033[1m", "\033[2m", "\033[36m", "\033[32m", "\033[31m", "\033[0m") if TTY else [""] * 6

# What a server that lacks a route, or a feature behind one, answers.
NOT_THERE = (404, 405, 501)


class Tee(io.StringIO):
    """Shows output as it comes, indented, and keeps it for the check."""

    def __init__(self, real):
        super().__init__()
        self.real = real
        self.fresh = True

    def write(self, text):
        for line in text.splitlines(keepends=True):
            self.real.write(("    " if self.fresh else "") + line)
            self.fresh = line.endswith("\n")
        self.real.flush()
        return super().write(text)


def show_source(source):
    starts = {statement.lineno for statement in ast.parse(source).body}
    for number, line in enumerate(source.split("\n"), 1):
        print(f"{CYAN}{'>>>' if number in starts else '...'} {line}{OFF}")


def run_source(source, space):
    """Runs it; the value of a last expression is shown, as an interpreter does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<demo>", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<demo>", "eval"), space)
        space["_"] = value
        if value is not None:
            print(repr(value))


def step(space, source, check, optional=False):
    show_source(source)
    tee = Tee(sys.stdout)
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(tee):
            run_source(source, space)
    except orkestr.OrkestrError as error:
        if optional and error.status in NOT_THERE and not isinstance(error, orkestr.SandboxNotFound):
            print(f"{DIM}    not in this version of the emulator: {error} ({error.status}){OFF}\n")
            return
        raise
    took = (time.monotonic() - start) * 1000
    if not tee.fresh:
        print()
    space["shown"] = tee.getvalue()
    if not eval(check, space):
        raise AssertionError(f"this does not hold: {check}")
    print(f"{GREEN}    ok{OFF}{DIM}, {took:.0f} ms{OFF}\n")


QUICK_START = [
    ("from orkestr import Sandbox", "True"),
    (
        'with Sandbox.create(template="python-3.12") as sbx:\n'
        '    sbx.files.write("/workspace/main.py", "print(sum(range(1_000_000)))")\n'
        '    result = sbx.exec("python /workspace/main.py")\n'
        "    print(result.stdout)        # 499999500000\n"
        "    print(result.duration_ms)   # ~120",
        'result.stdout == "499999500000\\n" and result.exit_code == 0 and sbx.status == "terminated"',
    ),
]

WALK = [
    (
        "sbx = Sandbox.create(\n"
        '    template="python-3.12",\n'
        "    cpu=1.0, memory_mb=2048,\n"
        '    network="off",\n'
        "    timeout_seconds=600,\n"
        '    env={"GREETING": "hello from the sandbox"},\n'
        '    metadata={"agent_run": "r_123"},\n'
        '    region="fsn1",\n'
        ")\n"
        "sbx.id, sbx.status",
        'sbx.id.startswith("sbx_") and sbx.status == "running"',
    ),
    (
        'result = sbx.exec("echo $GREETING; python --version; id -un; nproc; ls / | wc -l; exit 3")\n'
        'print(result.stdout, end="")\n'
        "result.exit_code",
        'result.exit_code == 3 and result.stdout.startswith("hello from the sandbox\\nPython 3.12.")',
    ),
    (
        'sbx.files.write("/workspace/data.json", \'{"x": 1}\')\n'
        'sbx.files.write_bytes("/workspace/blob.bin", b"\\x00\\x01\\x02")\n'
        'sbx.files.read("/workspace/data.json")',
        "_ == '{\"x\": 1}'",
    ),
    ('sbx.files.read_bytes("/workspace/blob.bin")', '_ == b"\\x00\\x01\\x02"'),
    (
        'for entry in sbx.files.list("/workspace"):\n    print(entry.name, entry.is_dir, entry.size)',
        '"blob.bin False 3" in shown and "data.json False 8" in shown',
    ),
    (
        'sbx.files.delete("/workspace/blob.bin")\n[entry.name for entry in sbx.files.list("/workspace")]',
        '_ == ["data.json"]',
    ),
    (
        'sbx.files.write("/workspace/long_task.py", """\n'
        "import time\n"
        "for i in range(3):\n"
        '    print("step", i, flush=True)\n'
        "    time.sleep(0.2)\n"
        '""")\n'
        'for chunk in sbx.exec_stream("python /workspace/long_task.py"):\n'
        '    print(chunk.data, end="", flush=True)',
        'shown == "step 0\\nstep 1\\nstep 2\\n" and chunk.is_final and chunk.exit_code == 0',
        True,
    ),
    (
        "try:\n"
        '    sbx.exec("sleep 30", timeout_seconds=1)\n'
        "except orkestr.ExecTimeout as error:\n"
        '    print("ExecTimeout:", error)',
        'shown.startswith("ExecTimeout")',
    ),
    (
        'with Sandbox.create(template="node-22") as other:\n'
        '    print(other.exec("node --version").stdout, end="")\n'
        '    print([s.template for s in Sandbox.list(status="running")])',
        'shown.startswith("v22.") and "[\'node-22\', \'python-3.12\']" in shown',
    ),
    (
        "sandbox_id = sbx.pause()\nsbx = Sandbox.resume(sandbox_id)\nsbx.status",
        '_ == "running"',
        True,
    ),
    (
        'sbx.terminate()\n[(s.id, s.status) for s in Sandbox.list()]',
        "(sbx.id, 'terminated') in _ and all(status == 'terminated' for _id, status in _)",
    ),
    (
        "try:\n"
        '    sbx.exec("true")\n'
        "except orkestr.SandboxNotReady as error:\n"
        '    print("SandboxNotReady:", error)',
        'shown.startswith("SandboxNotReady")',
    ),
]


def main():
    space = {"orkestr": orkestr}
    try:
        for title, steps in (("README, Quick start", QUICK_START), ("README, API", WALK)):
            print(f"{BOLD}-- {title}{OFF}")
            for args in steps:
                step(space, *args)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f" (line {f.lineno} of the step)" for f in reversed(frames) if f.filename == "<demo>"), "")
        print(f"{RED}    FAILED{where}: {type(error).__name__}: {error}{OFF}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
