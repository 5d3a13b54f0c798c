"""The emulator's own controls: faults, the journal, reset. Each exception of both READMEs is raised through the
SDK-shaped clients by a rule, and by the state that causes it where there is one."""

import http.client
import json
import time

import pytest

from harness.emulator import run
from harness.wire import check_error, check_invalid, raw_exchange

# What raises each of the READMEs' exceptions: a rule's words, and what the exception then says.
EXCEPTIONS = [
    ("AuthError", "code=unauthorized", 401),
    ("AuthError", "code=key_expired", 401),
    ("AuthError", "code=insufficient_scope", 403),
    ("RateLimitError", "code=rate_limited; retry_after=7", 429),
    ("PlanLimitError", "code=concurrent_limit", 402),
    ("PlanLimitError", "code=usage_exhausted", 402),
    ("PlanLimitError", "code=size_not_allowed", 402),
    ("SnapshotCapReached", "code=snapshot_cap_reached", 402),
    ("SandboxNotFound", "code=sandbox_not_found", 404),
    ("SandboxNotReady", "code=sandbox_not_ready", 409),
    ("ExecTimeout", "code=exec_timeout", 408),
    ("NetworkPolicyError", "code=network_policy", 403),
    ("OrkestrError", "code=internal_error", 500),
    ("OrkestrError", "code=template_unavailable", 503),
    ("OrkestrError", "disk=full", 507),
    ("OrkestrError", "status=418; code=teapot; detail=short and stout", 418),
    ("OrkestrError", "status=502", 502),
]


@pytest.fixture
def fault(api):
    """fault("status=503", route=..., ...) -> the rule's id; for the test's own key alone, cleared at the end."""

    def add(rule="", **names):
        answer = api.post("/_emulator/faults", {"rule": rule, "key": api.key, **names})
        assert answer.status == 201, answer
        return answer.json["id"]

    yield add
    assert api.delete("/_emulator/faults", query={"key": api.key}).status == 200


def rule_of(api, rule_id):
    answer = api.get(f"/_emulator/faults/{rule_id}")
    assert answer.status == 200, answer
    return answer.json


def events(api, **query) -> list[dict]:
    answer = api.get("/_emulator/events", query={"key": api.key, **query})
    assert answer.status == 200, answer
    return answer.json["events"]


# --- faults: answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name, rule, status", EXCEPTIONS, ids=lambda v: str(v).split(";")[0])
def test_every_exception_by_a_rule(sdk, fault, api, name, rule, status):
    sbx = sdk.Sandbox.create("tiny")
    rule_id = fault(rule, route="POST /v1/sandboxes/*/exec", times=1)
    with pytest.raises(sdk.OrkestrError) as error:
        sbx.exec("echo never > /workspace/never")
    assert type(error.value).__name__ == name and error.value.status == status, error.value
    if "retry_after" in rule:
        assert error.value.retry_after == 7.0
    if "detail" in rule:
        assert (str(error.value), error.value.code) == ("short and stout", "teapot")
    # It was not carried out, and only once.
    assert sbx.exec("cat /workspace/never").exit_code != 0
    assert (rule_of(api, rule_id)["hits"], rule_of(api, rule_id)["spent"]) == (1, True)


def test_rate_limit_and_plan_by_the_state_that_causes_them(sdk, new_emulator, monkeypatch):
    emulator = new_emulator("--api-key", "ork_controls_free:free", "--api-key", "ork_controls_read:team:read")
    monkeypatch.setenv("ORKESTR_BASE_URL", f"http://127.0.0.1:{emulator.port}")
    with pytest.raises(sdk.AuthError) as error:
        sdk.Sandbox.create("tiny", api_key="ork_controls_read")
    assert (error.value.status, error.value.code) == (403, "insufficient_scope")
    with sdk.Sandbox.create("tiny", api_key="ork_controls_free"):
        with pytest.raises(sdk.PlanLimitError) as error:
            sdk.Sandbox.create("tiny", api_key="ork_controls_free")
        assert error.value.code == "concurrent_limit"


def test_snapshot_cap_by_the_state_that_causes_it(sdk, new_emulator, monkeypatch, freezer):
    emulator = new_emulator("--api-key", "ork_controls_free:free")
    monkeypatch.setenv("ORKESTR_BASE_URL", f"http://127.0.0.1:{emulator.port}")
    monkeypatch.setenv("ORKESTR_API_KEY", "ork_controls_free")
    first = sdk.Sandbox.create("tiny")
    first.pause()
    second = sdk.Sandbox.create("tiny")
    with pytest.raises(sdk.SnapshotCapReached):
        second.pause()
    second.terminate()
    first.terminate()


