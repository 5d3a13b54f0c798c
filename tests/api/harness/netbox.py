"""Sandboxes of the network tests: netprobe.c makes the calls in them that curl would not, and the tests say what must
become of each."""

import json
import shutil
import ssl
import time
from pathlib import Path

import pytest

from conftest import _serve, cannot_run, terminate_all
from harness import slow, tiny
from harness.emulator import run
from harness.internet import world

RESOLVER = "100.100.100.53"
A, TXT, AAAA = "1", "16", "28"
AT_ONCE_MS = 200 * slow.FACTOR
NXDOMAIN, REFUSED = 3, 5
PRIVATE = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "198.51.100.1",
    "fd00::1", "fe80::1", "fd6f:726b::1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::ffff:10.0.0.1",
]  # fmt: skip


@pytest.fixture(scope="session")
def netprobe(compiled) -> bytes:
    return compiled("netprobe.c", "-static").read_bytes()


@pytest.fixture(scope="session")
def new_net_state(binary, new_state, scratch):
    """Makes a state dir with the template "netbox": the tiny one with curl, and a libc that asks the DNS."""
    if not shutil.which("curl"):
        cannot_run("curl is not here: apt-get install curl")
    programs, files = tiny.PROGRAMS, tiny.FILES
    try:
        tiny.PROGRAMS = [*programs, "curl"]
        tiny.FILES = {**files, "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n"}
        tar = tiny.build(scratch / "netbox.tar")
    finally:
        tiny.PROGRAMS, tiny.FILES = programs, files

    def make() -> Path:
        state = new_state("tiny")
        done = run(binary, "template", "import", "--state-dir", str(state), "netbox", str(tar))
        assert done.returncode == 0, done
        return state

    return make


@pytest.fixture(scope="module")
def net_state(new_net_state) -> Path:
    return new_net_state()


@pytest.fixture(scope="module")
def net_emulator(binary, net_state, internet):
    for emulator in _serve(binary, net_state, *world(internet), warm="netbox"):
        probe = emulator.api("ork_network_probe")
        answer = probe.post("/v1/sandboxes", {"template": "netbox", "network": "restricted"})
        if answer.status == 503 and answer.code == "network_unavailable":
            cannot_run(answer.json["detail"])
        assert answer.status == 201, answer
        terminate_all(probe)
        emulator.settle()
        yield emulator


class Box:
    """A sandbox with the probe in it."""

    def __init__(self, api, netprobe: bytes, network: str):
        self.api = api
        self.id = api.create(template="netbox", network=network)["id"]
        api.put_file(self.id, "/tmp/netprobe", netprobe, "0755")

    def run(self, command, **fields):
        """A command's result, whether or not the policy made an error of it."""
        answer = self.api.post(f"/v1/sandboxes/{self.id}/exec", {"command": command, **fields})
        assert answer.status == 200 or (answer.status == 403 and answer.code == "network_policy"), answer
        result = answer.json
        for line in [*result.get("blocked", []), *result.get("network_blocked", [])]:
            assert line.pop("exec") in (answer.headers.get("x-exec-id"), None), "another command's is not told"
        return result

    def probe(self, *args) -> dict:
        result = self.run(["/tmp/netprobe", *map(str, args)], timeout_seconds=60)
        assert result["exit_code"] == 0, result
        return {**json.loads(result["stdout"]), "blocked": result["network_blocked"]}

    def dns(self, name, kind=A, server=RESOLVER, verb="dns") -> tuple[int, list[str]]:
        """The answer's code and its IPv4 addresses."""
        seen = self.probe(verb, server, name, kind)
        assert seen["ok"] and seen["ms"] < AT_ONCE_MS, seen
        message = bytes.fromhex(seen["got"])
        addresses, at = [], message.find(b"\0\x01\0\x01", 12) + 4
        for _ in range(int.from_bytes(message[6:8], "big") if kind == A else 0):
            length = int.from_bytes(message[at + 10 : at + 12], "big")
            if length == 4:
                addresses.append(".".join(map(str, message[at + 12 : at + 16])))
            at += 12 + length
        return message[3] & 15, addresses

    def address(self, name) -> str:
        rcode, addresses = self.dns(name)
        assert rcode == 0 and addresses, name
        return addresses[0]

    def curl(self, *args):
        return self.run(["curl", "-sS", "-m", "20", *args])

    def ledger(self, **query):
        answer = self.api.get(f"/_emulator/sandboxes/{self.id}/network", query=query or None)
        assert answer.status == 200, answer
        return answer.json

    def settled_ledger(self) -> dict:
        """The ledger once no connection is open any more."""
        deadline = time.monotonic() + 5
        while True:
            seen = self.ledger()
            if not any(entry["open"] for entry in seen["entries"]):
                return seen
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)

    def blocked_soon(self) -> set[tuple]:
        """What the ledger says was blocked: what nftables refuses takes a moment to get there."""
        time.sleep(0.3)
        return {(e["ip"], e["port"], e["proto"], e["rule"]) for e in self.ledger()["entries"] if e["verdict"] == "blocked"}

    def set_network(self, network):
        return self.api.request("PATCH", f"/_emulator/sandboxes/{self.id}/network", {"network": network})

    def own_addresses(self) -> list[str]:
        return self.api.sh(self.id, "hostname -I").split()


@pytest.fixture
def net_api(net_emulator, key):
    api = net_emulator.api(key)
    yield api
    terminate_all(api)


@pytest.fixture
def box(net_api, netprobe):
    """box("restricted") makes a sandbox in the fixture internet."""
    return lambda network: Box(net_api, netprobe, network)


def refused_at_once(seen):
    assert not seen["ok"] and seen["errno"] != "ETIMEDOUT" and seen["ms"] < AT_ONCE_MS, seen


def hex_of(text) -> str:
    return (text.encode() if isinstance(text, str) else text).hex()


def get(host, path="/x") -> str:
    return hex_of(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")


def client_hello(name: str | None) -> str:
    """What a TLS client sends first."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read().hex()


def body(seen) -> str:
    return bytes.fromhex(seen["got"] or "").decode("latin-1")
