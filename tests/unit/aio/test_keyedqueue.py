from __future__ import annotations

import anyio
import pytest

from fleet.aio.clock import VirtualClock
from fleet.aio.keyedqueue import KeyedQueue

pytestmark = pytest.mark.anyio


async def test_a_key_waits_once_and_keys_come_in_order() -> None:
    queue: KeyedQueue[str] = KeyedQueue(10)
    assert all(queue.put(key) for key in ("a", "b", "a", "c", "b"))
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


async def test_a_key_put_while_worked_on_comes_again_after_done() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put("a")
    assert await queue.get() == "a"
    queue.put("a")
    queue.put("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_a_full_queue_refuses_new_keys_but_never_those_it_knows() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    assert queue.put("a")
    assert queue.put_after("b", 5.0)
    assert not queue.put("c")
    assert not queue.put_after("c", 1.0)
    assert queue.put("a")
    assert queue.put("b")
    assert queue.statistics() == (2, 0, 0, 2)


async def test_a_delayed_key_comes_at_its_earliest_time() -> None:
    clock = VirtualClock()
    queue: KeyedQueue[str] = KeyedQueue(4, clock=clock)
    got: list[tuple[str, float]] = []

    async def worker() -> None:
        while True:
            key = await queue.get()
            got.append((key, clock.monotonic()))
            queue.done(key)

    async with anyio.create_task_group() as group:
        group.start_soon(worker)
        queue.put_after("slow", 9.0)
        queue.put_after("slow", 4.0)
        queue.put_after("slow", 6.0)
        queue.put_after("gone", 5.0)
        queue.put_after("now", 8.0)
        await clock.advance(1.0)
        queue.put("now")
        queue.discard("gone")
        await clock.advance(20.0)
        group.cancel_scope.cancel()
    assert got == [("now", 1.0), ("slow", 4.0)]


async def test_a_delayed_key_whose_time_comes_during_work_comes_after_it() -> None:
    clock = VirtualClock()
    queue: KeyedQueue[str] = KeyedQueue(4, clock=clock)
    queue.put("a")
    assert await queue.get() == "a"
    queue.put_after("a", 1.0)
    await clock.advance(2.0)
    queue.put("b")
    assert await queue.get() == "b"
    queue.done("a")
    assert await queue.get() == "a"
