"""Time as a part that can be replaced: the real clock, and a virtual one that stands still until it is moved."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Protocol

import anyio

_TURNS = 40


class Clock(Protocol):
    """What the engine may ask about time; `wall` is for people, `monotonic` for durations. Seconds."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Never goes back; its zero means nothing."""

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: anyio.Event, timeout: float | None) -> bool:
        """Returns whether `event` was set before `timeout` seconds had passed (None: however long it takes)."""


class RealClock:
    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def wait(self, event: anyio.Event, timeout: float | None) -> bool:
        if timeout is None:
            await event.wait()
            return True
        with anyio.move_on_after(timeout):
            await event.wait()
        return event.is_set()


class VirtualClock:
    """Stands still until `advance`; sleepers wake in the order of their times, whatever the real clock does.

    The same program over the same clock therefore runs the same way every time.
    """

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self._start = wall
        self._now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, anyio.Event]] = []

    def wall(self) -> float:
        return self._start + self._now

    def monotonic(self) -> float:
        return self._now

    def jump_wall(self, seconds: float) -> None:
        """Sets the wall clock on or back, as an administrator or NTP does; nobody's sleep changes."""
        self._start += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        rung = anyio.Event()
        await self._park(rung, seconds)

    async def wait(self, event: anyio.Event, timeout: float | None) -> bool:
        if timeout is None or event.is_set():
            await event.wait()
            return True
        async with anyio.create_task_group() as group:

            async def give_up() -> None:
                await self.sleep(timeout)
                group.cancel_scope.cancel()

            group.start_soon(give_up, name="virtual time-out")
            await event.wait()
            group.cancel_scope.cancel()
        return event.is_set()

    async def _park(self, rung: anyio.Event, seconds: float) -> None:
        sleeper = (self._now + seconds, next(self._order), rung)
        heapq.heappush(self._sleepers, sleeper)
        try:
            await rung.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)

    def next_wake(self) -> float | None:
        """Seconds until the next sleeper is due; None when nobody sleeps."""
        return self._sleepers[0][0] - self._now if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Lets `seconds` pass; everybody who is due in between runs at his time, to where he waits again."""
        until = self._now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, rung = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            rung.set()
            await self.settle()
        self._now = until

    async def settle(self) -> None:
        """Lets everybody run to where he waits, without any time passing."""
        # Asking whether all wait costs 0.1 s of real time when the answer is no; some turns of the loop make it yes.
        for _ in range(_TURNS):
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
