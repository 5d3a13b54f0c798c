"""Keys, scopes, plans, and accounts that never see each other."""

import pytest

from harness.wire import check_error

FREE, PRO, TEAM = "ork_free_key", "ork_pro_key", "ork_team_key"
READ_ONLY, WRITE_ONLY = "ork_read_only", "ork_write_only"
OLD_STYLE = "sp_live_old_style_key"


@pytest.fixture(scope="module")
def guarded(binary, new_state):
    """An emulator that knows some keys and refuses all others."""
    from harness.emulator import Emulator

    keys = [f"{FREE}:free", f"{PRO}:pro", TEAM, f"{READ_ONLY}:team:read", f"{WRITE_ONLY}:team:write", f"{OLD_STYLE}:team"]
    arguments = [word for key in keys for word in ("--api-key", key)]
    with Emulator(binary, new_state("tiny"), *arguments) as emulator:
        yield emulator


@pytest.fixture
def using(guarded):
    """using(key) -> Api; what it leaves running is ended by a key that may."""
    from conftest import terminate_all

    used = []

    def make(key):
        api = guarded.api(key)
        if key in (FREE, PRO, TEAM, OLD_STYLE):
            used.append(api)
        return api

    yield make
    for api in used:
        terminate_all(api)


# --- who are you ----------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/sandboxes"), ("GET", "/v1/sandboxes"), ("GET", "/v1/sandboxes/sbx_x"),
    ("DELETE", "/v1/sandboxes/sbx_x"), ("POST", "/v1/sandboxes/sbx_x/exec"), ("POST", "/v1/sandboxes/sbx_x/files"),
    ("GET", "/v1/sandboxes/sbx_x/files"), ("DELETE", "/v1/sandboxes/sbx_x/files"),
]  # fmt: skip

BAD_HEADERS = [
    None, "", "Bearer", "Bearer ", "Bearer  ", "Basic b3JrX3RlYW1fa2V5", f"Token {TEAM}", TEAM, "Bearer ork_wrong",
    f"Bearer {TEAM}x", f"Bearer {TEAM[:-1]}", f"Bearer {TEAM} x", f"Bearer {TEAM.upper()}", "Bearer " + "x" * 4000,
    "Bearer null", "Bearer ork_", f"Bearer {FREE}:free",
]  # fmt: skip


@pytest.mark.parametrize("method, path", ROUTES)
def test_every_route_asks_for_a_key(guarded, method, path):
    answer = guarded.api(None).request(method, path)
    check_error(answer, 401, "unauthorized")
    assert answer.headers.get("www-authenticate", "").startswith("Bearer")


