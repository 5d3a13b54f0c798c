"""What a host doesn't give is declared, and what is not declared is there: on every host, whichever it is."""

from __future__ import annotations

import pytest

from harness.wire import check_error

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def info(emulator) -> dict:
    return emulator.info()


@pytest.fixture
def made(api):
    """A sandbox's id, and what its create declared."""
    answer = api.post("/v1/sandboxes", {"template": "tiny", "cpu": 0.5, "memory_mb": 128})
    assert answer.status == 201, answer
    return answer.json["id"], answer.divergences


def test_limits_are_enforced_or_declared(info, made):
    cgroups = info["cgroups"]
    missing = [name for name in ("cpu", "memory", "pids") if not cgroups[name]]
    slugs = {divergence["slug"]: divergence for divergence in info["divergences"]}
    assert ("limits-unenforced" in made[1]) == bool(missing), (missing, made)
    assert ("limits-unenforced" in slugs) == bool(missing), slugs
    if missing:
        assert len(cgroups["why"]) > 20, "it says why, and what to do"


def test_ids_are_there_or_declared(api, info, made):
    sandbox, divergences = made
    single = info["id_map"] == "single"
    assert ("single-id" in divergences) == single
    result = api.exec(sandbox, "touch x && chown 33:33 x && stat -c %u:%g x")
    assert (result["exit_code"] != 0) if single else (result["stdout"] == "33:33\n"), result
    assert api.sh(sandbox, "id -u") == "0\n"


def test_pause_works_or_says_that_it_can_not(api, info, made):
    sandbox, _ = made
    answer = api.post(f"/v1/sandboxes/{sandbox}/pause", timeout=120)
    if info["cgroups"]["freeze"]:
        assert answer.status == 200 and answer.json["status"] == "paused", answer
        assert api.post(f"/v1/sandboxes/{sandbox}/resume", timeout=120).status == 200
    else:
        check_error(answer, 501, "pause_unsupported")
    assert api.status_of(sandbox) == "running"
    assert api.sh(sandbox, "echo goes on") == "goes on\n"


def test_processes_are_bounded_even_without_a_cgroup(api, made):
    limit = api.sh(made[0], "grep 'Max processes' /proc/self/limits | tr -s ' ' | cut -d' ' -f3")
    assert 50 <= int(limit) <= 20000
