"""What a sandbox may try against the resolver, the relay and the rules, and what a nameserver may answer. Whatever it
is: it gets nothing, it ends soon, and meanwhile the others' traffic flows."""

import ctypes
import json
import os
import socket
import struct
import threading
import time
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from conftest import _serve, cannot_run, terminate_all
from harness.internet import serving
from harness.netbox import A, RESOLVER, Box, body, client_hello, get, refused_at_once

PROBE = "/tmp/netprobe"
SERVFAIL = 2


def fine(inside: Box) -> float:
    """A name and a page, as somebody does who has done nothing wrong; seconds."""
    start = time.monotonic()
    assert inside.address("pypi.org")
    assert inside.curl("http://deb.debian.org/fine")["stdout"] == "page /fine of deb.debian.org\n"
    assert inside.run([PROBE, "tcp", "203.0.113.9", "443"])["network_blocked"], "and a refusal is told"
    return time.monotonic() - start


# --- a nameserver that lies -----------------------------------------------------------------------


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".") if part) + b"\0"


def record(owner: bytes, data: bytes, kind: int = 1, ttl: int = 60, length: int | None = None) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data) if length is None else length) + data


def four(text: str) -> bytes:
    return socket.inet_aton(text)


QUESTION = b"\xc0\x0c"
GOOD = "93.184.216.34"


def both_protocols() -> tuple[socket.socket, socket.socket, int]:
    """UDP and TCP on the same free port."""
    for _ in range(50):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname()), udp.getsockname()[1]
        except OSError:
            udp.close()
    raise OSError("no port is free for both UDP and TCP")