@pytest.mark.parametrize("header", BAD_HEADERS, ids=lambda value: repr(value)[:40])
def test_what_is_no_known_key_is_401(guarded, header):
    headers = {} if header is None else {"Authorization": header}
    check_error(guarded.api(None).get("/v1/sandboxes", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize("header", [f"Bearer {TEAM}", f"bearer {TEAM}", f"BEARER {TEAM}", f"Bearer {OLD_STYLE}"])
def test_known_keys_are_let_in(guarded, header):
    assert guarded.api(None).get("/v1/sandboxes", headers={"Authorization": header}).status == 200


def test_a_401_comes_before_what_else_is_wrong(guarded):
    check_error(guarded.api("ork_wrong").post("/v1/sandboxes", {"template": 5}), 401, "unauthorized")


def test_auth_any_accepts_what_looks_like_a_key_only(emulator, key):
    assert emulator.api(key).get("/v1/sandboxes").status == 200
    assert emulator.api("sp_live_abc").get("/v1/sandboxes").status == 200
    for bad in ("x", "sk-123", "", "Ork_abc"):
        check_error(emulator.api(bad).get("/v1/sandboxes"), 401, "unauthorized")


def test_keys_are_not_logged_and_not_stored(guarded):
    guarded.api("ork_wrong_one").get("/v1/sandboxes")
    guarded.api(TEAM).get("/v1/sandboxes")
    assert TEAM not in guarded.log() and "ork_wrong_one" not in guarded.log()
    for path in guarded.state_dir.glob("*.db*"):
        assert TEAM.encode() not in path.read_bytes(), path


# --- what may you ---------------------------------------------------------------------------------


def test_a_read_key_reads_and_does_not_write(using):
    reader = using(READ_ONLY)
    assert reader.get("/v1/sandboxes").status == 200
    for method, path in [("POST", "/v1/sandboxes"), ("DELETE", "/v1/sandboxes/sbx_x"), ("POST", "/v1/sandboxes/sbx_x/exec")]:
        check_error(reader.request(method, path, {"template": "tiny", "command": "true"}), 403, "insufficient_scope")
    check_error(reader.post("/v1/sandboxes/sbx_x/files", {"path": "/x", "content": ""}), 403, "insufficient_scope")
    check_error(reader.delete("/v1/sandboxes/sbx_x/files?path=/x"), 403, "insufficient_scope")


def test_a_write_key_writes_and_does_not_read(using):
    writer = using(WRITE_ONLY)
    row = writer.create()
    assert writer.exec(row["id"], "echo hi")["stdout"] == "hi\n"
    check_error(writer.get("/v1/sandboxes"), 403, "insufficient_scope")
    check_error(writer.get(f"/v1/sandboxes/{row['id']}"), 403, "insufficient_scope")
    check_error(writer.files("GET", row["id"], "/"), 403, "insufficient_scope")
    assert writer.delete(f"/v1/sandboxes/{row['id']}").status == 200


# --- whose is it ----------------------------------------------------------------------------------


def test_another_accounts_sandbox_does_not_exist(using):
    owner, other = using(TEAM), using(PRO)
    row = owner.create()
    owner.put_file(row["id"], "/tmp/secret", b"mine")
    path = f"/v1/sandboxes/{row['id']}"
    for method, rest, body in [
        ("GET", "", None), ("DELETE", "", None), ("POST", "/exec", {"command": "true"}),
        ("GET", "/files?path=/tmp/secret", None), ("POST", "/files", {"path": "/tmp/x", "content": ""}),
        ("DELETE", "/files?path=/tmp/secret", None),
    ]:  # fmt: skip
        check_error(other.request(method, path + rest, body), 404, "sandbox_not_found")
    assert other.get("/v1/sandboxes").json["sandboxes"] == []
    assert owner.status_of(row["id"]) == "running"
    assert owner.sh(row["id"], "cat /tmp/secret") == "mine"


def test_a_404_says_the_same_for_anothers_and_for_nobodys(using):
    owner, other = using(TEAM), using(PRO)
    row = owner.create()
    theirs = other.get(f"/v1/sandboxes/{row['id']}").json
    nobodys = other.get("/v1/sandboxes/sbx_01HXYZ00000000000000000000").json
    assert theirs["detail"].replace(row["id"], "ID") == nobodys["detail"].replace("sbx_01HXYZ00000000000000000000", "ID")


def test_the_same_key_is_the_same_account_after_a_restart(new_emulator, new_state):
    state = new_state("tiny")
    first = new_emulator("--api-key", "ork_same", state=state)
    row = first.api("ork_same").create()
    assert first.stop() == 0
    second = new_emulator("--api-key", "ork_same", "--api-key", "ork_other", state=state)
    assert [r["id"] for r in second.api("ork_same").get("/v1/sandboxes").json["sandboxes"]] == [row["id"]]
    assert second.api("ork_other").get("/v1/sandboxes").json["sandboxes"] == []


# --- plans ----------------------------------------------------------------------------------------

ALLOWED = [
    (FREE, {"size": "small"}), (FREE, {"cpu": 0.5, "memory_mb": 512}), (FREE, {"cpu": 0.1}), (FREE, {}),
    (PRO, {"size": "small"}), (PRO, {"size": "medium"}), (PRO, {"cpu": 2, "memory_mb": 4096}),
    (TEAM, {"size": "large"}), (TEAM, {"cpu": 4, "memory_mb": 8192}),
]  # fmt: skip

REFUSED = [
    (FREE, {"size": "medium"}, "size_not_allowed"), (FREE, {"size": "large"}, "size_not_allowed"),
    (FREE, {"cpu": 0.51}, "size_not_allowed"), (FREE, {"cpu": 1}, "size_not_allowed"),
    (FREE, {"memory_mb": 513}, "size_not_allowed"), (FREE, {"memory_mb": 2048}, "size_not_allowed"),
    (PRO, {"size": "large"}, "size_not_allowed"), (PRO, {"cpu": 2.5}, "size_not_allowed"),
    (PRO, {"memory_mb": 4097}, "size_not_allowed"),
    (TEAM, {"cpu": 4.5}, "size_not_allowed"), (TEAM, {"cpu": 64}, "size_not_allowed"),
    (TEAM, {"memory_mb": 8193}, "size_not_allowed"),
    (FREE, {"network": "open"}, "network_not_allowed"),
]  # fmt: skip


@pytest.mark.parametrize("key, fields", ALLOWED, ids=str)
def test_plans_allow(using, key, fields):
    using(key).create(**fields)


@pytest.mark.parametrize("key, fields, code", REFUSED, ids=str)
def test_plans_refuse(using, key, fields, code):
    api = using(key)
    check_error(api.post("/v1/sandboxes", {"template": "tiny", **fields}), 402, code)
    assert api.get("/v1/sandboxes", query={"status": "running"}).json["sandboxes"] == []


def test_the_default_size_is_capped_to_the_plan(using):
    assert using(FREE).create().items() >= {"cpu": 0.5, "memory_mb": 512}.items()
    assert using(PRO).create().items() >= {"cpu": 1.0, "memory_mb": 2048}.items()


@pytest.mark.parametrize("key, most", [(FREE, 1), (PRO, 5), (TEAM, 15)])
def test_plans_limit_how_many_run_at_once(using, key, most):
    api = using(key)
    ids = [api.create(cpu=0.1, memory_mb=64)["id"] for _ in range(most)]
    check_error(api.post("/v1/sandboxes", {"template": "tiny", "cpu": 0.1, "memory_mb": 64}), 402, "concurrent_limit")
    api.delete(f"/v1/sandboxes/{ids[0]}")
    api.create(cpu=0.1, memory_mb=64)


def test_the_limit_holds_against_creates_at_the_same_time(using, run_in_background):
    api = using(PRO)
    body = {"template": "tiny", "cpu": 0.1, "memory_mb": 64}
    answers = [run_in_background(api.post, "/v1/sandboxes", body) for _ in range(12)]
    statuses = sorted(answer.result(30).status for answer in answers)
    assert statuses == [201] * 5 + [402] * 7
