"""GET /events: the event log as lines or server-sent events, from a sequence number on, to its end or for ever.

A reader holds no queue here: it reads the stored log page by page at its own pace and only waits for the news that
the log has grown. So a slow reader costs one page of memory, sees no hole, and falls behind only when the log no
longer keeps what comes next; then it is told where to start again (410 before the first byte, a `reader.behind` entry
after it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio
import msgspec
from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import LIMIT, Endpoint, Parameter
from fleet.api.problem import Behind, Busy
from fleet.engine.service import Service
from fleet.engine.views.event import EventView, behind
from fleet.errors import StoreError
from fleet.settings import ApiSettings

_LOG = logging.getLogger(__name__)

SINCE = Parameter(
    "since", "integer", "Sequence number after which to begin; 0 begins with the oldest entry kept", minimum=0
)
FOLLOW = Parameter("follow", "boolean", "Go on with new entries as they come")
Encode = Callable[[Sequence[EventView]], bytes]


class Position(msgspec.Struct):
    """How far one reader is."""

    seq: int
    end: int | None
    """The last sequence number to send; None to follow."""
    left: int | None
    """Entries that may still be sent; None: no limit."""

    @property
    def reached(self) -> bool:
        return self.left == 0 or (self.end is not None and self.seq >= self.end)


class Streams:
    """The readers of the event log: their number is bounded, and all of them end when the server does."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._page = min(settings.stream_queue, 500)
        self._open: set[anyio.CancelScope] = set()

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        for scope in self._open:
            scope.cancel()

    async def serve(self, request: web.Request, service: Service) -> web.StreamResponse:
        """Answers one reader; raises Busy, Behind or InvalidRequest before the first byte."""
        if len(self._open) >= self._settings.streams:
            raise Busy(f"{self._settings.streams} readers follow the event log already; close some, or try again")
        as_sse = "text/event-stream" in request.headers.get("Accept", "")
        position = await self._start(request, service, as_sse)
        first = await self._next(service, position)
        response = web.StreamResponse()
        response.content_type = "text/event-stream" if as_sse else "application/x-ndjson"
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await response.prepare(request)
                await self._send(request, response, service, position, first, _sse if as_sse else _lines)
            finally:
                self._open.discard(scope)
        return response

    async def _start(self, request: web.Request, service: Service, as_sse: bool) -> Position:
        since = reading.integer(request, "since", 0, 0, reading.MAX_SEQ)
        resumed = request.headers.get("Last-Event-ID", "")
        if as_sse and "since" not in request.query and resumed.isascii() and resumed.isdigit() and len(resumed) < 19:
            since = int(resumed)
        last = await service.last_seq()
        if since > last:
            raise Behind(f"the log ends at {last}, before {since}: start again from {last}", last)
        left = reading.integer(request, "limit", 0, 1, reading.MAX_SEQ) if "limit" in request.query else None
        return Position(seq=since, end=None if reading.flag(request, "follow") else last, left=left)

    async def _next(self, service: Service, position: Position) -> Sequence[EventView]:
        """The next entries, none when the log has no more now; raises Behind when there is a hole before them."""
        if position.reached:
            return ()
        wanted = self._page if position.left is None else min(self._page, position.left)
        page = await service.events(position.seq, wanted)
        if page and position.seq > 0 and page[0].seq > position.seq + 1:
            restart = page[0].seq - 1
            raise Behind(f"entries {position.seq + 1} to {restart} are no longer kept: start from {restart}", restart)
        return [entry for entry in page if position.end is None or entry.seq <= position.end]

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        service: Service,
        position: Position,
        page: Sequence[EventView],
        encode: Encode,
    ) -> None:
        try:
            while True:
                if page:
                    await self._write(response, encode(page))
                    position.seq = page[-1].seq
                    position.left = None if position.left is None else position.left - len(page)
                elif not await self._wait(service, position):
                    await self._write(response, b": keep-alive\n\n" if encode is _sse else b"")
                if position.reached or (not page and position.end is not None) or _gone(request):
                    return
                page = await self._next(service, position)
        except Behind as error:
            await self._write(response, encode([behind(error.restart_from, service.now())]))
        except (ConnectionError, TimeoutError):
            _abort(request)
        except StoreError as error:
            # The end of the response would look like the end of the log.
            _LOG.warning("an event stream ends early: %s", error)
            _abort(request)

    async def _wait(self, service: Service, position: Position) -> bool:
        """Until the log may have grown; False after `keepalive` seconds of silence."""
        if position.end is not None:
            return True
        with anyio.move_on_after(self._settings.keepalive):
            await service.wait_beyond(position.seq)
            return True
        return False

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Raises TimeoutError when the reader takes nothing for `request_timeout` seconds."""
        if data:
            with anyio.fail_after(self._settings.request_timeout):
                await response.write(data)


def endpoints(streams: Streams) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            "GET",
            "/events",
            "readEvents",
            "The event log: one JSON object a line, or server-sent events with `Accept: text/event-stream`",
            EventView,
            stream=streams.serve,
            parameters=(SINCE, FOLLOW, msgspec.structs.replace(LIMIT, maximum=None)),
            errors=(400, 410),
        ),
    )


def _lines(page: Sequence[EventView]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in page)


def _sse(page: Sequence[EventView]) -> bytes:
    return b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.seq, entry.type.encode(), msgspec.json.encode(entry))
        for entry in page
    )


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
