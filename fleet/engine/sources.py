"""The Git sources of the fleet.yaml in force, each with a task of its own.

Polling, a webhook and `fleet sync` all do the same: they nudge a task. A source that fails keeps its last commit, says
since when and why, and is tried again after growing, jittered pauses; no other source notices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import anyio

from fleet.aio.clock import Clock, RealClock
from fleet.aio.supervise import Policy, Supervisor
from fleet.engine.inputs import Snapshot
from fleet.engine.polling import Poller, SourcesSettings, SourceState, Surroundings
from fleet.engine.ports import Mirror, Mirrors, Secrets
from fleet.errors import NotFound
from fleet.model.events import Event
from fleet.model.fleetfile import GitSource

__all__ = ["SourceState", "Sources", "SourcesSettings"]


class Sources:
    """All sources of a fleet. `changed` is called with a source's name whenever it is at another commit."""

    def __init__(
        self,
        mirrors: Mirrors,
        secrets: Secrets,
        emit: Callable[[Event], None],
        changed: Callable[[str], None],
        *,
        settings: SourcesSettings | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        display: Callable[[str], str] = lambda url: url,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`display` makes a URL fit to be shown, `observe` is given the seconds of every poll that brought a commit."""
        settings = settings or SourcesSettings()
        self._clock = clock or RealClock()
        self._jitter = jitter
        self._display = display
        self._around = Surroundings(
            mirrors=mirrors,
            secrets=secrets,
            emit=emit,
            changed=changed,
            observe=observe,
            settings=settings,
            clock=self._clock,
            jitter=jitter,
            limit=anyio.CapacityLimiter(settings.at_once),
        )
        self._pollers: dict[str, Poller] = {}
        self._wanted: tuple[GitSource, ...] = ()
        self._adjust = anyio.Event()

    def want(self, sources: Iterable[GitSource]) -> None:
        """Sets which sources there shall be; those that did not change go on undisturbed."""
        self._wanted = tuple(sources)
        self._adjust.set()

    async def run(self) -> None:
        """Runs until cancelled; one task per wanted source."""
        async with Supervisor("sources", clock=self._clock, jitter=self._jitter) as supervisor:
            while True:
                self._adjust = anyio.Event()
                await self._adjust_to(supervisor, self._wanted)
                await self._adjust.wait()

    async def _adjust_to(self, supervisor: Supervisor, wanted: tuple[GitSource, ...]) -> None:
        """Stops first, starts after."""
        by_name = {source.name: source for source in wanted}
        former = self._pollers
        for name, poller in former.items():
            if by_name.get(name) != poller.wanted:
                await supervisor.stop(_task(name))
                poller.release()
        self._pollers = {}
        for name, git in by_name.items():
            known = former.get(name)
            if known is not None and known.wanted == git:
                self._pollers[name] = known
                continue
            poller = self._pollers[name] = Poller(git, self._display(git.url), self._around)
            if known is not None and (known.wanted.url, known.wanted.ref) == (git.url, git.ref):
                poller.inherit(known)
            supervisor.start(_task(name), poller.run, Policy.RESTARTED)

    def states(self) -> tuple[SourceState, ...]:
        """In the order of fleet.yaml."""
        return tuple(poller.state for poller in self._pollers.values())

    def snapshots(self) -> dict[str, Snapshot]:
        """The sources that have been read, as the planner takes them."""
        return {
            name: Snapshot(poller.state.sha, poller.mirror.tree(poller.state.sha), poller.state.commit)
            for name, poller in self._pollers.items()
            if poller.mirror is not None and poller.state.sha is not None
        }

    def mirror(self, name: str) -> Mirror:
        """The mirror of a source; raises NotFound before its first successful poll."""
        poller = self._pollers.get(name)
        if poller is None or poller.mirror is None:
            raise NotFound(f"source {_task(name)} was not read yet")
        return poller.mirror

    def nudge(self, name: str | None = None) -> None:
        """Fetch now, one source or all; returns at once. Raises NotFound for an unknown name."""
        for poller in self._named(name):
            poller.nudge()

    async def wait_polled(self, name: str | None = None) -> tuple[SourceState, ...]:
        """Fetches one source or all; their states once polls have ended that began after this call.

        The caller sets the deadline. Raises NotFound for an unknown name.
        """
        pollers = self._named(name)
        for done in [poller.awaited() for poller in pollers]:
            await done.wait()
        return tuple(poller.state for poller in pollers)

    def _named(self, name: str | None) -> list[Poller]:
        if name is None:
            return list(self._pollers.values())
        if name not in self._pollers:
            raise NotFound(f"there is no source {name}")
        return [self._pollers[name]]


def _task(name: str) -> str:
    return name or "of fleet.yaml"
