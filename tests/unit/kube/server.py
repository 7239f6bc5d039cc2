"""An HTTP/1.1 server on a real socket that does what a test tells it, well-behaved or not.

A handler gets each request and a `Reply`; what it leaves out is not sent, so it can stay silent, drip, cut and lie.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

HEAD_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Reply:
    """The answer to one request; `broken` says that the connection must not be used again."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.broken = False

    async def json(self, value: object, status: int = 200, **headers: str) -> None:
        await self.body(msgspec.json.encode(value), status, "application/json", **headers)

    async def body(self, body: bytes, status: int = 200, content_type: str = "text/html", **headers: str) -> None:
        await self.raw(self._head(status, content_type, {"Content-Length": str(len(body)), **headers}) + body)

    async def stream(self, status: int = 200, content_type: str = "application/json") -> None:
        """Begins a chunked answer."""
        await self.raw(self._head(status, content_type, {"Transfer-Encoding": "chunked"}))

    async def chunk(self, data: bytes) -> None:
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, kind: str, body: object) -> None:
        await self.chunk(msgspec.json.encode({"type": kind, "object": body}) + b"\n")

    async def end(self) -> None:
        """Ends a chunked answer as a server does."""
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def cut(self) -> None:
        """Closes the connection in the middle of whatever was sent."""
        self.broken = True
        await anyio.aclose_forcefully(self._stream)

    @staticmethod
    def _head(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} Told", f"Content-Type: {content_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


Handler = Callable[[Request, Reply], Awaitable[None]]


class Server:
    """`requests` are all that came, `connections` how often somebody connected."""

    def __init__(self, handler: Handler, port: int, *, tls: bool) -> None:
        self.handler = handler
        self.port = port
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._came = anyio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds; looked at with each request."""
        while not condition():
            await self._came.wait()

    async def _serve(self, stream: ByteStream) -> None:
        self.connections += 1
        buffered = BufferedByteReceiveStream(stream)
        try:
            async with stream:
                while True:
                    request = await _receive(buffered)
                    self.requests.append(request)
                    self._came.set()
                    self._came = anyio.Event()
                    reply = Reply(stream)
                    await self.handler(request, reply)
                    if reply.broken:
                        return
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead):
            pass  # the client went away


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serves until the block ends; a handler that is silent for ever is cancelled then."""
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = plain.extra(SocketAttribute.local_port)
    listener = plain if tls is None else TLSListener(plain, ssl_context=tls, standard_compatible=False)
    server = Server(handler, port, tls=tls is not None)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server._serve, name="scripted server")
        yield server
        tasks.cancel_scope.cancel()


async def _receive(stream: BufferedByteReceiveStream) -> Request:
    head = (await stream.receive_until(b"\r\n\r\n", HEAD_LIMIT)).decode()
    first, *rest = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    length = int(headers.get("content-length", "0"))
    body = await stream.receive_exactly(length) if length else b""
    parts = urlsplit(target)
    return Request(method, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)
