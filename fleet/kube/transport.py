"""Every request to one cluster passes here: credentials, deadline, size limit, and what a failure means.

Two connection pools: one of a fixed size for requests, one without a limit for watches, because a pool that watches
fill up makes every list wait for ever. `client`, `discovery` and `watch` stand on it.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import anyio
import msgspec
from yarl import URL

import fleet
from fleet.aio.limits import BreakerState
from fleet.errors import FleetError, Rejected, Unauthorized, Unavailable
from fleet.kube import translate
from fleet.kube.access import Login
from fleet.kube.bounds import Bounds
from fleet.kube.credentials import Credentials
from fleet.kube.gate import Gate, TooLarge

JSON = "application/json"
_PIECE = 65536
T = TypeVar("T")


class Call(msgspec.Struct, frozen=True):
    """One request; `path` is absolute and not quoted."""

    method: str
    path: str
    query: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON
    etag: str = ""
    repeatable: bool = True
    """Whether sending it twice does what sending it once does."""

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def secret(self) -> bool:
        return "/secrets/" in f"{self.path}/"


class Answer(msgspec.Struct, frozen=True):
    """A success (2xx), or 304 to a call that had an etag."""

    status: int
    content_type: str
    etag: str
    body: bytes


class Statistics(msgspec.Struct, frozen=True):
    """Of the connections to one cluster."""

    requests: int
    """Sent since the start, openings of watches and repetitions included."""
    streams: int
    """Watches that are open."""
    answers: BreakerState
    credentials: BreakerState


class Transport:
    """The connections to one cluster. Make it inside the event loop; end it with `aclose`."""

    def __init__(self, cluster: str, credentials: Credentials, bounds: Bounds) -> None:
        self.cluster = cluster
        self.bounds = bounds
        self._credentials = credentials
        self._gate = Gate(cluster, bounds.rates, bounds.timeouts.queue)
        self._sent = 0
        self._streams = 0
        self._requests = _session(bounds, limit=bounds.rates.connections)
        self._watches = _session(bounds, limit=0)

    @property
    def statistics(self) -> Statistics:
        return Statistics(self._sent, self._streams, self._gate.answers, self._gate.credentials)

    async def request(self, call: Call, limit: int) -> Answer:
        """Sends a request and reads its whole answer of at most `limit` bytes.

        Raises Unavailable (no answer in time, none of an API server, or one above `limit` as TooLarge), Unauthorized,
        NotFound or Rejected.
        """
        with await self._gate.admit(call.what):
            return await self._authenticated(call, partial(self._patiently, call, limit))

    async def open(self, call: Call) -> Stream:
        """Opens a watch; returns once the server has accepted it. Raises as `request`."""
        with await self._gate.admit(call.what):
            response = await self._authenticated(call, partial(self._accepted, call))
        self._streams += 1
        return Stream(self, call, response)

    async def answering(self) -> None:
        """Returns at once when the cluster answered lately, else asks it; raises as `request`."""
        if self._gate.answers != "closed":
            await self.request(Call("GET", "/version"), self.bounds.sizes.error)

    async def rest(self, seconds: float) -> bool:
        """Waits so long, or less when the cluster comes back meanwhile from where it did not answer (True then)."""
        with anyio.move_on_after(seconds):
            await self._gate.wait_recovered()
            return True
        return False

    async def aclose(self) -> None:
        await self._requests.close()
        await self._watches.close()

    def closed(self, stream: Stream) -> None:
        """Told by each stream once, at its end."""
        self._streams -= 1

    # --- one request -------------------------------------------------------------------------------------------------

    async def _authenticated(self, call: Call, attempt: Callable[[Login], Awaitable[T | None]]) -> T:
        """Runs an attempt within the deadline, and once more with renewed credentials when it says None (401)."""
        login = await self._credentials.login()
        result = await self._within(call, attempt, login)
        if result is not None:
            return result
        self._gate.answered()
        renewed = await self._credentials.renew(login)
        if not renewed.same_as(login):
            result = await self._within(call, attempt, renewed)
            if result is not None:
                return result
        raise Unauthorized(f"{self.cluster} refuses our credentials (401)")

    async def _within(self, call: Call, attempt: Callable[[Login], Awaitable[T]], login: Login) -> T:
        try:
            with anyio.fail_after(self.bounds.timeouts.request):
                return await attempt(login)
        except TimeoutError:
            raise Unavailable(
                f"{self.cluster} did not answer {call.what} within {self.bounds.timeouts.request:g} s"
            ) from None

    async def _accepted(self, call: Call, login: Login) -> aiohttp.ClientResponse | None:
        """The response of a watch with its body still to come."""
        response = await self._send(self._watches, call, login)
        if response.status == 401:
            response.close()
            return None
        if response.status != 200:
            raise await self._refusal(call, response)
        return response

    async def _patiently(self, call: Call, limit: int, login: Login) -> Answer | None:
        """Waits and repeats when told to by 429 with Retry-After (nothing was done then), while the deadline allows."""
        while True:
            response = await self._send(self._requests, call, login)
            if response.status == 401:
                response.close()
                return None
            if response.status < 300 or (response.status == 304 and call.etag):
                return Answer(
                    status=response.status,
                    content_type=response.headers.get("Content-Type", ""),
                    etag=response.headers.get("ETag", ""),
                    body=await self._read(call, response, limit),
                )
            error = await self._refusal(call, response)
            if not isinstance(error, Rejected) or error.status != 429 or error.retry_after is None:
                raise error
            if anyio.current_time() + error.retry_after >= anyio.current_effective_deadline():
                raise error
            await anyio.sleep(error.retry_after)

    async def _send(self, session: aiohttp.ClientSession, call: Call, login: Login) -> aiohttp.ClientResponse:
        try:
            return await self._once(session, call, login)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError) as error:
            # A pooled connection that the server closed just as we used it; a new one tells whether it is well.
            if not call.repeatable or isinstance(error, aiohttp.ClientConnectorError):
                raise self._unreachable(call, error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(call, error) from error
        try:
            return await self._once(session, call, login)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(call, error) from error

    async def _once(self, session: aiohttp.ClientSession, call: Call, login: Login) -> aiohttp.ClientResponse:
        headers = {"Accept": call.accept}
        if login.authorization is not None:
            headers["Authorization"] = login.authorization
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if call.etag:
            headers["If-None-Match"] = call.etag
        self._sent += 1
        return await session.request(
            call.method,
            _url(login.server, call),
            # aiohttp writes a file-like body piece by piece, and bytes at once, however slow the connection is.
            data=io.BytesIO(call.body) if call.body is not None and len(call.body) > _PIECE else call.body,
            headers=headers,
            ssl=login.tls if login.tls is not None else True,
            server_hostname=login.server_name,
            proxy=login.proxy,
            allow_redirects=False,
        )

    # --- answers -----------------------------------------------------------------------------------------------------

    async def _read(self, call: Call, response: aiohttp.ClientResponse, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await response.content.readany():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"{self.cluster} answered {call.what} with more than {limit} bytes")
                chunks.append(chunk)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(call, error) from error
        finally:
            response.release()  # back to the pool when it was read to its end, else closed
        return b"".join(chunks)

    async def _refusal(self, call: Call, response: aiohttp.ClientResponse) -> FleetError:
        try:
            body = await self._read(call, response, self.bounds.sizes.error)
        except Unavailable:
            body = b""  # the status alone still says something
        return translate.refusal(
            response.status,
            body,
            content_type=response.headers.get("Content-Type", ""),
            retry_after=translate.seconds(response.headers.get("Retry-After"), self.bounds.timeouts.retry_after),
            what=call.what,
            secret=call.secret,
        )

    def _unreachable(self, call: Call, error: Exception) -> Unavailable:
        return Unavailable(f"{self.cluster} did not answer {call.what}: {_reason(error)}")


class Stream:
    """The body of an accepted watch. Ends with `close`, which cuts the connection unless the server ended it."""

    def __init__(self, transport: Transport, call: Call, response: aiohttp.ClientResponse) -> None:
        self._transport = transport
        self._call = call
        self._response = response
        self._open = True

    async def receive(self) -> bytes:
        """The next bytes as they came, empty at the end; raises Unavailable. It has no deadline of its own."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self._transport.cluster} cut {self._call.what}: {_reason(error)}") from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._response.release()
            self._transport.closed(self)


# --- aiohttp ---------------------------------------------------------------------------------------------------------


def _session(bounds: Bounds, *, limit: int) -> aiohttp.ClientSession:
    timeouts = bounds.timeouts
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=limit,
            keepalive_timeout=timeouts.keepalive,
            socket_factory=_socket,
        ),
        # Only the connect has a deadline here; anyio's scopes bound the rest.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=None),
        headers={"User-Agent": f"fleet/{fleet.__version__}", "Accept-Encoding": "gzip"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """TCP keepalive finds a peer that vanished under an idle connection, the user time-out one under a write."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    return made


def _url(server: str, call: Call) -> URL:
    # Names of some kinds may hold any character but `/` and `%`.
    query = f"?{urlencode(call.query)}" if call.query else ""
    return URL(f"{server}{quote(call.path, safe='/:@!$,;=+~')}{query}", encoded=True)


def _reason(error: Exception) -> str:
    """One clause for a person; of a proxy's address, which may hold a password, nothing."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused with {error.status}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    if isinstance(error, TimeoutError):
        return "the connection was not made in time"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it did not speak HTTP"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
