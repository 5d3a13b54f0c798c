"""The network when a process of the emulator's is killed: the policy holds, connections stand or end as they are
said to, and what can't be had is refused."""

import os
import signal
import time

import pytest

from conftest import terminate_all
from harness import proc
from harness.internet import world
from harness.netbox import A, NXDOMAIN, REFUSED, RESOLVER, Box, body, get
from harness.stream import settle
from harness.wire import check_error
from test_adopt import restart


@pytest.fixture
def emulator(new_emulator, net_state, internet):
    return new_emulator(*world(internet), state=net_state, warm="netbox")


@pytest.fixture
def api(emulator):
    api = emulator.api("ork_adopt_network")
    yield api
    if emulator.process.poll() is None:
        terminate_all(api)


@pytest.fixture
def box(api, netprobe):
    return lambda network: Box(api, netprobe, network)


def page(box):
    return body(box.probe("tcp", box.dns("deb.debian.org")[1][0], 80, get("deb.debian.org")))


def pid_of(emulator, name):
    (pid,) = [pid for pid in emulator.core() if proc.name(pid) == name]
    return pid


def allowed_and_refused(box):
    assert "page /x of deb.debian.org" in page(box)
    assert box.dns("not-on-the-list.example")[0] in (NXDOMAIN, REFUSED)
    seen = box.probe("tcp", "192.0.2.9", 443)
    assert not seen["ok"] and seen["blocked"], seen


# --- the daemon -----------------------------------------------------------------------------------


def test_the_policy_is_the_same_after_kill_9(emulator, api, box):
    restricted, off = box("restricted"), box("off")
    address = restricted.dns("deb.debian.org")[1][0]
    allowed_and_refused(restricted)
    restart(emulator, api)
    # What it was told before still stands for the name.
    assert "page /x" in body(restricted.probe("tcp", address, 80, get("deb.debian.org")))
    allowed_and_refused(restricted)
    seen = off.probe("tcp", "192.0.2.1", 443)
    assert not seen["ok"] and [b["rule"] for b in seen["blocked"]] == ["network-off"]
    assert restricted.ledger()["entries"], "a ledger, begun anew"


def test_a_connection_stands_while_no_daemon_runs(emulator, api, box):
    sandbox = box("restricted")
    address = sandbox.dns("deb.debian.org")[1][0]
    command = f"curl -sS -m 60 --limit-rate 2000000 -o /tmp/big --resolve deb.debian.org:80:{address} 'http://deb.debian.org/big?8000000'; echo $? > /tmp/status; wc -c < /tmp/big > /tmp/size"
    assert sandbox.api.post(f"/v1/sandboxes/{sandbox.id}/exec", {"command": command, "background": True}).status == 202
    settle(lambda: sandbox.api.sh(sandbox.id, "test -s /tmp/big && echo begun || true"))
    restart(emulator, api)
    status = settle(lambda: sandbox.api.sh(sandbox.id, "cat /tmp/status 2>/dev/null || true"), 30)
    assert status == "0\n" and sandbox.api.sh(sandbox.id, "cat /tmp/size") == "8000000\n"


def test_the_next_command_lines_rules_count(emulator, api, box, internet):
    sandbox = box("restricted")
    assert sandbox.dns("echo.test")[0] == 0
    fewer = [arg for arg in world(internet)]
    at = fewer.index("echo.test:7")
    del fewer[at - 1 : at + 1]
    restart(emulator, api, *fewer, "--allow", "elsewhere.example")
    assert sandbox.dns("echo.test")[0] in (NXDOMAIN, REFUSED)
    address = sandbox.dns("elsewhere.example")[1][0]
    assert "page /x" in body(sandbox.probe("tcp", address, 80, get("elsewhere.example")))


