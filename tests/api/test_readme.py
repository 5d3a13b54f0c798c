"""Every piece of code in both SDKs' READMEs, as it stands there, against the emulator with the real templates."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import HERE, cannot_run

# What the reader of a piece has at hand by then: the import, a sandbox, the files it names.
PYTHON_SBX = """
sbx = Sandbox.create(template="python-3.12")
sbx.files.write("/workspace/main.py", "print('main ran')")
sbx.files.write("/workspace/long_task.py", "import sys\\nprint('to out')\\nprint('to err', file=sys.stderr)")
sbx.files.write("/workspace/out.txt", "out of a run")
"""
JS_SBX = """
const sbx = await Sandbox.create({ template: "python-3.12" });
await sbx.files.write("/workspace/main.py", "print('main ran')");
await sbx.files.write("/workspace/long_task.py", "import sys\\nprint('to out')\\nprint('to err', file=sys.stderr)");
await sbx.files.write("/workspace/out.txt", "out of a run");
"""
NO_SBX = {"quickstart", "create", "pause", "limits"}  # they make their own, or need none

# What a piece must leave in its variables, and print; checked after it with these lines.
PYTHON_AFTER = {
    "create": "assert sbx.id.startswith('sbx_') and sbx.status == 'running'",
    "run": "assert (result.stdout, result.stderr, result.exit_code) == ('main ran\\n', '', 0)\n"
    "assert type(result.duration_ms) is int",
    "files": "assert content == 'out of a run' and raw == b'\\0\\1\\2' and type(raw) is bytes\n"
    "assert sbx.files.read('/workspace/data.json') == '{\"x\": 1}'\n"
    "assert 'out.txt' not in [e.name for e in sbx.files.list('/workspace')]",
    "pause": "assert sbx.id == sandbox_id and sbx.status == 'running'\n"
    "assert sbx.exec('echo back').stdout == 'back\\n'",
    "terminate": "assert sbx.status == 'terminated'",
}
JS_AFTER = {
    "create": "assert(sbx.id.startsWith('sbx_') && sbx.status === 'running')",
    "limits": "assert(limits.allowedSizes.includes('small') && limits.usageResetsAt instanceof Date && limits.sizes.length === 3)",
    "metrics": "assert(m.sandboxStatus === 'running' && m.samples.every((s) => s.t instanceof Date))",
    "run": "assert(result.stdout === 'main ran\\n' && result.stderr === '' && result.exitCode === 0);\n"
    "assert(Number.isInteger(result.durationMs))",
    "files": "assert(content === 'out of a run' && raw instanceof Uint8Array && raw.join() === '0,1,2');\n"
    "assert(!(await sbx.files.list('/workspace')).some((e) => e.name === 'out.txt'))",
    "pause": "assert(resumed.id === sandboxId && resumed.status === 'running');\n"
    "assert((await resumed.exec('echo back')).stdout === 'back\\n')",
    "terminate": "assert(sbx.status === 'terminated')",
}
PRINTS = {
    "quickstart": r"499999500000\n\n\d+\n",
    "create": r"sbx_[0-9A-Z]{26}\nrunning\n",
    "stream": r"to out\n",
    "list": r"sbx_[0-9A-Z]{26} python-3\.12 20\d\d-.*\n",
    "limits": r"small 0\.5 512 true\nmedium 2 4096 true\nlarge 4 8192 true\n",
}
FILES_PRINT = {"blob.bin": 3, "data.json": 8, "long_task.py": 59, "main.py": 17, "out.txt": 12}


def pieces(path, mark) -> dict[str, str]:
    parts = re.split(rf"(?m)^{re.escape(mark)} --- (\w+)\n", path.read_text())
    return dict(zip(parts[1::2], parts[2::2]))


PYTHON = pieces(HERE / "readme_snippets_python.py", "#")
JS = pieces(HERE / "readme_snippets_js.mjs", "//")


def need_what_it_shows(request, api, piece) -> None:
    """One of them pauses, and makes a sandbox with a network."""
    if piece != "pause":
        return
    request.getfixturevalue("freezer")
    answer = api.post("/v1/sandboxes", {"template": "node-22", "network": "restricted"})
    if answer.json.get("code") == "network_unavailable":
        cannot_run(answer.json["detail"])
    api.delete(f"/v1/sandboxes/{answer.json['id']}")


def check_output(piece, done) -> None:
    assert done.returncode == 0, done.stderr
    if piece == "files":
        printed = {line.split()[0]: int(line.split()[2]) for line in done.stdout.splitlines()}
        assert printed == FILES_PRINT, done.stdout
    elif piece in PRINTS:
        assert re.fullmatch(PRINTS[piece], done.stdout), done.stdout
    if piece == "stream":
        assert done.stderr == "to err\n"


@pytest.mark.parametrize("piece", PYTHON)
def test_python(request, real_api, real_sdk, tmp_path, piece):
    need_what_it_shows(request, real_api, piece)
    before = "" if piece == "quickstart" else "import sys\nfrom orkestr import Sandbox\n"
    before += "" if piece in NO_SBX else PYTHON_SBX
    script = tmp_path / f"{piece}.py"
    script.write_text(before + PYTHON[piece] + "\n" + PYTHON_AFTER.get(piece, ""))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(HERE)}
    )
    check_output(piece, done)
    if piece == "quickstart":
        assert [row["status"] for row in real_api.get("/v1/sandboxes").json["sandboxes"]] == ["terminated"]


@pytest.fixture(scope="session")
def node():
    path = os.environ.get("NODE") or shutil.which("node")
    if not path:
        cannot_run("node is not here: apt-get install nodejs (18 or later)")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 18:
        cannot_run(f"node is {version.strip()}, 18 or later is needed")
    return path


@pytest.fixture(scope="session")
def js_project(scratch):
    """A folder in which `import ... from "orkestr"` finds our client, as after npm install."""
    package = scratch / "js" / "node_modules" / "orkestr"
    package.mkdir(parents=True)
    shutil.copy(HERE / "js" / "orkestr.mjs", package / "orkestr.mjs")
    (package / "package.json").write_text(json.dumps({"name": "orkestr", "type": "module", "exports": "./orkestr.mjs"}))
    return scratch / "js"


@pytest.mark.parametrize("piece", JS)
def test_javascript(request, real_api, real_sdk, node, js_project, piece):
    need_what_it_shows(request, real_api, piece)
    before = "" if piece == "quickstart" else 'import { Sandbox } from "orkestr";\n'
    before += 'import assert from "node:assert";\n'
    before += "" if piece in NO_SBX else JS_SBX
    script = js_project / f"{piece}.mjs"
    script.write_text(before + JS[piece] + "\n" + JS_AFTER.get(piece, ""))
    done = subprocess.run([node, str(script)], capture_output=True, text=True, timeout=120)
    check_output(piece, done)
    if piece == "quickstart":
        assert [row["status"] for row in real_api.get("/v1/sandboxes").json["sandboxes"]] == ["terminated"]


# --- what the templates promise -------------------------------------------------------------------

PROMISES = [
    ("python-3.12", "python -c 'import sys; print(sys.version_info[:2])'", r"\(3, 12\)\n"),
    ("python-3.12", "python3 -m pip --version", r"pip .*\n"),
    ("python-3.12", "pip --version", r"pip .*\n"),
    ("python-3.12", "python -c 'import ssl, sqlite3, ctypes, json, zlib, hashlib; print(\"ok\")'", r"ok\n"),
    ("python-3.12-bare", "python -c 'import sys; print(sys.version_info[:2])'", r"\(3, 12\)\n"),
    ("node-22", "node --version", r"v22\..*\n"),
    ("node-22", "npm --version", r"\d+\..*\n"),
    ("ubuntu-24.04", "bash -c 'echo $((1+1))'", r"2\n"),
    ("ubuntu-24.04", "apt-get --version | head -1", r"apt .*\n"),
    ("ubuntu-24.04", "id -un; dpkg --version | head -1", r"root\nDebian .*\n"),
]  # fmt: skip


@pytest.mark.parametrize("template, command, out", PROMISES, ids=lambda value: value[:24])
def test_templates_have_what_the_readmes_promise(real_api, template, command, out):
    answer = real_api.post("/v1/sandboxes", {"template": template})
    assert answer.status == 201, answer
    assert re.fullmatch(out, real_api.sh(answer.json["id"], command))


def test_the_bare_template_has_no_pip(real_api):
    sandbox = real_api.create(template="python-3.12-bare")["id"]
    assert real_api.exec(sandbox, "python -m pip --version")["exit_code"] != 0


def test_apt_works_inside_as_root(real_api, many_ids):
    """Without a network: dpkg's own work, with its ids, permissions and database."""
    sandbox = real_api.create(template="ubuntu-24.04")["id"]
    real_api.sh(
        sandbox,
        "set -e; mkdir -p p/DEBIAN p/opt/hello; echo hi > p/opt/hello/hi; chown 33:33 p/opt/hello/hi;"
        " printf 'Package: hello-x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n' > p/DEBIAN/control;"
        " dpkg-deb --build p hello.deb > /dev/null; dpkg -i hello.deb > /dev/null; dpkg -s hello-x > /dev/null",
        timeout_seconds=120,
    )
    assert real_api.sh(sandbox, "stat -c %u /opt/hello/hi; apt-get -qq remove -y hello-x > /dev/null; ls -d /opt/hello 2>/dev/null || true").strip() == "33"


@pytest.mark.parametrize("template", ["python-3.12", "python-3.12-bare", "node-22", "ubuntu-24.04"])
def test_a_stand_in_is_declared(binary, real_state, real_api, template):
    from harness.emulator import run_json

    listed = run_json(binary, "template", "list", "--json", "--state-dir", str(real_state))
    rows = {row["name"]: row for row in (listed["templates"] if isinstance(listed, dict) else listed)}
    answer = real_api.post("/v1/sandboxes", {"template": template})
    assert answer.status == 201, answer
    assert ("template-stand-in" in answer.divergences) == bool(rows[template].get("stand_in")), rows[template]
    if "Ubuntu 24.04" not in rows[template]["distribution"] and template == "ubuntu-24.04":
        assert rows[template]["stand_in"]
