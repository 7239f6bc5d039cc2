"""Follows the event log and sends the spans that end, at least once each.

How far it came is a row in the store, written after the collector has the spans. So a kill repeats at most the last
batch, as the same spans; while the collector is away the log waits, and the control plane notices nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import anyio
import msgspec

from fleet.errors import StoreError
from fleet.model.events import Event
from fleet.model.rollout import Rollout
from fleet.settings import TelemetrySettings
from fleet.telemetry import rollout as traced
from fleet.telemetry.rollout import Early, RolloutTrace
from fleet.telemetry.spans import Exporter, Link, Span, derive_span_id, derive_trace_id

DOCUMENT = "traces"
PAGE = 500
REREAD_MAX = 5000
"""Events without a span after which the place is stored anyway, so that a restart need not read them all again."""
REMEMBERED = 1024
"""Releases and open drifts whose beginnings are remembered until their rollout or repair comes."""
RETRY_BASE, RETRY_CAP = 1.0, 60.0
"""Seconds between two attempts at a collector that does not take spans."""

_log = logging.getLogger(__name__)


class EventLog(Protocol):
    """The part of the store that is followed."""

    async def events(self, since: int, limit: int) -> tuple[Event, ...]: ...
    async def rollout(self, rollout_id: str, /) -> Rollout | None: ...
    async def document(self, name: str) -> tuple[str, bytes] | None: ...
    async def put_document(self, name: str, revision: str, body: bytes) -> None: ...


class Cursor(msgspec.Struct, frozen=True):
    """What a restart begins with."""

    resume: int = 0
    """Events after this number must be read again, because spans that they begin are still open."""
    exported: int = 0
    """Spans that end with events up to this number were taken by the collector."""


class TraceFollower:
    """Turns the event log of one control plane into traces; one task runs it."""

    def __init__(
        self,
        log: EventLog,
        exporter: Exporter,
        settings: TelemetrySettings,
        *,
        fleet: str,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._log = log
        self._exporter = exporter
        self._settings = settings
        self._fleet = fleet
        self._sleep = sleep
        self._read: int | None = None
        self._cursor = Cursor()
        self._open: dict[str, RolloutTrace] = {}
        self._rendered: OrderedDict[str, tuple[int, tuple[Early, ...]]] = OrderedDict()
        self._fetched: OrderedDict[tuple[str, str], tuple[int, Early]] = OrderedDict()
        self._detected: OrderedDict[str, float] = OrderedDict()

    async def run(self, wait: Callable[[int], Awaitable[None]]) -> None:
        """Until cancelled; `wait` returns when the log may have grown beyond a number."""
        while True:
            try:
                await self.catch_up()
            except StoreError as error:
                _log.warning("traces wait for the database: %s", error)
                await self._sleep(RETRY_CAP)
                continue
            await wait(self._read or 0)
            # What ends within a moment goes in one request.
            await self._sleep(self._settings.span_delay)

    async def finish(self) -> None:
        """The last spans at the end of the process, within `flush_timeout` seconds; the next one tells the rest."""
        with anyio.move_on_after(self._settings.flush_timeout, shield=True):
            try:
                await self.catch_up()
            except StoreError as error:
                _log.warning("the last traces wait for the next start: %s", error)

    async def catch_up(self) -> int:
        """Sends everything that has ended by now; returns how many spans. Raises StoreError."""
        try:
            return await self._catch_up()
        except BaseException:
            # Part of a page may have been folded in already: read again from what is stored.
            self._read = None
            for remembered in (self._open, self._rendered, self._fetched, self._detected):
                remembered.clear()
            raise

    async def _catch_up(self) -> int:
        if self._read is None:
            self._cursor = await self._stored_cursor()
            self._read = self._cursor.resume
        sent = 0
        while page := await self._log.events(self._read, PAGE):
            spans = [span for event in page for span in await self._spans(event)]
            for start in range(0, len(spans), self._settings.span_batch):
                await self._deliver(spans[start : start + self._settings.span_batch])
            self._read = page[-1].seq
            if spans or self._read - self._cursor.exported >= REREAD_MAX:
                await self._store_cursor(self._read)
            sent += len(spans)
        return sent

    # --- events to spans ---------------------------------------------------------------------------------------------

    async def _spans(self, event: Event) -> Sequence[Span]:
        """What ends with this event, unless the collector has it from before a restart."""
        match event.type:
            case "release.rendered":
                ended = self._release(event)
            case "source.fetched":
                ended = self._source(event)
            case "drift.detected" | "drift.healed":
                ended = await self._drift(event)
            case _:
                ended = await self._rollout(event)
        return () if event.seq <= self._cursor.exported else ended

    async def _rollout(self, event: Event) -> Sequence[Span]:
        if event.rollout is None:
            return ()
        began: list[Span] = []
        trace = self._open.get(event.rollout)
        if trace is None:
            if not traced.opens(event):
                return ()
            trace = await self._begin(event, event.rollout)
            if trace is None:
                return ()
            began = self._known(trace)
        links = await self._links(event.rollout) if traced.ends(event) else ()
        ended = tuple(trace.advance(event, links))
        if trace.ended:
            del self._open[event.rollout]
        return (*began, *ended)

    async def _begin(self, event: Event, name: str) -> RolloutTrace | None:
        rollout = await self._log.rollout(name)
        if rollout is None or not rollout.trace_id:
            return None
        trace = RolloutTrace(rollout, fleet=self._fleet, attempt=traced.attempt_of(event), since=event.seq)
        self._open[name] = trace
        return trace

    def _known(self, trace: RolloutTrace) -> list[Span]:
        """What was done for the release of a rollout that begins."""
        found = [self._fetched.get(pinned) for pinned in trace.release.revisions.items()]
        spans = [span for told in found if told is not None for span in trace.add(told[1], told[0])]
        seq, rendered = self._rendered.get(trace.release.id, (0, ()))
        return spans + [span for early in rendered for span in trace.add(early, seq)]

    def _release(self, event: Event) -> Sequence[Span]:
        release, rendered = event.data.get("release"), traced.rendered(event)
        if not isinstance(release, str) or not rendered:
            return ()
        self._rendered[release] = (event.seq, rendered)
        _bound(self._rendered)
        # The log may learn of it after the rollout began.
        open_ = [trace for trace in self._open.values() if trace.release.id == release]
        return [span for trace in open_ for early in rendered for span in trace.add(early, event.seq)]

    def _source(self, event: Event) -> Sequence[Span]:
        told = traced.fetched(event)
        if told is None:
            return ()
        source, sha, early = told
        self._fetched[source, sha] = (event.seq, early)
        _bound(self._fetched)
        open_ = [trace for trace in self._open.values() if trace.release.revisions.get(source) == sha]
        return [span for trace in open_ for span in trace.add(early, event.seq)]

    async def _links(self, name: str) -> tuple[Link, ...]:
        """The rollout that this one took over from."""
        rollout = await self._log.rollout(name)
        before = (
            None if rollout is None or rollout.predecessor is None else await self._log.rollout(rollout.predecessor)
        )
        if before is None or not before.trace_id:
            return ()
        root = derive_span_id(before.trace_id, "rollout")
        return (Link(before.trace_id, root, {"fleet.link": "predecessor", "fleet.rollout": before.id}),)

    async def _drift(self, event: Event) -> Sequence[Span]:
        """A repair is a small trace of its own, linked to the rollout that set the state."""
        name = str(event.data.get("id", ""))
        if event.type == "drift.detected":
            self._detected[name] = event.time
            _bound(self._detected)
            return ()
        detected = event.data.get("detectedAt", self._detected.pop(name, None))
        trace_id = derive_trace_id("drift", self._fleet, event.cluster or "", name, str(event.seq))
        rollout = None if event.rollout is None else await self._log.rollout(event.rollout)
        links: tuple[Link, ...] = ()
        if rollout is not None and rollout.trace_id:
            links = (Link(rollout.trace_id, derive_span_id(rollout.trace_id, "rollout"), {"fleet.link": "drift"}),)
        told = {
            "fleet.bundle": event.bundle,
            "k8s.cluster.name": event.cluster,
            "fleet.object": event.data.get("object"),
            "fleet.verdict": event.data.get("verdict"),
            "fleet.manager": event.data.get("manager"),
        }
        return (
            Span(
                name="drift.heal",
                trace_id=trace_id,
                span_id=derive_span_id(trace_id, "drift.heal"),
                parent_id=None,
                start=detected if isinstance(detected, float | int) else event.time,
                end=event.time,
                attributes={key: str(value) for key, value in told.items() if value},
                links=links,
            ),
        )

    # --- delivery ----------------------------------------------------------------------------------------------------

    async def _deliver(self, spans: Sequence[Span]) -> None:
        """Returns once the collector has the spans; an outage is told when it begins and when it ends."""
        pause = RETRY_BASE
        while not await self._exporter.export(spans):
            if pause == RETRY_BASE:
                _log.warning("the trace collector takes no spans; they wait in the event log")
            await self._sleep(pause)
            pause = min(2 * pause, RETRY_CAP)
        if pause != RETRY_BASE:
            _log.info("the trace collector takes spans again")

    async def _stored_cursor(self) -> Cursor:
        stored = await self._log.document(DOCUMENT)
        if stored is None:
            return Cursor()
        try:
            return msgspec.json.decode(stored[1], type=Cursor)
        except msgspec.DecodeError:
            # At worst everything that the log still holds is told again, as the same spans.
            return Cursor()

    async def _store_cursor(self, read: int) -> None:
        resume = min([read, *(trace.since - 1 for trace in self._open.values())])
        # Never below what a former process reached: a trace that is open again was told up to there.
        cursor = Cursor(resume=max(0, resume), exported=max(read, self._cursor.exported))
        await self._log.put_document(DOCUMENT, str(read), msgspec.json.encode(cursor))
        self._cursor = cursor


def _bound(remembered: OrderedDict[Any, Any]) -> None:
    while len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
