"""The Python client: each call, and each exception by what causes it."""

import pytest

from harness.wire import Answer
from orkestr.errors import from_answer


def create(sdk, **fields):
    return sdk.Sandbox.create(fields.pop("template", "tiny"), **fields)


@pytest.mark.vm
def test_a_context_manager_terminates(sdk, api):
    with create(sdk) as sbx:
        assert sbx.status == "running" and sbx.exec("echo hi").stdout == "hi\n"
    assert sbx.status == "terminated" and api.status_of(sbx.id) == "terminated"


def test_a_context_manager_terminates_after_an_exception(sdk, api):
    with pytest.raises(ZeroDivisionError):
        with create(sdk) as sbx:
            raise ZeroDivisionError
    assert api.status_of(sbx.id) == "terminated"


def test_create_passes_everything_on(sdk, api):
    sbx = create(sdk, cpu=0.5, memory_mb=256, network="off", timeout_seconds=99, env={"A": "b"}, metadata={"m": "1"}, region="fsn1")
    row = api.get(f"/v1/sandboxes/{sbx.id}").json
    assert (row["cpu"], row["memory_mb"], row["timeout_seconds"], row["metadata"], row["region"]) == (0.5, 256, 99, {"m": "1"}, "fsn1")
    assert sbx.exec("echo $A").stdout == "b\n"
    sbx.terminate()


@pytest.mark.vm
def test_files(sdk):
    with create(sdk) as sbx:
        sbx.files.write("/workspace/ü/text.txt", "grüße\n")
        sbx.files.write_bytes("/workspace/blob", bytes(range(256)))
        assert sbx.files.read("/workspace/ü/text.txt") == "grüße\n"
        assert sbx.files.read_bytes("/workspace/blob") == bytes(range(256))
        assert {(e.name, e.is_dir) for e in sbx.files.list("/workspace")} == {("ü", True), ("blob", False)}
        sbx.files.delete("/workspace/blob")
        with pytest.raises(sdk.OrkestrError) as error:
            sbx.files.read("/workspace/blob")
        assert error.value.code == "file_not_found" and type(error.value) is sdk.OrkestrError


def test_list_goes_through_all_pages(sdk, api):
    ids = [create(sdk, cpu=0.05, memory_mb=64).id for _ in range(3)]
    for _ in range(52):
        sbx = create(sdk, cpu=0.05, memory_mb=64)
        sbx.terminate()
    listed = [sbx.id for sbx in sdk.Sandbox.list()]
    assert len(listed) == len(set(listed)) == 55
    assert [sbx.id for sbx in sdk.Sandbox.list(status="running")] == ids[::-1]


# --- errors by their causes -----------------------------------------------------------------------


def test_auth_error(sdk, monkeypatch):
    with pytest.raises(sdk.AuthError) as error:
        create(sdk, api_key="not-a-key")
    assert (error.value.status, error.value.code) == (401, "unauthorized") and error.value.request_id
    monkeypatch.delenv("ORKESTR_API_KEY")
    with pytest.raises(sdk.AuthError):
        create(sdk)


def test_plan_limit_error(sdk):
    with pytest.raises(sdk.PlanLimitError) as error:
        create(sdk, cpu=64)
    assert error.value.code == "size_not_allowed"


def test_sandbox_not_found(sdk):
    sbx = create(sdk)
    real, sbx.id = sbx.id, "sbx_01HXYZ00000000000000000000"
    with pytest.raises(sdk.SandboxNotFound):
        sbx.exec("true")
    sbx.id = real
    sbx.terminate()


@pytest.mark.vm
def test_sandbox_not_ready(sdk):
    sbx = create(sdk)
    sbx.terminate()
    for call in (lambda: sbx.exec("true"), lambda: sbx.files.read("/etc/passwd"), lambda: sbx.files.write("/x", "")):
        with pytest.raises(sdk.SandboxNotReady):
            call()
    sbx.terminate()


@pytest.mark.vm
def test_exec_timeout(sdk):
    with create(sdk) as sbx:
        with pytest.raises(sdk.ExecTimeout) as error:
            sbx.exec("echo so far; echo oops >&2; sleep 20", timeout_seconds=1)
        assert (error.value.stdout, error.value.stderr) == ("so far\n", "oops\n")


def test_validation_is_an_orkestr_error_that_names_the_field(sdk):
    with pytest.raises(sdk.OrkestrError) as error:
        create(sdk, timeout_seconds=1)
    assert type(error.value) is sdk.OrkestrError and error.value.status == 422
    assert "timeout_seconds" in str(error.value)


def test_no_server_is_an_orkestr_error(sdk, monkeypatch):
    monkeypatch.setenv("ORKESTR_BASE_URL", "http://127.0.0.1:1")
    with pytest.raises(sdk.OrkestrError) as error:
        create(sdk)
    assert error.value.status is None


def test_the_other_base_url_variable(sdk, emulator, monkeypatch):
    monkeypatch.delenv("ORKESTR_BASE_URL")
    monkeypatch.setenv("ORKESTR_API_URL", f"http://127.0.0.1:{emulator.port}/")
    create(sdk).terminate()


# --- the mapping itself, for what this emulator can't be made to answer yet -----------------------

MAPPING = [
    (401, "unauthorized", "AuthError"), (401, "key_expired", "AuthError"), (403, "insufficient_scope", "AuthError"),
    (403, "network_policy", "NetworkPolicyError"), (402, "size_not_allowed", "PlanLimitError"),
    (402, "usage_exhausted", "PlanLimitError"), (402, "snapshot_cap_reached", "SnapshotCapReached"),
    (404, "sandbox_not_found", "SandboxNotFound"), (404, "file_not_found", "OrkestrError"), (404, None, "OrkestrError"),
    (408, "exec_timeout", "ExecTimeout"), (409, "sandbox_not_ready", "SandboxNotReady"), (429, "rate_limited", "RateLimitError"),
    (400, "path_invalid", "OrkestrError"), (413, "payload_too_large", "OrkestrError"), (500, "internal_error", "OrkestrError"),
    (503, "template_unavailable", "OrkestrError"), (507, "disk_full", "OrkestrError"),
]  # fmt: skip


@pytest.mark.parametrize("status, code, name", MAPPING)
def test_mapping(status, code, name):
    error = from_answer(status, {"retry-after": "7", "x-request-id": "r"}, {"detail": "so", "code": code})
    assert type(error).__name__ == name
    assert (str(error), error.status, error.code, error.request_id) == ("so", status, code, "r")
    if name == "RateLimitError":
        assert error.retry_after == 7.0


@pytest.mark.parametrize("body", [None, [], "text", 5, {"detail": None}, {"detail": [{"loc": ["body", "x"], "msg": "bad"}, 3]}])
def test_mapping_survives_any_body(body):
    assert str(from_answer(500, {}, body))
    assert Answer(500, {}, b"{}").code is None
