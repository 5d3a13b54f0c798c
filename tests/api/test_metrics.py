"""Metrics against known loads, limits with what is really used, and the meter behind both."""

import time
from datetime import datetime, timedelta, timezone

import pytest

from harness.wire import check_error, check_invalid

MB = 1 << 20
GB_HOUR_SECONDS = 3600


def when(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def metrics(api, sandbox_id, **query):
    answer = api.get(f"/v1/sandboxes/{sandbox_id}/metrics", query=query)
    assert answer.status == 200, answer
    return answer.json


def limits(api):
    answer = api.get("/v1/sandboxes/limits")
    assert answer.status == 200, answer
    assert answer.json == {**api.get("/v1/limits").json, "usage_gb_hours_used": answer.json["usage_gb_hours_used"],
                           "usage_cpu_hours_used": answer.json["usage_cpu_hours_used"]}  # fmt: skip
    return answer.json


def wait_for_samples(api, sandbox_id, n, seconds=30):
    """Metrics once n more samples were taken than there are now."""
    have = {s["t"] for s in metrics(api, sandbox_id)["samples"]}
    until = time.monotonic() + seconds
    while True:
        m = metrics(api, sandbox_id)
        if len([s for s in m["samples"] if s["t"] not in have]) >= n:
            return m
        assert time.monotonic() < until, m
        time.sleep(0.1)


def start(api, sandbox_id, command):
    answer = api.post(f"/v1/sandboxes/{sandbox_id}/exec", {"command": command, "background": True, "timeout_seconds": 600})
    assert answer.status in (200, 201, 202), answer


@pytest.fixture
def own(new_emulator, key):
    return new_emulator("--auth", "any").api(key)


# --- a reading against a known load ---------------------------------------------------------------


def test_an_idle_sandbox_uses_next_to_nothing(api):
    row = api.create(cpu=0.5, memory_mb=256)
    m = wait_for_samples(api, row["id"], 2)
    assert (m["sandbox_status"], m["sample_interval_seconds"]) == ("running", 1)
    assert m["cpu"]["cores"] == 0.5 and 0 <= m["cpu"]["usage_percent"] < 20 and m["cpu"]["usage_cores"] < 0.1
    assert m["memory"]["limit_bytes"] == 256 * MB and 0 < m["memory"]["usage_bytes"] < 40 * MB
    assert m["memory"]["usage_percent"] == pytest.approx(m["memory"]["usage_bytes"] / (2.56 * MB), abs=0.01)


def own_cpu_seconds(api, sandbox_id):
    """What the kernel says of the loop itself, inside the sandbox: its utime and stime."""
    pid = api.sh(sandbox_id, "cat /tmp/pid").strip()
    fields = api.sh(sandbox_id, f"cat /proc/{pid}/stat").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("cpu, cores", [(1.0, 1.0), (2.0, 1.0), (0.5, 0.5)])
def test_a_pegged_core(api, cpu, cores, emulator):
    """A loop on one core: all of one allocated core, half of two, and no more than what is allocated. How much of a core
    the loop gets on a machine that others use, too, the kernel tells inside the sandbox: that must be the reading."""
    row = api.create(cpu=cpu, memory_mb=128)
    start(api, row["id"], "echo $$ > /tmp/pid; while :; do :; done")
    wait_for_samples(api, row["id"], 1)
    early, first = own_cpu_seconds(api, row["id"]), metrics(api, row["id"])
    before, at = own_cpu_seconds(api, row["id"]), time.perf_counter()
    wait_for_samples(api, row["id"], 5)
    took, used = time.perf_counter() - at, own_cpu_seconds(api, row["id"]) - before
    m, late = metrics(api, row["id"]), own_cpu_seconds(api, row["id"])
    assert used > 0.1
    # Each of the two readings lies between two of the kernel's.
    metered = m["lifetime"]["cpu_seconds"] - first["lifetime"]["cpu_seconds"]
    assert used * 0.85 - 0.1 < metered < (late - early) * 1.15 + 0.1, (metered, used, late - early)
    new = [s["cpu_percent"] for s in m["samples"] if s["t"] > first["samples"][-1]["t"]]
    mean = sum(new) / len(new)
    assert mean == pytest.approx(100 * used / took / cpu, rel=0.3), (new, used, took)
    if emulator.info()["cgroups"]["cpu"]:
        assert mean < 115 * cores / cpu
        if used / took > 0.95 * cores:  # it had the core to itself
            assert max(new) == pytest.approx(100 * cores / cpu, rel=0.1), new
    live = m["cpu"]
    assert live["cores"] == cpu and live["usage_percent"] == pytest.approx(live["usage_cores"] / cpu * 100, abs=0.02)
    assert live["usage_percent"] == m["samples"][-1]["cpu_percent"]


def test_a_working_set_of_200_mb(api):
    row = api.create(cpu=2, memory_mb=512)
    before = metrics(api, row["id"])["memory"]["usage_bytes"]
    # tail keeps all it may have to print, and nobody reads what it prints.
    start(api, row["id"], f"head -c {200 * MB} /dev/zero | tail -c {200 * MB} | sleep 600")
    until = time.monotonic() + 30
    while (used := metrics(api, row["id"])["memory"]["usage_bytes"] - before) < 190 * MB and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(1)
    m = metrics(api, row["id"])
    used = m["memory"]["usage_bytes"] - before
    assert 190 * MB < used < 230 * MB, used / MB
    assert m["memory"]["usage_percent"] == pytest.approx(m["memory"]["usage_bytes"] / (5.12 * MB), abs=0.01)
    assert m["lifetime"]["memory_peak_bytes"] >= used


def test_page_cache_is_left_out(api):
    row = api.create(cpu=2, memory_mb=1024)
    api.sh(row["id"], "dd if=/dev/zero of=/workspace/big bs=1M count=300 2>/dev/null; sync", timeout_seconds=120)
    m = wait_for_samples(api, row["id"], 2)
    assert m["memory"]["usage_bytes"] < 100 * MB, m["memory"]


# --- the window -----------------------------------------------------------------------------------


def test_the_window_is_in_order_and_since_keeps_the_newer(api):
    row = api.create(cpu=0.1, memory_mb=64)
    m = wait_for_samples(api, row["id"], 3)
    times = [s["t"] for s in m["samples"]]
    assert times == sorted(set(times)) and all(t.endswith("Z") for t in times)
    assert all(set(s) == {"t", "cpu_percent", "mem_bytes"} for s in m["samples"])
    for since in (times[1], when(times[1]).timestamp(), f"{when(times[1]).timestamp() * 1000:.0f}", times[1].replace("Z", "+00:00")):
        newer = [s["t"] for s in metrics(api, row["id"], since=since)["samples"]]
        assert newer[: len(times) - 2] == times[2:], since
    assert metrics(api, row["id"], since="2999-01-01T00:00:00Z")["samples"] == []
    assert len(metrics(api, row["id"], since=0)["samples"]) >= len(times)


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01T00:00:00Z", "-5", "1e5", "nan", "1.2.3", "0x10", "1" * 400])
def test_a_since_that_is_none(api, sandbox, since):
    check_invalid(api.get(f"/v1/sandboxes/{sandbox}/metrics", query={"since": since}), "since", "query")


def test_the_window_is_a_minute_of_the_emulators_clock(own):
    row = own.create(cpu=0.1, memory_mb=64, timeout_seconds=3600)
    wait_for_samples(own, row["id"], 2)
    own.post("/_emulator/clock", {"advance_seconds": 55})
    assert len(metrics(own, row["id"])["samples"]) >= 2
    own.post("/_emulator/clock", {"advance_seconds": 10})
    assert len(metrics(own, row["id"])["samples"]) < 2
    own.delete(f"/v1/sandboxes/{row['id']}")


# --- who is asked ---------------------------------------------------------------------------------


def test_paused_and_terminated_have_a_lifetime_only(api, freezer):
    row = api.create(cpu=1, memory_mb=128)
    path = f"/v1/sandboxes/{row['id']}"
    api.sh(row["id"], "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    used = metrics(api, row["id"])["lifetime"]["cpu_seconds"]
    assert used > 0.02
    for change, status in ((lambda: api.post(f"{path}/pause"), "paused"), (lambda: api.delete(path), "terminated")):
        assert change().status == 200
        m = metrics(api, row["id"])
        assert (m["sandbox_status"], m["cpu"], m["memory"], m["samples"]) == (status, None, None, [])
        assert m["lifetime"]["cpu_seconds"] >= used and m["lifetime"]["memory_gb_seconds"] > 0


def test_a_sandbox_that_is_ended_within_a_second_is_metered(api):
    row = api.create(cpu=1, memory_mb=128)
    api.sh(row["id"], "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done")
    api.delete(f"/v1/sandboxes/{row['id']}")
    m = metrics(api, row["id"])["lifetime"]
    assert m["cpu_seconds"] > 0.005 and m["running_seconds"] > 0 and m["memory_peak_bytes"] > 0


def test_nobody_elses(api, emulator):
    row = api.create()
    check_error(emulator.api("ork_somebody_else").get(f"/v1/sandboxes/{row['id']}/metrics"), 404, "sandbox_not_found")
    check_error(api.get("/v1/sandboxes/sbx_01HXYZ00000000000000000000/metrics"), 404, "sandbox_not_found")
    check_error(emulator.api(None).get(f"/v1/sandboxes/{row['id']}/metrics"), 401, "unauthorized")


# --- what an account has used ---------------------------------------------------------------------


def test_limits_count_what_is_used(api):
    before = limits(api)
    assert before["usage_gb_hours_used"] == before["usage_cpu_hours_used"] == 0
    row = api.create(cpu=1, memory_mb=128)
    api.sh(row["id"], "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    api.delete(f"/v1/sandboxes/{row['id']}")
    after, life = limits(api), metrics(api, row["id"])["lifetime"]
    assert after["usage_cpu_hours_used"] == pytest.approx(life["cpu_seconds"] / 3600, rel=0.01)
    assert after["usage_gb_hours_used"] == pytest.approx(life["memory_gb_seconds"] / 3600, rel=0.01)
    second = api.create(cpu=1, memory_mb=128)
    api.sh(second["id"], "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    api.delete(f"/v1/sandboxes/{second['id']}")
    assert limits(api)["usage_cpu_hours_used"] > after["usage_cpu_hours_used"] * 1.2, "the account's sandboxes add up"


def test_an_hour_that_passes_is_charged_to_memory(own):
    row = own.create(cpu=1, memory_mb=512, timeout_seconds=3600)
    start(own, row["id"], f"head -c {200 * MB} /dev/zero | tail -c {200 * MB} | sleep 600")
    until = time.monotonic() + 30
    while metrics(own, row["id"])["memory"]["usage_bytes"] < 200 * MB and time.monotonic() < until:
        time.sleep(0.2)
    own.post("/_emulator/clock", {"advance_seconds": 1800})
    used = limits(own)
    gb = metrics(own, row["id"])["memory"]["usage_bytes"] / (1024 * MB)
    assert used["usage_gb_hours_used"] == pytest.approx(gb / 2, rel=0.15)
    assert used["usage_cpu_hours_used"] < 0.01, "nothing ran meanwhile"
    # Its deadline comes first: what it would have used later is not charged.
    own.post("/_emulator/clock", {"advance_seconds": 100 * 3600})
    assert own.status_of(row["id"]) == "terminated"
    assert metrics(own, row["id"])["lifetime"]["running_seconds"] == pytest.approx(3600, abs=120)


def test_a_pause_costs_nothing(own, freezer):
    row = own.create(cpu=0.5, memory_mb=128, timeout_seconds=600)
    assert own.post(f"/v1/sandboxes/{row['id']}/pause").status == 200
    before, life = limits(own), metrics(own, row["id"])["lifetime"]
    own.post("/_emulator/clock", {"advance_seconds": 3600})
    assert limits(own)["usage_gb_hours_used"] == before["usage_gb_hours_used"]
    assert own.post(f"/v1/sandboxes/{row['id']}/resume").status == 200
    wait_for_samples(own, row["id"], 1)
    m = metrics(own, row["id"])["lifetime"]
    assert life["memory_gb_seconds"] < m["memory_gb_seconds"] < life["memory_gb_seconds"] + 60
    assert m["running_seconds"] < 60
    own.delete(f"/v1/sandboxes/{row['id']}")


def test_it_outlives_a_restart_and_a_kill(new_emulator, new_state, key):
    state = new_state("tiny")
    first = new_emulator("--auth", "any", state=state)
    api = first.api(key)
    row = api.create(cpu=1, memory_mb=128)
    api.sh(row["id"], "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    assert first.stop() == 0
    second = new_emulator("--auth", "any", state=state)
    api = second.api(key)
    used, life = limits(api), metrics(api, row["id"])["lifetime"]
    assert used["usage_cpu_hours_used"] > 0 and used["usage_gb_hours_used"] > 0 and life["cpu_seconds"] > 0.02
    api.delete(f"/v1/sandboxes/{row['id']}")
    row = api.create(cpu=1, memory_mb=128)
    api.sh(row["id"], "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    wait_for_samples(api, row["id"], 7)  # a batch is written every five seconds
    running = limits(api)
    second.kill_all()
    third = new_emulator("--auth", "any", state=state)
    api = third.api(key)
    after = limits(api)
    assert after["usage_cpu_hours_used"] > used["usage_cpu_hours_used"] * 1.3
    assert after["usage_gb_hours_used"] > used["usage_gb_hours_used"] + 0.1 * (running["usage_gb_hours_used"] - used["usage_gb_hours_used"])
    assert metrics(api, row["id"])["lifetime"]["cpu_seconds"] > 0.02


def over_a_gap(new_emulator, key, end, *args):
    """A sandbox that computes all the while, over an end of the daemon alone: what it used meanwhile is charged, once."""
    emulator = new_emulator("--auth", "any", *args)
    api = emulator.api(key)
    row = api.create(cpu=1, memory_mb=128, timeout_seconds=600)
    start(api, row["id"], "echo $$ > /tmp/pid; while :; do :; done")
    wait_for_samples(api, row["id"], 7)
    before = metrics(api, row["id"])["lifetime"]
    end(emulator)
    time.sleep(2)
    emulator.again()
    api.port = emulator.port
    wait_for_samples(api, row["id"], 2)
    inside = own_cpu_seconds(api, row["id"])
    m = metrics(api, row["id"])
    life = m["lifetime"]
    assert m["sandbox_status"] == "running" and life["cpu_seconds"] == pytest.approx(inside, rel=0.2, abs=0.3), "each second once"
    assert life["running_seconds"] >= before["running_seconds"] + 3, "the gap is charged, too"
    age = (when(api.get("/_emulator/clock").json["now"]) - when(row["started_at"])).total_seconds()
    assert life["running_seconds"] <= age + 0.5
    used = limits(api)
    assert used["usage_cpu_hours_used"] == pytest.approx(life["cpu_seconds"] / 3600, rel=0.2)
    assert used["usage_gb_hours_used"] == pytest.approx(life["memory_gb_seconds"] / 3600, rel=0.2)
    api.delete(f"/v1/sandboxes/{row['id']}")


def test_what_runs_on_while_the_daemon_is_dead_is_charged(new_emulator, key):
    over_a_gap(new_emulator, key, lambda emulator: emulator.kill_daemon())


def test_what_a_stop_leaves_running_is_charged(new_emulator, key):
    over_a_gap(new_emulator, key, lambda emulator: emulator.stop(), "--keep")


# --- a month and its end --------------------------------------------------------------------------


def go_to(api, moment):
    answer = api.post("/_emulator/clock", {"set": moment.strftime("%Y-%m-%dT%H:%M:%SZ")})
    assert answer.status == 200, answer


def next_month(moment):
    return datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=timezone.utc)


def test_a_month_turns_over(own):
    now = datetime.now(timezone.utc)
    turn = next_month(next_month(now))
    go_to(own, turn - timedelta(seconds=1800))
    assert when(limits(own)["usage_resets_at"]) == turn
    own.request("PUT", "/_emulator/usage", {"gb_hours": 2000, "cpu_hours": 7})
    used = limits(own)
    assert (used["usage_gb_hours_used"], used["usage_cpu_hours_used"]) == (2000, 7)
    check_error(own.post("/v1/sandboxes", {"template": "tiny"}), 402, "usage_exhausted")
    go_to(own, turn - timedelta(seconds=5))
    check_error(own.post("/v1/sandboxes", {"template": "tiny"}), 402, "usage_exhausted")
    go_to(own, turn)
    fresh = limits(own)
    assert (fresh["usage_gb_hours_used"], fresh["usage_cpu_hours_used"]) == (0, 0)
    assert when(fresh["usage_resets_at"]) == next_month(turn)
    row = own.create()
    own.delete(f"/v1/sandboxes/{row['id']}")


def test_a_sandbox_that_lives_across_the_turn_is_charged_to_both_months(own):
    turn = next_month(next_month(datetime.now(timezone.utc)))
    go_to(own, turn - timedelta(seconds=600))
    row = own.create(cpu=0.5, memory_mb=128, timeout_seconds=3600)
    go_to(own, turn + timedelta(seconds=1800))
    life = metrics(own, row["id"])["lifetime"]["memory_gb_seconds"]
    this_month = limits(own)["usage_gb_hours_used"] * GB_HOUR_SECONDS
    assert this_month == pytest.approx(life * 1800 / 2400, rel=0.1)
    own.delete(f"/v1/sandboxes/{row['id']}")


@pytest.mark.parametrize("used", [{"gb_hours": 2000}, {"cpu_hours": 1000}])
def test_used_up_is_used_up(own, used):
    row = own.create(cpu=0.1, memory_mb=64)
    assert own.request("PUT", "/_emulator/usage", used).status == 200
    error = check_error(own.post("/v1/sandboxes", {"template": "tiny"}), 402, "usage_exhausted")
    assert "2000" in error["detail"]
    assert own.sh(row["id"], "echo still") == "still\n", "what runs goes on"
    own.delete(f"/v1/sandboxes/{row['id']}")
    assert own.request("PUT", "/_emulator/usage", {"gb_hours": 1999, "cpu_hours": 999}).status == 200
    own.delete(f"/v1/sandboxes/{own.create()['id']}")


def test_regions_are_listed_and_kept(api):
    assert limits(api)["regions"] == ["fsn1", "hel1"]
    row = api.create(region="hel1", cpu=0.1, memory_mb=64)
    assert api.get(f"/v1/sandboxes/{row['id']}").json["region"] == "hel1"
    check_invalid(api.post("/v1/sandboxes", {"template": "tiny", "region": "mars"}), "region")
