"""Work for several items: bounded, and an expected error comes as itself."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from fleet.aio.each import each
from fleet.errors import RenderError

pytestmark = pytest.mark.anyio


async def test_every_item_is_worked_on_and_no_more_than_so_many_at_once() -> None:
    done: list[int] = []
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        done.append(item)

    await each(work, range(10), at_once=3, name=str)
    assert sorted(done) == list(range(10))
    assert most == 3


async def test_the_first_expected_error_ends_the_others_and_is_raised_as_it_is() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise RenderError("bad")
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(item)

    with pytest.raises(RenderError, match="bad"):
        await each(work, range(3), at_once=3, name=str)
    assert sorted(ended) == [0, 2]


async def test_a_bug_is_not_taken_for_an_expected_error() -> None:
    async def work(item: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await each(work, [1], at_once=1, name=str)
