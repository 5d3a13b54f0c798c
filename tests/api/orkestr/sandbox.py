"""Sandbox, its files, and what they return."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Iterator
from urllib.parse import quote

from .http import Transport

# How much longer than a command's own limit its answer may take: the server, not the client, decides
# that a command is late.
_EXEC_SLACK = 30.0
_DEFAULT_EXEC_TIMEOUT = 60


@dataclass(frozen=True)
class ExecResult:
    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int


@dataclass(frozen=True)
class ExecChunk:
    """A piece of a running command's output. Only the last one (is_final) has an exit code."""

    stream: str  # "stdout" or "stderr"
    data: str
    is_final: bool = False
    exit_code: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True)
class FileEntry:
    name: str
    is_dir: bool
    size: int


class Files:
    """A sandbox's files, as `sbx.files`."""

    def __init__(self, transport: Transport, path: str):
        self._transport = transport
        self._path = path

    def write(self, path: str, content: str) -> None:
        self.write_bytes(path, content.encode("utf-8"))

    def write_bytes(self, path: str, content: bytes) -> None:
        body = {"path": path, "content": base64.b64encode(content).decode("ascii"), "encoding": "base64"}
        self._transport.call("POST", self._path, body=body)

    def read(self, path: str) -> str:
        return self.read_bytes(path).decode("utf-8")

    def read_bytes(self, path: str) -> bytes:
        answer = self._transport.call("GET", self._path, query={"path": path})
        if answer.get("is_dir"):
            raise IsADirectoryError(path)
        return base64.b64decode(answer["content"])

    def list(self, path: str) -> list[FileEntry]:
        answer = self._transport.call("GET", self._path, query={"path": path})
        if not answer.get("is_dir"):
            raise NotADirectoryError(path)
        return [FileEntry(entry["name"], entry["is_dir"], entry["size"]) for entry in answer["entries"]]

    def delete(self, path: str) -> None:
        self._transport.call("DELETE", self._path, query={"path": path})


class Sandbox:
    """A sandbox. Make one with Sandbox.create(); as a context manager it is terminated at the end."""

    id: str
    status: str
    template: str
    created_at: datetime

    def __init__(self, transport: Transport, row: dict[str, Any]):
        self._transport = transport
        self._take(row)
        self.files = Files(transport, f"{self._path}/files")

    @classmethod
    def create(
        cls,
        template: str,
        *,
        cpu: float | None = None,
        memory_mb: int | None = None,
        network: str = "off",
        timeout_seconds: int = 600,
        env: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        region: str | None = None,
        api_key: str | None = None,
    ) -> Sandbox:
        """Starts a sandbox and returns it running.

        cpu and memory_mb default to 1.0 and 2048, or to what the plan allows if that is less; only
        the server knows, so what is not given is not sent.
        """
        transport = Transport(api_key)
        body: dict[str, Any] = {
            "template": template,
            "network": network,
            "timeout_seconds": timeout_seconds,
            "env": env or {},
            "metadata": metadata or {},
            "region": region,
        }
        if cpu is not None:
            body["cpu"] = cpu
        if memory_mb is not None:
            body["memory_mb"] = memory_mb
        return cls(transport, transport.call("POST", "/v1/sandboxes", body=body, timeout=120.0))

    @classmethod
    def resume(cls, sandbox_id: str, *, api_key: str | None = None) -> Sandbox:
        """Continues a paused sandbox; from any process, by its id."""
        transport = Transport(api_key)
        row = transport.call("POST", f"/v1/sandboxes/{quote(sandbox_id, safe='')}/resume", timeout=300.0)
        return cls(transport, row)

    @classmethod
    def list(cls, *, status: str | None = None, api_key: str | None = None) -> Iterator[Sandbox]:
        """Yields the account's sandboxes, newest first, fetching further pages as they are needed."""
        transport = Transport(api_key)
        query = {"status": status} if status else {}
        while True:
            page = transport.call("GET", "/v1/sandboxes", query=query)
            for row in page["sandboxes"]:
                yield cls(transport, row)
            if not page.get("next_cursor"):
                return
            query["cursor"] = page["next_cursor"]

    def exec(self, command: str, *, timeout_seconds: int = _DEFAULT_EXEC_TIMEOUT) -> ExecResult:
        """Runs a shell command to its end."""
        answer = self._transport.call(
            "POST",
            f"{self._path}/exec",
            body={"command": command, "timeout_seconds": timeout_seconds},
            timeout=timeout_seconds + _EXEC_SLACK,
        )
        return ExecResult(answer["stdout"], answer["stderr"], answer["exit_code"], answer["duration_ms"])

    def exec_stream(self, command: str, *, timeout_seconds: int = _DEFAULT_EXEC_TIMEOUT) -> Iterator[ExecChunk]:
        """Runs a shell command and yields its output as it is written.

        Leaving the loop early ends the command.
        """
        events = self._transport.stream(
            f"{self._path}/exec",
            body={"command": command, "timeout_seconds": timeout_seconds, "stream": True},
            timeout=timeout_seconds + _EXEC_SLACK,
        )
        for event in events:
            yield ExecChunk(
                event["stream"],
                event["data"],
                event.get("is_final", False),
                event.get("exit_code"),
                event.get("duration_ms"),
            )
            if event.get("is_final"):
                return

    def pause(self) -> str:
        """Snapshots memory and disk and stops the meter; returns the id for Sandbox.resume()."""
        self._take(self._transport.call("POST", f"{self._path}/pause", timeout=300.0))
        return self.id

    def terminate(self) -> None:
        """Ends the sandbox. Its row stays in the account's history; a second call changes nothing."""
        self._take(self._transport.call("DELETE", self._path))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.status} {self.template}>"

    @property
    def _path(self) -> str:
        return f"/v1/sandboxes/{quote(self.id, safe='')}"

    def _take(self, row: dict[str, Any]) -> None:
        self.id = row["id"]
        self.status = row["status"]
        self.template = row["template"]
        # Python 3.10's fromisoformat does not know "Z".
        self.created_at = datetime.fromisoformat(row["created_at"].replace("Z", "+00:00"))
