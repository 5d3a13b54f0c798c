"""Package managers in a restricted sandbox, through the registries this machine itself can reach. Where it can't, that
is said. `--allow-private`, since a mirror is often one inside the house."""

import os
import socket
import subprocess

import pytest

from conftest import _serve, cannot_run, terminate_all

REGISTRY, MIRROR = "registry.npmjs.org", "deb.debian.org"


def reachable(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        cannot_run(f"{host}:{port} can't be reached from here: {error}")


@pytest.fixture(scope="module")
def real_net(binary, real_state, scratch):
    """An emulator of its own over the same layers: two never share a state dir."""
    state = scratch / "state-real-net"
    (state / "disk").mkdir(parents=True)
    for name in ("templates", "disk/l", "orkestr-state"):
        done = subprocess.run(["cp", "-al", real_state / name, state / name], capture_output=True, text=True)
        if done.returncode != 0:
            cannot_run(f"the templates can't be linked into another state dir: {done.stderr.splitlines()[0]}")
    owner = real_state.stat()
    for folder in (state, state / "disk"):
        os.chown(folder, owner.st_uid, owner.st_gid)
        folder.chmod(0o711 if folder.name == "disk" else 0o700)
    yield from _serve(binary, state, "--auth", "any", "--allow-private", warm="python-3.12-bare")
    subprocess.run([str(binary), "clean", "--state-dir", str(state)], capture_output=True)


@pytest.fixture
def real_net_api(real_net, key):
    api = real_net.api(key)
    yield api
    terminate_all(api)


def test_npm_install(real_net_api):
    reachable(REGISTRY, 443)
    api = real_net_api
    inside = api.create(template="node-22", network="restricted", size="medium")["id"]
    # Behind a mirror's own certificate authority, which the sandbox does not know.
    command = "cd /workspace && npm install --no-audit --no-fund --strict-ssl=false is-odd@3.0.1 && node -e 'console.log(require(\"is-odd\")(3))'"
    answer = api.post(f"/v1/sandboxes/{inside}/exec", {"command": command, "timeout_seconds": 240})
    assert answer.status == 200 and answer.json["exit_code"] == 0, answer
    assert answer.json["stdout"].rstrip().endswith("true")
    entries = api.get(f"/_emulator/sandboxes/{inside}/network").json["entries"]
    pages = [e for e in entries if e["kind"] == "tcp" and e["host"] == REGISTRY]
    assert pages and {(e["verdict"], e["port"]) for e in pages} == {("allowed", 443)}
    assert {e["exec"] for e in pages} == {answer.headers["x-exec-id"]}
    learned = api.get(f"/_emulator/sandboxes/{inside}/network/learn").json["rules"]
    assert f"{REGISTRY}:443" in learned, learned
    other = api.post(f"/v1/sandboxes/{inside}/exec", {"command": "npm view is-odd --registry=http://registry.evil.example --fetch-retries=0"})
    assert other.status == 403 and other.code == "network_policy", other
    assert {line["host"] for line in other.json["blocked"]} == {"registry.evil.example"}


def test_apt_get_install(real_net_api):
    reachable(MIRROR, 80)
    api = real_net_api
    inside = api.create(template="python-3.12-bare", network="restricted", size="medium")["id"]
    release = api.exec(inside, ". /etc/os-release; echo $ID")["stdout"].strip()
    if release != "debian":
        reachable("archive.ubuntu.com", 80)
    command = "apt-get update -qq && apt-get install -y -qq --no-install-recommends hello && hello"
    answer = api.post(f"/v1/sandboxes/{inside}/exec", {"command": command, "timeout_seconds": 300})
    assert answer.status == 200 and answer.json["exit_code"] == 0, answer
    assert answer.json["stdout"].rstrip().endswith("Hello, world!")
    assert answer.json["network_blocked"] == [], "nothing that apt needs is refused"
