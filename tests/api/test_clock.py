"""The virtual clock: an hour or a month passes at once, and in order."""

import time
from datetime import datetime, timedelta, timezone

import pytest

from harness.emulator import run
from harness.wire import check_error


def when(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.fixture
def own(new_emulator, key):
    """An emulator whose clock is this test's alone; api(key) with the test's key."""
    return new_emulator("--auth", "any").api(key)


def now(api):
    return when(api.get("/_emulator/clock").json["now"])


def advance(api, seconds):
    answer = api.post("/_emulator/clock", {"advance_seconds": seconds})
    assert answer.status == 200, answer
    return answer.json


def test_it_is_the_hosts_until_it_is_moved(own):
    clock = own.get("/_emulator/clock").json
    assert clock["offset_seconds"] == 0 and clock["now"][:16] == clock["host"][:16]


def test_an_advance_moves_what_a_client_is_told(own):
    before = now(own)
    moved = advance(own, 86400.5)
    assert timedelta(seconds=86400.5) <= when(moved["now"]) - before < timedelta(seconds=86460)
    assert abs(when(moved["host"]) - before) < timedelta(seconds=60)
    row = own.create()
    for field in ("created_at", "started_at"):
        assert when(row[field]) - before >= timedelta(seconds=86400)
    assert when(row["expires_at"]) - when(row["started_at"]) == timedelta(seconds=600)
    own.delete(f"/v1/sandboxes/{row['id']}")


def test_deadlines_end_sandboxes_at_once_and_in_order(own):
    rows = [own.create(cpu=0.1, memory_mb=64, timeout_seconds=t) for t in (3000, 1000, 2000, 3600)]
    advance(own, 3300)
    after = [own.get(f"/v1/sandboxes/{row['id']}").json for row in rows]
    assert [row["status"] for row in after] == ["terminated", "terminated", "terminated", "running"]
    for row in after[:3]:
        assert row["termination_reason"] == "timeout"
        late = when(row["terminated_at"]) - when(row["expires_at"])
        assert timedelta(0) <= late < timedelta(seconds=60), "it ended at its deadline, not when the clock stopped"
    ended = sorted(after[:3], key=lambda row: row["terminated_at"])
    assert [row["timeout_seconds"] for row in ended] == [1000, 2000, 3000]
    own.delete(f"/v1/sandboxes/{rows[3]['id']}")


def test_a_deadline_that_is_left_comes_when_it_says(own):
    row = own.create(timeout_seconds=3600)
    advance(own, 3598)
    assert own.status_of(row["id"]) == "running"
    until = time.monotonic() + 20
    while own.status_of(row["id"]) != "terminated" and time.monotonic() < until:
        time.sleep(0.05)
    after = own.get(f"/v1/sandboxes/{row['id']}").json
    assert (after["status"], after["termination_reason"]) == ("terminated", "timeout")
    assert after["terminated_at"] >= after["expires_at"]


def test_a_commands_time_out_is_real_time(own, run_in_background):
    """The command really runs: an hour that did not pass for it is none it can have used up."""
    row = own.create(timeout_seconds=3600)
    running = run_in_background(own.exec, row["id"], "echo begun > /tmp/begun; sleep 2; echo done", timeout_seconds=60)
    while own.sh(row["id"], "cat /tmp/begun 2>/dev/null; true") != "begun\n":
        time.sleep(0.05)
    advance(own, 1800)
    result = running.result(30)
    assert (result["stdout"], result["exit_code"], result["reason"]) == ("done\n", 0, "exited")
    assert result["duration_ms"] < 60_000
    own.delete(f"/v1/sandboxes/{row['id']}")


def test_the_lifetime_of_a_paused_sandbox_stands_still(own, freezer):
    row = own.create(timeout_seconds=600)
    assert own.post(f"/v1/sandboxes/{row['id']}/pause").status == 200
    advance(own, 30 * 86400)
    assert own.status_of(row["id"]) == "paused"
    back = own.post(f"/v1/sandboxes/{row['id']}/resume").json
    left = when(back["expires_at"]) - now(own)
    assert timedelta(seconds=500) < left <= timedelta(seconds=600)
    advance(own, 700)
    assert own.get(f"/v1/sandboxes/{row['id']}").json["termination_reason"] == "timeout"


def test_an_idempotency_key_is_forgotten_after_24_hours(own):
    def create():
        return own.post("/v1/sandboxes", {"template": "tiny", "timeout_seconds": 10}, headers={"Idempotency-Key": "k"}).json["id"]

    first = create()
    advance(own, 24 * 3600 - 60)
    assert create() == first
    advance(own, 120)
    second = create()
    assert second != first
    own.delete(f"/v1/sandboxes/{second}")


def test_what_is_remembered_of_commands_goes(own):
    row = own.create(timeout_seconds=3600)
    own.exec(row["id"], "true")
    assert len(own.get(f"/v1/sandboxes/{row['id']}/exec").json["execs"]) == 1
    advance(own, 3000)
    assert own.get(f"/v1/sandboxes/{row['id']}/exec").json["execs"] == []
    own.delete(f"/v1/sandboxes/{row['id']}")


def test_set_goes_to_a_moment(own):
    target = datetime(datetime.now(timezone.utc).year + 2, 2, 28, 23, 59, 59, tzinfo=timezone.utc)
    answer = own.post("/_emulator/clock", {"set": target.isoformat().replace("+00:00", "Z")})
    assert answer.status == 200 and timedelta(0) <= now(own) - target < timedelta(seconds=60)


@pytest.mark.parametrize("body", [
    {}, {"advance_seconds": -1}, {"advance_seconds": "5"}, {"advance_seconds": 1e12}, {"advance_seconds": None},
    {"set": "yesterday"}, {"set": "2001-01-01T00:00:00Z"}, {"advance_seconds": 1, "set": "2031-01-01T00:00:00Z"},
    {"reset": False}, {"reset": 1}, {"set": "9999-01-01T00:00:00Z"},
])  # fmt: skip
def test_what_it_refuses(api, body):
    answer = api.post("/_emulator/clock", body)
    assert (answer.status, answer.code) == (422, "validation_error"), answer
    assert api.get("/_emulator/clock").json["offset_seconds"] == 0


def test_moving_it_needs_a_key(emulator):
    check_error(emulator.api(None).post("/_emulator/clock", {"advance_seconds": 1}), 401, "unauthorized")


def test_it_is_kept_over_a_restart_and_set_back_on_request(new_emulator, new_state, key):
    state = new_state("tiny")
    first = new_emulator("--auth", "any", state=state)
    advance(first.api(key), 7200)
    assert first.stop() == 0
    second = new_emulator("--auth", "any", state=state)
    api = second.api(key)
    assert api.get("/_emulator/clock").json["offset_seconds"] == 7200
    row = api.create()
    check_error(api.post("/_emulator/clock", {"reset": True}), 409, "sandboxes_live")
    api.delete(f"/v1/sandboxes/{row['id']}")
    assert api.post("/_emulator/clock", {"reset": True}).json["offset_seconds"] == 0
    assert second.stop() == 0
    third = new_emulator("--auth", "any", state=state)
    assert third.api(key).get("/_emulator/clock").json["offset_seconds"] == 0


def test_the_clock_command(binary, new_emulator, new_state):
    state = new_state("tiny")
    emulator = new_emulator("--api-key", "ork_clock_key", state=state)
    api, where = emulator.api("ork_clock_key"), ["--state-dir", str(state), "--key", "ork_clock_key"]
    row = api.create(timeout_seconds=3600)
    done = run(binary, "clock", "--advance", "2h", *where)
    assert done.returncode == 0 and "(7200" in done.stdout, done
    assert api.get(f"/v1/sandboxes/{row['id']}").json["termination_reason"] == "timeout"
    assert run(binary, "clock", *where).stdout[:13] == now(api).strftime("%Y-%m-%dT%H")
    for words in (["--advance", "5x"], ["--advance", "-5"], ["--set", "x", "--reset"], ["now"]):
        assert run(binary, "clock", *words, *where).returncode == 2
    assert run(binary, "clock", "--set", "2001-01-01T00:00:00Z", *where).returncode == 1
    assert run(binary, "clock", "--reset", *where).returncode == 0
    assert api.get("/_emulator/clock").json["offset_seconds"] == 0
