"""The Model Context Protocol: a plain JSON-RPC client over HTTP, as an agent's would be, and a hostile one."""

from __future__ import annotations

import base64
import json
import time

import pytest

from harness.wire import check_error, raw_exchange, status_of_raw

VERSIONS = ["2025-03-26", "2025-06-18", "2025-11-25"]
BOTH = "application/json, text/event-stream"
PATHS = ["/mcp", "/api/sandboxes/mcp"]
TOOLS = {
    "create_sandbox", "list_sandboxes", "get_sandbox", "terminate_sandbox", "exec_command", "write_file", "read_file",
    "pause_sandbox", "resume_sandbox", "get_sandbox_limits",
}  # fmt: skip


class Client:
    def __init__(self, api, path="/mcp"):
        self.api, self.path, self.last = api, path, 0

    def post(self, message, *, accept=BOTH, raw=None, **headers):
        sent = {"Content-Type": "application/json", "Accept": accept, **{k.replace("_", "-"): v for k, v in headers.items()}}
        payload = raw if raw is not None else json.dumps(message).encode()
        return self.api.post(self.path, raw=payload, headers={k: v for k, v in sent.items() if v is not None}, timeout=60)

    def request(self, method, params=None, **more):
        self.last += 1
        message = {"jsonrpc": "2.0", "id": self.last, "method": method}
        if params is not None:
            message["params"] = params
        answer = self.post(message, **more)
        assert answer.status == 200 and answer.headers["content-type"] == "application/json", answer
        assert answer.json["jsonrpc"] == "2.0" and answer.json["id"] == self.last, answer
        return answer.json

    def result(self, method, params=None, **more):
        answer = self.request(method, params, **more)
        assert "error" not in answer, answer
        return answer["result"]

    def call(self, tool, failed=False, **arguments):
        result = self.result("tools/call", {"name": tool, "arguments": arguments})
        assert result["isError"] is failed, result
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        assert result["content"][0]["type"] == "text" and len(result["content"]) == 1
        return result["structuredContent"]


@pytest.fixture
def mcp(api):
    return Client(api)


# --- an agent's session ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", VERSIONS)
def test_initialize(api, path, version):
    mcp = Client(api, path)
    result = mcp.result(
        "initialize",
        {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    )
    assert result["protocolVersion"] == version and "tools" in result["capabilities"], result
    assert result["serverInfo"]["name"] == "orkestr-emulator" and result["serverInfo"]["version"]
    answer = mcp.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, MCP_Protocol_Version=version)
    assert answer.status == 202 and answer.body == b"", answer
    assert "mcp-session-id" not in answer.headers
    assert mcp.result("ping", MCP_Protocol_Version=version) == {}


def test_an_unknown_revision_gets_the_newest(mcp):
    for version in ("1999-01-01", 7, None):
        assert mcp.result("initialize", {"protocolVersion": version})["protocolVersion"] == VERSIONS[-1]


def test_ten_tools_with_schemas(mcp):
    tools = {tool["name"]: tool for tool in mcp.result("tools/list")["tools"]}
    assert set(tools) == TOOLS
    for tool in tools.values():
        schema = tool["inputSchema"]
        assert tool["description"] and schema["type"] == "object" and set(schema["required"]) <= set(schema["properties"])
        assert all(member["description"] for member in schema["properties"].values())
        assert tool["annotations"]["readOnlyHint"] in (True, False)
    create = tools["create_sandbox"]["inputSchema"]
    assert create["required"] == ["template"]
    assert create["properties"]["network"]["enum"] == ["off", "restricted", "open"]
    assert (create["properties"]["timeout_seconds"]["minimum"], create["properties"]["timeout_seconds"]["maximum"]) == (10, 3600)
    assert tools["exec_command"]["inputSchema"]["required"] == ["sandbox_id", "command"]
    assert tools["get_sandbox_limits"]["inputSchema"]["properties"] == {}
    assert "nextCursor" not in mcp.result("tools/list")


