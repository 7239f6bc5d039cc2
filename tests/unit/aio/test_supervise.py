from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from fleet.aio.clock import VirtualClock
from fleet.aio.supervise import Ended, Policy, Supervisor

pytestmark = pytest.mark.anyio


class Boom(Exception):
    pass


async def forever() -> None:
    await anyio.sleep_forever()


async def returns() -> None:
    return


async def fails() -> None:
    raise Boom


async def run_with_another(name: str, run: Callable[[], Awaitable[None]], policy: Policy) -> None:
    async with Supervisor("s") as tasks:
        tasks.start("other", forever)
        tasks.start(name, run, policy)


async def test_an_essential_task_that_returns_ends_the_others() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await run_with_another("main", returns, Policy.ESSENTIAL)
    assert caught.group_contains(Ended, match="s/main ended")


@pytest.mark.parametrize("policy", [Policy.ESSENTIAL, Policy.ONCE])
async def test_an_error_ends_everything_unless_restarted(policy: Policy) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await run_with_another("bad", fails, policy)
    assert caught.group_contains(Boom)


async def test_a_task_that_runs_once_may_return() -> None:
    async with Supervisor("s") as tasks:
        tasks.start("job", returns, Policy.ONCE)
    assert tasks.names == ()


async def test_a_restarted_task_waits_longer_each_time_and_forgets_after_it_has_settled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock()
    begun: list[float] = []

    async def run() -> None:
        begun.append(clock.monotonic())
        if len(begun) == 4:
            await clock.sleep(100.0)
        if len(begun) < 6:
            raise Boom

    async with Supervisor("s", clock=clock, base=1.0, cap=3.0, settled=60.0, jitter=lambda: 1.0) as tasks:
        with caplog.at_level(logging.ERROR):
            tasks.start("worker", run, Policy.RESTARTED)
            await clock.advance(7.0)
            assert tasks.restarts("worker") == 3
            await clock.advance(200.0)
    # Pauses of 1, 2 and 3 (the cap) seconds, 100 of work, then 1 and 2 again.
    assert begun == [0.0, 1.0, 3.0, 6.0, 107.0, 109.0]
    assert [record.message[:8] for record in caplog.records] == ["s/worker"] * 5


async def test_stop_waits_for_the_end_and_frees_the_name() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("worker")

    async with Supervisor("s") as tasks:
        tasks.start("worker", run)
        with pytest.raises(ValueError, match="runs already"):
            tasks.start("worker", run)
        await anyio.wait_all_tasks_blocked()
        await tasks.stop("worker")
        assert ended == ["worker"]
        assert tasks.names == ()
        await tasks.stop("worker")
        tasks.start("worker", run)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel()
    assert ended == ["worker", "worker"]
