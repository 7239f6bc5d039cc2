"""One to many, each reader with a bounded buffer: who falls behind is told so, and holds up nobody."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class FellBehind(Exception):
    """A reader's buffer overflowed. `resume` is the oldest item that it did not get: it starts again from there."""

    def __init__(self, resume: object, missed: int) -> None:
        super().__init__(f"the reader fell behind and missed {missed} items")
        self.resume = resume
        self.missed = missed


class Closed(Exception):
    """The broadcast or the subscription has ended; nothing more will come."""


class Subscription(Generic[T]):
    """One reader's view; `async with` or `aclose` ends it."""

    def __init__(self, broadcast: Broadcast[T], capacity: int) -> None:
        self._broadcast = broadcast
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._missed = 0
        self._resume: T | None = None
        self._arrived = anyio.Event()
        self._closed = False

    async def receive(self) -> T:
        """The next item. Raises FellBehind once after an overflow (later items come again), Closed at the end."""
        while True:
            if self._items and not self._missed:
                return self._items.popleft()
            if self._missed:
                raise self._overflowed()
            if self._closed:
                raise Closed
            arrived = self._arrived
            await arrived.wait()

    def receive_nowait(self) -> tuple[T, ...]:
        """Everything that waits; empty when nothing does. Raises as `receive`."""
        if self._missed:
            raise self._overflowed()
        items = tuple(self._items)
        self._items.clear()
        if not items and self._closed:
            raise Closed
        return items

    def aclose(self) -> None:
        self._broadcast._drop(self)
        self._end()

    def __len__(self) -> int:
        return len(self._items)

    def _overflowed(self) -> FellBehind:
        error = FellBehind(self._resume, self._missed)
        self._missed, self._resume = 0, None
        return error

    def _offer(self, item: T) -> None:
        if self._missed:
            self._missed += 1
            return
        if len(self._items) == self._capacity:
            # What it has not read is gone with the rest, or it would read on in the middle.
            self._resume = self._items[0]
            self._missed = len(self._items) + 1
            self._items.clear()
        else:
            self._items.append(item)
        self._ring()

    def _end(self) -> None:
        self._closed = True
        self._ring()

    def _ring(self) -> None:
        self._arrived.set()
        self._arrived = anyio.Event()


class Broadcast(Generic[T]):
    """`publish` never waits; subscriptions that are not closed count against `readers`."""

    def __init__(self, *, capacity: int, readers: int) -> None:
        if capacity < 1 or readers < 1:
            raise ValueError("capacity and readers must be positive")
        self._capacity = capacity
        self._readers = readers
        self._subscriptions: set[Subscription[T]] = set()
        self._closed = False

    def subscribe(self) -> Subscription[T]:
        """Gets what is published from now on; raises OverflowError when there are as many readers as may be."""
        if self._closed:
            raise Closed
        if len(self._subscriptions) >= self._readers:
            raise OverflowError(f"there are {self._readers} readers already")
        subscription = Subscription(self, self._capacity)
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, item: T) -> None:
        for subscription in self._subscriptions:
            subscription._offer(item)

    def close(self) -> None:
        """Readers get what they have in their buffers, then Closed."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription._end()
        self._subscriptions.clear()

    @property
    def readers(self) -> int:
        return len(self._subscriptions)

    def _drop(self, subscription: Subscription[T]) -> None:
        self._subscriptions.discard(subscription)