def test_a_whole_session(mcp, api, freezer):
    limits = mcp.call("get_sandbox_limits")
    assert limits == api.get("/v1/sandboxes/limits").json
    row = mcp.call("create_sandbox", template="tiny", metadata={"by": "agent"}, env={"A": "1"})
    sandbox = row["id"]
    assert row["status"] == "running" and api.status_of(sandbox) == "running"
    written = mcp.call("write_file", sandbox_id=sandbox, path="/workspace/a b/é.sh", content="echo $A $1 ☃\n", mode="0755")
    assert written["size"] == 15 and written["mode"] == "0755"
    ran = mcp.call("exec_command", sandbox_id=sandbox, command=["sh", "/workspace/a b/é.sh", "x"])
    assert (ran["stdout"], ran["exit_code"]) == ("1 x ☃\n", 0)
    ran = mcp.call("exec_command", sandbox_id=sandbox, command="cat; pwd; exit 3", stdin="in ", cwd="/tmp", timeout_seconds=10)
    assert (ran["stdout"], ran["exit_code"]) == ("in /tmp\n", 3), "a command that fails is no error of the tool"
    read = mcp.call("read_file", sandbox_id=sandbox, path="/workspace/a b/é.sh")
    assert (read["content"], read["encoding"]) == ("echo $A $1 ☃\n", "utf-8")
    mcp.call("write_file", sandbox_id=sandbox, path="/workspace/bin", content=base64.b64encode(b"\xff\0").decode(), encoding="base64")
    read = mcp.call("read_file", sandbox_id=sandbox, path="/workspace/bin")
    assert (base64.b64decode(read["content"]), read["encoding"]) == (b"\xff\0", "base64")
    listed = mcp.call("read_file", sandbox_id=sandbox, path="/workspace", limit=1)
    assert listed["is_dir"] and [entry["name"] for entry in listed["entries"]] == ["a b"], listed
    assert [r["id"] for r in mcp.call("list_sandboxes", status="running", limit=5)["sandboxes"]] == [sandbox]
    assert mcp.call("pause_sandbox", sandbox_id=sandbox)["status"] == "paused"
    assert mcp.call("exec_command", True, sandbox_id=sandbox, command="true")["code"] == "sandbox_not_ready"
    assert mcp.call("resume_sandbox", sandbox_id=sandbox)["status"] == "running"
    assert mcp.call("get_sandbox", sandbox_id=sandbox)["metadata"] == {"by": "agent"}
    assert mcp.call("terminate_sandbox", sandbox_id=sandbox)["status"] == "terminated"
    assert api.status_of(sandbox) == "terminated"


def test_a_large_file_and_much_output(mcp, sandbox):
    text = "0123456789abcdef" * 65536  # 1 MiB
    assert mcp.call("write_file", sandbox_id=sandbox, path="/workspace/big", content=text)["size"] == 1 << 20
    assert mcp.call("read_file", sandbox_id=sandbox, path="/workspace/big")["content"] == text
    ran = mcp.call("exec_command", sandbox_id=sandbox, command="cat /workspace/big")
    assert ran["stdout"] == text
    body = mcp.call("exec_command", True, sandbox_id=sandbox, command="head -c 9000000 /dev/zero | tr '\\0' x")
    assert body["code"] == "payload_too_large"
    assert mcp.call("exec_command", sandbox_id=sandbox, command="echo still here")["stdout"] == "still here\n"


def test_a_custom_template(mcp, api):
    made = api.post("/v1/templates", {"name": "n", "base": "tiny", "steps": ["echo x > /opt/x"], "network": "off"}).json
    for _ in range(500):
        if api.get(f"/v1/templates/{made['id']}").json["status"] == "ready":
            break
        time.sleep(0.02)
    sandbox = mcp.call("create_sandbox", template=made["id"])["id"]
    assert mcp.call("exec_command", sandbox_id=sandbox, command="cat /opt/x")["stdout"] == "x\n"


def test_what_is_known_to_differ_is_in_the_result(mcp):
    result = mcp.result("tools/call", {"name": "create_sandbox", "arguments": {"template": "tiny", "colour": "red"}})
    assert result["_meta"]["orkestr-emulator/ignored-arguments"] == ["colour"]
    assert mcp.call("terminate_sandbox", sandbox_id=result["structuredContent"]["id"])


# --- errors ---------------------------------------------------------------------------------------


