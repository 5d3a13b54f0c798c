"""Create, get, list, delete: the rows a client sees, and when."""

import re
import time
from datetime import datetime, timedelta, timezone

import pytest

from harness.wire import check_error, check_invalid

SANDBOX_FIELDS = {
    "id", "status", "template", "size", "cpu", "memory_mb", "network", "timeout_seconds", "region", "metadata",
    "created_at", "started_at", "expires_at", "paused_at", "terminated_at", "termination_reason",
}  # fmt: skip

ULID = re.compile(r"sbx_[0-9A-HJKMNP-TV-Z]{26}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UNKNOWN_ID = "sbx_01HXYZ00000000000000000000"


def moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


# --- create and get -------------------------------------------------------------------------------


@pytest.mark.vm
def test_create_answers_a_running_sandbox(api):
    before = datetime.now(timezone.utc)
    answer = api.post("/v1/sandboxes", {"template": "tiny"})
    assert answer.status == 201
    row = answer.json
    assert row.keys() == SANDBOX_FIELDS
    assert ULID.fullmatch(row["id"]), row["id"]
    assert row["status"] == "running"
    assert row["template"] == "tiny"
    assert row["size"] is None
    assert (row["cpu"], row["memory_mb"]) == (1.0, 2048)
    assert row["network"] == "off"
    assert row["timeout_seconds"] == 600
    assert row["region"] is None
    assert row["metadata"] == {}
    assert row["paused_at"] is None and row["terminated_at"] is None and row["termination_reason"] is None
    created, started, expires = (moment(row[name]) for name in ("created_at", "started_at", "expires_at"))
    slack = timedelta(milliseconds=2)
    assert before - slack <= created <= started <= datetime.now(timezone.utc) + slack
    assert abs(expires - created - timedelta(seconds=600)) < timedelta(seconds=5)


def test_create_keeps_what_was_asked_for(api):
    row = api.create(
        size="small", network="off", timeout_seconds=77, region="hel1", metadata={"agent_run": "r_1", "ключ": "值"},
        env={"SECRET": "sk-never-shown"},
    )  # fmt: skip
    assert row["size"] == "small"
    assert (row["cpu"], row["memory_mb"]) == (0.5, 512)
    assert row["timeout_seconds"] == 77
    assert row["region"] == "hel1"
    assert row["metadata"] == {"agent_run": "r_1", "ключ": "值"}
    assert "env" not in row
    got = api.get(f"/v1/sandboxes/{row['id']}")
    assert got.status == 200
    assert got.json == row


@pytest.mark.parametrize("size, cpu, memory_mb", [("small", 0.5, 512), ("medium", 2, 4096), ("large", 4, 8192)])
def test_sizes_are_the_documented_ones(api, size, cpu, memory_mb):
    row = api.create(size=size)
    assert (row["size"], row["cpu"], row["memory_mb"]) == (size, cpu, memory_mb)


def test_cpu_and_memory_can_be_given_alone(api):
    assert (api.create(cpu=0.25)["cpu"]) == 0.25
    assert (api.create(memory_mb=300)["memory_mb"]) == 300
    assert (api.create(cpu=2)["cpu"]) == 2


def test_null_means_not_given(api):
    """Clients send their unset arguments as null."""
    row = api.create(size=None, region=None, env=None, metadata=None, cpu=None, memory_mb=None)
    assert (row["cpu"], row["memory_mb"], row["region"], row["metadata"]) == (1.0, 2048, None, {})


def test_env_values_are_never_sent_back_or_logged(api, emulator):
    secret = "sk-very-secret-41d8"
    row = api.create(env={"OPENAI_API_KEY": secret})
    texts = [
        api.get(f"/v1/sandboxes/{row['id']}").body,
        api.get("/v1/sandboxes").body,
        api.delete(f"/v1/sandboxes/{row['id']}").body,
        emulator.log().encode(),
    ]
    assert not any(secret.encode() in text for text in texts)


def test_unknown_fields_are_ignored_and_named(api):
    answer = api.post("/v1/sandboxes", {"template": "tiny", "gpu": 1})
    assert answer.status == 201
    assert "ignored-field:gpu" in answer.divergences


@pytest.mark.parametrize("path", [UNKNOWN_ID, "sbx_", "sbx_nope", "x" * 300, "%00", "%2e%2e", "sbx_01HXYZ%2F..", "%ff"])
@pytest.mark.parametrize("method, rest", [("GET", ""), ("DELETE", ""), ("POST", "/exec"), ("GET", "/files?path=/")])
def test_unknown_sandbox_is_404(api, method, rest, path):
    body = {"command": "true"} if rest == "/exec" else None
    answer = api.request(method, f"/v1/sandboxes/{path}{rest}", body)
    if path == "%00":
        check_error(answer, 400, "path_invalid")
    else:  # a name with a slash in it may also be no route at all
        check_error(answer, 404, None if "2F" in path or "2e" in path else "sandbox_not_found")


def test_missing_template_names_the_command_that_builds_it(api):
    body = check_error(api.post("/v1/sandboxes", {"template": "node-22"}), 503, "template_unavailable")
    assert "orkestr-emulator template build" in body["detail"] and "node-22" in body["detail"]


@pytest.mark.parametrize("template", ["no-such", "tmpl_01HXYZ00000000000000000000"])
def test_unknown_template_is_404(api, template):
    check_error(api.post("/v1/sandboxes", {"template": template}), 404, "template_not_found")


@pytest.mark.parametrize("network", ["restricted", "open"])
def test_networks_that_do_not_exist_yet_say_so(api, network):
    answer = api.post("/v1/sandboxes", {"template": "tiny", "network": network})
    if answer.status == 201:
        return  # they exist: their own tests have the rest
    assert answer.status in (501, 503)
    body = check_error(answer, answer.status, "network_unavailable")
    assert network in body["detail"]
    assert api.get("/v1/sandboxes", query={"status": "running"}).json["sandboxes"] == []


# --- delete ---------------------------------------------------------------------------------------


@pytest.mark.vm
def test_delete_terminates_and_keeps_the_row(api):
    row = api.create()
    deleted = api.delete(f"/v1/sandboxes/{row['id']}")
    assert deleted.status == 200
    gone = deleted.json
    assert gone["status"] == "terminated"
    assert gone["termination_reason"] == "user"
    assert moment(gone["terminated_at"]) >= moment(gone["started_at"])
    unchanged = SANDBOX_FIELDS - {"status", "termination_reason", "terminated_at", "expires_at"}
    assert {name: gone[name] for name in unchanged} == {name: row[name] for name in unchanged}
    assert api.get(f"/v1/sandboxes/{row['id']}").json == gone
    assert gone["id"] in [r["id"] for r in api.get("/v1/sandboxes").json["sandboxes"]]


def test_delete_again_is_the_same_answer(api, sandbox):
    first = api.delete(f"/v1/sandboxes/{sandbox}")
    time.sleep(0.01)
    assert api.delete(f"/v1/sandboxes/{sandbox}").json == first.json


@pytest.mark.parametrize("method, path, body", [
    ("POST", "/exec", {"command": "true"}),
    ("POST", "/files", {"path": "/tmp/x", "content": ""}),
    ("GET", "/files?path=/", None),
    ("DELETE", "/files?path=/tmp/x", None),
])  # fmt: skip
def test_a_terminated_sandbox_is_not_ready(api, sandbox, method, path, body):
    api.delete(f"/v1/sandboxes/{sandbox}")
    check_error(api.request(method, f"/v1/sandboxes/{sandbox}{path}", body), 409, "sandbox_not_ready")


@pytest.mark.vm
def test_delete_ends_a_running_exec(api, sandbox, run_in_background):
    running = run_in_background(api.post, f"/v1/sandboxes/{sandbox}/exec", {"command": "echo begun; sleep 60"})
    wait_for_process(api, sandbox, "sleep")
    started = time.monotonic()
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    answer = running.result(timeout=10)
    assert time.monotonic() - started < 5
    if answer.status == 200:
        assert answer.json["reason"] == "terminated" and answer.json["stdout"] == "begun\n"
    else:
        check_error(answer, 409, "sandbox_not_ready")


def wait_for_process(api, sandbox, name):
    for _ in range(200):
        if name in api.sh(sandbox, "cat /proc/[0-9]*/comm 2>/dev/null || true").split():
            return
        time.sleep(0.02)
    raise AssertionError(f"no process {name} in {sandbox}")


# --- list -----------------------------------------------------------------------------------------


def test_list_is_newest_first_and_says_everything_twice(api):
    ids = [api.create(metadata={"n": str(n)})["id"] for n in range(3)]
    answer = api.get("/v1/sandboxes")
    assert answer.status == 200
    page = answer.json
    assert page.keys() == {"sandboxes", "items", "next_cursor", "has_more"}
    assert [row["id"] for row in page["sandboxes"]] == ids[::-1]
    assert page["items"] == page["sandboxes"]
    assert (page["next_cursor"], page["has_more"]) == (None, False)
    assert all(row.keys() == SANDBOX_FIELDS for row in page["sandboxes"])


def test_an_account_without_sandboxes_has_an_empty_list(api):
    assert api.get("/v1/sandboxes").json == {"sandboxes": [], "items": [], "next_cursor": None, "has_more": False}


def test_list_filters_by_status(api):
    ids = [api.create()["id"] for _ in range(3)]
    api.delete(f"/v1/sandboxes/{ids[1]}")

    def listed(status):
        return [row["id"] for row in api.get("/v1/sandboxes", query={"status": status}).json["sandboxes"]]

    assert listed("running") == [ids[2], ids[0]]
    assert listed("terminated") == [ids[1]]
    assert listed("paused") == []


def test_list_pages_without_losing_or_repeating(api):
    ids = []
    for n in range(7):
        ids.append(api.create()["id"])
        if n % 2:
            api.delete(f"/v1/sandboxes/{ids[-1]}")
    seen, query, pages = [], {"limit": 3}, 0
    while True:
        page = api.get("/v1/sandboxes", query=query).json
        seen += [row["id"] for row in page["sandboxes"]]
        pages += 1
        assert page["has_more"] == (page["next_cursor"] is not None)
        if pages == 1:
            api.create()  # what comes later does not shift the pages behind
        if not page["next_cursor"]:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]
    assert pages == 3


