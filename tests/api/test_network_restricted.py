"""What a sandbox whose network is "restricted" reaches: by name, through the resolver and the relay, and how fast."""

import statistics
import subprocess

import pytest

from harness.netbox import A, AAAA, AT_ONCE_MS, NXDOMAIN, REFUSED, RESOLVER, TXT, body, client_hello, get, hex_of, refused_at_once


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
