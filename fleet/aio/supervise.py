"""Tasks with a name, an owner and an end policy; nothing runs in the background outside of a supervisor.

    ESSENTIAL   its end, by return or by error, ends everything that the supervisor runs
    RESTARTED   an error is logged, and it starts again after a pause with full jitter; returning is its regular end
    ONCE        it may return at any time; an error ends everything that the supervisor runs

A restarted task that ran for `settled` seconds counts as recovered: its next pause is the shortest again.
"""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
import anyio.abc

from fleet.aio.clock import Clock, RealClock

log = logging.getLogger(__name__)


class Policy(enum.Enum):
    ESSENTIAL = "essential"
    RESTARTED = "restarted"
    ONCE = "once"


class Ended(Exception):
    """An essential task returned although it was never to."""


class _Task:
    __slots__ = ("done", "restarts", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.restarts = 0


class Supervisor:
    """An asynchronous context; leaving it waits for its tasks, after `cancel` at the latest.

    `base` and `cap` bound the pause before a restart, in seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock | None = None,
        base: float = 0.5,
        cap: float = 30.0,
        settled: float = 60.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._clock = clock or RealClock()
        self._base = base
        self._cap = cap
        self._settled = settled
        self._jitter = jitter
        self._tasks: dict[str, _Task] = {}
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._group.__aexit__(kind, error, trace)

    # --- the owner's side --------------------------------------------------------------------------------------------

    def start(self, name: str, run: Callable[[], Awaitable[None]], policy: Policy = Policy.ESSENTIAL) -> None:
        """Starts a task; raises ValueError when one of that name runs already."""
        if name in self._tasks:
            raise ValueError(f"{self._name}: a task named {name} runs already")
        task = self._tasks[name] = _Task()
        self._group.start_soon(self._supervise, name, task, run, policy, name=f"{self._name}/{name}")

    async def stop(self, name: str) -> None:
        """Cancels one task and waits until it has ended; a no-op when none of that name runs."""
        task = self._tasks.get(name)
        if task is not None:
            task.scope.cancel()
            await task.done.wait()

    def cancel(self) -> None:
        """Cancels all tasks."""
        self._group.cancel_scope.cancel()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tasks)

    def restarts(self, name: str) -> int:
        """How often a running task was started again."""
        return self._tasks[name].restarts

    # --- the task's side ---------------------------------------------------------------------------------------------

    async def _supervise(self, name: str, task: _Task, run: Callable[[], Awaitable[None]], policy: Policy) -> None:
        try:
            with task.scope:
                if policy is Policy.RESTARTED:
                    await self._restart_on_error(name, task, run)
                else:
                    await run()
            if policy is Policy.ESSENTIAL and not task.scope.cancel_called:
                raise Ended(f"{self._name}/{name} ended, and nothing goes on without it")
        finally:
            del self._tasks[name]
            task.done.set()

    async def _restart_on_error(self, name: str, task: _Task, run: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            started = self._clock.monotonic()
            try:
                await run()
            # The one place that may catch everything: whatever a task's bug is, it must not take the others along.
            except Exception:
                lasted = self._clock.monotonic() - started
                failures = 1 if lasted >= self._settled else failures + 1
                # The exponent is bounded so that years of failures cannot overflow the float.
                pause = min(self._cap, self._base * 2.0 ** min(failures - 1, 60)) * self._jitter()
                log.exception("%s/%s failed after %.1f s; again in %.1f s", self._name, name, lasted, pause)
                task.restarts += 1
            else:
                return
            await self._clock.sleep(pause)
