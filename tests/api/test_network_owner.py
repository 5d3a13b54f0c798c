"""Which command did it: what the ledger and a NetworkPolicyError say when several run at once, and that a refusal is
neither missed nor late."""

import json
import time

import pytest

from conftest import terminate_all
from harness.netbox import PRIVATE, RESOLVER, Box

PROBE = "/tmp/netprobe"


class Told:
    """A command's id, its result, and what it is told was blocked."""

    def __init__(self, answer):
        assert answer.status in (200, 403), answer
        self.status, self.id, self.result = answer.status, answer.headers["x-exec-id"], answer.json
        self.blocked = self.result.get("blocked") or self.result["network_blocked"]

    def hosts(self):
        return {line["host"] for line in self.blocked}

    def ips(self):
        return {line["ip"] for line in self.blocked}


def tell(inside: Box, command, **fields) -> Told:
    return Told(inside.api.post(f"/v1/sandboxes/{inside.id}/exec", {"command": command, **fields}))


@pytest.mark.parametrize("network", ["restricted", "open"])
def test_two_at_once_are_told_apart(box, run_in_background, network, fast_host):
    inside = box(network)

    def tries(number):
        one = f"{PROBE} tcp 10.9.{number}.$i 443; {PROBE} udp 10.8.{number}.$i 99 x; "
        if network == "restricted":
            one += f"{PROBE} dns {RESOLVER} name$i.of{number}.example 1; "
        return f"for i in 1 2 3 4 5 6; do {one} done; exit 3"

    told = [run_in_background(tell, inside, tries(number)) for number in (1, 2, 3)]
    for number, each in enumerate((t.result(60) for t in told), 1):
        assert each.status == 403 and each.result["exit_code"] == 3, each.result
        assert {line["exec"] for line in each.blocked} == {each.id}, each.blocked
        wanted = {f"10.{net}.{number}.{i}" for net in (8, 9) for i in range(1, 7)}
        assert each.ips() - {None} == wanted, each.blocked
        names = {f"name{i}.of{number}.example" for i in range(1, 7)} if network == "restricted" else set()
        assert each.hosts() - {None} == names
    by_id = {each.result(0).id for each in told}
    assert {entry["exec"] for entry in inside.ledger()["entries"]} == by_id


def test_what_an_earlier_command_left_behind_is_its_own(box, fast_host):
    inside = box("restricted")
    first = tell(inside, f"(sleep 1; {PROBE} tcp 203.0.113.77 443) >/dev/null 2>&1 & exit 0")
    assert first.status == 200
    second = tell(inside, f"{PROBE} tcp 203.0.113.78 443; sleep 2; exit 1")
    assert second.ips() == {"203.0.113.78"} and second.blocked[0]["exec"] == second.id, second.blocked
    owners = {entry["ip"]: entry["exec"] for entry in inside.ledger()["entries"]}
    assert owners == {"203.0.113.77": first.id, "203.0.113.78": second.id}


def test_one_that_hides_its_mark_is_known_by_its_parent(box):
    """The mark is a resource limit, which a process may change."""
    inside = box("restricted")
    assert tell(inside, "sleep 30 >/dev/null 2>&1 &").status == 200  # so that it must be looked for
    told = tell(inside, f"(ulimit -S -x 5 2>/dev/null; {PROBE} tcp 203.0.113.80 443); exit 1")
    assert told.status == 403 and {line["exec"] for line in told.blocked} <= {told.id, None}, told.result


def test_allowed_connections_have_an_owner(box, run_in_background, fast_host):
    """Nobody waits for the ledger here: one that is over before it is looked at has no owner, but never a wrong one."""
    inside = box("restricted")
    address = inside.address("echo.test")
    held = run_in_background(tell, inside, "sleep 2")
    lasting = [run_in_background(tell, inside, [PROBE, "tcp", address, "7", f"0{n}"]) for n in range(3)]
    short = [run_in_background(tell, inside, f"curl -sS http://deb.debian.org/{n}") for n in range(3)]
    ids = [{each.result(30).id for each in kind} for kind in (lasting, short)]
    held.result(30)
    owners = {7: set(), 80: set()}
    for entry in inside.ledger()["entries"]:
        if entry["kind"] == "tcp":
            owners[entry["port"]].add(entry["exec"])
    assert owners[7] == ids[0] and owners[80] <= ids[1] | {None}, (owners, ids)


def test_off_is_exact_or_honest(box, run_in_background):
    """A refusal in an off sandbox is the kernel's alone: with several commands its socket may be gone when we look."""
    inside = box("off")
    alone = tell(inside, f"{PROBE} tcp 192.0.2.9 443; exit 1")
    assert [(line["ip"], line["exec"]) for line in alone.blocked] == [("192.0.2.9", alone.id)]
    two = [run_in_background(tell, inside, f"for i in 1 2 3; do {PROBE} tcp 192.0.2.1{n} 443; done; exit 1") for n in (1, 2)]
    for n, each in enumerate((t.result(30) for t in two), 1):
        assert each.status == 403 and f"192.0.2.1{n}" in each.ips()
        for line in each.blocked:
            assert line["exec"] in (each.id, None), line


@pytest.mark.parametrize("network", ["restricted", "open", "off"])
def test_no_refusal_is_missed(box, network):
    """Gone before anything came back: it is an error all the same, each time."""
    inside = box(network)
    for i in range(30):
        told = tell(inside, [PROBE, "fling", f"10.1.2.{i}", "99"])
        assert told.status == 403 and told.ips() == {f"10.1.2.{i}"}, (i, told.result)
        assert told.blocked[0]["exec"] == told.id


@pytest.mark.parametrize("address", [a for a in PRIVATE if a != "fe80::1"])
def test_open_refuses_in_connect(box, address):
    seen = box("open").probe("tcp", address, 80)
    assert seen["errno"] == "ECONNREFUSED", seen


def test_restricted_refuses_in_connect(box):
    inside = box("restricted")
    known = inside.address("deb.debian.org")
    for address, port in [("203.0.113.9", 443), ("2606:4700::1111", 443), (known, 8080), ("198.18.200.200", 443)]:
        seen = inside.probe("tcp", address, port)
        assert seen["errno"] == "ECONNREFUSED" and len(seen["blocked"]) == 1, seen
    assert inside.set_network("off").status == 200
    seen = inside.probe("tcp", known, 80)
    assert seen["errno"] == "ECONNREFUSED" and seen["blocked"][0]["rule"] == "network-off", seen


def test_many_refusals_at_once(box):
    """More than a ledger has room for, and more than the daemon is told: each is refused, none hangs."""
    inside = box("restricted")
    result = inside.run([PROBE, "many", "203.0.113.5", "443", "1000", "00"], timeout_seconds=60)
    seen = json.loads(result["stdout"])
    assert (seen["good"] + seen["bad"], seen["bytes"], seen["stuck"]) == (1000, 0, 0), seen
    assert seen["ms"] < 10_000
    time.sleep(0.1)
    assert inside.address("pypi.org")


def test_a_daemon_that_is_busy_is_not_waited_for_long(box, net_emulator, key, netprobe):
    """A refusal waits until it was noted, but not longer than 100 ms."""
    inside = box("restricted")
    other = net_emulator.api("ork_network_busy")
    Box(other, netprobe, "restricted").run([PROBE, "many", "203.0.113.6", "443", "1000", "00"], timeout_seconds=60)
    assert inside.probe("tcp", "203.0.113.9", 443)["ms"] < 500
    terminate_all(other)
