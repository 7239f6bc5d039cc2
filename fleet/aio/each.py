"""One piece of work for each of several items, a bounded number at a time, all in the caller's scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from fleet.errors import FleetError

_Item = TypeVar("_Item")


async def each(
    work: Callable[[_Item], Awaitable[None]], items: Iterable[_Item], *, at_once: int, name: Callable[[_Item], str]
) -> None:
    """Runs `work` for every item, `at_once` at a time; `name` names the tasks.

    The first FleetError ends the others and is raised as it is; what is no FleetError is a bug and comes in a group.
    """
    limit = anyio.CapacityLimiter(at_once)
    failures: list[FleetError] = []

    async def one(item: _Item) -> None:
        async with limit:
            try:
                await work(item)
            except FleetError as error:
                failures.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item, name=name(item))
    if failures:
        raise failures[0]
