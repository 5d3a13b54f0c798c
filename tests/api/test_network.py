"""What a sandbox may reach: decided, explained, and tried offline. "The internet" here is fixture servers on
this host's loopback, reached through --map and --zone; nothing leaves the machine.

netprobe.c makes the calls that curl would not; the tests here say what must become of each.
"""

import json
import os
import re
import shutil
import ssl
import statistics
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import orkestr
import pytest

from conftest import HERE, _serve, cannot_run, terminate_all
from harness import tiny
from harness.emulator import run
from harness.wire import check_error, check_invalid

FREE = "ork_network_free"
RESOLVER = "100.100.100.53"
A, TXT, AAAA = "1", "16", "28"
AT_ONCE_MS = 200
NXDOMAIN, REFUSED = 3, 5

# --- the fixture internet -------------------------------------------------------------------------


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, number = self.path.partition("?")
        size = int(number) if path == "/big" else 0
        text = b"" if size else f"page {path} of {self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(size or len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        while size > 0:
            size -= self.wfile.write(bytes(min(size, 1 << 20)))
        self.close_connection = True

    def log_message(self, *_):
        pass


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class Echo(BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def serving(server):
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server.server_address[1]


@pytest.fixture(scope="module")
def certificate(scratch) -> Path:
    """One file: key and certificate for the names that are mapped to the TLS server."""
    if not shutil.which("openssl"):
        cannot_run("openssl is not here: apt-get install openssl")
    path = scratch / "fixture.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fixture", "-keyout", path,
         "-out", scratch / "fixture.crt", "-addext", "subjectAltName=DNS:pypi.org,DNS:files.pythonhosted.org"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path.write_text(path.read_text() + (scratch / "fixture.crt").read_text())
    return path


@pytest.fixture(scope="module")
def internet(certificate):
    """Ports of the servers that stand for the world: {"http", "tls", "echo"}; and "lan", on an address of
    this host that is not loopback, or None."""
    http, tls, echo = Http(("127.0.0.1", 0), Pages), Http(("127.0.0.1", 0), Pages), EchoServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
    servers = [http, tls, echo]
    ports = {"http": serving(http), "tls": serving(tls), "echo": serving(echo), "lan": None}
    if address := own_address():
        lan = Http((address, 0), Pages)
        servers.append(lan)
        ports["lan"] = (address, serving(lan))
    yield ports
    for server in servers:
        server.shutdown()
        server.server_close()


def own_address() -> str | None:
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    private = [a for a in found if a.startswith(("10.", "192.168.", "172.16.", "172.17.", "172.18.", "192.0.2."))]
    return private[0] if private else None


# --- the sandboxes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def netprobe(scratch) -> bytes:
    if not shutil.which("gcc"):
        cannot_run("gcc is not here: apt-get install gcc")
    path = scratch / "netprobe"
    done = subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, HERE / "netprobe.c"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


@pytest.fixture(scope="module")
def net_state(binary, new_state, scratch, netprobe) -> Path:
    """A state dir with the template "netbox": the tiny one with curl, and a libc that asks the DNS."""
    if not shutil.which("curl"):
        cannot_run("curl is not here: apt-get install curl")
    programs, files = tiny.PROGRAMS, tiny.FILES
    try:
        tiny.PROGRAMS = [*programs, "curl"]
        tiny.FILES = {**files, "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n"}
        tar = tiny.build(scratch / "netbox.tar")
    finally:
        tiny.PROGRAMS, tiny.FILES = programs, files
    state = new_state("tiny")
    done = run(binary, "template", "import", "--state-dir", str(state), "netbox", str(tar))
    assert done.returncode == 0, done
    return state


def world(internet) -> list[str]:
    lan = ["--zone", f"lan.test={internet['lan'][0]}", "--allow", "lan.test"] if internet["lan"] else []
    return [
        "--auth", "any", "--api-key", f"{FREE}:free",
        "--map", f"pypi.org:443=127.0.0.1:{internet['tls']}",
        "--map", f"files.pythonhosted.org:443=127.0.0.1:{internet['tls']}",
        "--map", f"deb.debian.org:80=127.0.0.1:{internet['http']}",
        "--map", f"echo.test:7=127.0.0.1:{internet['echo']}", "--allow", "echo.test:7",
        "--map", f"elsewhere.example:80=127.0.0.1:{internet['http']}",
        *lan,
    ]  # fmt: skip


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


# --- restricted -----------------------------------------------------------------------------------


def test_restricted_reaches_an_allowed_name_over_http(box):
    result = box("restricted").curl("http://deb.debian.org/debian/")
    assert (result["exit_code"], result["stdout"]) == (0, "page /debian/ of deb.debian.org\n"), result
    assert result["network_blocked"] == []


@pytest.mark.vm
def test_restricted_reaches_an_allowed_name_over_tls(box, certificate):
    restricted = box("restricted")
    restricted.api.put_file(restricted.id, "/tmp/ca.pem", certificate.with_suffix(".crt").read_bytes())
    for name in ("pypi.org", "files.pythonhosted.org"):
        result = restricted.curl("--cacert", "/tmp/ca.pem", f"https://{name}/simple/")
        assert (result["exit_code"], result["stdout"]) == (0, f"page /simple/ of {name}\n"), result


def test_restricted_wants_the_name_that_was_asked_for(box):
    """An allowed address with another name in the TLS hello, none, or another Host."""
    restricted = box("restricted")
    pypi, debian = restricted.address("pypi.org"), restricted.address("deb.debian.org")
    good = restricted.probe("tcp", pypi, 443, client_hello("pypi.org"))
    assert good["ok"] and good["got"].startswith("160303"), good
    for hello in (client_hello("evil.example"), client_hello("files.pythonhosted.org"), client_hello(None), get("pypi.org")):
        seen = restricted.probe("tcp", pypi, 443, hello)
        refused_at_once(seen)
        assert {line["port"] for line in seen["blocked"]} == {443}, seen
    assert "page /x" in body(restricted.probe("tcp", debian, 80, get("deb.debian.org")))
    for host in ("evil.example", "pypi.org", debian):
        seen = restricted.probe("tcp", debian, 80, get(host))
        refused_at_once(seen)
        assert {line["port"] for line in seen["blocked"]} == {80}, seen


def test_restricted_split_hello_is_put_together(box):
    """The name cut in two over segments is still the name: neither a way out nor a refusal."""
    restricted = box("restricted")
    restricted.api.put_file(restricted.id, "/tmp/hello", bytes.fromhex(get("evil.example")))
    debian = restricted.address("deb.debian.org")
    command = f"(head -c 20 /tmp/hello; sleep 0.3; tail -c +21 /tmp/hello) | timeout 5 curl -sS telnet://{debian}:80"
    assert "page" not in restricted.run(command)["stdout"]
    restricted.api.put_file(restricted.id, "/tmp/hello", bytes.fromhex(get("deb.debian.org")))
    assert "page /x of deb.debian.org" in restricted.run(command)["stdout"]


@pytest.mark.parametrize("port", [80, 443, 22, 853, 8443])
@pytest.mark.vm
def test_restricted_refuses_a_bare_address(box, port):
    seen = box("restricted").probe("tcp", "203.0.113.9", port, client_hello("pypi.org"))
    refused_at_once(seen)
    assert [(line["ip"], line["port"], line["proto"]) for line in seen["blocked"]] == [("203.0.113.9", port, "tcp")], seen
    assert seen["blocked"][0]["rule"]


def test_restricted_refuses_another_port_of_an_allowed_name(box):
    restricted = box("restricted")
    refused_at_once(restricted.probe("tcp", restricted.address("pypi.org"), 8443, client_hello("pypi.org")))
    refused_at_once(restricted.probe("tcp", restricted.address("echo.test"), 80, get("echo.test")))


def test_restricted_address_of_another_sandboxs_answer_is_not_mine(box):
    """An address counts for the sandbox that was told it."""
    one, two = box("restricted"), box("restricted")
    address = one.address("deb.debian.org")
    assert "page" in body(one.probe("tcp", address, 80, get("deb.debian.org")))
    seen = two.probe("tcp", address, 80, get("evil.example"))
    refused_at_once(seen)


@pytest.mark.parametrize("verb", ["dns", "dnstcp"])
@pytest.mark.parametrize("server", [RESOLVER, "8.8.8.8", "203.0.113.53"])
def test_every_resolver_is_ours(box, server, verb):
    restricted = box("restricted")
    rcode, addresses = restricted.dns("PyPI.org", server=server, verb=verb)
    assert rcode == 0 and addresses[0].startswith("198.18."), addresses
    assert restricted.dns("evil.example", server=server, verb=verb)[0] in (NXDOMAIN, REFUSED)


@pytest.mark.parametrize("name, kind", [
    ("evil.example", A), ("evil.example", AAAA), ("evil.example", TXT), ("mfrggzdfmztwq2lk.t.evil.example", TXT),
    ("x.pypi.org", A), ("pypi.org.evil.example", A), ("xpypi.org", A), ("org", A), ("elsewhere.example", A),
])  # fmt: skip
def test_restricted_names_nobody_allowed(box, name, kind):
    """Answered at once, by us; nothing of the name leaves."""
    restricted = box("restricted")
    seen = restricted.probe("dns", RESOLVER, name, kind)
    assert seen["ok"] and seen["ms"] < AT_ONCE_MS, seen
    assert bytes.fromhex(seen["got"])[3] & 15 in (NXDOMAIN, REFUSED)
    assert [(line["host"], line["proto"]) for line in seen["blocked"]] == [(name, "dns")], seen


def test_restricted_other_types_of_an_allowed_name_say_nothing(box):
    restricted = box("restricted")
    for kind in (TXT, "15", "255", "252"):
        seen = restricted.probe("dns", RESOLVER, "pypi.org", kind)
        assert seen["ok"] and seen["ms"] < AT_ONCE_MS, seen
        message = bytes.fromhex(seen["got"])
        assert message[6:8] == b"\0\0", "no answers"


def test_restricted_refuses_udp_and_icmp(box):
    restricted = box("restricted")
    seen = restricted.probe("udp", "203.0.113.9", 443, "quic")
    refused_at_once(seen)
    assert ("203.0.113.9", 443, "udp", "udp-not-allowed") in restricted.blocked_soon()
    seen = restricted.probe("ping", "203.0.113.9")
    assert seen["got"] is None or bytes.fromhex(seen["got"])[20] != 0, "no echo reply"
    assert "icmp" in [line[2] for line in restricted.blocked_soon()]


def test_allow_names_a_port_of_ones_own(box):
    restricted = box("restricted")
    seen = restricted.probe("tcp", restricted.address("echo.test"), 7, hex_of("over and back"))
    assert body(seen) == "over and back", seen


def test_zone_name_reaches_what_the_operator_says(box, internet):
    if not internet["lan"]:
        pytest.skip("this host has no private address but loopback")
    restricted, (address, port) = box("restricted"), internet["lan"]
    result = restricted.curl(f"http://lan.test:{port}/z")
    assert result["stdout"] == f"page /z of lan.test:{port}\n", result
    refused_at_once(box("restricted").probe("tcp", address, port, get("x")))


# --- open -----------------------------------------------------------------------------------------

PRIVATE = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "198.51.100.1",
    "fd00::1", "fe80::1", "fd6f:726b::1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::ffff:10.0.0.1",
]  # fmt: skip


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