def test_errors_are_the_routes_own(mcp, api, sandbox):
    for tool, arguments, request in [
        ("get_sandbox", {"sandbox_id": "sbx_none"}, ("GET", "/v1/sandboxes/sbx_none", None)),
        ("create_sandbox", {"template": "none"}, ("POST", "/v1/sandboxes", {"template": "none"})),
        ("create_sandbox", {}, ("POST", "/v1/sandboxes", {})),
        ("create_sandbox", {"template": 7, "cpu": "x", "timeout_seconds": 1}, None),
        ("create_sandbox", {"template": "tiny", "size": "small", "cpu": 1}, None),
        ("exec_command", {"sandbox_id": sandbox}, ("POST", f"/v1/sandboxes/{sandbox}/exec", {})),
        ("exec_command", {"sandbox_id": sandbox, "command": "true", "cwd": "/none"}, None),
        ("write_file", {"sandbox_id": sandbox, "path": "rel", "content": ""}, None),
        ("write_file", {"sandbox_id": sandbox, "path": "/x", "content": "%%", "encoding": "base64"}, None),
        ("read_file", {"sandbox_id": sandbox, "path": "/none"}, None),
        ("list_sandboxes", {"limit": 0}, ("GET", "/v1/sandboxes?limit=0", None)),
    ]:
        body = mcp.call(tool, True, **arguments)
        if request is None:
            if tool == "read_file":
                request = ("GET", f"/v1/sandboxes/{sandbox}/files?path=/none", None)
            else:
                rest = {k: v for k, v in arguments.items() if k != "sandbox_id"}
                if tool == "write_file":
                    rest.setdefault("encoding", "utf-8")
                path = {"create_sandbox": "", "exec_command": f"/{sandbox}/exec", "write_file": f"/{sandbox}/files"}[tool]
                request = ("POST", f"/v1/sandboxes{path}", rest)
        answer = api.request(request[0], request[1], request[2])
        assert answer.status >= 400 and answer.json == body, (tool, arguments, body, answer)


def test_a_time_out_has_the_output_so_far(mcp, sandbox):
    body = mcp.call("exec_command", True, sandbox_id=sandbox, command="echo begun; sleep 60", timeout_seconds=1)
    assert body["code"] == "exec_timeout" and body["stdout"] == "begun\n"


def test_the_path_is_not_the_models_to_choose(mcp, api, sandbox):
    for wrong in ("../limits", f"{sandbox}/exec", "a?b=c", "%2e%2e", "x#y", "limits/", "\u0000", ""):
        assert mcp.call("get_sandbox", True, sandbox_id=wrong).get("code") in ("sandbox_not_found", "validation_error"), wrong
    for wrong in (None, 7, [], {"a": 1}):
        body = mcp.call("get_sandbox", True, sandbox_id=wrong)
        assert body["code"] == "validation_error" and body["detail"][0]["loc"] == ["path", "sandbox_id"]
    body = mcp.call("read_file", True, sandbox_id=sandbox, path=["/"])
    assert body["code"] == "validation_error" and body["detail"][0]["loc"] == ["query", "path"]
    assert mcp.call("read_file", True, sandbox_id=sandbox, path="/" + "x" * 9000)["code"] == "validation_error"


def test_scopes(new_emulator):
    emulator = new_emulator(
        "--api-key", "ork_read_0000000000000000:team:read",
        "--api-key", "ork_write_000000000000000:team:write",
        "--api-key", "ork_both_0000000000000000:free",
    )  # fmt: skip
    reader, writer, both = (
        Client(emulator.api(key))
        for key in ("ork_read_0000000000000000", "ork_write_000000000000000", "ork_both_0000000000000000")
    )
    assert reader.result("ping") == writer.result("ping") == {}
    assert len(writer.result("tools/list")["tools"]) == 10
    assert reader.call("get_sandbox_limits")["plan"] == "team"
    assert writer.call("get_sandbox_limits", True)["code"] == "insufficient_scope"
    for tool in ("create_sandbox", "terminate_sandbox", "exec_command", "write_file", "pause_sandbox", "resume_sandbox"):
        assert reader.call(tool, True, sandbox_id="sbx_1", template="tiny")["code"] == "insufficient_scope", tool
    for tool in ("list_sandboxes", "get_sandbox", "read_file", "get_sandbox_limits"):
        assert writer.call(tool, True, sandbox_id="sbx_1", path="/")["code"] == "insufficient_scope", tool
    sandbox = both.call("create_sandbox", template="tiny")["id"]
    assert both.call("create_sandbox", True, template="tiny")["code"] == "concurrent_limit"
    assert reader.call("get_sandbox", True, sandbox_id=sandbox)["code"] == "sandbox_not_found", "another account's"
    assert both.call("terminate_sandbox", sandbox_id=sandbox)["status"] == "terminated"
    for path in PATHS:
        check_error(emulator.api(None).post(path, {}), 401, "unauthorized")
        check_error(emulator.api("ork_wrong_0000000000000000").post(path, {}), 401, "unauthorized")


