"""The event log from the inside: parts of the engine say what happened, one writer stores it, readers follow the store.

`emit` and `keep` never wait. What may be lost without harm is bounded by count and its loss is told; what may not (a
decision and its events) never passes here but is stored by the conductor in one transaction.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import anyio
import msgspec

from fleet.errors import StoreError
from fleet.model.cluster import Baseline
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.objects import ObjectId

_log = logging.getLogger(__name__)

BATCH = 500
RETRY = 1.0
"""Seconds until what could not be stored is tried again."""


class Journal(Protocol):
    """The part of the store that is written here."""

    async def append(self, events: Sequence[Event]) -> Sequence[Event]: ...
    async def put_drift(self, drift: Drift) -> None: ...
    async def put_baselines(
        self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()
    ) -> None: ...


class EventLog:
    """Collects and stores; wakes those who follow."""

    def __init__(self, journal: Journal, bound: int = 10_000) -> None:
        self._journal = journal
        self._bound = bound
        self._events: deque[Event] = deque()
        self._drifts: dict[str, Drift] = {}
        self._baselines: dict[tuple[str, ObjectId], Baseline] = {}
        self._work = anyio.Event()
        self._news = anyio.Event()
        self._seq = 0
        self.lost = 0

    def emit(self, event: Event) -> None:
        """Queues an event; of too many the newest are dropped, and the log says how many."""
        if len(self._events) >= self._bound:
            self.lost += 1
            return
        self._events.append(event)
        self._work.set()

    def keep(self, cluster: str, value: Drift | Baseline) -> None:
        """Stores the newest state of a drift record or of a baseline; one that is overtaken while it waits is not."""
        if isinstance(value, Drift):
            self._drifts[value.id] = value
        else:
            self._baselines[cluster, value.id] = value
        self._work.set()

    async def append(self, events: Sequence[Event]) -> Sequence[Event]:
        """Stores events now; raises StoreError."""
        stored = await self._journal.append(events)
        self.stored(stored)
        return stored

    def stored(self, events: Sequence[Event]) -> None:
        """Tells followers of events that are in the store already."""
        if events:
            self._seq = max(self._seq, events[-1].seq)
            self._news.set()
            self._news = anyio.Event()

    async def wait_beyond(self, seq: int) -> None:
        """Returns once an event with a greater sequence number is stored."""
        while self._seq <= seq:
            await self._news.wait()

    async def run(self) -> None:
        """The one writer; ends only by cancellation."""
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            try:
                await self.flush()
            except StoreError as error:
                _log.error("events wait for the store: %s", error)
                self._work.set()
                await anyio.sleep(RETRY)

    async def flush(self) -> None:
        """Stores what waits now. Raises StoreError, and then what was not stored still waits."""
        while self._events:
            batch = [self._events[n] for n in range(min(BATCH, len(self._events)))]
            self.stored(await self._journal.append([_storable(event) for event in batch]))
            for _ in batch:
                self._events.popleft()
        while self._drifts:
            key, drift = next(iter(self._drifts.items()))
            await self._journal.put_drift(drift)
            if self._drifts.get(key) is drift:
                del self._drifts[key]
        waiting: dict[str, list[Baseline]] = {}
        for (cluster, _), baseline in self._baselines.items():
            waiting.setdefault(cluster, []).append(baseline)
        for cluster, baselines in waiting.items():
            await self._journal.put_baselines(cluster, baselines)
            for baseline in baselines:
                if self._baselines.get((cluster, baseline.id)) is baseline:
                    del self._baselines[cluster, baseline.id]


def _storable(event: Event) -> Event:
    """The event, or what can be told of one that no store takes: a log entry must never end the process."""
    try:
        msgspec.json.encode(event)
        return event
    except (TypeError, ValueError, OverflowError) as error:
        why = type(error).__name__
    _log.error("the data of an event %s cannot be stored (%s)", ascii(event.type), why)
    told = msgspec.structs.replace(event, data={"unstorable": why})
    texts = {name: value for name in told.__struct_fields__ if isinstance(value := getattr(told, name), str)}
    return msgspec.structs.replace(
        told, **{name: value.encode("utf-8", "backslashreplace").decode() for name, value in texts.items()}
    )
