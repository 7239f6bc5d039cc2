"""When a source is polled: intervals, jitter, growing pauses after failures, nudges; on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
import pytest

from fleet.aio.clock import VirtualClock
from fleet.engine.sources import Sources, SourcesSettings
from fleet.errors import NotFound, SourceError
from fleet.git.trees import FolderTree
from fleet.model.events import Event
from fleet.model.fleetfile import GitSource

pytestmark = pytest.mark.anyio


class Commit(msgspec.Struct, frozen=True):
    sha: str
    author: str = "alice@acme.example"
    message: str = "change"
    time: float = 0.0


class Server:
    """A Git server and its mirror in one: what it has, how it fails, and when it was asked."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.sha = "a" * 40
        self.error: str | None = None
        self.asked: list[float] = []
        self.fetched: list[str] = []
        self.maintained = 0
        self.credentials: list[bytes | None] = []
        self.hold: anyio.Event | None = None

    def mirror(self, source: GitSource, credentials: bytes | None) -> Server:
        self.credentials.append(credentials)
        return self

    async def resolve(self) -> str:
        self.asked.append(self.clock.monotonic())
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise SourceError(self.error)
        return self.sha

    async def fetch(self, sha: str) -> None:
        self.fetched.append(sha)

    async def info(self, sha: str) -> Commit:
        return Commit(sha)

    async def maintain(self) -> None:
        self.maintained += 1
        raise SourceError("housekeeping failed")

    def tree(self, sha: str) -> FolderTree:
        return FolderTree(Path("/"))

    async def read(self, sha: str, path: str, limit: int) -> bytes:
        raise NotFound(path)


class Vault:
    async def read(self, name: str) -> bytes:
        return f"secret of {name}".encode()


class World:
    def __init__(self, jitter: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.server = Server(self.clock)
        self.events: list[Event] = []
        self.changed: list[str] = []
        self.observed: list[float] = []
        self.sources = Sources(
            self.server,
            Vault(),
            self.events.append,
            self.changed.append,
            settings=SourcesSettings(backoff_base=2.0, backoff_cap=60.0, jitter=0.1, spacing=0.5, maintenance=1000.0),
            clock=self.clock,
            jitter=lambda: jitter,
            observe=self.observed.append,
        )

    async def during(self, seconds: Sequence[float], source: GitSource) -> None:
        """Runs the sources and lets time pass in steps."""
        self.sources.want([source])
        async with anyio.create_task_group() as group:
            group.start_soon(self.sources.run)
            for step in seconds:
                await self.clock.advance(step)
            group.cancel_scope.cancel()


SOURCE = GitSource("apps", "/srv/apps", interval=60.0, secret_ref="git")


async def test_it_polls_at_its_interval_and_fetches_what_is_new_alone() -> None:
    world = World()
    await world.during([200.0], SOURCE)
    assert world.server.asked == [0.0, 60.0, 120.0, 180.0]
    assert world.server.fetched == ["a" * 40]
    assert world.changed == ["apps"]
    assert [event.type for event in world.events] == ["source.fetched"]
    assert world.server.credentials == [b"secret of git"] * 4
    assert len(world.observed) == 1


async def test_jitter_makes_a_poll_come_earlier() -> None:
    world = World(jitter=0.5)
    await world.during([120.0], SOURCE)
    assert world.server.asked == [0.0, 57.0, 114.0]


async def test_pauses_grow_with_failures_and_the_first_success_ends_them() -> None:
    world = World(jitter=0.99999)
    world.server.error = "the server cannot be reached"
    await world.during([70.0], SOURCE)
    gaps = [round(b - a) for a, b in zip(world.server.asked, world.server.asked[1:], strict=False)]
    assert gaps == [2, 4, 8, 16, 32]
    [state] = world.sources.states()
    assert state.error == "the server cannot be reached"
    assert state.since == world.clock.wall() - 70.0
    # Told once, however often it was tried.
    assert [event.type for event in world.events] == ["source.failed"]


async def test_a_failure_keeps_the_commit_and_recovery_is_told() -> None:
    world = World()
    world.sources.want([SOURCE])
    async with anyio.create_task_group() as group:
        group.start_soon(world.sources.run)
        await world.clock.advance(1.0)
        world.server.error = "away"
        world.sources.nudge("apps")
        await world.clock.advance(0.6)
        [state] = world.sources.states()
        assert (state.sha, state.error) == ("a" * 40, "away")
        assert world.sources.snapshots()["apps"].revision == "a" * 40
        world.server.error = None
        await world.clock.advance(5.0)
        [state] = world.sources.states()
        assert (state.error, state.since) == (None, None)
        group.cancel_scope.cancel()
    assert [event.type for event in world.events] == ["source.fetched", "source.failed", "source.fetched"]
    # Traces tell how long a fetch took; that the server is back fetched nothing.
    assert ["seconds" in event.data for event in world.events] == [True, False, False]
    assert world.changed == ["apps"]


async def test_nudges_are_answered_soon_and_not_one_by_one() -> None:
    world = World()
    world.sources.want([SOURCE])
    async with anyio.create_task_group() as group:
        group.start_soon(world.sources.run)
        await world.clock.advance(10.0)
        for _ in range(100):
            world.sources.nudge()
        await world.clock.advance(0.0)
        assert world.server.asked == [0.0, 10.0]
        for _ in range(100):
            world.sources.nudge()
        await world.clock.advance(2.0)
        assert world.server.asked == [0.0, 10.0, 10.5]
        group.cancel_scope.cancel()


async def test_who_waits_gets_a_poll_that_began_afterwards() -> None:
    world = World()
    world.server.hold = anyio.Event()
    world.sources.want([SOURCE])
    found: list[str | None] = []

    async def wait() -> None:
        found.extend(state.sha for state in await world.sources.wait_polled("apps"))

    async with anyio.create_task_group() as group:
        group.start_soon(world.sources.run)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        # The poll that was under way ends with the old commit; the push came before the wait.
        world.server.hold.set()
        world.server.hold = None
        await anyio.wait_all_tasks_blocked()
        assert found == []
        world.server.sha = "b" * 40
        await world.clock.advance(1.0)
        assert found == ["b" * 40]
        group.cancel_scope.cancel()


async def test_who_waits_for_a_source_that_leaves_is_woken() -> None:
    world = World()
    world.sources.want([SOURCE])
    woken: list[int] = []

    async def wait() -> None:
        woken.append(len(await world.sources.wait_polled()))

    async with anyio.create_task_group() as group:
        group.start_soon(world.sources.run)
        await world.clock.advance(1.0)
        world.server.hold = anyio.Event()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        world.sources.want([])
        await anyio.wait_all_tasks_blocked()
        assert woken == [1]
        assert world.sources.states() == ()
        group.cancel_scope.cancel()


async def test_housekeeping_is_rare_and_its_failure_harmless() -> None:
    world = World()
    await world.during([2500.0], SOURCE)
    assert world.server.maintained == 2
    assert world.sources.states()[0].error is None


async def test_an_unknown_source_is_not_found() -> None:
    world = World()
    for ask in (world.sources.nudge, world.sources.mirror):
        with pytest.raises(NotFound):
            ask("gone")
