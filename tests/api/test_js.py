"""The JavaScript client's own tests (js/*.test.mjs), run by node's runner against an emulator."""

import os
import re
import subprocess

from conftest import HERE
from test_readme import node  # noqa: F401  (a fixture)


def test_node(node, new_emulator, closing_lines, request):  # noqa: F811
    emulator = new_emulator("--auth", "any", "--api-key", "ork_js_free:free")
    environment = {
        **os.environ,
        "ORKESTR_BASE_URL": f"http://127.0.0.1:{emulator.port}",
        "ORKESTR_API_KEY": "ork_key_js",
        "ORKESTR_TEST_KEY_FREE": "ork_js_free",
    }
    files = sorted(str(path) for path in (HERE / "js").glob("*.test.mjs"))
    done = subprocess.run(
        [node, "--test", *files], capture_output=True, text=True, timeout=180, env=environment, cwd=HERE / "js"
    )
    out = done.stdout + done.stderr
    counts = re.findall(r"(?m)^(?:#|ℹ) (tests|pass|fail|skipped) (\d+)", out)
    closing_lines.append("node --test: " + ", ".join(f"{name} {number}" for name, number in counts))
    for reason in re.findall(r"(?:# SKIP|﹣).*", out):
        closing_lines.append(f"  node skip {reason}")
    assert done.returncode == 0, out[-6000:]
    assert dict(counts).get("fail") == "0", out
    emulator.audit()
