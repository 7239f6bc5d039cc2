from __future__ import annotations

import anyio
import pytest

from fleet.aio.clock import RealClock, VirtualClock

pytestmark = pytest.mark.anyio


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock = VirtualClock(wall=1000.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            woken.append((name, clock.monotonic()))

    async with anyio.create_task_group() as group:
        group.start_soon(sleeper, "a", 10.0, 5.0)
        group.start_soon(sleeper, "b", 3.0, 9.0)
        await clock.advance(2.0)
        assert woken == []
        await clock.advance(18.0)
    assert woken == [("b", 3.0), ("a", 10.0), ("b", 12.0), ("a", 15.0)]
    assert (clock.monotonic(), clock.wall()) == (20.0, 1020.0)
    assert clock.next_wake() is None


async def test_a_jump_of_the_wall_clock_wakes_nobody() -> None:
    clock = VirtualClock(wall=0.0)
    clock.jump_wall(6 * 3600.0)
    assert clock.wall() == 21600.0
    assert clock.monotonic() == 0.0


async def test_wait_returns_at_the_event_or_at_the_time_out() -> None:
    clock = VirtualClock()
    results: list[bool] = []

    async def waiter(event: anyio.Event, timeout: float | None) -> None:
        results.append(await clock.wait(event, timeout))

    in_time, late = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter, in_time, 5.0)
        group.start_soon(waiter, late, 7.0)
        await anyio.wait_all_tasks_blocked()
        in_time.set()
        await clock.advance(7.0)
        assert results == [True, False]
    assert clock.sleepers == 0


async def test_the_real_clock_waits_for_the_event() -> None:
    clock = RealClock()
    event = anyio.Event()
    assert not await clock.wait(event, 0.0)
    event.set()
    assert await clock.wait(event, 0.0)
    assert await clock.wait(event, None)
    await clock.sleep(0)