def test_allow_private_reaches_this_host(new_emulator, net_state, internet, netprobe, key, binary):
    if not internet["lan"]:
        pytest.skip("this host has no private address but loopback")
    emulator = new_emulator("--auth", "any", "--allow-private", state=net_state_copy(binary, net_state))
    api = emulator.api(key)
    inside = Box(api, netprobe, "open")
    seen = inside.probe("tcp", *internet["lan"], get("x"))
    assert "page /x" in body(seen), seen
    terminate_all(api)


def net_state_copy(binary, state: Path) -> Path:
    """Another state dir with the netbox template: two emulators never share one."""
    other = state.parent / f"{state.name}-private"
    if not other.exists():
        done = run(binary, "template", "import", "--state-dir", str(other), "netbox", str(state.parent / "netbox.tar"))
        assert done.returncode == 0, done
        done = run(binary, "template", "import", "--state-dir", str(other), "tiny", str(state.parent / "tiny.tar"))
        assert done.returncode == 0, done
    return other


def test_plan_free_has_no_open(net_emulator, netprobe):
    api = net_emulator.api(FREE)
    check_error(api.post("/v1/sandboxes", {"template": "netbox", "network": "open"}), 402, "network_not_allowed")
    restricted = Box(api, netprobe, "restricted")
    check_error(restricted.set_network("open"), 402, "network_not_allowed")
    assert restricted.ledger()["mode"] == "restricted"
    terminate_all(api)


