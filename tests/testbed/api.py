"""A small synchronous client of one API server, for tests that arrange and look.

Far cheaper than a kubectl process; deliberately not the product's client, so that a test does not check it against
itself.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.testbed.errors import ApiFailed, NotReady

Json = dict[str, Any]


class Api:
    """Requests to `https://127.0.0.1:port` with a client certificate or a bearer token; one connection per request.

    Methods raise ApiFailed for a status of 400 and above, OSError when there is no answer within `timeout` seconds.
    """

    def __init__(
        self,
        port: int,
        ca: Path,
        *,
        certificate: tuple[Path, Path] | None = None,
        token: str | None = None,
        user_agent: str = "testbed",
        timeout: float = 10,
    ) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))
        if certificate is not None:
            self._context.load_cert_chain(*certificate)
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = timeout

    def get(self, path: str, **query: str) -> Json:
        return self.request("GET", path, query=query)

    def create(self, path: str, body: Mapping[str, Any], **query: str) -> Json:
        """POST of one object to its collection's path."""
        return self.request("POST", path, body, query=query)

    def update(self, path: str, body: Mapping[str, Any], **query: str) -> Json:
        return self.request("PUT", path, body, query=query)

    def patch(self, path: str, body: Any, *, kind: str = "merge", **query: str) -> Json:
        """PATCH; `kind` is merge, strategic-merge, json or apply (server-side apply: give fieldManager, too)."""
        content_type = {"apply": "application/apply-patch+yaml"}.get(kind, f"application/{kind}-patch+json")
        return self.request("PATCH", path, body, query=query, content_type=content_type)

    def apply(self, path: str, body: Mapping[str, Any], *, field_manager: str, **query: str) -> Json:
        """Server-side apply of one object at its own path."""
        return self.patch(path, body, kind="apply", fieldManager=field_manager, **query)

    def delete(self, path: str, **query: str) -> Json:
        return self.request("DELETE", path, query=query)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request; the decoded JSON, or {} for an empty or other body."""
        status, text = self.raw(method, path, body, query=query, content_type=content_type)
        if status >= 400:
            raise ApiFailed(method, path, status, text)
        try:
            decoded = json.loads(text)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, str]:
        """One request; status and body as they come."""
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        headers = dict(self._headers)
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=self._timeout)
        try:
            connection.request(method, target, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def exists(self, path: str) -> bool:
        """False only for a clear 404."""
        status, text = self.raw("GET", path)
        if status >= 400 and status != 404:
            raise ApiFailed("GET", path, status, text)
        return status != 404

    def ready(self) -> bool:
        """Whether /readyz says so now; an unreachable server is not ready."""
        try:
            return self.raw("GET", "/readyz")[0] == 200
        except (OSError, ssl.SSLError, socket.gaierror):
            return False

    def wait(self, path: str, until: Callable[[Json], bool], *, seconds: float = 30) -> Json:
        """Polls the object until `until` holds; a 404 counts as {}.

        Raises NotReady with the last object after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            status, text = self.raw("GET", path)
            seen: Json = json.loads(text) if status == 200 else {}
            if status >= 400 and status != 404:
                raise ApiFailed("GET", path, status, text)
            if until(seen):
                return seen
            if time.monotonic() > deadline:
                raise NotReady(f"{path} after {seconds:.0f} s: {json.dumps(seen)[-2000:]}")
            time.sleep(0.05)
