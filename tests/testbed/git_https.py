"""A Git server over HTTPS on loopback: `git http-backend` behind a small TLS server, with credentials and faults.

It runs in threads of this process and ends with it. `requests` records what clients asked for, so that a test can tell
an `ls-remote` from a fetch.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import re
import secrets
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.testbed import git, ports
from tests.testbed.certs import Authority

_BACKEND_SECONDS = 60
_MAX_BODY = 64 << 20

Mode = Literal["serving", "hanging", "failing"]


@dataclass(frozen=True, slots=True)
class GitRequest:
    """One HTTP request.

    `command` is `advertise` (each operation begins with it), `ls-refs` (all that an ls-remote needs), `fetch` or
    `receive-pack` (a push).
    """

    path: str
    command: str
    authorised: bool


class GitHttps:
    """Serves the repositories below `root` at `url("name")`; clients must trust `ca`.

    `require` sets the user name and password (or token) that clients must send from then on; a bearer token equal to
    the password is accepted, too.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.requests: list[GitRequest] = []
        self._mode: Mode = "serving"
        self._status = 503
        self._credentials: tuple[str, str] | None = None
        self._changed = threading.Condition()
        directory.mkdir(parents=True, exist_ok=True)
        authority = Authority("git CA")
        self.ca = directory / "git-ca.crt"
        self.ca.write_bytes(authority.certificate)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*authority.server().write(directory, "git-server"))
        (self.port,) = ports.free(1)
        self._server: _Server | None = None
        self._listen()

    def url(self, name: str) -> str:
        """`name` is a directory below the root, e.g. `shop.git`."""
        return f"https://127.0.0.1:{self.port}/{urllib.parse.quote(name)}"

    def require(self, user: str, password: str) -> None:
        self._credentials = (user, password)

    def allow_anyone(self) -> None:
        self._credentials = None

    def hang(self) -> None:
        """Connections are accepted, requests read and never answered, until `mend` or `close`."""
        self._set("hanging")

    def fail(self, status: int = 503) -> None:
        """Every request is answered with the HTTP status."""
        self._status = status
        self._set("failing")

    def refuse(self) -> None:
        """Nothing listens on the port any more; open connections are cut."""
        self._stop()

    def mend(self) -> None:
        """Back to serving, on the same port."""
        self._set("serving")
        if self._server is None:
            self._listen()

    def close(self) -> None:
        self._stop()

    def __enter__(self) -> GitHttps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # used by the request handler

    def answer_mode(self) -> tuple[Mode, int]:
        """How to answer now; waits while the server hangs."""
        with self._changed:
            self._changed.wait_for(lambda: self._mode != "hanging" or self._server is None)
            return self._mode, self._status

    def authorises(self, header: str | None) -> bool:
        """Whether the Authorization header carries the required credentials."""
        if self._credentials is None:
            return True
        user, password = self._credentials
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        accepted = (f"Basic {basic}", f"Bearer {password}")
        return any(secrets.compare_digest((header or "").encode(), each.encode()) for each in accepted)

    def _set(self, mode: Mode) -> None:
        with self._changed:
            self._mode = mode
            self._changed.notify_all()

    def _listen(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self, self._tls)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="testbed-git-https").start()

    def _stop(self) -> None:
        with self._changed:
            server, self._server = self._server, None
            self._changed.notify_all()
        if server is not None:
            server.shutdown()
            server.cut()
            server.server_close()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """One thread per connection; the TLS handshake happens there, so a silent client blocks nobody."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: GitHttps, tls: ssl.SSLContext) -> None:
        self.owner = owner
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        plain, address = super().get_request()
        secured = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._open.add(secured)
        return secured, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Ends every open connection, so that its thread ends."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away, or do not trust us, are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """`requests` of the owner is the log."""

    def _serve(self) -> None:
        owner = self.server.owner
        body = self._body()
        target = urllib.parse.urlsplit(self.path)
        authorised = owner.authorises(self.headers.get("Authorization"))
        owner.requests.append(GitRequest(target.path, _command(target.path, body), authorised))
        mode, status = owner.answer_mode()
        if mode == "failing":
            self._reply(status, [], b"made to fail\n")
        elif mode == "hanging":  # the server is being closed
            self.close_connection = True
        elif not authorised:
            self._reply(401, [("WWW-Authenticate", 'Basic realm="git"')], b"credentials needed\n")
        else:
            self._reply(*self._backend(target, body))

    def _backend(self, target: urllib.parse.SplitResult, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        variables = {
            **git.environment(),
            "GIT_PROJECT_ROOT": str(self.server.owner.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": urllib.parse.unquote(target.path),
            "QUERY_STRING": target.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "git",
            "REMOTE_ADDR": "127.0.0.1",
        }
        command = ["git", "http-backend"]
        done = subprocess.run(
            command, env=variables, input=body, capture_output=True, timeout=_BACKEND_SECONDS, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [_field(line) for line in head.decode("latin-1").splitlines()]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return status, [(name, value) for name, value in headers if name != "Status"], content

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            raw = b"".join(self._chunks())
        else:
            raw = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), _MAX_BODY))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def _chunks(self) -> Iterable[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


def _command(path: str, body: bytes) -> str:
    """What the client wants: protocol v2 names it in the first packet (gitprotocol-v2), earlier ones by the path."""
    if path.endswith("/info/refs"):
        return "advertise"
    named = re.match(rb"[0-9a-f]{4}command=([a-z-]+)", body)
    return named.group(1).decode() if named else path.rpartition("/")[2].removeprefix("git-")