# --- never ----------------------------------------------------------------------------------------


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


# --- the ledger -----------------------------------------------------------------------------------


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


# --- live changes ---------------------------------------------------------------------------------


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


# --- much at once ---------------------------------------------------------------------------------


def test_200_parallel_connections(box, closing_lines):
    restricted = box("restricted")
    address = restricted.address("deb.debian.org")
    seen = restricted.probe("many", address, 80, 200, get("deb.debian.org"))
    closing_lines.append(f"network: 200 parallel connections through the relay: {seen['ms']:.0f} ms")
    assert (seen["good"], seen["bad"], seen["stuck"]) == (200, 0, 0), seen


def test_a_big_download(box, internet, closing_lines):
    size, restricted = 200 << 20, box("restricted")
    timing = ["-o", "/dev/null", "-w", "%{size_download} %{time_total}"]
    result = restricted.curl(*timing, f"http://deb.debian.org/big?{size}")
    assert result["exit_code"] == 0, result
    direct = subprocess.run(
        ["curl", "-sS", *timing, f"http://127.0.0.1:{internet['http']}/big?{size}"], capture_output=True, text=True, check=True
    ).stdout
    relayed, plain = (float(out.split()[1]) for out in (result["stdout"], direct))
    assert result["stdout"].split()[0] == direct.split()[0] == str(size)
    closing_lines.append(f"network: 200 MB through the relay: {relayed:.2f} s, direct: {plain:.2f} s")