def test_an_injected_answer_says_so(api, fault):
    rule_id = fault("status=503; retry_after=2", route="GET /v1/sandboxes")
    answer = api.get("/v1/sandboxes")
    check_error(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "2" and answer.divergences == {f"fault-injected:{rule_id}"}
    assert api.get("/v1/sandboxes/limits").status == 200
    assert api.delete(f"/_emulator/faults/{rule_id}").status == 204
    assert api.get("/v1/sandboxes").status == 200
    check_error(api.get(f"/_emulator/faults/{rule_id}"), 404, "fault_not_found")


def test_a_rule_for_another_key_is_not_mine(api, emulator, fault):
    fault("status=500", route="GET /v1/sandboxes")
    assert api.get("/v1/sandboxes").status == 500
    assert emulator.api("ork_somebody_else_1").get("/v1/sandboxes").status == 200


def test_by_sandbox_header_and_nth_call(api, fault):
    a, b = api.create()["id"], api.create()["id"]
    fault("code=sandbox_not_ready", sandbox=a)
    assert api.get(f"/v1/sandboxes/{a}").status == 409 and api.get(f"/v1/sandboxes/{b}").status == 200
    fault("status=500; header=X-Worker: 3")
    assert api.get("/v1/sandboxes", headers={"X-Worker": "3"}).status == 500
    assert api.get("/v1/sandboxes", headers={"X-Worker": "4"}).status == 200
    fault("status=500; nth=3; route=GET /v1/limits")
    assert [api.get("/v1/limits").status for _ in range(5)] == [200, 200, 500, 200, 200]


def test_a_seeded_probability_is_the_same_each_time(api, fault):
    seen = []
    for _ in range(2):
        rule_id = fault("status=500; probability=0.4; seed=3; route=GET /v1/limits")
        seen.append([api.get("/v1/limits").status for _ in range(30)])
        assert rule_of(api, rule_id)["hits"] == seen[-1].count(500)
        api.delete(f"/_emulator/faults/{rule_id}")
    assert seen[0] == seen[1] and {200, 500} == set(seen[0])


def test_latency_comes_before_the_call(api, fault):
    fault("latency=400; route=GET /v1/limits")
    start = time.perf_counter()
    answer = api.get("/v1/limits")
    assert answer.status == 200 and time.perf_counter() - start >= 0.4
    assert any(d.startswith("fault-injected:") for d in answer.divergences)


def test_a_client_that_leaves_while_it_is_delayed(api, fault, emulator):
    fault("latency=5000; route=POST /v1/sandboxes")
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=0.9)
    body = json.dumps({"template": "tiny"})
    connection.request("POST", "/v1/sandboxes", body, {"Authorization": f"Bearer {api.key}"})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    time.sleep(0.3)
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


# --- faults: connections and streams --------------------------------------------------------------


def test_reset_before_after_and_in_the_body(api, sdk, fault):
    sbx = sdk.Sandbox.create("tiny")
    for where, done in (("before", False), ("after", True), ("body", True)):
        fault(f"reset={where}; times=1; route=POST /v1/sandboxes/*/exec")
        with pytest.raises(sdk.OrkestrError) as error:
            sbx.exec(f"echo {where} > /workspace/{where}")
        assert error.value.status is None and ("reset" in str(error.value) or "broke off" in str(error.value)), error.value
        assert (sbx.exec(f"cat /workspace/{where}").exit_code == 0) == done, where


def test_reset_of_a_download_and_of_an_upload(api, fault):
    sbx = api.create()["id"]
    data = bytes(range(256)) * 4096
    api.put_file(sbx, "/workspace/big", data)
    fault("reset=body; times=1; route=GET /v1/sandboxes/*/files")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as error:
        api.files("GET", sbx, "/workspace/big", headers={"Accept": "application/octet-stream"})
    if isinstance(error.value, http.client.IncompleteRead):
        assert 0 < len(error.value.partial) < len(data)
    fault("disk=full; times=1; route=PUT /v1/sandboxes/*/files")
    check_error(api.files("PUT", sbx, "/workspace/new", raw=data), 507, "disk_full")
    check_error(api.files("GET", sbx, "/workspace/new"), 404, "file_not_found")


