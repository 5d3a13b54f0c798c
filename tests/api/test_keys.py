"""Keys at run time, rate limits, and each AuthError, RateLimitError and PlanLimitError through the SDK-shaped client."""

import json
from concurrent.futures import ThreadPoolExecutor

import orkestr
import pytest

from harness.emulator import run
from harness.wire import check_error, check_invalid

ADMIN = "ork_admin_key"


@pytest.fixture(scope="module")
def guarded(binary, new_state):
    """An emulator that knows one key; the tests make theirs."""
    from harness.emulator import Emulator

    with Emulator(binary, new_state("tiny"), "--api-key", ADMIN) as emulator:
        yield emulator


@pytest.fixture
def admin(guarded):
    return guarded.api(ADMIN)


@pytest.fixture
def new_key(guarded, admin):
    """new_key(plan="free", ...) -> (Api, answer); what lives with it ends with the test."""
    from conftest import terminate_all

    made = []

    def make(**fields):
        answer = admin.post("/_emulator/keys", fields)
        assert answer.status == 201, answer
        made.append((guarded.api(answer.json["key"]), answer.json))
        return made[-1]

    yield make
    for api, key in made:
        undo = {"revoked": False, "expires_at": "never", "scopes": "read,write", "rate_limit": "none"}
        assert admin.request("PATCH", f"/_emulator/keys/{key['id']}", undo).status == 200
        terminate_all(api)


def change(admin, key, **fields):
    answer = admin.request("PATCH", f"/_emulator/keys/{key['id']}", fields)
    assert answer.status == 200, answer
    return answer.json


def create(guarded, api, **fields):
    """As the SDK does it, with this key."""
    import os

    os.environ["ORKESTR_BASE_URL"] = f"http://127.0.0.1:{guarded.port}"
    try:
        return orkestr.Sandbox.create("tiny", api_key=api.key, **fields)
    finally:
        del os.environ["ORKESTR_BASE_URL"]


# --- making them ----------------------------------------------------------------------------------


def test_a_key_is_told_once(admin, new_key):
    api, key = new_key(label="ci worker", plan="pro", scopes="read", rate_limit="100/60")
    assert api.get("/v1/sandboxes").status == 200
    listed = {k["id"]: k for k in admin.get("/_emulator/keys").json["keys"]}
    assert listed[key["id"]] == {name: value for name, value in key.items() if name != "key"}
    assert (key["plan"], key["scopes"], key["label"], key["state"], key["rate_limit"]) == ("pro", "read", "ci worker", "active", "100/60")
    assert key["key"] not in json.dumps(admin.get("/_emulator/keys").json)
    assert admin.get(f"/_emulator/keys/{key['id']}").json == listed[key["id"]]


def test_a_key_of_ones_own_choosing(admin, new_key):
    api, key = new_key(key="my-own-key-1")
    assert key["key"] == api.key == "my-own-key-1" and api.get("/v1/sandboxes").status == 200
    check_error(admin.post("/_emulator/keys", {"key": "my-own-key-1"}), 409, "key_exists")


@pytest.mark.parametrize("body, field", [
    ({"key": "short"}, "key"), ({"key": "with a space"}, "key"), ({"plan": "gold"}, "plan"), ({"scopes": "admin"}, "scopes"),
    ({"account": "UPPER"}, "key"), ({"expires_at": "soon"}, "expires_at"), ({"expires_in_seconds": -1}, "expires_in_seconds"),
    ({"rate_limit": "fast"}, "rate_limit"), ({"expires_at": "2030-01-01T00:00:00Z", "expires_in_seconds": 5}, "expires_at"),
    ({"label": "x" * 65}, "label"), ({"plan": 5}, "plan"),
])  # fmt: skip
def test_what_can_be_no_key(admin, body, field):
    before = admin.get("/_emulator/keys").json
    check_invalid(admin.post("/_emulator/keys", body), field)
    assert admin.get("/_emulator/keys").json == before


