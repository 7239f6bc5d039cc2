"""The REST API from the caller's side, over the standard library's HTTP client, which costs the CLI nothing to import.

Every request has a deadline. A command carries an Idempotency-Key, so the one repetition after a broken connection
cannot run it twice.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fleet.cli.failure import Exit, Failure

PREFIX = "/api/v1"
TIMEOUT = 35.0
"""Seconds; a little above the server's own deadline, so that its explanation arrives."""
SILENCE = 60.0
"""Seconds without a byte after which a followed stream is dead; the server sends a sign of life every 15."""
MAX_BODY = 256 << 20

Json = dict[str, Any]
Scalar = str | int | bool | None

_EXITS = {
    400: Exit.USAGE,
    401: Exit.FORBIDDEN,
    403: Exit.FORBIDDEN,
    409: Exit.CONFLICT,
    415: Exit.USAGE,
    422: Exit.USAGE,
}


class Client:
    """One server. Every method raises Failure: 3 not reachable, 4 not allowed, 5 conflict, 2 or 1 for what it
    refuses.
    """

    def __init__(self, server: str, token: str | None, *, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(server if "://" in server else f"http://{server}")
        try:
            self._port = parts.port
        except ValueError:
            parts = parts._replace(netloc="")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise Failure(Exit.USAGE, f"--server {server}: not a URL such as http://127.0.0.1:8080")
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise Failure(Exit.USAGE, "the token has characters that no token has; was the right file taken?")
        self.server = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._base = parts.path.rstrip("/") + PREFIX
        self._token = token
        self._timeout = timeout

    def get(self, path: str, **query: Scalar) -> Json:
        return self._json("GET", self._url(path, query))

    def list(self, path: str, *, most: int | None = None, **query: Scalar) -> Json:
        """All pages of a list as one, or the first `most` items with the `next` that the server gave for the rest."""
        items: list[Any] = []
        following: str | None = None
        while True:
            size = None if most is None else min(500, most - len(items))
            page = self.get(path, limit=size or 500, next=following, **query)
            items += page.get("items", [])
            following = page.get("next")
            if following is None or (most is not None and len(items) >= most):
                return {"items": items, "next": following}

    def post(self, path: str, body: Json, *, version: int | None = None) -> Json:
        """A command; `version` becomes If-Match. Repeated once, under the same key, when the connection breaks."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        content = json.dumps({key: value for key, value in body.items() if value not in (None, "", [])}).encode()
        return self._json("POST", self._url(path, {}), content, headers, repeats=1)

    def events(self, since: int, *, follow: bool) -> Iterator[Json]:
        """Entries of the event log after `since`; with `follow` it only ends when the server does."""
        with _Closing(self._connect(SILENCE if follow else self._timeout)) as connection:
            headers = {"Accept": "text/event-stream"}
            response = self._send(
                connection, "GET", self._url("/events", {"since": since, "follow": follow}), b"", headers
            )
            try:
                for line in response:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._unreachable(f"the event stream broke off: {_reason(error)}") from error

    def _json(
        self, method: str, url: str, content: bytes = b"", headers: Mapping[str, str] | None = None, repeats: int = 0
    ) -> Json:
        with _Closing(self._connect(self._timeout)) as connection:
            try:
                response = self._send(connection, method, url, content, headers or {}, brittle=repeats > 0)
                return self._object(response)
            except _Broken:
                pass
        return self._json(method, url, content, headers, repeats - 1)

    def _object(self, response: http.client.HTTPResponse) -> Json:
        raw = self._read(response)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._unreachable(f"it answers, but not as a fleet server ({response.status} {response.reason})")
        return answer

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        brittle: bool = False,
    ) -> http.client.HTTPResponse:
        """The response of a request that was accepted; raises _Broken instead of Failure where it may be repeated."""
        signed = {"Accept": "application/json", **headers}
        if self._token is not None:
            signed["Authorization"] = f"Bearer {self._token}"
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(_reason(error)) from error
        try:
            connection.request(method, url, body=content or None, headers=signed)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            if brittle:
                raise _Broken from error
            raise self._unreachable(_reason(error)) from error
        if response.status >= 300:
            raise self._refused(response)
        return response

    def _refused(self, response: http.client.HTTPResponse) -> Failure:
        try:
            problem = json.loads(self._read(response))
            detail = str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            return self._unreachable(f"it answers, but not as a fleet server ({response.status} {response.reason})")
        if response.status == 401:
            known = "the token is not this server's" if self._token else "no token was given"
            return Failure(
                Exit.FORBIDDEN,
                f"{self.server}: {known}",
                "set FLEET_TOKEN to the content of DATA_DIR/token; `fleet serve` prints where that is",
            )
        exit = _EXITS.get(response.status, Exit.UNREACHABLE if response.status >= 500 else Exit.NO)
        hint = "the server's log says more" if response.status == 500 else None
        return Failure(exit, detail, hint)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            raw = response.read(MAX_BODY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(_reason(error)) from error
        if len(raw) > MAX_BODY:
            raise self._unreachable("its answer is larger than any answer should be")
        return raw

    def _unreachable(self, reason: str) -> Failure:
        return Failure(
            Exit.UNREACHABLE,
            f"cannot reach the server at {self.server}: {reason}",
            "start it with `fleet serve`, or point --server (FLEET_SERVER) to where it runs",
        )

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _url(self, path: str, query: Mapping[str, Scalar]) -> str:
        given = {key: _text(value) for key, value in query.items() if value is not None}
        return self._base + path + (f"?{urlencode(given)}" if given else "")


class _Broken(Exception):
    """The connection broke after the request may have arrived."""


class _Closing:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> http.client.HTTPConnection:
        return self._connection

    def __exit__(self, *unused: object) -> None:
        self._connection.close()


def path(*parts: str) -> str:
    """A path of the API with every part quoted; a `..` or `/` in a name stays a name."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, socket.gaierror):
        return "the name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