def test_a_stream_that_is_cut(sdk, api, fault):
    sbx = sdk.Sandbox.create("tiny")
    fault("cut=2; times=2; route=POST /v1/sandboxes/*/exec")
    count = "for i in 1 2 3 4; do echo $i; sleep 0.1; done"
    # This client (http.client's readline) takes a chunked body that breaks off for one that ends.
    chunks = list(sbx.exec_stream(count))
    assert [c.data for c in chunks] == ["1\n", "2\n"] and not chunks[-1].is_final
    body = json.dumps({"command": count, "stream": True})
    head = f"POST /v1/sandboxes/{sbx.id}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    got = raw_exchange(api.port, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert got.count(b"data: ") == 2 and not got.endswith(b"0\r\n\r\n"), got


def test_a_stream_without_its_last_chunk(sdk, fault):
    sbx = sdk.Sandbox.create("tiny")
    fault("last_chunk=missing; times=1; route=POST /v1/sandboxes/*/exec")
    chunks = list(sbx.exec_stream("echo a; sleep 0.1; echo b"))
    assert "".join(c.data for c in chunks) == "a\nb\n" and not any(c.is_final for c in chunks)
    assert list(sbx.exec_stream("echo c"))[-1].is_final


# --- faults: commands, resumes, names -------------------------------------------------------------


@pytest.mark.parametrize("what, reason", [("kill", "signal"), ("oom", "oom")])
def test_a_command_is_killed(api, fault, what, reason):
    sbx = api.create()["id"]
    rule_id = fault(f"exec={what}; exec_after=300; times=1")
    answer = api.post(f"/v1/sandboxes/{sbx}/exec", {"command": "echo so far; sleep 30; echo never"})
    result = answer.json
    assert (answer.status, result["exit_code"], result["reason"], result["stdout"]) == (200, 137, reason, "so far\n"), result
    assert (result["evidence"]["oom_kills"] > 0) == (what == "oom")
    assert answer.divergences >= {f"fault-injected:{rule_id}"}
    assert api.sh(sbx, "ps | grep -c '[s]leep 30' || true").strip() == "0", "the kill is a real one"


def test_a_time_out_comes_before_a_later_kill(api, fault):
    sbx = api.create()["id"]
    fault("exec=kill; exec_after=60000; times=1")
    check_error(api.post(f"/v1/sandboxes/{sbx}/exec", {"command": "sleep 30", "timeout_seconds": 1}), 408, "exec_timeout")


def test_a_resume_that_fails_leaves_it_paused(api, sdk, fault, freezer):
    sbx = sdk.Sandbox.create("tiny")
    sbx.pause()
    fault("resume=fail; times=1")
    with pytest.raises(sdk.OrkestrError) as error:
        sdk.Sandbox.resume(sbx.id)
    assert (error.value.status, error.value.code) == (503, "snapshot_damaged")
    assert api.status_of(sbx.id) == "paused"
    assert sdk.Sandbox.resume(sbx.id).status == "running"


def test_names_that_fail(box, net_api):
    here, there = box("restricted"), box("restricted")
    assert here.dns("pypi.org")[0] == 0
    rule = {"dns": "servfail", "host": "pypi.org", "sandbox": here.id, "times": 2}
    answer = net_api.post("/_emulator/faults", rule)
    assert answer.status == 201, answer
    try:
        assert [here.dns("pypi.org")[0] for _ in range(3)] == [2, 2, 0]
        assert there.dns("pypi.org")[0] == 0 and here.dns("deb.debian.org")[0] == 0
        assert net_api.get(f"/_emulator/faults/{answer.json['id']}").json["hits"] == 2
        fired = net_api.get("/_emulator/events", query={"type": "fault.fired", "sandbox": here.id}).json["events"]
        assert [e["detail"] for e in fired] == ["pypi.org"] * 2
    finally:
        net_api.delete(f"/_emulator/faults/{answer.json['id']}")
    off = net_api.create(template="netbox", network="off")["id"]
    bad = net_api.post("/_emulator/faults", {**rule, "sandbox": off})
    check_error(bad, 422, "invalid_fault")
    assert "network" in bad.json["detail"]


# --- faults: the rules themselves -----------------------------------------------------------------


