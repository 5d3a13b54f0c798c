"""What a sandbox whose network is "off" or "open" reaches, and how it is told what it does not reach."""

import json
import os
import shutil
import subprocess
import time

import orkestr
import pytest

from conftest import HERE, cannot_run, terminate_all
from harness.internet import FREE
from harness.netbox import A, PRIVATE, RESOLVER, Box, body, get, refused_at_once
from harness.wire import check_error

# --- off ------------------------------------------------------------------------------------------


@pytest.mark.vm
def test_off_has_no_address_but_loopback(box):
    off = box("off")
    devices = [line.split(":")[0].strip() for line in off.api.sh(off.id, "cat /proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]
    assert off.own_addresses() == []


@pytest.mark.parametrize("target", ["192.0.2.1", "10.0.0.1", "100.64.0.1", "2001:db8::1", "fd6f:726b::1"])
def test_off_refuses_an_address_at_once(box, target):
    off = box("off")
    seen = off.probe("tcp", target, 443)
    refused_at_once(seen)
    assert seen["blocked"] == [{"host": None, "ip": target, "port": 443, "proto": "tcp", "rule": "network-off"}]


@pytest.mark.vm
def test_off_refuses_a_name_at_once(box):
    off = box("off")
    start = time.monotonic()
    result = off.curl("http://some.example/")
    assert result["exit_code"] == 6, result  # could not resolve
    assert result["duration_ms"] < 2000 and time.monotonic() - start < 5
    tried = result["blocked"]
    assert {"some.example"} == {line["host"] for line in tried}, tried
    assert {("dns", 53, "network-off")} == {(line["proto"], line["port"], line["rule"]) for line in tried}, tried
    refused_at_once(off.probe("dns", RESOLVER, "another.example", A))
    refused_at_once(off.probe("udp", "192.0.2.1", 123, "x"))


def test_off_is_an_exception_in_python(net_emulator, net_api, monkeypatch):
    monkeypatch.setenv("ORKESTR_API_KEY", net_api.key)
    monkeypatch.setenv("ORKESTR_BASE_URL", f"http://127.0.0.1:{net_emulator.port}")
    with orkestr.Sandbox.create(template="netbox") as sbx:
        with pytest.raises(orkestr.NetworkPolicyError) as caught:
            sbx.exec("curl -sS http://192.0.2.7:8080/")
        with pytest.raises(orkestr.NetworkPolicyError) as named:
            sbx.exec("curl -sS https://evil.example/")
        assert sbx.exec("curl -sS http://192.0.2.8/ || true").exit_code == 0
    (line,) = caught.value.blocked
    assert line.pop("exec").startswith("exe_")
    assert line == {"host": None, "ip": "192.0.2.7", "port": 8080, "proto": "tcp", "rule": "network-off"}
    assert [line["host"] for line in named.value.blocked] == ["evil.example"], "the first command's is not told again"
    assert named.value.body["exit_code"] == 6


def test_off_is_an_exception_in_javascript(net_emulator, net_api):
    node = shutil.which("node")
    if not node:
        cannot_run("node is not here")
    script = """
        import { Sandbox, NetworkPolicyError } from "./orkestr.mjs";
        const sbx = await Sandbox.create({ template: "netbox" });
        try { await sbx.exec("curl -sS http://192.0.2.7:8080/"); console.log("no error"); }
        catch (error) { console.log(JSON.stringify([error instanceof NetworkPolicyError, error.blocked])); }
        finally { await sbx.terminate(); }
    """
    environment = {**os.environ, "ORKESTR_API_KEY": net_api.key, "ORKESTR_BASE_URL": f"http://127.0.0.1:{net_emulator.port}"}
    done = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60, env=environment, cwd=HERE / "js"
    )
    assert done.returncode == 0, done.stderr
    told, (line,) = json.loads(done.stdout)
    assert line.pop("exec").startswith("exe_")
    assert told and line == {"host": None, "ip": "192.0.2.7", "port": 8080, "proto": "tcp", "rule": "network-off"}


@pytest.mark.parametrize("network", ["off", "restricted", "open"])
def test_a_server_inside_is_reached_over_loopback(box, network):
    inside = box(network)
    inside.run("nohup /tmp/netprobe listen 8000 >/dev/null 2>&1 & sleep 0.2")
    seen = inside.probe("tcp", "127.0.0.1", 8000)
    assert body(seen) == "hello" and seen["blocked"] == [], seen


# --- open -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PRIVATE)
def test_open_refuses_private_ranges(box, address):
    seen = box("open").probe("tcp", address, 80, get("x"))
    refused_at_once(seen)
    if address != "fe80::1":  # without an interface the kernel itself says no
        assert len(seen["blocked"]) == 1 and seen["blocked"][0]["rule"], seen


def test_open_reaches_mapped_names_that_nobody_allowed(box):
    result = box("open").curl("http://elsewhere.example/o")
    assert result["stdout"] == "page /o of elsewhere.example\n", result


def test_open_refuses_this_host(box, internet, net_emulator):
    """Loopback is the sandbox's own; the host's addresses are private; the daemon is on neither."""
    inside = box("open")
    for address in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1"):
        for port in (net_emulator.port, internet["http"]):
            refused_at_once(inside.probe("tcp", address, port, get("x")))
    if internet["lan"]:
        seen = inside.probe("tcp", *internet["lan"], get("x"))
        refused_at_once(seen)
        assert len(seen["blocked"]) == 1 and seen["blocked"][0]["rule"], seen


def test_allow_private_reaches_this_host(new_emulator, new_net_state, internet, netprobe, key):
    if not internet["lan"]:
        pytest.skip("this host has no private address but loopback")
    emulator = new_emulator("--auth", "any", "--allow-private", state=new_net_state())
    api = emulator.api(key)
    inside = Box(api, netprobe, "open")
    seen = inside.probe("tcp", *internet["lan"], get("x"))
    assert "page /x" in body(seen), seen
    terminate_all(api)


def test_plan_free_has_no_open(net_emulator, netprobe):
    api = net_emulator.api(FREE)
    check_error(api.post("/v1/sandboxes", {"template": "netbox", "network": "open"}), 402, "network_not_allowed")
    restricted = Box(api, netprobe, "restricted")
    check_error(restricted.set_network("open"), 402, "network_not_allowed")
    assert restricted.ledger()["mode"] == "restricted"
    terminate_all(api)