class Liar:
    """Answers by the first label of what it is asked, over UDP and TCP."""

    def __init__(self):
        self.asked: list[str] = []
        self.udp, self.tcp, self.port = both_protocols()
        for target in (self.serve_udp, self.serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def close(self):
        self.udp.close()
        self.tcp.close()

    def serve_udp(self):
        while True:
            try:
                query, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            for message in self.answers(query, False):
                self.udp.sendto(message, peer)

    def serve_tcp(self):
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                query = connection.recv(4096)[2:]
                for message in self.answers(query, True):
                    try:
                        connection.sendall(struct.pack(">H", len(message)) + message)
                    except OSError:
                        break

    def answers(self, query: bytes, over_tcp: bool):
        end = query.index(b"\0", 12) + 5
        question, number = query[12:end], query[:2]
        kind = question[1 : 1 + question[0]].decode()
        self.asked.append(kind)

        def message(records: list[bytes], flags=0x8180, count=None, q=question, n=number) -> bytes:
            return n + struct.pack(">HHHHH", flags, 1, len(records) if count is None else count, 0, 0) + q + b"".join(records)

        good = record(QUESTION, four(GOOD))
        if kind == "loop":  # a name that points at itself, and two that point at each other
            at = 12 + len(question)
            yield message([record(struct.pack(">H", 0xC000 | at), four(GOOD))])
            yield message([record(struct.pack(">H", 0xC000 | at + 2) + struct.pack(">H", 0xC000 | at), four(GOOD))])
        elif kind == "cut":
            yield message([good])[:-3]
        elif kind == "long":  # a length beyond the end
            yield message([record(QUESTION, four(GOOD), length=4000)])
        elif kind == "many":  # says that there is more than there is
            yield message([good], count=60000)
        elif kind == "other":  # what somebody else's name is
            yield message([record(name("victim.example"), four("6.6.6.6")), good])
        elif kind == "question":  # an answer to something else
            yield message([good], q=name("victim.example") + question[-4:])
        elif kind == "number":
            yield message([good], n=bytes([number[0] ^ 1, number[1]]))
        elif kind == "rebind":
            yield message([record(QUESTION, four(a)) for a in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1")])
        elif kind == "big":  # truncated, and then all that TCP can carry
            yield message([good] * 4000) if over_tcp else message([], flags=0x8380)
        elif kind == "noise":
            yield os.urandom(600)
            yield b""
        elif kind == "silent":
            return
        else:
            yield message([good])


def with_nameserver(port: int, scratch: Path):
    """Popen's preexec_fn: a mount namespace of its own in which /etc/resolv.conf names our server."""
    conf = scratch / f"resolv.{port}"
    conf.write_text(f"nameserver 127.0.0.1#{port}\n")
    libc = ctypes.CDLL(None, use_errno=True)
    source, slave, bind, new_ns = str(conf).encode(), 1 << 19 | 1 << 14, 1 << 12, 0x20000

    def enter():
        if (
            libc.unshare(new_ns) != 0
            or libc.mount(None, b"/", None, slave, None) != 0
            or libc.mount(source, b"/etc/resolv.conf", None, bind, None) != 0
        ):
            raise OSError(ctypes.get_errno(), "a nameserver of our own")

    return enter


@pytest.fixture(scope="module")
def liar():
    server = Liar()
    yield server
    server.close()


@pytest.fixture(scope="module")
def lied_to(binary, new_net_state, internet, liar, scratch):
    if os.geteuid() != 0:
        cannot_run("only root can give the emulator a nameserver of the test's own")
    arguments = [
        "--auth", "any", "--allow", "*.hostile.test", "--map", f"deb.debian.org:80=127.0.0.1:{internet['http']}",
        "--zone", "pypi.org=127.0.0.1",
    ]  # fmt: skip
    more = {"warm": "netbox", "popen": {"preexec_fn": with_nameserver(liar.port, scratch)}}
    yield from _serve(binary, new_net_state(), *arguments, **more)


@pytest.fixture
def victim(lied_to, key, netprobe):
    api = lied_to.api(key)
    yield Box(api, netprobe, "restricted")
    terminate_all(api)


def ask(inside: Box, host: str) -> tuple[int, bytes, float]:
    seen = inside.probe("dns", RESOLVER, host, A)
    assert seen["ok"], seen
    message = bytes.fromhex(seen["got"])
    return message[3] & 15, message, seen["ms"]


@pytest.mark.parametrize("kind", ["loop", "cut", "long", "many", "question", "number", "noise", "silent"])
def test_a_crafted_answer_is_no_answer(victim, liar, kind, run_in_background):
    slow = run_in_background(ask, victim, f"{kind}.hostile.test")
    assert fine(victim) < 4, "the others' goes on meanwhile"
    rcode, message, ms = slow.result(20)
    assert rcode == SERVFAIL and message[6:8] == b"\0\0" and ms < 5000, (rcode, message, ms)
    assert kind in liar.asked


def test_answers_for_other_names_are_left_out(victim):
    rcode, message, _ = ask(victim, "other.hostile.test")
    assert rcode == 0 and four(GOOD) in message and four("6.6.6.6") not in message
    assert ask(victim, "victim.example")[0] != 0, "and not remembered"
    seen = victim.probe("tcp", "6.6.6.6", 443)
    assert seen["errno"] == "ECONNREFUSED" and seen["blocked"], seen


def test_rebinding_to_private_addresses(victim):
    seen = victim.probe("dns", RESOLVER, "rebind.hostile.test", A)
    assert bytes.fromhex(seen["got"])[6:8] == b"\0\0"
    assert {line["rule"] for line in seen["blocked"]} == {"rebinding"}
    assert {line["ip"] for line in seen["blocked"]} == {"127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1"}
    for address in ("10.0.0.1", "169.254.169.254"):
        assert victim.probe("tcp", address, 80)["errno"] == "ECONNREFUSED"


def test_an_answer_as_long_as_tcp_allows(victim):
    rcode, message, _ = ask(victim, "big.hostile.test")
    assert rcode in (0, SERVFAIL) and len(message) <= 1232
    assert fine(victim) < 4


# --- a sandbox that tries -------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["00", "01", "02", "03", "12", "29", "3f", "ff"])
def test_raw_segments_reach_nobody(box, flags):
    """With flags that no client sends, torn, and to where it may not go."""
    inside = box("restricted")
    own, known = inside.own_addresses()[0], inside.address("deb.debian.org")
    for to, port in [("203.0.113.9", 443), (known, 80), (known, 22), ("10.0.0.1", 80)]:
        assert inside.probe("raw", own, to, port, flags)["errno"] in ("", "EPERM")
    assert fine(inside) < 4
    allowed = [e for e in inside.ledger()["entries"] if e["verdict"] == "allowed" and e["kind"] == "tcp"]
    assert [e["host"] for e in allowed] == ["deb.debian.org"], allowed


@pytest.mark.parametrize("network", ["restricted", "open"])
def test_fragments_are_judged_as_what_they_are(box, network):
    inside = box(network)
    own = inside.own_addresses()[0]
    assert inside.probe("pieces", own, "10.0.0.1", 99)["errno"] in ("", "EPERM")
    inside.probe("udp", "10.0.0.2", 99, "x" * 4000)  # the kernel's own fragments
    told = {(ip, proto) for ip, _, proto, _ in inside.blocked_soon()}
    assert {("10.0.0.1", "udp"), ("10.0.0.2", "udp")} <= told, told
    assert fine_open(inside) if network == "open" else fine(inside)


def fine_open(inside: Box) -> bool:
    return inside.curl("http://elsewhere.example/o")["stdout"] == "page /o of elsewhere.example\n"


@pytest.mark.parametrize("address", ["::ffff:203.0.113.9", "64:ff9b::cb00:7109", "2002:cb00:7109::1", "2606:4700::1111", "fe80::1%eth0"])
def test_other_ways_to_write_an_address(box, address):
    inside = box("restricted")
    seen = inside.probe("tcp", address.split("%")[0], 443)
    refused_at_once(seen)


def test_v4_mapped_is_v4(box):
    inside = box("restricted")
    address = inside.address("deb.debian.org")
    assert "page /x" in body(inside.probe("tcp", f"::ffff:{address}", 80, get("deb.debian.org")))
    refused_at_once(inside.probe("tcp", f"::ffff:{address}", 80, get("evil.example")))


def test_dot_and_doh_of_an_allowed_name(box):
    """No name of the allowlist is a resolver's; but one of its servers might answer on these ports."""
    inside = box("restricted")
    address = inside.address("pypi.org")
    assert inside.probe("tcp", address, 853, client_hello("pypi.org"))["errno"] == "ECONNREFUSED"
    for host in ("dns.google", "cloudflare-dns.com", "mozilla.cloudflare-dns.com"):
        refused_at_once(inside.probe("tcp", address, 443, client_hello(host)))
        assert inside.dns(host)[0] != 0
    assert inside.probe("udp", "8.8.8.8", 853, "doq")["errno"]


def test_a_hello_byte_by_byte(box):
    inside = box("restricted")
    address = inside.address("pypi.org")
    good = inside.probe("drip", address, 443, client_hello("pypi.org"), 2)
    assert good["ok"] and good["got"].startswith("160303"), good
    evil = inside.probe("drip", address, 443, client_hello("evil.example"), 2)
    assert not evil["ok"] and evil["blocked"], evil


def test_slow_connections_hold_nobody_up(box, run_in_background):
    """500 that say one byte and wait: they are ended after a while, with a reason, and hinder nobody."""
    slow, other = box("restricted"), box("restricted")
    address = slow.address("deb.debian.org")
    waits = run_in_background(slow.run, [PROBE, "loris", address, "80", "500", "8000"], timeout_seconds=60)
    time.sleep(1)
    assert fine(other) < 4
    seen = json.loads(waits.result(40)["stdout"])
    assert (seen["refused"], seen["ended"]) == (0, 500), seen
    assert ("said-no-name") in {e["rule"] for e in slow.ledger()["entries"]}


QUERY = "12340100000100000000000005" + "flood".encode().hex() + "07" + "example".encode().hex() + "0000010001"


@pytest.mark.parametrize("target, port, payload", [(RESOLVER, 53, QUERY), ("203.0.113.77", 9, "00"), (RESOLVER, 53, "ff" * 40)])
def test_floods(box, run_in_background, target, port, payload, fast_host):
    """Of questions, of refusals to be logged, and of nonsense to the resolver."""
    loud, other = box("restricted"), box("restricted")
    noise = run_in_background(loud.run, [PROBE, "flood", target, str(port), "4000", payload], timeout_seconds=30)
    time.sleep(0.5)
    for _ in range(2):
        assert fine(other) < 5
    assert json.loads(noise.result(40)["stdout"])["sent"] > 1000
    assert len(loud.ledger()["entries"]) <= 512
    assert fine(loud) < 5, "and it is not locked out for good"


# --- much at once ---------------------------------------------------------------------------------


def test_a_thousand_connections_at_once(box, closing_lines):
    inside = box("restricted")
    seen = inside.probe("many", inside.address("deb.debian.org"), 80, 1000, get("deb.debian.org"))
    closing_lines.append(f"network: 1,000 connections through the relay: {seen['ms']:.0f} ms")
    assert (seen["good"], seen["bad"], seen["stuck"]) == (1000, 0, 0), seen


class Chat(BaseRequestHandler):
    """A WebSocket server as far as the relay can tell: the upgrade, then what comes, goes back (RFC 6455)."""

    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.request.recv(4096)
            if not more:
                return
            head += more
        self.request.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := self.request.recv(4096):
            self.request.sendall(data)


class ChatServer(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def test_a_websocket_held_open(box):
    """Long after its answer's time to live (5 s for a mapped name), and quiet in between."""
    inside = box("restricted")
    server = ChatServer(("127.0.0.1", 0), Chat)
    port = serving(server)
    assert inside.api.post("/_emulator/network/map", {"map": f"archive.ubuntu.com:80=127.0.0.1:{port}"}).status == 204
    upgrade = (
        "GET /chat HTTP/1.1\\r\\nHost: archive.ubuntu.com\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n"
    )
    address = inside.address("archive.ubuntu.com")
    result = inside.run(
        f"(printf '{upgrade}'; sleep 7; printf 'first '; sleep 2; printf 'last') | timeout 12 curl -sS -N telnet://{address}:80",
        timeout_seconds=40,
    )
    server.shutdown()
    server.server_close()
    assert result["stdout"].startswith("HTTP/1.1 101 ") and result["stdout"].endswith("first last"), result


def test_a_huge_download(box, closing_lines):
    """1 GB with ORKESTR_TEST_HUGE=1, else 100 MB; every byte is counted."""
    size, inside = (1 << 30) if os.environ.get("ORKESTR_TEST_HUGE") == "1" else (100 << 20), box("restricted")
    start = time.monotonic()
    result = inside.run(f"curl -sS -m 300 'http://deb.debian.org/big?{size}' | wc -c", timeout_seconds=320)
    assert result["exit_code"] == 0 and int(result["stdout"]) == size, result
    closing_lines.append(f"network: {size >> 20} MB counted inside: {time.monotonic() - start:.1f} s")
    (entry,) = [e for e in inside.settled_ledger()["entries"] if e["kind"] == "tcp"]
    assert entry["bytes_in"] > size