def test_who_may_make_keys(guarded, new_key):
    check_error(guarded.api(None).post("/_emulator/keys", {}), 401, "unauthorized")
    reader, _ = new_key(scopes="read")
    check_error(reader.post("/_emulator/keys", {}), 403, "insufficient_scope")
    check_error(guarded.api(ADMIN).request("PATCH", "/_emulator/keys/key_000000000000", {}), 404, "key_not_found")


def test_two_keys_of_one_account_share_it(new_key):
    one, first = new_key(account="shared", plan="team")
    two, second = new_key(account="acc_shared", plan="free", scopes="read")
    assert first["account"] == second["account"] == "acc_shared"
    row = one.create()
    assert two.get(f"/v1/sandboxes/{row['id']}").json["id"] == row["id"]
    assert one.get("/v1/limits").json["plan"] == "team" and two.get("/v1/limits").json["plan"] == "free"
    check_error(two.delete(f"/v1/sandboxes/{row['id']}"), 403, "insufficient_scope")
    assert one.delete(f"/v1/sandboxes/{row['id']}").status == 200


def test_they_outlive_a_restart_and_a_kill(new_emulator, new_state):
    state = new_state("tiny")
    first = new_emulator("--api-key", ADMIN, state=state)
    admin = first.api(ADMIN)
    kept = admin.post("/_emulator/keys", {"plan": "free", "label": "kept"}).json
    revoked = admin.post("/_emulator/keys", {}).json
    admin.delete(f"/_emulator/keys/{revoked['id']}")
    at_once = [f"at once {n}" for n in range(40)]
    for label in at_once:
        admin.post("/_emulator/keys", {"label": label})
    first.kill_all()
    second = new_emulator("--api-key", ADMIN, state=state)
    assert second.api(kept["key"]).get("/v1/limits").json["plan"] == "free"
    check_error(second.api(revoked["key"]).get("/v1/limits"), 401, "unauthorized")
    assert [k["label"] for k in second.api(ADMIN).get("/_emulator/keys").json["keys"]] == [None, "kept", None, *at_once]
    for path in state.glob("*.db*"):
        assert kept["key"].encode() not in path.read_bytes(), path
    assert kept["key"] not in second.log()


def test_their_order_and_dates_whatever_the_clock_said(new_emulator, new_state):
    state = new_state("tiny")
    first = new_emulator("--api-key", ADMIN, state=state)
    admin = first.api(ADMIN)
    admin.post("/_emulator/clock", {"advance_seconds": 86400})
    tomorrow = admin.post("/_emulator/keys", {"label": "tomorrow"}).json
    admin.post("/_emulator/clock", {"reset": True})
    today = admin.post("/_emulator/keys", {"label": "today"}).json
    assert today["created_at"] < tomorrow["created_at"]
    assert first.stop() == 0
    keys = new_emulator("--api-key", ADMIN, state=state).api(ADMIN).get("/_emulator/keys").json["keys"]
    assert [(k["label"], k["created_at"]) for k in keys[1:]] == [
        ("tomorrow", tomorrow["created_at"]), ("today", today["created_at"])]  # fmt: skip


def test_a_file_of_keys(new_emulator, scratch):
    file = scratch / "keys.txt"
    file.write_text("# for the suite\nork_file_key_1:free\n\nork_file_key_2:team:read:account=x:expires=2999-01-01T00:00:00Z\n"
                    "ork_file_key_3:team:read:expires=2001-01-01T00:00:00Z\nork_file_key_4:team:read:revoked\n")  # fmt: skip
    emulator = new_emulator("--keys", str(file), "--rate-limit", "1000/60")
    assert emulator.api("ork_file_key_1").get("/v1/limits").json["plan"] == "free"
    assert emulator.api("ork_file_key_2").get("/v1/limits").status == 200
    check_error(emulator.api("ork_file_key_3").get("/v1/limits"), 401, "key_expired")
    check_error(emulator.api("ork_file_key_4").get("/v1/limits"), 401, "unauthorized")
    keys = emulator.api("ork_file_key_1").get("/_emulator/keys").json["keys"]
    assert [k["state"] for k in keys] == ["active", "active", "expired", "revoked"] and keys[1]["account"] == "acc_x"