def test_a_changed_mode_stays_changed(emulator, api, box):
    sandbox = box("open")
    assert sandbox.set_network("off").status == 200
    restart(emulator, api)
    assert api.get(f"/v1/sandboxes/{sandbox.id}").json["network"] == "off"
    assert not sandbox.probe("tcp", "192.0.2.1", 443)["ok"]
    assert sandbox.set_network("restricted").status == 200
    allowed_and_refused(sandbox)


def test_what_was_refused_while_no_daemon_ran_is_in_the_ledger(emulator, api, box):
    sandbox = box("restricted")
    command = "sleep 1; /tmp/netprobe tcp 192.0.2.77 4321"
    assert api.post(f"/v1/sandboxes/{sandbox.id}/exec", {"command": command, "background": True}).status == 202
    emulator.kill_daemon()
    time.sleep(2)
    emulator.again()
    api.port = emulator.port
    settle(lambda: ("192.0.2.77", 4321) in {(e["ip"], e["port"]) for e in sandbox.ledger()["entries"]})


# --- egress, dialer, gateway ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ork-egress", "ork-dialer"])
def test_another_one_takes_its_place(emulator, api, box, name):
    sandbox = box("restricted")
    allowed_and_refused(sandbox)
    for _ in range(2):
        old = pid_of(emulator, "ork-egress")
        os.kill(pid_of(emulator, name), signal.SIGKILL)
        settle(lambda: [p for p in emulator.core() if proc.name(p) == "ork-egress" and p != old])
        settle(lambda: "another one" in emulator.log())
        settle(lambda: sandbox.run(["/tmp/netprobe", "dns", RESOLVER, "deb.debian.org", A])["exit_code"] == 0)
        settle(lambda: "page /x" in page(sandbox))
        allowed_and_refused(sandbox)
        assert not box("restricted").probe("tcp", "192.0.2.1", 443)["ok"]
    restart(emulator, api)
    allowed_and_refused(sandbox)


def test_a_connection_ends_with_the_egress_process(emulator, api, box):
    sandbox = box("restricted")
    address = sandbox.dns("deb.debian.org")[1][0]
    # What is in the sandbox's socket when egress dies is read first: seconds, at this rate.
    command = f"curl -sS -m 60 --limit-rate 4000000 -o /tmp/big --resolve deb.debian.org:80:{address} 'http://deb.debian.org/big?200000000'; echo $? > /tmp/status"
    assert api.post(f"/v1/sandboxes/{sandbox.id}/exec", {"command": command, "background": True}).status == 202
    settle(lambda: api.sh(sandbox.id, "test -s /tmp/big && echo begun || true"))
    os.kill(pid_of(emulator, "ork-egress"), signal.SIGKILL)
    status = settle(lambda: api.sh(sandbox.id, "cat /tmp/status 2>/dev/null || true"), 10)
    assert status != "0\n", "at once, and not as if it were complete"


def test_one_that_ends_again_and_again_is_given_up_and_said_so(emulator, api, box):
    sandbox = box("restricted")
    for _ in range(8):
        pids = [p for p in emulator.core() if proc.name(p) == "ork-egress"]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
    no_network(emulator, api, sandbox, "again and again")


def test_without_the_gateway_there_is_no_network_and_it_is_said(emulator, api, box):
    sandbox = box("open")
    os.kill(pid_of(emulator, "ork-gateway"), signal.SIGKILL)
    no_network(emulator, api, sandbox, "has ended")
    restart(emulator, api)
    no_network(emulator, api, sandbox, "has ended")


def no_network(emulator, api, sandbox, why):
    def refused():
        answer = api.post("/v1/sandboxes", {"template": "tiny", "network": "open"})
        return answer.status != 201 and why in check_error(answer, 503, "network_unavailable")["detail"]

    settle(refused)
    result = sandbox.run(["/tmp/netprobe", "tcp", "192.0.2.1", "443"])
    assert '"ok":true' not in result["stdout"].replace(" ", ""), result
    assert api.create()["status"] == "running", "without a network all goes on"
