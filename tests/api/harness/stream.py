"""A streamed exec over http.client: an iterator of chunks that can be left at any place."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any, Callable, Iterator

from harness import slow


class Stream:
    """Starts a command and reads its chunks; Stream.attach() reads one that was started before.

    ids: what the `id:` lines said. text: all data read so far. Leaving the context closes the connection.
    """

    def __init__(self, api, sandbox_id: str, command, *, ndjson: bool = False, receive_buffer: int = 0, **fields: Any):
        body = {"command": command, "stream": True, **slow.command(fields)}
        self._open(api, "POST", f"/v1/sandboxes/{sandbox_id}/exec", body, {}, ndjson, receive_buffer)

    @classmethod
    def attach(
        cls, api, sandbox_id: str, exec_id: str, *, after: int | None = None, how: str = "header", ndjson: bool = False,
        receive_buffer: int = 0,
    ) -> Stream:  # fmt: skip
        path, headers = f"/v1/sandboxes/{sandbox_id}/exec/{exec_id}/stream", {}
        if after is not None and how == "header":
            headers["Last-Event-ID"] = str(after)
        elif after is not None:
            path += f"?after={after}"
        self = cls.__new__(cls)
        self._open(api, "GET", path, None, headers, ndjson, receive_buffer)
        return self

    def _open(self, api, method, path, body, headers, ndjson, receive_buffer) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.ndjson = ndjson
        self.connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
        if receive_buffer:
            self.connection.sock = socket.socket()
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.connection.sock.settimeout(60)
            self.connection.sock.connect(("127.0.0.1", api.port))
        headers = {
            "Authorization": f"Bearer {api.key}", "Accept": "application/x-ndjson" if ndjson else "text/event-stream", **headers,
        }  # fmt: skip
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.connection.request(method, path, payload, headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200, (self.response.status, self.response.read())
        kind = self.response.headers["Content-Type"]
        assert kind == ("application/x-ndjson" if ndjson else "text/event-stream"), kind
        self.exec_id = self.response.headers["X-Exec-Id"]
        self._events = self._read()

    def _read(self) -> Iterator[dict]:
        data = None
        while line := self.response.readline():
            text = line.decode("utf-8").rstrip("\n")
            if self.ndjson:
                yield json.loads(text)
            elif text.startswith("id: "):
                self.ids.append(int(text[4:]))
            elif text.startswith("data: "):
                assert data is None
                data = json.loads(text[6:])
            elif not text and data is not None:
                yield data
                data = None
            else:
                assert not text or text.startswith(":"), text
        assert data is None, "an event without an end"

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        event = next(self._events)
        self.text += event["data"]
        return event

    def until(self, text: str) -> bool:
        """Reads on until `text` has come; what it takes is not looked at again."""
        while text not in self.text:
            if next(self, None) is None:
                raise AssertionError(f"{text!r} never came: {self.text!r}")
        self.text = self.text[self.text.index(text) + len(text) :]
        return True

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def output(events: list[dict]) -> tuple[str, str]:
    """Standard output and standard error of a list of chunks."""
    return tuple("".join(e["data"] for e in events if e["stream"] == name) for name in ("stdout", "stderr"))


def settle(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits until the condition holds; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)
    return value
