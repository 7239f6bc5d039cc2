"""One kind of one cluster, followed without an end: paged list, then watch, then again from where it stood.

The sink is told what is known and what is not: `listed` only after a whole list, `lost` for every failure, `alive` only
when the server says something or has accepted the watch without refusing it in its first line. Nothing here is per
event but decoding: no task, no log, no timer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal, NoReturn, Protocol

import anyio
import anyio.lowlevel
import msgspec

from fleet.aio.limits import jitter
from fleet.core import backoff
from fleet.errors import NotFound, Rejected, Unauthorized, Unavailable
from fleet.kube import decode, translate
from fleet.kube.decode import LineSplitter, Unreadable
from fleet.kube.gate import TooLarge
from fleet.kube.transport import Call, Stream, Transport
from fleet.model.objects import LiveObject, ObjectId, Resource

UNREADABLE_IN_A_ROW = 3
"""Streams without a readable line after which the kind is listed anew: the fault may be what we resume from."""


class Sink(Protocol):
    """What `engine.ports.WatchSink` promises; every method returns at once."""

    def page(self, resource: Resource, objects: Sequence[LiveObject]) -> None: ...
    def listed(self, resource: Resource, present: frozenset[ObjectId]) -> None: ...
    def seen(self, change: Literal["ADDED", "MODIFIED", "DELETED"], live: LiveObject) -> None: ...
    def alive(self, resource: Resource) -> None: ...
    def lost(self, resource: Resource, error: Exception) -> None: ...


class Reflector:
    """Follows one kind; `limiters` are entered in order around each list."""

    def __init__(
        self,
        transport: Transport,
        resource: Resource,
        selector: str,
        sink: Sink,
        limiters: Sequence[anyio.CapacityLimiter] = (),
    ) -> None:
        self._transport = transport
        self._resource = resource
        self._selector = selector
        self._sink = sink
        self._limiters = limiters
        self._version: str | None = None
        """What to resume from; None: list first."""
        self._barren = 0
        """Attempts since the stream last brought a readable line: the exponent of the backoff."""
        self._unreadable = 0
        self._lost_at: float | None = None
        """When the first failure since the last readable line was."""
        self._sizes = transport.bounds.sizes
        self._page_objects = self._sizes.page_objects

    async def run(self) -> NoReturn:
        """Raises only Unauthorized or Rejected (forbidden, unserved), each told to the sink as `lost` first."""
        while True:
            try:
                if self._version is not None and self._lost_at is not None:
                    await self._doubt(self._version, self._lost_at)
                if self._version is None:
                    self._version = await self._list()
                await self._follow(self._version)
            except Unauthorized as error:
                self._sink.lost(self._resource, error)
                raise
            except Rejected as error:
                await self._refused(error)
            except NotFound as error:
                # A kind has no name that could be missing: whoever answered so did not answer for the kind.
                await self._failed(Unavailable(f"{self._resource.plural}: {error}"))
            except Unavailable as error:
                await self._failed(error)

    async def _doubt(self, version: str, lost_at: float) -> None:
        """Forgets where we stood when that can be no place in the server's history any more.

        A server that was restored from a backup counts from an older version: it takes a watch from one that it has not
        reached yet and stays silent until it has, which would look like a world without changes.
        """
        if anyio.current_time() - lost_at > self._transport.bounds.pace.resume_within:
            self._version = None
            return
        query = {"limit": "1", **self._selection()}
        answer = await self._transport.request(Call("GET", self._resource.path(), query), self._sizes.page)
        current = decode.page(answer.body).version
        # Aggregated servers may have versions that are no numbers; those cannot be compared.
        if current.isdecimal() and version.isdecimal() and int(current) < int(version):
            self._version = None

    # --- list --------------------------------------------------------------------------------------------------------

    async def _list(self) -> str:
        """Hands on the whole kind page by page; returns the version to watch from."""
        # A dead cluster must not hold a place among the lists of all clusters until its deadline: it is asked first.
        await self._transport.answering()
        async with AsyncExitStack() as stack:
            for limiter in self._limiters:
                await stack.enter_async_context(limiter)
            present: set[ObjectId] = set()
            token = ""
            for _ in range(self._sizes.pages):
                page = await self._page(token)
                await self._hand_on(page, present)
                if not page.next:
                    self._sink.listed(self._resource, frozenset(present))
                    return page.version
                token = page.next
        raise Unreadable(f"a list of {self._resource.plural} without an end")

    async def _page(self, token: str) -> decode.Page:
        while True:
            query = {"limit": str(self._page_objects), **self._selection()}
            if token:
                query["continue"] = token
            try:
                answer = await self._transport.request(Call("GET", self._resource.path(), query), self._sizes.page)
            except TooLarge:
                if self._page_objects == 1:
                    raise
                self._page_objects = max(1, self._page_objects // 4)
                continue
            return decode.page(answer.body)

    async def _hand_on(self, page: decode.Page, present: set[ObjectId]) -> None:
        width = self._sizes.slice
        for start in range(0, len(page.items), width):
            objects = [decode.live(self._resource, bytes(item)) for item in page.items[start : start + width]]
            present.update(live.id for live in objects)
            self._sink.page(self._resource, objects)
            await anyio.lowlevel.checkpoint()

    # --- watch -------------------------------------------------------------------------------------------------------

    async def _follow(self, version: str) -> None:
        """One watch from its opening to its end by the server; `self._version` moves along."""
        pace = self._transport.bounds.pace
        opened = anyio.current_time()
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(round(jitter.uniform(pace.shortest, pace.longest))),
            **self._selection(),
        }
        stream = await self._transport.open(Call("GET", self._resource.path(), query))
        try:
            spoke = await self._read(stream)
        finally:
            stream.close()
            if anyio.current_time() - opened >= pace.proven:
                self._barren = 0
        if not spoke and anyio.current_time() - opened < pace.spacing:
            # Accepted and ended at once with nothing: a proxy, or a server on its way down.
            await self._pause()
        else:
            self._barren = 0
            await anyio.sleep(max(0.0, opened + pace.spacing - anyio.current_time()))

    async def _read(self, stream: Stream) -> bool:
        """Reads to the end; returns whether any line came."""
        splitter = LineSplitter(self._sizes.line)
        spoke = False
        chunk = await self._first(stream)
        dead = self._transport.bounds.timeouts.dead_stream
        with anyio.CancelScope(deadline=anyio.current_time() + dead) as scope:
            while chunk is None or chunk:
                if chunk is not None:
                    begun = splitter.pending
                    lines = splitter.feed(chunk)
                    if lines:
                        self._take(lines)
                        spoke = True
                    if lines or not begun:
                        # A line that only drips does not move it: it has this long from its first byte.
                        scope.deadline = anyio.current_time() + dead
                chunk = await stream.receive()
        if scope.cancelled_caught:
            raise Unavailable(f"the watch of {self._resource.plural} brought nothing for {dead:g} s")
        if splitter.pending:
            raise Unreadable(f"the watch of {self._resource.plural} ended within a line")
        return spoke

    async def _first(self, stream: Stream) -> bytes | None:
        """The first bytes; None when there are none yet, and the watch can be taken for accepted."""
        with anyio.move_on_after(self._transport.bounds.timeouts.settle):
            return await stream.receive()
        self._lost_at = None
        self._sink.alive(self._resource)
        return None

    def _take(self, lines: Sequence[bytes]) -> None:
        for body in lines:
            line = decode.line(body)
            match line.type:
                case "ADDED" | "MODIFIED" | "DELETED" as change:
                    live = decode.live(self._resource, bytes(line.object))
                    self._moved(live.meta.resource_version)
                    self._sink.seen(change, live)
                case "BOOKMARK":
                    self._moved(decode.live(self._resource, bytes(line.object)).meta.resource_version)
                case "ERROR":
                    raise _in_stream(line.object, self._resource)
                case _:
                    raise Unreadable("not a watch event")
        self._barren = 0
        self._unreadable = 0
        self._lost_at = None
        self._sink.alive(self._resource)

    def _moved(self, version: str) -> None:
        if not version:
            raise Unreadable("an event without a resourceVersion")
        self._version = version

    # --- failure -----------------------------------------------------------------------------------------------------

    async def _failed(self, error: Unavailable) -> None:
        if isinstance(error, Unreadable):
            self._unreadable += 1
            if self._unreadable >= UNREADABLE_IN_A_ROW:
                self._version = None
        self._lose(error)
        await self._pause(error.retry_after if isinstance(error, translate.Busy) else None)

    async def _refused(self, error: Rejected) -> None:
        if error.kind == "gone":
            # Not a failure: too much happened since. It stays unsaid (and ages) until the list is complete.
            self._version = None
            if self._barren == 0:
                self._barren = 1
                return
            await self._pause(error.retry_after)
            return
        if error.status == 405:
            error = Rejected("unserved", 405, error.reason, error.message)
        self._lose(error)
        if error.kind in ("forbidden", "unserved"):
            raise error
        await self._pause(error.retry_after)

    def _lose(self, error: Exception) -> None:
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
        self._sink.lost(self._resource, error)

    async def _pause(self, at_least: float | None = None) -> None:
        """Full jitter, but no shorter than the server asked for; ends early when a cluster that was down is back."""
        pace = self._transport.bounds.pace
        self._barren += 1
        await anyio.sleep(at_least or 0.0)
        wait = backoff.delay(self._barren, jitter.random(), base=pace.backoff, cap=pace.backoff_cap)
        if await self._transport.rest(max(0.0, wait - (at_least or 0.0))):
            self._barren = 0
            # All kinds of the cluster wake up now: not all in the same moment.
            await anyio.sleep(pace.spacing * jitter.random())

    def _selection(self) -> dict[str, str]:
        return {"labelSelector": self._selector} if self._selector else {}


def _in_stream(raw: msgspec.Raw, resource: Resource) -> Exception:
    """The exception for an ERROR event, which carries a Status."""
    status = translate.status_of(bytes(raw))
    if status is None:
        return Unreadable("an ERROR event without a Status")
    return translate.explain(status, secret=resource.plural == "secrets")
