"""The whole engine as one supervised thing: commits become configuration and releases, releases become rollouts.

One loop, level-triggered: whenever a source moved, the newest fleet.yaml is judged and every bundle planned; what has
not changed costs nothing and starts nothing. Where nothing can be decided (no Git, no store) the last state stays in
force.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
import msgspec

from fleet.aio.clock import Clock
from fleet.aio.supervise import Policy, Supervisor
from fleet.engine.agents import Agents
from fleet.engine.conductor import Conductor
from fleet.engine.configuration import Configuration, InForce
from fleet.engine.contents import Contents
from fleet.engine.eventlog import EventLog
from fleet.engine.planner import Planned, Planner, Snapshot
from fleet.engine.session import Shared
from fleet.engine.sources import Sources
from fleet.errors import FleetError, Unavailable
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet, GitSource
from fleet.model.rollout import BundleState, ReleaseReady

_log = logging.getLogger(__name__)

RETRY = 2.0
"""Seconds until what could not be planned for want of a store or of Git is planned again."""

OWN = ""
"""Name of the source that is the repository of fleet.yaml."""


class Secrets(Protocol):
    """The secrets provider, which fleet.yaml itself configures."""

    def configure(self, fleet: Fleet) -> None: ...


class Parts(msgspec.Struct, frozen=True):
    own: GitSource
    """The repository of fleet.yaml."""
    configuration: Configuration
    sources: Sources
    planner: Planner
    contents: Contents
    conductor: Conductor
    agents: Agents
    log: EventLog
    secrets: Secrets
    shared: Callable[[Fleet], Shared]
    clock: Clock
    rendered: Callable[[float], None] = lambda seconds: None
    """Takes the seconds that rendering a bundle for all its clusters took, where that brought something new."""


class Control:
    """Runs the engine and answers what is wrong with the newest commit, bundle by bundle."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._moved = anyio.Event()
        self._problems: dict[str, str] = {}

    def changed(self, source: str) -> None:
        """A source is at another commit."""
        self._moved.set()

    def problem(self, bundle: str) -> str | None:
        """Why the newest commit made no release of a bundle; None when nothing is wrong."""
        return self._problems.get(bundle)

    async def run(self) -> None:
        """Until cancelled. Raises InvalidInput when the stored fleet.yaml is not valid for this version."""
        parts = self._parts
        restored = await parts.configuration.restore()
        await parts.conductor.restore()
        if restored is not None:
            await self._recall(restored.fleet)
        async with Supervisor("engine", clock=parts.clock) as supervisor:
            supervisor.start("events", parts.log.run)
            supervisor.start("conductor", parts.conductor.run)
            supervisor.start("agents", parts.agents.run)
            if restored is not None:
                await self._put_in_force(restored)
            else:
                parts.sources.want([parts.own])
            supervisor.start("sources", parts.sources.run)
            supervisor.start("planning", self._plan_on_change, Policy.RESTARTED)

    async def _recall(self, fleet: Fleet) -> None:
        """Tells the planner what the last process planned: who holds an object does not depend on a restart."""
        states = [state for bundle in fleet.bundles if (state := self._parts.conductor.state(bundle.name)) is not None]
        newest = {state.bundle: newest_digests(state) for state in states}
        coming = {digest for state in states for digest in _unapplied(state, newest[state.bundle])}
        await self._parts.planner.restore(newest, self._parts.contents.get, coming)

    async def _plan_on_change(self) -> None:
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            planned = False
            try:
                await self._plan()
                planned = True
            except FleetError as error:
                _log.warning("planning waits: %s", error)
                await anyio.sleep(RETRY)
            finally:
                # Also after a defect, upon which this task is started again.
                if not planned:
                    self._moved.set()

    async def _plan(self) -> None:
        parts = self._parts
        own = parts.sources.snapshots().get(OWN)
        if own is not None:
            accepted = await parts.configuration.judge(own.revision)
            if accepted is not None:
                await self._put_in_force(accepted)
        in_force = parts.configuration.in_force
        if in_force is None:
            return
        snapshots = parts.sources.snapshots() | await self._own(in_force.revision, own)
        found = await parts.planner.plan(in_force.fleet, snapshots)
        await self._take_all(found)
        if any(planned.transient for planned in found):
            raise Unavailable("a bundle could not be rendered for a reason that may pass")

    async def _own(self, revision: str, newest: Snapshot | None) -> dict[str, Snapshot]:
        """The repository of fleet.yaml at the commit in force: a commit with an invalid fleet.yaml is refused whole."""
        if newest is None:
            return {}
        if newest.revision == revision:
            return {OWN: newest}
        mirror = self._parts.sources.mirror(OWN)
        await mirror.fetch(revision)
        return {OWN: Snapshot(revision, mirror.tree(revision), await mirror.info(revision))}

    async def _take_all(self, found: Sequence[Planned]) -> None:
        """Hands in what is new, whatever becomes of one; raises the first error after that."""
        untaken = {planned.bundle for planned in found if planned.changed}
        failures: list[FleetError] = []
        try:
            for planned in found:
                try:
                    await self._take(planned)
                except FleetError as error:
                    failures.append(error)
                else:
                    untaken.discard(planned.bundle)
        finally:
            # Offered again by the next planning, as nobody else would.
            for bundle in untaken:
                self._parts.planner.retract(bundle)
        if failures:
            raise failures[0]

    async def _take(self, planned: Planned) -> None:
        if planned.error is not None:
            if self._problems.get(planned.bundle) != planned.error:
                self._say("release.failed", planned.bundle, {"error": planned.error})
            self._problems[planned.bundle] = planned.error
            return
        self._problems.pop(planned.bundle, None)
        if not planned.changed or planned.release is None or planned.plan is None:
            return
        self._parts.rendered(planned.ended - planned.started)
        span = {"name": "render", "start": planned.started, "end": planned.ended}
        self._say("release.rendered", planned.bundle, {"release": planned.release.id, "spans": [span]})
        await self._parts.conductor.submit(ReleaseReady(planned.release, planned.plan))

    async def _put_in_force(self, accepted: InForce) -> None:
        parts, fleet = self._parts, accepted.fleet
        parts.secrets.configure(fleet)
        parts.sources.want([parts.own, *fleet.sources])
        parts.agents.configure(fleet, parts.shared(fleet))
        parts.conductor.configure(fleet)
        known = {bundle.name for bundle in fleet.bundles}
        self._problems = {name: error for name, error in self._problems.items() if name in known}

    def _say(self, kind: str, bundle: str, data: dict[str, object]) -> None:
        self._parts.log.emit(Event(type=kind, time=self._parts.clock.wall(), bundle=bundle, data=data))


def newest_digests(state: BundleState) -> dict[str, str]:
    """Cluster → digest of the newest content that was planned for a bundle; what is recorded when that is not known."""
    for rollout in (state.waiting, state.active, state.previous):
        if rollout is not None and rollout.release.content == state.head:
            return rollout.release.digests
    entries = {cluster: record.recorded for cluster, record in state.records.items()}
    return {cluster: entry.digest for cluster, entry in entries.items() if entry is not None and entry.digest}


def _unapplied(state: BundleState, newest: dict[str, str]) -> set[str]:
    """The digests that some cluster is still to get."""
    found: set[str] = set()
    for cluster, digest in newest.items():
        record = state.records.get(cluster)
        if record is None or record.recorded is None or record.recorded.digest != digest:
            found.add(digest)
    return found