def test_the_header_is_a_rule_for_one_request(api, sandbox):
    answer = api.get("/v1/sandboxes", headers={"X-Orkestr-Fault": "code=rate_limited; retry_after=9"})
    check_error(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == "9" and answer.divergences == {"fault-injected:header"}
    assert api.get("/v1/sandboxes").status == 200
    for bad in ("nonsense", "status=200", "times=3; status=500", "latency=soon", "code=no_such_code"):
        answer = api.get("/v1/sandboxes", headers={"X-Orkestr-Fault": bad})
        check_error(answer, 422, "invalid_fault")


@pytest.mark.parametrize("body, says", [
    ({}, "no effect"),
    ({"status": 200}, "400 to 599"),
    ({"status": [500]}, "string or a number"),
    ({"status": True}, "string or a number"),
    ({"colour": "red"}, "Which calls"),
    ({"code": "no_such_code"}, "give one too"),
    ({"key": "not-a-key", "status": 500}, "no API key"),
    ({"rule": "status=500; status=abc"}, "400 to 599"),
    ({"rule": "x" * 2000}, "at most"),
    ({"detail": "a\x00b", "status": 500}, "NUL"),
], ids=str)  # fmt: skip
def test_a_bad_rule_is_told_what_is_allowed(api, body, says):
    answer = api.post("/_emulator/faults", body)
    check_error(answer, 422, "invalid_fault")
    assert says in answer.json["detail"], answer


def test_the_controls_ask_for_a_token(emulator, api):
    nobody = emulator.api(None)
    for method, path in (("GET", "events"), ("GET", "faults"), ("POST", "faults"), ("POST", "reset"), ("POST", "seed")):
        assert nobody.request(method, f"/_emulator/{path}").status == 401


def test_no_faults(new_emulator):
    api = new_emulator("--auth", "any", "--no-faults").api("ork_no_faults")
    assert api.get("/v1/sandboxes", headers={"X-Orkestr-Fault": "status=500"}).status == 200
    check_error(api.post("/_emulator/faults", {"status": 500}), 403, "faults_disabled")
    assert api.get("/_emulator/faults").json == {"faults": [], "enabled": False}


def test_nothing_of_the_emulators_own_goes_wrong(api, fault):
    fault("status=500")
    assert api.get("/v1/sandboxes").status == 500
    assert api.get("/_emulator/health").status == 200 and api.get("/_emulator/events").status == 200


# --- the journal ----------------------------------------------------------------------------------


def test_the_journal_tells_a_sandboxs_life(api):
    sbx = api.create(env={"SECRET": "hunter2"})["id"]
    api.exec(sbx, "echo hunter2 > /workspace/x")
    api.put_file(sbx, "/workspace/y", b"hunter2")
    api.get("/v1/sandboxes/sbx_nosuch")
    api.delete(f"/v1/sandboxes/{sbx}")
    seen = events(api)
    of_it = [(e["type"], e.get("detail", e.get("command"))) for e in seen if e["type"] != "request"]
    assert of_it == [
        ("sandbox.created", "tiny"), ("sandbox.running", None), ("exec.started", "echo …"), ("exec.ended", "exited 0"),
        ("sandbox.terminated", "user"),
    ]  # fmt: skip
    requests = [(e["method"], e["route"], e["status"], e.get("code"), e.get("sandbox")) for e in seen if e["type"] == "request"]
    assert requests == [
        ("POST", "/v1/sandboxes", 201, None, sbx),
        ("POST", "/v1/sandboxes/{id}/exec", 200, None, sbx),
        ("POST", "/v1/sandboxes/{id}/files", requests[2][2], None, sbx),
        ("GET", "/v1/sandboxes/{id}", 404, "sandbox_not_found", "sbx_nosuch"),
        ("DELETE", "/v1/sandboxes/{id}", 200, None, sbx),
    ]
    for e in seen:
        assert e["account"] == seen[0]["account"] and e["time"].endswith("Z")
    assert [e["seq"] for e in seen] == sorted(e["seq"] for e in seen)
    request = next(e for e in seen if e.get("route") == "/v1/sandboxes/{id}/exec")
    assert request["bytes_in"] > 20 and request["bytes_out"] > 50 and request["duration_ms"] > 0
    assert request["request_id"].startswith("req_")
    assert "hunter2" not in json.dumps(seen) and api.key not in json.dumps(seen)


def test_the_journals_filters(api):
    sbx = api.create()["id"]
    api.exec(sbx, "true")
    for _ in range(3):
        api.get("/v1/sandboxes/sbx_nosuch")
    first = events(api)[0]["seq"]
    assert {e["type"] for e in events(api, type="sandbox")} == {"sandbox.created", "sandbox.running"}
    assert [e["type"] for e in events(api, type="exec.ended,sandbox.running")] == ["sandbox.running", "exec.ended"]
    assert [e["status"] for e in events(api, status=404)] == [404] * 3 == [e["status"] for e in events(api, status="4xx")]
    assert [e["path"] for e in events(api, route="POST /v1/sandboxes/*/exec")] == [f"/v1/sandboxes/{sbx}/exec"]
    assert all(e["sandbox"] == sbx for e in events(api, sandbox=sbx)) and len(events(api, sandbox=sbx)) >= 5
    assert min(e["seq"] for e in events(api, since=first)) > first
    page = api.get("/_emulator/events", query={"key": api.key, "limit": 2}).json
    assert len(page["events"]) == 2 and page["has_more"]
    rest = api.get("/_emulator/events", query={"key": api.key, "since": page["next_since"]}).json
    assert page["events"] + rest["events"] == events(api) and not rest["has_more"]
    for field, value in (("status", "6xx"), ("limit", "0"), ("since", "x"), ("type", "nonsense"), ("account", "x"), ("key", "x")):
        check_invalid(api.get("/_emulator/events", query={field: value}), field, "query")


def test_network_blocked_is_in_the_journal(box, net_api):
    sbx = box("off")
    sbx.run("curl -s -m 5 http://10.1.2.3/; true")
    seen = events(net_api, type="network", sandbox=sbx.id)
    assert [(e["host"], e["type"]) for e in seen] == [("10.1.2.3", "network.blocked")] and seen[0]["detail"]


def test_whole_commands_when_wanted(new_emulator):
    api = new_emulator("--auth", "any", "--journal-commands").api("ork_whole_commands")
    sbx = api.create()["id"]
    api.exec(sbx, "echo all of it")
    api.exec(sbx, ["echo", "two words"])
    started = events(api, type="exec.started")
    assert [e["command"] for e in started] == ["echo all of it", "echo two words"]
    api.delete(f"/v1/sandboxes/{sbx}")


class Follower:
    """Server-Sent Events from /_emulator/events."""

    def __init__(self, api, query="", **headers):
        self.connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        sent = {"Authorization": f"Bearer {api.key}", "Accept": "text/event-stream", **headers}
        self.connection.request("GET", f"/_emulator/events?key={api.key}{query}", headers=sent)
        self.response = self.connection.getresponse()
        assert self.response.status == 200 and self.response.headers["content-type"] == "text/event-stream"

    def next(self) -> tuple[str, dict]:
        kind = ""
        while line := self.response.readline().decode():
            if line.startswith("event: "):
                kind = line[7:].strip()
            elif line.startswith("data: "):
                return kind, json.loads(line[6:])
        raise EOFError

    def close(self):
        self.response.close()
        self.connection.close()


def test_following_the_journal(api):
    follower = Follower(api, "&type=sandbox")
    sbx = api.create()["id"]
    assert [follower.next()[1]["type"] for _ in range(2)] == ["sandbox.created", "sandbox.running"]
    follower.close()
    seen = events(api, type="sandbox")
    api.delete(f"/v1/sandboxes/{sbx}")
    # Where it was left, and nothing twice.
    follower = Follower(api, "&type=sandbox", **{"Last-Event-ID": str(seen[-1]["seq"])})
    assert follower.next()[1]["type"] == "sandbox.terminated"
    follower.close()


def test_a_follower_is_told_what_it_missed(new_emulator):
    api = new_emulator("--auth", "any").api("ork_gap_key")
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
    for _ in range(8300):
        connection.request("GET", "/v1/limits", headers={"Authorization": f"Bearer {api.key}"})
        connection.getresponse().read()
    connection.close()
    follower = Follower(api)
    kind, data = follower.next()
    assert kind == "gap" and data["missed"] >= 100
    assert follower.next()[1]["seq"] == data["missed"] + 1
    follower.close()
    assert api.get("/_emulator/events").json["missed"] >= data["missed"]


# --- reset ----------------------------------------------------------------------------------------


def test_reset_of_an_account(emulator, key, freezer):
    mine, other = emulator.api(key), emulator.api(key + "other")
    live, gone, theirs = mine.create()["id"], mine.create()["id"], other.create()["id"]
    paused = mine.create()["id"]
    assert mine.post(f"/v1/sandboxes/{paused}/pause").status == 200
    mine.delete(f"/v1/sandboxes/{gone}")
    headers = {"Idempotency-Key": "once"}
    assert mine.post("/v1/sandboxes", {"template": "tiny"}, headers=headers).status == 201
    assert mine.post("/_emulator/faults", {"status": 500, "route": "/v1/nothing", "key": key}).status == 201
    answer = mine.post("/_emulator/reset", {"key": key})
    assert answer.status == 200, answer
    assert answer.json == {"sandboxes_ended": 3, "sandboxes_forgotten": 4, "faults_cleared": 1}
    assert mine.get("/v1/sandboxes").json["sandboxes"] == []
    check_error(mine.get(f"/v1/sandboxes/{live}"), 404, "sandbox_not_found")
    again = mine.post("/v1/sandboxes", {"template": "tiny"}, headers=headers)
    assert again.status == 201 and "idempotent-replayed" not in again.headers
    assert other.status_of(theirs) == "running"
    # Of before only what the reset itself did is told.
    seen = [(e["type"], e.get("detail")) for e in events(mine, type="sandbox,reset")]
    assert sorted(seen[:3]) == [("sandbox.terminated", "reset")] * 3
    assert seen[3:] == [("reset", None), ("sandbox.created", "tiny"), ("sandbox.running", None)]
    for api in (mine, other):
        assert api.post("/_emulator/reset", {"key": api.key}).status == 200


def test_reset_ends_with_its_reason(emulator, api, run_in_background):
    sbx = api.create()["id"]
    follower = Follower(api, "&type=sandbox.terminated")
    waiting = run_in_background(api.post, f"/v1/sandboxes/{sbx}/exec", {"command": "sleep 60"})
    deadline = time.monotonic() + 10
    while not events(api, type="exec.started") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.post("/_emulator/reset", {"key": api.key}).json["sandboxes_ended"] == 1
    assert follower.next()[1]["detail"] == "reset"
    follower.close()
    assert waiting.result().json["reason"] == "terminated"


def test_reset_of_everything_keeps_templates_and_takes_the_clock_back(new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_reset_everything")
    api.create()
    emulator.api("ork_reset_another_1").create()
    assert api.post("/_emulator/clock", {"advance_seconds": 30}).status == 200
    assert api.post("/_emulator/reset").json["sandboxes_ended"] == 2
    assert abs(api.get("/_emulator/clock").json.get("offset_seconds", 0)) == 0
    emulator.audit()
    api.delete(f"/v1/sandboxes/{api.create()['id']}")
    for body, field in (({"account": "x"}, "account"), ({"key": "x"}, "key"), ({"key": 5}, "key")):
        check_invalid(api.post("/_emulator/reset", body), field)


# --- profiles -------------------------------------------------------------------------------------


def test_profile_cloud(new_emulator):
    emulator = new_emulator("--auth", "any", "--profile", "cloud", "--latency", "create=uniform(600,700)", "--latency", "other=50",
                            warm=None)  # fmt: skip
    api = emulator.api("ork_profile_cloud")
    start = time.perf_counter()
    sbx = api.create()["id"]
    assert time.perf_counter() - start >= 0.6
    start = time.perf_counter()
    assert api.get("/v1/limits").json["plan"] == "free" and time.perf_counter() - start >= 0.05
    check_error(api.post("/v1/sandboxes", {"template": "tiny"}), 402, "concurrent_limit")
    api.delete(f"/v1/sandboxes/{sbx}")


# --- the commands that drive an emulator ----------------------------------------------------------


def test_the_verbs(binary, new_emulator):
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_verbs_key")
    where = ["--state-dir", str(emulator.state_dir)]

    def verb(*words, ok=True) -> str:
        done = run(binary, *words, env={"PATH": "/usr/bin:/bin"})
        assert (done.returncode == 0) == ok, done
        return done.stdout if ok else done.stderr

    rule = json.loads(verb("fault", "add", "route=GET /v1/limits", "code=rate_limited", "times=1", *where))
    assert (rule["id"], rule["times"]) == ("flt_1", 1)
    assert api.get("/v1/limits").status == 429
    assert json.loads(verb("fault", "list", *where))["hits"] == 1
    verb("fault", "clear", "flt_1", *where)
    assert verb("fault", "list", *where) == ""
    assert "400 to 599" in verb("fault", "add", "status=1", *where, ok=False)
    sbx = api.create()["id"]
    lines = [json.loads(line) for line in verb("events", "--type", "sandbox", "--sandbox", sbx, *where).splitlines()]
    assert [e["type"] for e in lines] == ["sandbox.created", "sandbox.running"]
    assert json.loads(verb("reset", "--of-key", api.key, "--url", f"http://127.0.0.1:{emulator.port}"))["sandboxes_ended"] == 1
    assert emulator.stop() == 0
    assert "no emulator" in verb("events", *where, ok=False)
    emulator.check_nothing_left()