def test_a_bad_file_of_keys_is_refused(binary, scratch):
    file = scratch / "bad-keys.txt"
    file.write_text("ork_secret_key:gold\n")
    done = run(binary, "serve", "--keys", str(file), "--state-dir", str(scratch / "none"), "--listen", "127.0.0.1:0", timeout=20)
    assert done.returncode == 1 and "after the key's colon comes a plan" in done.stderr and "secret" not in done.stderr


# --- AuthError ------------------------------------------------------------------------------------


def test_an_expired_key(guarded, admin, new_key):
    api, key = new_key(expires_at="2020-01-01T00:00:00Z")
    with pytest.raises(orkestr.AuthError) as error:
        create(guarded, api)
    assert (error.value.status, error.value.code) == (401, "key_expired") and "2020-01-01" in str(error.value)
    change(admin, key, expires_in_seconds=600)
    create(guarded, api).terminate()
    change(admin, key, expires_in_seconds=0)
    with pytest.raises(orkestr.AuthError):
        create(guarded, api)


def test_a_key_expires_by_the_clock(new_emulator):
    emulator = new_emulator("--api-key", ADMIN)
    admin = emulator.api(ADMIN)
    key = admin.post("/_emulator/keys", {"expires_in_seconds": 30 * 86400}).json
    api = emulator.api(key["key"])
    admin.post("/_emulator/clock", {"advance_seconds": 30 * 86400 - 60})
    assert api.get("/v1/sandboxes").status == 200
    admin.post("/_emulator/clock", {"advance_seconds": 61})
    check_error(api.get("/v1/sandboxes"), 401, "key_expired")
    assert admin.get(f"/_emulator/keys/{key['id']}").json["state"] == "expired"


def test_a_revoked_key(guarded, admin, new_key):
    api, key = new_key()
    create(guarded, api).terminate()
    assert admin.delete(f"/_emulator/keys/{key['id']}").json["state"] == "revoked"
    with pytest.raises(orkestr.AuthError) as error:
        create(guarded, api)
    assert (error.value.status, error.value.code) == (401, "unauthorized") and "revoked" in str(error.value)


def test_a_revoked_key_stays_out_where_any_is_let_in(emulator, api):
    key = "ork_any_but_this_one"
    made = api.post("/_emulator/keys", {"key": key}).json
    assert emulator.api(key).get("/v1/limits").status == 200
    api.delete(f"/_emulator/keys/{made['id']}")
    check_error(emulator.api(key).get("/v1/limits"), 401, "unauthorized")


def test_a_read_only_key(guarded, new_key):
    api, _ = new_key(scopes="read")
    with pytest.raises(orkestr.AuthError) as error:
        create(guarded, api)
    assert (error.value.status, error.value.code) == (403, "insufficient_scope")


def test_a_key_of_another_account(guarded, new_key):
    owner, other = new_key()[0], new_key()[0]
    sandbox = create(guarded, owner)
    sandbox._transport = create_transport(guarded, other)
    with pytest.raises(orkestr.SandboxNotFound) as error:
        sandbox.exec("true")
    assert (error.value.status, error.value.code) == (404, "sandbox_not_found")


def create_transport(guarded, api):
    import os

    from orkestr.http import Transport

    os.environ["ORKESTR_BASE_URL"] = f"http://127.0.0.1:{guarded.port}"
    try:
        return Transport(api.key)
    finally:
        del os.environ["ORKESTR_BASE_URL"]


# --- PlanLimitError -------------------------------------------------------------------------------

PLAN_CAUSES = [
    ({"memory_mb": 1024}, "size_not_allowed"), ({"cpu": 1.0}, "size_not_allowed"), ({"network": "open"}, "network_not_allowed"),
]  # fmt: skip


@pytest.mark.parametrize("fields, code", PLAN_CAUSES, ids=str)
def test_what_the_plan_does_not_allow(guarded, new_key, fields, code):
    api, _ = new_key(plan="free")
    with pytest.raises(orkestr.PlanLimitError) as error:
        create(guarded, api, **fields)
    assert (error.value.status, error.value.code) == (402, code)