@pytest.mark.parametrize("query, field", [
    ({"limit": "0"}, "limit"), ({"limit": "201"}, "limit"), ({"limit": "-1"}, "limit"), ({"limit": "x"}, "limit"),
    ({"limit": "1e2"}, "limit"), ({"limit": ""}, "limit"), ({"limit": "99999999999999999999"}, "limit"),
    ({"status": "sleeping"}, "status"), ({"status": "RUNNING"}, "status"),
    ({"cursor": "not-a-cursor"}, "cursor"), ({"cursor": "' OR 1=1 --"}, "cursor"), ({"cursor": "A" * 3000}, "cursor"),
])  # fmt: skip
def test_list_refuses_bad_queries(api, query, field):
    answer = api.get("/v1/sandboxes", query=query)
    if field == "cursor" and answer.status == 400:
        check_error(answer, 400, None)
    else:
        check_invalid(answer, field, "query")


def test_a_page_has_50_by_default_and_200_at_most(api):
    for _ in range(6):
        for row in [api.create(cpu=0.05, memory_mb=64)["id"] for _ in range(9)]:
            api.delete(f"/v1/sandboxes/{row}")
    first = api.get("/v1/sandboxes").json
    assert (len(first["sandboxes"]), first["has_more"]) == (50, True)
    assert len(api.get("/v1/sandboxes", query={"limit": 200}).json["sandboxes"]) == 54