# --- the transport --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_only_post(api, path):
    for method in ("GET", "DELETE", "PUT"):
        answer = api.request(method, path, headers={"Accept": "text/event-stream"})
        assert answer.status == 405 and answer.headers["allow"] == "POST", answer


def test_accept(mcp):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for accept in (None, "*/*", "application/json", BOTH, "text/html, application/*;q=0.5"):
        answer = mcp.post(ping, accept=accept)
        assert answer.status == 200 and answer.headers["content-type"] == "application/json", accept
    answer = mcp.post([ping, {**ping, "id": "b"}], accept="text/event-stream")
    assert answer.status == 200 and answer.headers["content-type"] == "text/event-stream"
    events = [block.split("\n") for block in answer.body.decode().split("\n\n") if block]
    assert [lines[0] for lines in events] == ["event: message"] * 2
    assert [json.loads(lines[1].removeprefix("data: "))["id"] for lines in events] == [1, "b"]
    check_error(mcp.post(ping, accept="text/html"), 406, "not_acceptable")
    check_error(mcp.post(ping, Content_Type="text/plain"), 415, "unsupported_media_type")
    assert mcp.post(ping, Content_Type="application/json; charset=utf-8").status == 200
    assert mcp.post(ping, Content_Type=None).status == 200


def test_version_header(mcp):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for version in VERSIONS:
        assert mcp.post(ping, MCP_Protocol_Version=version).status == 200
    check_error(mcp.post(ping, MCP_Protocol_Version="1.0"), 400, "unsupported_protocol_version")


def test_a_session_id_is_neither_given_nor_needed(mcp):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    answer = mcp.post(ping, Mcp_Session_Id="whatever")
    assert answer.status == 200 and "mcp-session-id" not in answer.headers


