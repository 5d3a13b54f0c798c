"""Real clients stream an exec to its end: http.client, httpx, Node's fetch, curl -N, and HTTP/1.0. Each is
given output that comes slowly, in many sizes and with characters that must not be split."""

import http.client
import json
import shutil
import subprocess
import sys

import pytest

from conftest import HERE, cannot_run
from harness.stream import Stream, output
from harness.wire import raw_exchange
from test_readme import node  # noqa: F401  (a fixture)

COMMAND = "for i in 1 2 3; do printf 'tick %s ✓' $i; sleep 0.1; done; echo oops >&2; seq 20000; printf 'Ende: grüße\\n'; exit 3"
OUT = "tick 1 ✓tick 2 ✓tick 3 ✓" + "".join(f"{n}\n" for n in range(1, 20001)) + "Ende: grüße\n"


def check(events):
    assert output(events) == (OUT, "oops\n")
    assert [e["is_final"] for e in events].count(True) == 1 and events[-1]["is_final"]
    assert (events[-1]["exit_code"], events[-1]["data"]) == (3, "")
    assert all(isinstance(e["data"], str) for e in events)
    assert len(events) > 5, "it comes piece by piece"


def sse(text):
    """Server-Sent Events as the HTML standard reads them, without our own knowledge of their form."""
    events, data = [], []
    for line in text.split("\n"):
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            events.append(json.loads("\n".join(data)))
            data = []
    assert not data
    return events


@pytest.mark.parametrize("ndjson", [False, True])
def test_http_client(api, sandbox, ndjson):
    with Stream(api, sandbox, COMMAND, ndjson=ndjson) as stream:
        check(list(stream))


def test_http_client_keeps_its_connection(api, sandbox, emulator):
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=30)
    headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
    for n in range(3):
        body = json.dumps({"command": f"echo {n}; exit {n}", "stream": True})
        connection.request("POST", f"/v1/sandboxes/{sandbox}/exec", body, headers)
        events = sse(connection.getresponse().read().decode())
        assert (output(events)[0], events[-1]["exit_code"]) == (f"{n}\n", n)
    connection.close()


HTTPX = """
import json, sys, time
try:
    import httpx
except ImportError:
    sys.exit(77)
url, key, command = sys.argv[1:]
events, times = [], []
with httpx.Client(headers={"Authorization": "Bearer " + key}, timeout=30) as client:
    for accept in ("text/event-stream", "application/x-ndjson"):
        with client.stream("POST", url, json={"command": command}, headers={"Accept": accept}) as response:
            response.raise_for_status()
            assert response.headers["x-exec-id"].startswith("exe_")
            for line in response.iter_lines():
                line = line.rstrip("\\n")
                if line.startswith("data: ") or line.startswith("{"):
                    events.append(json.loads(line.removeprefix("data: ")))
                    times.append(time.monotonic())
    again = client.get(url + "/" + response.headers["x-exec-id"]).json()
assert times[len(times) // 2] - times[0] > 0.25, "it came all at once"
print(json.dumps([events, again["state"]]))
"""


def test_httpx(api, sandbox, emulator):
    url = f"http://127.0.0.1:{emulator.port}/v1/sandboxes/{sandbox}/exec"
    done = None
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3")):
        done = subprocess.run([python, "-c", HTTPX, url, api.key, COMMAND], capture_output=True, text=True, timeout=60)
        if done.returncode != 77:
            break
    if done.returncode == 77:
        cannot_run("no httpx here: apt-get install python3-httpx")
    assert done.returncode == 0, done.stderr
    events, state = json.loads(done.stdout)
    half = [e["is_final"] for e in events].index(True) + 1
    check(events[:half])
    check(events[half:])
    assert state == "ended"


def test_curl(api, sandbox, emulator):
    if not shutil.which("curl"):
        cannot_run("curl is not here")
    url = f"http://127.0.0.1:{emulator.port}/v1/sandboxes/{sandbox}/exec/stream"
    base = ["curl", "-sSN", "--fail-with-body", "-H", f"Authorization: Bearer {api.key}", "-H", "Content-Type: application/json"]
    done = subprocess.run([*base, "-d", json.dumps({"command": COMMAND}), url], capture_output=True, timeout=60)
    assert done.returncode == 0, done
    check(sse(done.stdout.decode()))
    # -N: each piece is there when it was written.
    slow = subprocess.Popen([*base, "-d", json.dumps({"command": "echo first; sleep 20"}), url], stdout=subprocess.PIPE)
    try:
        assert slow.stdout.readline().startswith(b"id: ")
        assert json.loads(slow.stdout.readline().removeprefix(b"data: "))["data"] == "first\n"
    finally:
        slow.kill()
        slow.wait()
        slow.stdout.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_http_1_0(api, sandbox, emulator, accept):
    """No chunks there: the stream ends with the connection, and has nothing else in it."""
    body = json.dumps({"command": COMMAND}).encode()
    head = (
        f"POST /v1/sandboxes/{sandbox}/exec HTTP/1.0\r\nAuthorization: Bearer {api.key}\r\nAccept: {accept}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    received = raw_exchange(emulator.port, head + body, timeout=20)
    headers, _, text = received.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.") and b" 200 " in headers.split(b"\r\n")[0]
    assert b"transfer-encoding" not in headers.lower() and b"x-exec-id: exe_" in headers.lower()
    text = text.decode()
    check(sse(text) if accept == "text/event-stream" else [json.loads(line) for line in text.splitlines()])


def test_node_fetch(node, api, sandbox, emulator):  # noqa: F811
    """fetch in Node: a stream, one that is left and taken up again, and a shell on a terminal."""
    done = subprocess.run(
        [node, str(HERE / "js" / "exec_stream.mjs"), f"http://127.0.0.1:{emulator.port}", api.key, sandbox, COMMAND],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    check(result["streamed"])
    assert result["streamed_ms"] > 250, "it came all at once"
    assert output(result["resumed"])[0] == "".join(f"line {n}\n" for n in range(1, 301))
    ids = [e["seq"] for e in result["resumed"]]
    assert ids == sorted(set(ids)) and result["resumed"][-1]["exit_code"] == 4
    assert "42" in result["terminal"] and result["terminal_exit"] == 9