# --- idempotency ----------------------------------------------------------------------------------


def test_the_same_idempotency_key_creates_once(api):
    body, headers = {"template": "tiny", "metadata": {"a": "1"}}, {"Idempotency-Key": "k-1"}
    first = api.post("/v1/sandboxes", body, headers=headers)
    again = api.post("/v1/sandboxes", body, headers=headers)
    assert (first.status, first.json["id"]) == (201, again.json["id"])
    assert again.status in (200, 201)
    assert len(api.get("/v1/sandboxes").json["sandboxes"]) == 1
    other = api.post("/v1/sandboxes", body, headers={"Idempotency-Key": "k-2"})
    assert other.json["id"] != first.json["id"]


def test_an_idempotency_key_with_another_body_is_refused(api):
    headers = {"Idempotency-Key": "k"}
    assert api.post("/v1/sandboxes", {"template": "tiny"}, headers=headers).status == 201
    answer = api.post("/v1/sandboxes", {"template": "tiny", "size": "small"}, headers=headers)
    assert answer.status in (409, 422), answer
    assert len(api.get("/v1/sandboxes").json["sandboxes"]) == 1


def test_idempotency_keys_belong_to_their_account(api, emulator):
    other = emulator.api(api.key + "b")
    headers = {"Idempotency-Key": "shared"}
    mine = api.post("/v1/sandboxes", {"template": "tiny"}, headers=headers).json
    theirs = other.post("/v1/sandboxes", {"template": "tiny"}, headers=headers).json
    assert mine["id"] != theirs["id"]
    other.delete(f"/v1/sandboxes/{theirs['id']}")


def test_a_refused_create_does_not_use_up_its_idempotency_key(api):
    headers = {"Idempotency-Key": "retry"}
    check_error(api.post("/v1/sandboxes", {"template": "no-such"}, headers=headers), 404, "template_not_found")
    assert api.post("/v1/sandboxes", {"template": "tiny"}, headers=headers).status == 201