def test_refusals_and_answers_are_quick(box, closing_lines):
    restricted = box("restricted")
    restricted.address("pypi.org")
    answers = [restricted.probe("dns", RESOLVER, "pypi.org", A)["ms"] for _ in range(15)]
    refusals = [restricted.probe("tcp", "203.0.113.9", 443)["ms"] for _ in range(15)]
    closing_lines.append(
        f"network: p50 of an answer {statistics.median(answers):.2f} ms, of a refusal {statistics.median(refusals):.2f} ms"
    )
    assert statistics.median(answers) < 20 and statistics.median(refusals) < 20


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
def test_the_host_is_as_it_was(new_emulator, net_state, internet, netprobe, key, binary):
    before = host()
    assert any(name.startswith("/proc/sys/net/ipv4/") for name in before)
    emulator = new_emulator(*world(internet), state=net_state_copy(binary, net_state))
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


# --- the command line -----------------------------------------------------------------------------


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
    for bad, status in [(["learn"], 2), (["ledger", "a/b"], 2), (["ledger", inside.id, "x"], 2), (["learn", "sbx_0"], 1)]:
        done = run(binary, "network", *bad, env=environment)
        assert done.returncode == status and done.stderr.startswith("orkestr-emulator network:"), done
    done = run(binary, "network", "learn", inside.id, env={**environment, "ORKESTR_API_KEY": "x"})
    assert done.returncode == 1 and "401" in done.stderr, done


def test_rules_and_maps_from_files(new_emulator, net_state, internet, netprobe, key, binary, scratch):
    maps, rules = scratch / "maps", scratch / "rules"
    maps.write_text(f"# the fixture\n\n  one.example:80=127.0.0.1:{internet['http']}  # here\none.test=127.0.0.1:{internet['echo']}\n")
    rules.write_text("one.example\r\none.test:7\r\n")
    emulator = new_emulator(
        "--auth", "any", "--map", f"@{maps}", "--allow", f"@{rules}", state=net_state_copy(binary, net_state)
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
