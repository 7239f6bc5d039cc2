"""A bounded queue of keys: a key that waits is not queued again, and is worked on by one worker at a time.

Level-triggered work: the queue says *that* something about a key changed; the worker reads *what* when its turn comes.
A key that is put while it is being worked on comes again afterwards.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

import anyio

from fleet.aio.clock import Clock, RealClock

K = TypeVar("K", bound=Hashable)


class Statistics(NamedTuple):
    waiting: int
    """Keys that can be taken now."""
    delayed: int
    """Keys whose time has not come."""
    working: int
    """Keys that were taken and are not done."""
    refused: int
    """Keys that did not fit, since the start."""


class KeyedQueue(Generic[K]):
    """`size`: different keys at most, delayed ones included; for one event loop."""

    def __init__(self, size: int, *, clock: Clock | None = None) -> None:
        if size < 1:
            raise ValueError("a queue needs room for one key")
        self._size = size
        self._clock = clock or RealClock()
        self._waiting: dict[K, None] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._changed = anyio.Event()
        self._refused = 0

    def put(self, key: K) -> bool:
        """Returns False when the key does not fit: the caller slows down, or remembers to look at everything again."""
        if key in self._waiting:
            return True
        if key in self._working:
            self._again.add(key)
            return True
        if key not in self._due and not self._fits():
            return False
        self._due.pop(key, None)
        self._waiting[key] = None
        self._ring()
        return True

    def put_after(self, key: K, seconds: float) -> bool:
        """As `put`, but not before `seconds` have passed; the earlier of two times counts."""
        if seconds <= 0:
            return self.put(key)
        if key in self._waiting or key in self._again:
            return True
        due = self._clock.monotonic() + seconds
        known = self._due.get(key)
        if known is not None and known <= due:
            return True
        if known is None and not self._fits():
            return False
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._ring()
        return True

    async def get(self) -> K:
        """The key that has waited longest; `done` must follow. Waits without end while there is none."""
        while True:
            self._ripen()
            if self._waiting:
                key = next(iter(self._waiting))
                del self._waiting[key]
                self._working.add(key)
                return key
            changed, timeout = self._changed, self._until_next()
            await self._clock.wait(changed, timeout)

    def done(self, key: K) -> None:
        """The worker has finished with a key it took."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._due.pop(key, None)
            self._waiting[key] = None
            self._ring()

    def discard(self, key: K) -> None:
        """Forgets a key that waits; one that is being worked on just does not come again."""
        self._waiting.pop(key, None)
        self._due.pop(key, None)
        self._again.discard(key)

    def statistics(self) -> Statistics:
        return Statistics(len(self._waiting), len(self._due), len(self._working), self._refused)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._due)

    def _fits(self) -> bool:
        # Keys that are being worked on keep their place, so that they can always come again.
        if len(self._waiting) + len(self._due) + len(self._working) < self._size:
            return True
        self._refused += 1
        return False

    def _ripen(self) -> None:
        now = self._clock.monotonic()
        while self._heap and (self._heap[0][0] <= now or self._due.get(self._heap[0][2]) != self._heap[0][0]):
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) != due:
                continue  # put at once or put earlier since
            del self._due[key]
            if key in self._working:
                self._again.add(key)
            else:
                self._waiting[key] = None

    def _until_next(self) -> float | None:
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None

    def _ring(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
