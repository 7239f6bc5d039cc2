from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from fleet.engine.halt import Halt
from fleet.engine.workers import Overflow, Workers, WorkerSettings
from fleet.errors import Rejected, StoreError, Unauthorized
from fleet.model.objects import ObjectId

pytestmark = pytest.mark.anyio

SETTINGS = WorkerSettings(bundles=2, suspects=2, queue=10, retry_base=0.001, retry_cap=0.01)


def an_id(name: str) -> ObjectId:
    return ObjectId("", "ConfigMap", "shop", name)


class Jobs:
    """Work that goes on until it is let go; keeps what ran and what overlapped."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.running: set[str] = set()
        self.overlaps: list[set[str]] = []
        self.gates: dict[str, anyio.Event] = {}
        self.errors: dict[str, list[Exception]] = {}
        self.loaded = True
        self.halts: list[Halt] = []
        self.open: list[ObjectId] = []

    async def work_on(self, bundle: str, halt: Halt) -> None:
        self.halts.append(halt)
        await self._run(bundle)

    async def examine(self, object_id: ObjectId) -> None:
        await self._run(object_id.name)

    def bundle_of(self, object_id: ObjectId) -> str | None:
        return None if object_id.name == "gone" else object_id.namespace

    def is_loaded(self, bundle: str) -> bool:
        return self.loaded

    def review(self, bundle: str) -> list[ObjectId]:
        return self.open

    async def _run(self, name: str) -> None:
        self.ran.append(name)
        self.running.add(name)
        if len(self.running) > 1:
            self.overlaps.append(set(self.running))
        try:
            if name in self.gates:
                await self.gates[name].wait()
            if self.errors.get(name):
                raise self.errors[name].pop(0)
            await anyio.lowlevel.checkpoint()
        finally:
            self.running.discard(name)

    async def until(self, what: Callable[[], bool]) -> None:
        for _ in range(2000):
            if what():
                return
            await anyio.sleep(0.001)
        raise AssertionError(self.ran)


@asynccontextmanager
async def working(jobs: Jobs, settings: WorkerSettings = SETTINGS) -> AsyncIterator[Workers]:
    workers = Workers("qa", jobs, settings, lambda: 0.5)
    async with anyio.create_task_group() as group:
        workers.start(group)
        yield workers
        group.cancel_scope.cancel()


async def test_a_pass_waits_for_repairs_and_repairs_for_a_pass() -> None:
    jobs = Jobs()
    jobs.gates = {"a": anyio.Event(), "shop": anyio.Event()}
    async with working(jobs) as workers:
        workers.put_suspect(an_id("a"))
        await jobs.until(lambda: jobs.ran == ["a"])
        workers.put("shop")
        workers.put_suspect(an_id("b"))
        await anyio.sleep(0.01)
        assert jobs.ran == ["a"]
        jobs.gates["a"].set()
        await jobs.until(lambda: jobs.ran == ["a", "shop"])
        jobs.gates["shop"].set()
        await jobs.until(lambda: jobs.ran == ["a", "shop", "b"])
    assert jobs.overlaps == []


async def test_other_bundles_go_on_meanwhile() -> None:
    jobs = Jobs()
    jobs.gates = {"shop": anyio.Event()}
    async with working(jobs) as workers:
        workers.put("shop")
        await jobs.until(lambda: jobs.ran == ["shop"])
        workers.put("other")
        workers.put_suspect(ObjectId("", "ConfigMap", "other", "x"))
        await jobs.until(lambda: set(jobs.ran) == {"shop", "other", "x"})


async def test_suspects_wait_for_the_content_of_their_bundle() -> None:
    jobs = Jobs()
    jobs.loaded = False
    async with working(jobs) as workers:
        workers.put_suspect(an_id("a"))
        workers.put_suspect(an_id("gone"))
        await anyio.sleep(0.01)
        assert jobs.ran == []
        jobs.loaded = True
        workers.put("shop")
        await jobs.until(lambda: jobs.ran == ["shop", "a"])


async def test_a_newer_assignment_ends_the_pass_and_reviews_open_drift() -> None:
    jobs = Jobs()
    jobs.gates = {"shop": anyio.Event()}
    jobs.open = [an_id("drifted")]
    async with working(jobs) as workers:
        workers.supersede("shop")
        await jobs.until(lambda: jobs.ran == ["shop"])
        workers.supersede("shop")
        assert jobs.halts[0].called
        jobs.gates["shop"].set()
        await jobs.until(lambda: jobs.ran.count("shop") == 2 and "drifted" in jobs.ran)
        assert not jobs.halts[1].called


async def test_what_fails_is_tried_again_and_a_defect_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs()
    jobs.errors = {
        "a": [Rejected("definite", 422, "Invalid", "no"), StoreError("full")],
        "b": [RecursionError("too deep")],
        "shop": [StoreError("full")],
    }
    with caplog.at_level(logging.CRITICAL):
        async with working(jobs) as workers:
            for name in ("a", "b"):
                workers.put_suspect(an_id(name))
            workers.put("shop")
            await jobs.until(lambda: [jobs.ran.count(name) for name in ("a", "b", "shop")] == [3, 2, 2])


async def test_refused_credentials_end_the_session() -> None:
    jobs = Jobs()
    jobs.errors = {"a": [Unauthorized("no")]}

    async def meet() -> None:
        async with working(jobs) as workers:
            workers.put_suspect(an_id("a"))
            await anyio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        await meet()
    assert caught.group_contains(Unauthorized)


async def test_too_many_keys_are_no_loss_but_a_new_start() -> None:
    workers = Workers("qa", Jobs(), SETTINGS, lambda: 0.5)
    for number in range(10):
        workers.put_suspect(an_id(str(number)))
    with pytest.raises(Overflow):
        workers.put_suspect(an_id("one more"))
    workers.put("bundles have a queue of their own")


async def test_a_halt_cancels_what_waits_and_leaves_the_block_in_silence() -> None:
    halt = Halt()
    reached: list[str] = []
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            with halt.interruptible():
                await anyio.sleep_forever()
            reached.append("after")

        group.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        halt.call()
    with halt.interruptible():
        await anyio.sleep_forever()
    assert reached == ["after"]
    assert halt.called