def test_origin(mcp):
    """A page whose name was pointed at this machine has the right Host, and so an Origin that is not ours."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for origin in ("http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:1"):
        assert mcp.post(ping, Origin=origin).status == 200, origin
    for origin in (
        "http://evil.example", f"http://evil.example:{mcp.api.port}", "null", "", "http://localhost.evil.example",
        "http://127.0.0.1.evil.example", "file://localhost", "http://evil.example://localhost", "localhost",
    ):  # fmt: skip
        check_error(mcp.post(ping, Origin=origin), 403, "origin_not_allowed")


def test_batches(mcp, sandbox):
    def call(n, tool, **arguments):
        return {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}

    began = time.monotonic()
    answer = mcp.post(
        [
            call("slow", "exec_command", sandbox_id=sandbox, command="sleep 1; echo slow"),
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}},
            call("quick", "exec_command", sandbox_id=sandbox, command="sleep 1; echo quick"),
            {"jsonrpc": "2.0", "id": 3, "method": "nonsense"},
            {"jsonrpc": "2.0", "id": 9, "result": {}},
            {"jsonrpc": "1.0", "id": 4, "method": "ping"},
            7,
            {"jsonrpc": "2.0", "id": 5, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}},
            {"jsonrpc": "2.0", "id": 6, "method": "ping"},
        ]
    )
    assert answer.status == 200, answer
    by_id = {item["id"]: item for item in answer.json}
    assert len(answer.json) == 7 and set(by_id) == {"slow", "quick", 3, 4, None, 5, 6}
    assert by_id["slow"]["result"]["structuredContent"]["stdout"] == "slow\n"
    assert by_id["quick"]["result"]["structuredContent"]["stdout"] == "quick\n"
    assert [by_id[n]["error"]["code"] for n in (3, 4, None, 5)] == [-32601, -32600, -32600, -32600]
    assert by_id[6]["result"] == {}
    assert time.monotonic() - began < 30
    assert mcp.post([{"jsonrpc": "2.0", "method": "notifications/initialized"}] * 3).status == 202
    for wrong in ([], [{"jsonrpc": "2.0", "id": 1, "method": "ping"}] * 33):
        answer = mcp.post(wrong)
        assert answer.status == 400 and answer.json["error"]["code"] == -32600


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nonsense", b"{'jsonrpc':'2.0'}", b'{"jsonrpc":"2.0","id":1,"method":"ping"} x', b"\xff\xfe", b"[" * 5000,
     b'{"a":' * 40 + b"1" + b"}" * 40, b"[" + b"1," * 70000 + b"1]", b"\0"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_json(mcp, raw):
    answer = mcp.post(None, raw=raw)
    assert answer.status == 400, answer
    assert answer.json["jsonrpc"] == "2.0" and answer.json["id"] is None and answer.json["error"]["code"] == -32700


@pytest.mark.parametrize(
    "message",
    [
        7, "ping", None, {}, {"jsonrpc": "2.0"}, {"jsonrpc": "2.0", "id": 1}, {"jsonrpc": 2.0, "id": 1, "method": "ping"},
        {"id": 1, "method": "ping"}, {"jsonrpc": "2.0", "id": None, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, {"jsonrpc": "2.0", "id": {}, "method": "ping"},
        {"jsonrpc": "2.0", "id": [1], "method": "ping"}, {"jsonrpc": "2.0", "id": True, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": 7}, {"jsonrpc": "2.0", "id": 1, "method": None},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_message(mcp, message):
    answer = mcp.post(message)
    if message is None:
        assert answer.status == 400
        return
    assert answer.status == 400 and answer.json["error"]["code"] == -32600, answer


@pytest.mark.parametrize(
    "method, params, code",
    [
        ("nonsense", None, -32601), ("", None, -32601), ("tools/call\0", None, -32601), ("resources/list", {}, -32601),
        ("prompts/list", {}, -32601), ("x" * 100000, None, -32601), ("ping", [1], -32602), ("ping", "x", -32602),
        ("tools/list", {"cursor": "x"}, -32602), ("tools/call", None, -32602), ("tools/call", {}, -32602),
        ("tools/call", {"name": 7}, -32602), ("tools/call", {"name": "nonsense"}, -32602),
        ("tools/call", {"name": "get_sandbox", "arguments": []}, -32602),
        ("tools/call", {"name": "get_sandbox", "arguments": "x"}, -32602),
        ("tools/call", {"name": "☃" * 50}, -32602), ("tools/call", {"name": "get_sandbox_limits\0"}, -32602),
    ],
)  # fmt: skip
def test_errors_of_the_protocol(mcp, method, params, code):
    error = mcp.request(method, params)["error"]
    assert error["code"] == code and error["message"], error


def test_ids_come_back_as_they_were(mcp):
    for identity in ("a", "", "é\"\\", 0, -1, 2**53, "x" * 5000):
        assert mcp.post({"jsonrpc": "2.0", "id": identity, "method": "ping"}).json["id"] == identity


def test_a_body_that_is_too_large(mcp):
    answer = mcp.post(None, raw=b'{"x":"' + b"y" * (9 << 20) + b'"}')
    assert answer.status == 413, answer


def test_a_client_that_leaves_ends_its_command(mcp, api, emulator, sandbox):
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
               "params": {"name": "exec_command", "arguments": {"sandbox_id": sandbox, "command": "echo $$ > /tmp/pid; sleep 300"}}}  # fmt: skip
    body = json.dumps(message).encode()
    head = f"POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    received = raw_exchange(api.port, head.encode() + body, timeout=1.5, shut=False)
    assert status_of_raw(received) is None
    deadline = time.monotonic() + 20
    while api.exec(sandbox, "kill -0 $(cat /tmp/pid)")["exit_code"] == 0:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.1)
