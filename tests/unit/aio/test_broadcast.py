from __future__ import annotations

import anyio
import pytest

from fleet.aio.broadcast import Broadcast, Closed, FellBehind

pytestmark = pytest.mark.anyio


async def test_every_reader_gets_everything_from_its_beginning_on() -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=4, readers=3)
    first = broadcast.subscribe()
    broadcast.publish(1)
    second = broadcast.subscribe()
    broadcast.publish(2)
    assert first.receive_nowait() == (1, 2)
    assert await second.receive() == 2
    assert second.receive_nowait() == ()


async def test_who_falls_behind_is_told_where_to_start_again_and_holds_up_nobody() -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=3, readers=2)
    slow, fast = broadcast.subscribe(), broadcast.subscribe()
    seen = []
    for item in range(6):
        broadcast.publish(item)
        seen.append(await fast.receive())
    assert seen == list(range(6))
    with pytest.raises(FellBehind) as caught:
        await slow.receive()
    assert (caught.value.resume, caught.value.missed) == (0, 6)
    broadcast.publish(6)
    assert await slow.receive() == 6


async def test_a_waiting_reader_wakes_for_an_item_and_for_the_end() -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=3, readers=1)
    reader = broadcast.subscribe()
    got: list[int] = []

    async def read() -> None:
        try:
            while True:
                got.append(await reader.receive())
        except Closed:
            got.append(-1)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        broadcast.publish(1)
        await anyio.wait_all_tasks_blocked()
        assert got == [1]
        broadcast.publish(2)
        broadcast.close()
    assert got == [1, 2, -1]
    with pytest.raises(Closed):
        broadcast.subscribe()


async def test_readers_are_bounded_and_a_closed_one_makes_room() -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=1, readers=1)
    reader = broadcast.subscribe()
    with pytest.raises(OverflowError):
        broadcast.subscribe()
    reader.aclose()
    assert broadcast.readers == 0
    with pytest.raises(Closed):
        reader.receive_nowait()
    assert len(broadcast.subscribe()) == 0