def test_one_too_many_at_a_time(guarded, new_key):
    api, _ = new_key(plan="free")
    first = create(guarded, api)
    with pytest.raises(orkestr.PlanLimitError) as error:
        create(guarded, api)
    assert error.value.code == "concurrent_limit"
    first.terminate()
    create(guarded, api).terminate()


def test_a_used_up_month(guarded, new_key):
    api, _ = new_key(plan="free")
    assert api.request("PUT", "/_emulator/usage", {"gb_hours": 10}).status == 200
    with pytest.raises(orkestr.PlanLimitError) as error:
        create(guarded, api)
    assert (error.value.status, error.value.code) == (402, "usage_exhausted")


def test_one_snapshot_too_many(guarded, admin, new_key, freezer):
    api, _ = new_key(plan="free")
    create(guarded, api).pause()
    second = create(guarded, api)
    with pytest.raises(orkestr.SnapshotCapReached) as error:
        second.pause()
    assert isinstance(error.value, orkestr.PlanLimitError) and error.value.code == "snapshot_cap_reached"


def test_a_plan_that_is_changed_holds_at_once(guarded, admin, new_key):
    api, key = new_key(plan="free")
    with pytest.raises(orkestr.PlanLimitError):
        create(guarded, api, cpu=2.0)
    change(admin, key, plan="team")
    create(guarded, api, cpu=2.0).terminate()


# --- RateLimitError -------------------------------------------------------------------------------


def test_no_limit_unless_asked_for(new_key):
    api, _ = new_key(plan="free")
    for _ in range(100):
        answer = api.get("/v1/sandboxes")
        assert answer.status == 200 and "x-ratelimit-limit" not in answer.headers


def test_a_keys_own_rate_limit(guarded, new_key):
    api, _ = new_key(rate_limit="3/3600")
    sandbox = create(guarded, api)
    answer = api.get(f"/v1/sandboxes/{sandbox.id}")
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("3", "1")
    assert 2300 < int(answer.headers["x-ratelimit-reset"]) <= 2400
    sandbox.terminate()
    with pytest.raises(orkestr.RateLimitError) as error:
        sandbox.exec("true")
    assert (error.value.status, error.value.code) == (429, "rate_limited")
    assert 1100 < error.value.retry_after <= 1200
    check_error(api.get("/v1/limits"), 429, "rate_limited")
    assert api.get("/_emulator/usage").status == 200, "the emulator's own routes are not the cloud's"


def test_what_retry_after_promises(new_emulator):
    emulator = new_emulator("--api-key", f"{ADMIN}:free", "--rate-limit", "2/7200")
    api = emulator.api(ADMIN)
    assert [api.get("/v1/limits").status for _ in range(3)] == [200, 200, 429]
    after = int(api.get("/v1/limits").headers["retry-after"])
    assert 3500 < after <= 3600
    api.post("/_emulator/clock", {"advance_seconds": after - 60})
    assert api.get("/v1/limits").status == 429
    api.post("/_emulator/clock", {"advance_seconds": 60})
    assert [api.get("/v1/limits").status for _ in range(2)] == [200, 429]
    assert api.request("PUT", "/_emulator/rate-limit", {"rate_limit": "off"}).json == {"rate_limit": "off"}
    assert api.get("/v1/limits").status == 200


def test_each_plan_has_its_rate(new_emulator):
    emulator = new_emulator("--api-key", f"{ADMIN}:team", "--api-key", "ork_free_one:free", "--rate-limit", "plan")
    free, team = emulator.api("ork_free_one"), emulator.api(ADMIN)
    assert team.get("/v1/limits").headers["x-ratelimit-limit"] == "1200"
    answers = [free.get("/v1/limits") for _ in range(70)]
    refused = [a for a in answers if a.status == 429]
    assert answers[0].headers["x-ratelimit-limit"] == "60" and refused
    for answer in refused:
        check_error(answer, 429, "rate_limited")
        assert int(answer.headers["retry-after"]) >= 1
    assert team.get("/v1/limits").status == 200, "another key's bucket"
    assert team.get("/_emulator/rate-limit").json == {"rate_limit": "plan"}
    check_invalid(team.request("PUT", "/_emulator/rate-limit", {"rate_limit": "sometimes"}), "rate_limit")