def test_the_same_idempotency_key_at_the_same_time_creates_once(api, run_in_background):
    body, headers = {"template": "tiny"}, {"Idempotency-Key": "race"}
    answers = [run_in_background(api.post, "/v1/sandboxes", body, headers=headers) for _ in range(6)]
    ids = {answer.json["id"] for answer in (a.result(30) for a in answers) if answer.status in (200, 201)}
    assert len(ids) == 1
    assert len(api.get("/v1/sandboxes").json["sandboxes"]) == 1


# --- headers and routes ---------------------------------------------------------------------------


def test_request_ids_are_unique(api):
    ids = {api.get("/v1/sandboxes").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize("path", [
    "/", "/v1", "/v1/", "/v1/sandbox", "/v2/sandboxes", "/v1/sandboxes/x/y/z", "/v1//sandboxes", "/_emulator/",
    "/_emulator/nope", "/v1/sandboxes/../sandboxes", "/%76%31/nothing",
])  # fmt: skip
def test_unknown_paths_are_404_as_fastapi_says_it(api, path):
    answer = api.get(path)
    assert answer.status == 404
    assert answer.json["detail"] == "Not Found"


@pytest.mark.parametrize("method, path, allowed", [
    ("PUT", "/v1/sandboxes", {"GET", "POST"}),
    ("PATCH", "/v1/sandboxes", {"GET", "POST"}),
    ("DELETE", "/v1/sandboxes", {"GET", "POST"}),
    ("POST", f"/v1/sandboxes/{UNKNOWN_ID}", {"GET", "DELETE"}),
    ("DELETE", f"/v1/sandboxes/{UNKNOWN_ID}/exec", {"POST"}),
    ("POST", "/_emulator/health", {"GET"}),
])  # fmt: skip
def test_wrong_methods_are_405_with_allow(api, method, path, allowed):
    answer = api.request(method, path)
    assert answer.status == 405, answer
    named = {name.strip() for name in answer.headers["allow"].split(",")}
    assert allowed <= named and method not in named
    assert isinstance(answer.json["detail"], str)


@pytest.mark.vm
def test_health_and_info_need_no_key(emulator):
    nobody = emulator.api(None)
    assert nobody.get("/_emulator/health").status == 200
    info = nobody.get("/_emulator/info")
    assert info.status == 200 and isinstance(info.json, dict)
    assert nobody.get("/_emulator/health").headers["x-orkestr-emulator"] in info.body.decode()


# --- time's up ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def overdue(binary, new_state, request):
    """Sandboxes with the shortest allowed life, on an emulator of their own, born early in the session
    so that the tests that look at their end (which run last) hardly wait."""
    from concurrent.futures import ThreadPoolExecutor

    from harness.emulator import Emulator

    emulator = Emulator(binary, new_state("tiny"), "--auth", "any", "--api-key", "ork_deadline_free:free")
    with emulator, ThreadPoolExecutor(1) as pool:
        api = emulator.api("ork_deadline")
        idle, busy = api.create(timeout_seconds=10), api.create(timeout_seconds=10)
        exec_ = pool.submit(api.post, f"/v1/sandboxes/{busy['id']}/exec", {"command": "sleep 50", "timeout_seconds": 55})
        yield emulator, api, idle, busy, exec_


@pytest.fixture(scope="session", autouse=True)
def start_overdue_early(request):
    if any(item.get_closest_marker("deadline") for item in request.session.items):
        request.getfixturevalue("overdue")


def until_terminated(api, sandbox_id):
    end = time.monotonic() + 20
    while (row := api.get(f"/v1/sandboxes/{sandbox_id}").json)["status"] != "terminated":
        assert time.monotonic() < end, row
        time.sleep(0.1)
    return row


@pytest.mark.deadline
def test_a_sandbox_ends_at_its_deadline(overdue):
    _, api, idle, _, _ = overdue
    row = until_terminated(api, idle["id"])
    assert row["termination_reason"] == "timeout"
    late = moment(row["terminated_at"]) - moment(row["expires_at"])
    assert timedelta(milliseconds=-50) <= late < timedelta(seconds=2), late
    check_error(api.post(f"/v1/sandboxes/{idle['id']}/exec", {"command": "true"}), 409, "sandbox_not_ready")
    assert api.delete(f"/v1/sandboxes/{idle['id']}").json == row


@pytest.mark.deadline
def test_a_deadline_ends_a_running_exec(overdue):
    emulator, api, _, busy, exec_ = overdue
    assert until_terminated(api, busy["id"])["termination_reason"] == "timeout"
    answer = exec_.result(timeout=10)
    if answer.status == 200:
        assert answer.json["reason"] == "terminated"
    else:
        check_error(answer, 409, "sandbox_not_ready")
    emulator.audit()
