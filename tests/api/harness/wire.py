"""Raw requests, for what the SDK-shaped clients are too well-behaved to send."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from harness import slow

REQUEST_TIMEOUT = 60.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.json.get("code")

    @property
    def divergences(self) -> set[str]:
        return {slug.strip() for slug in self.headers.get("x-orkestr-divergence", "").split(",") if slug.strip()}

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:600]!r}>"


class Api:
    """One key's view of one emulator. Each request has a connection of its own."""

    def __init__(self, port: int, key: str | None):
        self.port = port
        self.key = key

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Answer:
        """body is sent as JSON; raw as it is."""
        sent = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        payload = raw
        if body is not None:
            payload = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path + (f"?{urlencode(query)}" if query else ""), payload, sent)
            response = connection.getresponse()
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()
        check_common_headers(answer)
        return answer

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def delete(self, path: str, **more: Any) -> Answer:
        return self.request("DELETE", path, **more)

    # What nearly every test does, checked.

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/sandboxes", {"template": "tiny", **fields})
        assert answer.status == 201, answer
        return answer.json

    def exec(self, sandbox_id: str, command: str | list[str], **fields: Any) -> dict[str, Any]:
        answer = self.post(f"/v1/sandboxes/{sandbox_id}/exec", {"command": command, **slow.command(fields)})
        assert answer.status == 200, answer
        return answer.json

    def sh(self, sandbox_id: str, command: str, **fields: Any) -> str:
        """Standard output of a command that must succeed."""
        result = self.exec(sandbox_id, command, **fields)
        assert result["exit_code"] == 0, result
        return result["stdout"]

    def put_file(self, sandbox_id: str, path: str, data: bytes, mode: str | None = None) -> Answer:
        import base64

        body = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        if mode:
            body["mode"] = mode
        answer = self.post(f"/v1/sandboxes/{sandbox_id}/files", body)
        assert answer.status in (200, 201), answer
        return answer

    def files(self, method: str, sandbox_id: str, path: str, **more: Any) -> Answer:
        query = {"path": path, **more.pop("query", {})}
        return self.request(method, f"/v1/sandboxes/{quote(sandbox_id)}/files", query=query, **more)

    def status_of(self, sandbox_id: str) -> str:
        answer = self.get(f"/v1/sandboxes/{sandbox_id}")
        assert answer.status == 200, answer
        return answer.json["status"]


def check_common_headers(answer: Answer) -> None:
    """wire.md, Conventions: every response carries these."""
    assert answer.headers.get("x-request-id"), f"no X-Request-Id: {answer.status} {answer.headers}"
    assert answer.headers.get("x-orkestr-emulator"), f"no X-Orkestr-Emulator: {answer.status} {answer.headers}"


def check_error(answer: Answer, status: int, code: str | None) -> dict[str, Any]:
    """An error in FastAPI's form: a sentence for people, a code for machines."""
    assert answer.status == status, answer
    assert answer.headers.get("content-type", "").startswith("application/json"), answer.headers
    body = answer.json
    assert isinstance(body.get("detail"), str) and body["detail"], body
    if code is not None:
        assert body.get("code") == code, body
    return body


def check_invalid(answer: Answer, field: str | None, where: str = "body") -> None:
    """A 422 in FastAPI's form that names the field."""
    assert answer.status == 422, answer
    body = answer.json
    assert body.get("code") == "validation_error", body
    assert isinstance(body.get("detail"), list) and body["detail"], body
    for item in body["detail"]:
        assert isinstance(item.get("loc"), list) and item["loc"], body
        assert isinstance(item.get("msg"), str) and item["msg"], body
        assert isinstance(item.get("type"), str) and item["type"], body
    if field is not None:
        locs = [item["loc"][:2] for item in body["detail"]]
        assert [where, field] in locs, f"{field} is not named: {body}"


def raw_exchange(port: int, data: bytes, *, timeout: float = 10.0, shut: bool = False) -> bytes:
    """Sends bytes as they are and returns all that comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused half-way is an answer too; what it was is read below
        received = b""
        try:
            while piece := sock.recv(65536):
                received += piece
                if _complete(received):
                    break
        except (TimeoutError, OSError):
            pass
        return received


def _complete(received: bytes) -> bool:
    head, separator, rest = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    return bool(separator and length and len(rest) >= int(length.group(1)))


def status_of_raw(received: bytes) -> int | None:
    match = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    return int(match.group(1)) if match else None
