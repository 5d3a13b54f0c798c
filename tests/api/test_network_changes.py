"""What a sandbox may reach is changed: while it runs, and by rules and maps from files."""

import time

from conftest import terminate_all
from harness.emulator import run
from harness.netbox import Box, body, hex_of, refused_at_once
from harness.wire import check_error, check_invalid


def test_patch_changes_a_running_sandbox(box):
    inside = box("restricted")
    assert inside.curl("http://elsewhere.example/")["exit_code"] == 6
    answer = inside.set_network("open")
    assert answer.status == 200 and answer.json == {"mode": "open"}, answer
    assert inside.curl("http://elsewhere.example/")["stdout"] == "page / of elsewhere.example\n"
    assert inside.api.get(f"/v1/sandboxes/{inside.id}").json["network"] == "open"
    assert inside.api.get("/v1/sandboxes").json["sandboxes"][0]["network"] == "open"

    assert inside.set_network("off").status == 200
    result = inside.curl("http://deb.debian.org/")
    assert result["exit_code"] == 6 and {line["rule"] for line in result["blocked"]} == {"network-off"}, result
    seen = inside.probe("tcp", "203.0.113.9", 80)
    refused_at_once(seen)
    assert seen["blocked"][0]["rule"] == "network-off"

    assert inside.set_network("restricted").status == 200
    assert inside.curl("http://deb.debian.org/")["exit_code"] == 0
    assert inside.curl("http://elsewhere.example/")["exit_code"] == 6


def test_a_stricter_mode_ends_what_stands(box, run_in_background):
    inside = box("open")
    address = inside.address("echo.test")
    waits = run_in_background(inside.run, f"sleep 10 | timeout 10 curl -sS telnet://{address}:7; echo ended $?")
    deadline = time.monotonic() + 5
    while not any(e["open"] and e["kind"] == "tcp" for e in inside.ledger()["entries"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert inside.set_network("restricted").status == 200
    inside.settled_ledger()
    inside.run("kill $(cat /proc/[0-9]*/stat | grep -E '\\((sleep|curl)\\)' | cut -d' ' -f1); true")
    waits.result(15)


def test_patch_of_a_sandbox_without_an_interface_says_so(box):
    off = box("off")
    for network in ("restricted", "open"):
        assert "created" in check_error(off.set_network(network), 409, "network_is_off")["detail"]
    check_invalid(off.set_network("on"), "network")
    check_invalid(off.api.request("PATCH", f"/_emulator/sandboxes/{off.id}/network", {}), "network")


def test_map_at_run_time(box, internet):
    inside = box("open")
    api = inside.api
    assert api.post("/_emulator/network/map", {"map": f"Later.Example:8080=127.0.0.1:{internet['http']}"}).status == 204
    assert inside.curl("http://later.example:8080/m")["stdout"] == "page /m of later.example:8080\n"
    for bad in ("", "x", "=127.0.0.1:80", "x.example=", "x.example=127.0.0.1", "x.example=y.example:80", "*.x.example=127.0.0.1:80"):
        answer = api.post("/_emulator/network/map", {"map": bad})
        assert answer.status in (400, 422), (bad, answer)


def test_rules_and_maps_from_files(new_emulator, new_net_state, internet, netprobe, key, binary, scratch):
    maps, rules = scratch / "maps", scratch / "rules"
    maps.write_text(f"# the fixture\n\n  one.example:80=127.0.0.1:{internet['http']}  # here\none.test=127.0.0.1:{internet['echo']}\n")
    rules.write_text("one.example\r\none.test:7\r\n")
    emulator = new_emulator(
        "--auth", "any", "--map", f"@{maps}", "--allow", f"@{rules}", state=new_net_state()
    )
    api = emulator.api(key)
    inside = Box(api, netprobe, "restricted")
    assert inside.curl("http://one.example/f")["stdout"] == "page /f of one.example\n"
    assert body(inside.probe("tcp", inside.address("one.test"), 7, hex_of("hi"))) == "hi"
    terminate_all(api)
    maps.write_text("one.example:80\n")
    done = run(binary, "serve", "--map", f"@{maps}")
    assert done.returncode == 2 and f"{maps} line 1" in done.stderr, done
    assert run(binary, "serve", "--map", f"@{scratch}/none").returncode == 2
