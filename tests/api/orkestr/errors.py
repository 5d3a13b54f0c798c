"""The exceptions of the README's "Errors" table, and which answer becomes which."""

from __future__ import annotations

from typing import Any, Mapping


class OrkestrError(Exception):
    """Any API-level error, and the base of the more exact ones.

    status      HTTP status, or None if there was no answer at all
    code        the API's machine-readable code ("exec_timeout"), or None
    request_id  what to quote in a bug report, or None
    body        the decoded error body
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        body: Mapping[str, Any] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.body = dict(body or {})


class AuthError(OrkestrError):
    """Missing, invalid or expired API key, or a key without the scope."""


class RateLimitError(OrkestrError):
    """The plan's rate limit was hit; retry_after is in seconds, or None."""

    retry_after: float | None = None


class PlanLimitError(OrkestrError):
    """The plan forbids it: size, concurrency, usage or snapshots."""


class SnapshotCapReached(PlanLimitError):
    """pause() beyond the number of snapshots the plan keeps."""


class SandboxNotFound(OrkestrError):
    """There is no such sandbox, or it is another account's."""


class SandboxNotReady(OrkestrError):
    """The sandbox is paused, terminated, or on its way there."""


class ExecTimeout(OrkestrError):
    """exec() exceeded timeout_seconds. stdout and stderr hold what was written until then."""

    @property
    def stdout(self) -> str:
        return self.body.get("stdout", "")

    @property
    def stderr(self) -> str:
        return self.body.get("stderr", "")


class NetworkPolicyError(OrkestrError):
    """The command tried to reach what the network policy blocks."""

    @property
    def blocked(self) -> list[dict[str, Any]]:
        return self.body.get("blocked", [])


def from_answer(status: int, headers: Mapping[str, str], body: Any) -> OrkestrError:
    """The exception for an error answer. headers: names in lower case."""
    fields = body if isinstance(body, dict) else {}
    code = fields.get("code")
    error = _class_of(status, code)(
        _message(fields.get("detail")) or f"HTTP {status}",
        status=status,
        code=code,
        request_id=headers.get("x-request-id"),
        body=fields,
    )
    if isinstance(error, RateLimitError):
        try:
            error.retry_after = float(headers["retry-after"])
        except (KeyError, ValueError):
            pass
    return error


def _class_of(status: int, code: str | None) -> type[OrkestrError]:
    if status == 401:
        return AuthError
    if status == 402:
        return SnapshotCapReached if code == "snapshot_cap_reached" else PlanLimitError
    if status == 403:
        return NetworkPolicyError if code == "network_policy" else AuthError
    if status == 404:
        return SandboxNotFound if code == "sandbox_not_found" else OrkestrError
    if status == 408:
        return ExecTimeout
    if status == 409:
        return SandboxNotReady if code == "sandbox_not_ready" else OrkestrError
    if status == 429:
        return RateLimitError
    return OrkestrError


def _message(detail: Any) -> str:
    """`detail` is a sentence, or FastAPI's list of what is wrong with which field."""
    if isinstance(detail, list):
        return "; ".join(
            f"{'.'.join(str(part) for part in item.get('loc', []))}: {item.get('msg', 'invalid')}"
            for item in detail
            if isinstance(item, dict)
        )
    return str(detail) if detail else ""
