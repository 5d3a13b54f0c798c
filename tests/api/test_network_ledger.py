"""What a sandbox tried, as the ledger and the command line tell it."""

import json
import os

import pytest

from harness.emulator import run
from harness.wire import check_error, check_invalid


@pytest.mark.vm
def test_ledger(box):
    restricted = box("restricted")
    assert restricted.ledger() == {
        "mode": "restricted", "entries": [], "next_since": 0,
        "counters": {"allowed": 0, "blocked": 0, "failed": 0, "bytes_out": 0, "bytes_in": 0, "lost": 0},
    }  # fmt: skip
    assert restricted.curl("http://deb.debian.org/one")["exit_code"] == 0
    restricted.probe("tcp", "203.0.113.9", 443)
    restricted.dns("evil.example")
    seen = restricted.settled_ledger()
    keys = {"seq", "time", "verdict", "kind", "host", "ip", "port", "proto", "rule", "bytes_out", "bytes_in", "open", "closed_at", "exec"}
    assert all(set(entry) == keys for entry in seen["entries"])
    assert [e["seq"] for e in seen["entries"]] == list(range(1, len(seen["entries"]) + 1))
    (page,) = [e for e in seen["entries"] if e["kind"] == "tcp" and e["verdict"] == "allowed"]
    assert (page["host"], page["port"], page["proto"], page["rule"]) == ("deb.debian.org", 80, "tcp", "deb.debian.org:80"), page
    assert page["bytes_out"] > 50 and page["bytes_in"] > 100 and page["closed_at"] >= page["time"], page
    blocked = [(e["kind"], e["host"], e["ip"], e["port"]) for e in seen["entries"] if e["verdict"] == "blocked"]
    assert ("tcp", None, "203.0.113.9", 443) in blocked and ("dns", "evil.example") in [b[:2] for b in blocked], blocked
    counters = seen["counters"]
    assert counters["blocked"] == len(blocked) and counters["bytes_in"] == page["bytes_in"] and counters["lost"] == 0
    since = seen["next_since"]
    assert since == seen["entries"][-1]["seq"]
    assert restricted.ledger(since=since)["entries"] == [] and restricted.ledger(since=since)["next_since"] == since
    assert restricted.ledger(since=since - 1)["entries"] == seen["entries"][-1:]


def test_learn(box):
    inside = box("open")
    inside.curl("http://elsewhere.example/")
    inside.probe("tcp", "10.9.8.7", 5432)
    answer = inside.api.get(f"/_emulator/sandboxes/{inside.id}/network/learn")
    assert answer.status == 200 and answer.json == {"rules": ["10.9.8.7:5432", "elsewhere.example:80"]}, answer
    quiet = box("off")
    assert quiet.api.get(f"/_emulator/sandboxes/{quiet.id}/network/learn").json == {"rules": []}


def test_ledger_is_the_accounts_own(box, net_emulator):
    mine = box("off")
    path = f"/_emulator/sandboxes/{mine.id}/network"
    other = net_emulator.api("ork_somebody_else")
    for answer in (other.get(path), other.get(path + "/learn"), other.request("PATCH", path, {"network": "off"})):
        check_error(answer, 404, "sandbox_not_found")
    assert net_emulator.api(None).get(path).status == 401
    check_invalid(mine.api.get(path, query={"since": "-1"}), "since", "query")
    assert mine.api.delete(f"/v1/sandboxes/{mine.id}").status == 200
    check_error(mine.api.get(path), 409, "sandbox_not_ready")


def test_cli_shows_the_ledger_and_learns(box, net_emulator, net_api, binary):
    inside = box("open")
    inside.curl("http://elsewhere.example/")
    inside.probe("tcp", "10.9.8.7", 5432)
    environment = {**os.environ, "ORKESTR_API_KEY": net_api.key, "ORKESTR_BASE_URL": f"http://127.0.0.1:{net_emulator.port}"}
    done = run(binary, "network", "learn", inside.id, inside.id, env=environment)
    assert (done.returncode, done.stdout) == (0, "10.9.8.7:5432\nelsewhere.example:80\n"), done
    done = run(binary, "network", "ledger", inside.id, env=environment)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0 and {len(line) for line in lines} == {10}, done
    assert ["blocked", "tcp", "-", "10.9.8.7", "5432"] in [line[2:7] for line in lines], lines
    assert json.loads(run(binary, "network", "ledger", inside.id, "--json", env=environment).stdout)["mode"] == "open"
    by_state_dir = {**os.environ, "ORKESTR_API_KEY": net_api.key, "ORKESTR_BASE_URL": "https://api.orkestr.example"}
    done = run(binary, "network", "learn", inside.id, "--state-dir", str(net_emulator.state_dir), env=by_state_dir)
    assert done.returncode == 0 and "elsewhere.example:80" in done.stdout, done
    for bad, status in [(["learn"], 2), (["ledger", "a/b"], 1), (["ledger", inside.id, "x"], 2), (["learn", "sbx_0"], 1),
                        (["learn", inside.id, "--json"], 2), (["ledger", inside.id, "--url", "http://127.0.0.1:1"], 1)]:  # fmt: skip
        done = run(binary, "network", *bad, env=environment)
        assert done.returncode == status and done.stderr.startswith("orkestr-emulator network:"), done
    done = run(binary, "network", "learn", inside.id, env={**environment, "ORKESTR_API_KEY": "x"})
    assert done.returncode == 1 and "401" in done.stderr, done
