"""What no sandbox reaches or changes, whatever its network is: the others, the gateway, the rules, the host."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.internet import world
from harness.netbox import RESOLVER, Box, body, get, hex_of, refused_at_once


@pytest.mark.parametrize("network", ["restricted", "open"])
@pytest.mark.vm
def test_sandboxes_never_reach_each_other(box, network):
    server, client = box(network), box(network)
    server.run("nohup /tmp/netprobe listen 8000 >/dev/null 2>&1 & sleep 0.2")
    for address in server.own_addresses():
        assert body(server.probe("tcp", address, 8000)) == "hello"
        for port in (8000, 53):
            seen = client.probe("tcp", address, port)
            assert seen["got"] in (None, ""), seen
            if port != 53:  # that one is the resolver's, wherever it is sent
                refused_at_once(seen)
        assert client.probe("udp", address, 8000, "x")["errno"], "refused"


@pytest.mark.parametrize("network", ["restricted", "open"])
def test_gateways_own_ports_are_nobodys(box, network):
    inside = box(network)
    third = ".".join(inside.own_addresses()[0].split(".")[:3])
    gateway = f"{third}.{int(inside.own_addresses()[0].split('.')[3]) - 1}"
    for port in (15001, 15002, 15053, 22, 80):
        refused_at_once(inside.probe("tcp", gateway, port, get("x")))
    refused_at_once(inside.probe("tcp", RESOLVER, 80, get("x")))


@pytest.mark.vm
def test_spoofed_source_is_dropped(box):
    """A question in another's name: neither that one's ledger nor ours has it, and nothing hangs."""
    victim, liar = box("restricted"), box("restricted")
    (address, *_) = victim.own_addresses()
    question = "12340100000100000000000005" + hex_of("spoof") + "07" + hex_of("example") + "0000010001"
    for source in (address, "8.8.8.8", "127.0.0.1"):
        assert liar.probe("spoof", source, RESOLVER, 53, question)["errno"] in ("", "EINVAL", "EPERM")
    assert liar.probe("spoof", liar.own_addresses()[0], RESOLVER, 53, question)["ok"]
    time.sleep(0.2)
    assert [e["host"] for e in liar.ledger()["entries"]] == ["spoof.example"], "the honest one alone"
    assert victim.ledger()["entries"] == []
    assert victim.address("pypi.org")


@pytest.mark.parametrize("network", ["off", "restricted", "open"])
@pytest.mark.vm
def test_its_root_cannot_change_rules_or_links(box, network):
    inside = box(network)
    result = json.loads(inside.run(["/tmp/netprobe", "admin"])["stdout"])
    allowed = {"EPERM", "ENODEV"} if network == "off" else {"EPERM"}
    assert set(result.values()) <= allowed, result
    assert result["flush rules"] == "EPERM"


# --- the host -------------------------------------------------------------------------------------

COMMANDS = {
    "nft": ["nft", "list", "ruleset"], "link": ["ip", "-o", "link"], "addr": ["ip", "-o", "addr"],
    "route": ["ip", "-o", "route", "show", "table", "all"], "rule": ["ip", "-o", "rule"],
}  # fmt: skip
ETC = """resolv.conf hosts nsswitch.conf nftables.conf sysctl.conf sysctl.d network iproute2 modprobe.d modules-load.d
         subuid subgid""".split()


def host() -> dict[str, str]:
    seen = {}
    for name, command in COMMANDS.items():
        if shutil.which(command[0]):
            told = subprocess.run(command, capture_output=True, text=True).stdout
            # what is left of a lease gets less all the time
            seen[name] = re.sub(r"(valid_lft|preferred_lft|expires) \d+sec", r"\1", told)
    for folder in ("ipv4", "ipv6", "core", "unix"):
        for path in sorted(Path("/proc/sys/net", folder).rglob("*")):
            try:
                seen[str(path)] = path.read_text() if path.is_file() else ""
            except (OSError, ValueError):
                continue
    for name in ETC:
        path = Path("/etc", name)
        for found in [path, *(path.rglob("*") if path.is_dir() else [])]:
            if found.exists():
                seen[str(found)] = str(found.stat().st_mtime_ns)
    return seen


@pytest.mark.vm
def test_the_host_is_as_it_was(new_emulator, new_net_state, internet, netprobe, key):
    before = host()
    assert any(name.startswith("/proc/sys/net/ipv4/") for name in before)
    emulator = new_emulator(*world(internet), state=new_net_state())
    api = emulator.api(key)
    for network in ("off", "restricted", "open"):
        inside = Box(api, netprobe, network)
        inside.curl("http://deb.debian.org/")
        inside.probe("udp", "203.0.113.9", 9, "x")
    during = host()
    assert emulator.stop() == 0
    emulator.check_nothing_left()
    after = host()
    for seen in (during, after):
        assert {name for name in before.keys() | seen.keys() if before.get(name) != seen.get(name)} == set()