# --- ten workers ----------------------------------------------------------------------------------


def test_ten_workers_with_keys_of_their_own_never_see_each_other(guarded, new_key):
    workers = [new_key(plan="pro", label=f"worker {n}") for n in range(10)]

    def work(n):
        api = workers[n][0]
        seen = set()
        for round_ in range(3):
            row = api.create(cpu=0.1, memory_mb=64, metadata={"worker": str(n)})
            api.put_file(row["id"], "/tmp/whose", str(n).encode())
            assert api.sh(row["id"], "cat /tmp/whose") == str(n)
            seen.add(row["id"])
            listed = api.get("/v1/sandboxes").json["sandboxes"]
            assert {r["id"] for r in listed} == seen and {r["metadata"]["worker"] for r in listed} == {str(n)}
            if round_ < 2:
                assert api.delete(f"/v1/sandboxes/{row['id']}").status == 200
        return row["id"], seen

    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(work, range(10)))
    assert len(set().union(*(seen for _, seen in done))) == 30
    for n, (api, _) in enumerate(workers):
        other = done[(n + 1) % 10][0]
        for method, path in [("GET", ""), ("GET", "/metrics"), ("POST", "/pause"), ("DELETE", "")]:
            check_error(api.request(method, f"/v1/sandboxes/{other}{path}"), 404, "sandbox_not_found")
    for n, (api, _) in enumerate(workers):
        assert api.status_of(done[n][0]) == "running"
        assert api.delete(f"/v1/sandboxes/{done[n][0]}").status == 200
    used = [api.get("/v1/limits").json["usage_gb_hours_used"] for api, _ in workers]
    assert all(0 < u < 0.01 for u in used), used


# --- the command line -----------------------------------------------------------------------------


def test_the_key_command(binary, guarded, admin):
    where = ["--url", f"http://127.0.0.1:{guarded.port}", "--key", ADMIN]
    made = run(binary, "key", "create", "--plan", "free", "--label", "by hand", "--expires-in", "2h", *where)
    assert made.returncode == 0, made
    key = made.stdout.strip()
    api = guarded.api(key)
    assert api.get("/v1/limits").json["plan"] == "free"
    [mine] = [k for k in map(json.loads, run(binary, "key", "list", *where).stdout.splitlines()) if k["label"] == "by hand"]
    assert mine["id"] in made.stderr and key not in made.stderr
    assert run(binary, "key", "change", mine["id"], "--plan", "pro", "--rate", "9/60", *where).returncode == 0
    answer = api.get("/v1/limits")
    assert answer.json["plan"] == "pro" and answer.headers["x-ratelimit-limit"] == "9"
    assert run(binary, "key", "revoke", mine["id"], *where).returncode == 0
    check_error(api.get("/v1/limits"), 401, "unauthorized")
    assert run(binary, "key", "change", mine["id"], "--unrevoke", "--expires", "never", *where).returncode == 0
    assert api.get("/v1/limits").status == 200
    own = run(binary, "key", "create", "by-hand-key-2", "--account", "x", *where)
    assert own.stdout == "by-hand-key-2\n" and "acc_x" in own.stderr


@pytest.mark.parametrize("words, status, says", [
    ((), 2, "key create"), (("destroy",), 2, "key create"), (("create", "--plan", "gold"), 1, "422"),
    (("create", "--expires-in", "soon"), 2, "no time"), (("create", "--expires-in", "99999999d"), 2, "no time"),
    (("revoke", "key_000000000000"), 1, "404"), (("change",), 2, "key create"), (("list", "more"), 2, "key create"),
])  # fmt: skip
def test_the_key_command_says_what_is_wrong(binary, guarded, words, status, says):
    done = run(binary, "key", *words, "--url", f"http://127.0.0.1:{guarded.port}", "--key", ADMIN)
    assert done.returncode == status and says in done.stderr, done


def test_the_key_command_without_an_emulator(binary, scratch):
    done = run(binary, "key", "list", "--url", "http://127.0.0.1:1", "--key", "ork_whatever")
    assert done.returncode == 1 and done.stderr
