"""One request, one connection: the little HTTP that the client needs."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any, Iterator
from urllib.parse import urlencode, urlsplit

from .errors import AuthError, OrkestrError, from_answer

DEFAULT_BASE_URL = "https://api.orkestr.eu"
DEFAULT_TIMEOUT = 60.0  # seconds without a byte before a request is given up


class Transport:
    """Where the API is and with which key; shared by a Sandbox and its Files."""

    def __init__(self, api_key: str | None = None):
        self.api_key = api_key or os.environ.get("ORKESTR_API_KEY")
        if not self.api_key:
            raise AuthError("no API key: pass api_key= or set ORKESTR_API_KEY")
        self.base_url = (
            os.environ.get("ORKESTR_BASE_URL") or os.environ.get("ORKESTR_API_URL") or DEFAULT_BASE_URL
        ).rstrip("/")

    def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """Sends JSON and returns the decoded JSON answer (None for an empty one)."""
        connection, response = self._send(method, path, query, body, timeout, "application/json")
        try:
            return self._decode(response)
        finally:
            connection.close()

    def stream(self, path: str, *, body: Any, timeout: float) -> Iterator[Any]:
        """Yields the JSON value of each Server-Sent Event as it arrives."""
        connection, response = self._send("POST", path, None, body, timeout, "text/event-stream")
        try:
            if response.status >= 400:
                self._decode(response)
            data: list[str] = []
            while line := response.readline():
                text = line.decode("utf-8").rstrip("\r\n")
                if text.startswith("data:"):
                    data.append(text[5:].removeprefix(" "))
                elif not text and data:
                    yield json.loads("\n".join(data))
                    data = []
        except (OSError, http.client.HTTPException) as error:
            raise OrkestrError(f"the stream broke off: {error}") from error
        finally:
            connection.close()

    def _send(self, method, path, query, body, timeout, accept):
        url = urlsplit(self.base_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname, url.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.api_key}", "Accept": accept}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        target = url.path + path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, payload, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OrkestrError(f"{method} {self.base_url}{path}: {error}") from error

    @staticmethod
    def _decode(response: http.client.HTTPResponse) -> Any:
        try:
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise OrkestrError(f"the answer broke off: {error}") from error
        try:
            value = json.loads(text) if text else None
        except ValueError:
            value = {"detail": text.decode("utf-8", "replace")}
        if response.status >= 400:
            headers = {name.lower(): value for name, value in response.getheaders()}
            raise from_answer(response.status, headers, value)
        return value
