"""Commands and queries of the control plane, as the API and nobody else calls them.

A query reads what the agents, the conductor and the store know now and renders it (`engine.views`); it never waits
for a cluster or for Git, except `diff`. A command goes to its one owner: rollouts to the conductor, sources to their
poll loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from fleet.core import targets
from fleet.engine import service_ports as ports
from fleet.engine.views import bundle as bundles
from fleet.engine.views import cluster as clusters
from fleet.engine.views import explain as explanations
from fleet.engine.views.bundle import BundleFacts, BundleView
from fleet.engine.views.cluster import ClusterView, ObjectView
from fleet.engine.views.drift import DiffView, DriftView, diff_view, drift_view
from fleet.engine.views.event import EventView, event_view
from fleet.engine.views.explain import ExplainView
from fleet.engine.views.rollout import RolloutView, rollout_view
from fleet.engine.views.status import SourceView, StatusView, source_view, status_view
from fleet.errors import NotFound, StoreError
from fleet.model.events import Event
from fleet.model.fleetfile import Bundle, Fleet
from fleet.model.rollout import BundleState, Commanded, Rollout

KEPT_REVISIONS = 4096
"""Releases whose revisions stay in memory; a release never changes."""

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a list; `next` is where the following page begins, null at the end."""

    items: tuple[T, ...]
    next: str | None = None


class Parts(msgspec.Struct, frozen=True):
    """The parts of the engine that the service speaks for."""

    configuration: ports.Configuration
    sources: ports.Sources
    agents: ports.Agents
    conductor: ports.Conductor
    history: ports.History
    log: ports.EventLog
    now: Callable[[], float]
    """Wall clock, seconds since the epoch."""
    version: str
    problem: Callable[[str], str | None] = lambda bundle: None
    """Why the newest commit made no release of a bundle; None when nothing is wrong."""


class Service:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revisions: OrderedDict[str, dict[str, str]] = OrderedDict()

    # --- where things stand ------------------------------------------------------------------------------------------

    async def unready(self) -> tuple[str, ...]:
        """What still stands against taking work, one sentence each; empty when ready. Anybody may read it."""
        reasons: list[str] = []
        if self._parts.configuration.in_force is None:
            reasons.append("no valid fleet.yaml was read yet")
        reasons += [
            f"source {source.name or 'of fleet.yaml'} was not asked yet"
            for source in self._parts.sources.states()
            if source.sha is None and source.error is None
        ]
        try:
            await self._parts.history.last_seq()
        except StoreError:
            reasons.append("the database does not answer")
        return tuple(reasons)

    async def status(self) -> StatusView:
        seen = await self._clusters()
        return status_view(
            self._parts.version,
            self._parts.now(),
            self._parts.configuration,
            self._parts.sources.states(),
            seen,
            self._bundles(seen),
        )

    async def clusters(self, after: str | None, limit: int) -> Page[ClusterView]:
        return _page(await self._clusters(), lambda view: view.name, after, limit)

    async def cluster(self, name: str) -> ClusterView:
        found = next((view for view in await self._clusters() if view.name == name), None)
        if found is None:
            raise NotFound(f"no cluster {name!r} in fleet.yaml; `fleet clusters` lists them")
        return found

    async def bundles(self, after: str | None, limit: int) -> Page[BundleView]:
        return _page(self._bundles(await self._clusters()), lambda view: view.name, after, limit)

    async def bundle(self, name: str) -> BundleView:
        self._known_bundle(name)
        return next(view for view in self._bundles(await self._clusters()) if view.name == name)

    def sources(self) -> Page[SourceView]:
        return Page(tuple(source_view(source) for source in self._parts.sources.states()))

    async def rollouts(self, bundle: str | None, before: str | None, limit: int) -> Page[RolloutView]:
        """Newest first."""
        stored = await self._parts.history.rollouts(bundle, before, limit + 1)
        items = tuple(rollout_view(self._newest(rollout)) for rollout in stored[:limit])
        return Page(items, items[-1].id if len(stored) > limit else None)

    async def rollout(self, id: str) -> RolloutView:
        return rollout_view(await self._rollout(id))

    async def drifts(
        self, cluster: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
    ) -> Page[DriftView]:
        """Newest first."""
        stored = await self._parts.history.drifts(cluster, bundle, open_only, before, limit + 1)
        items = tuple(drift_view(drift) for drift in stored[:limit])
        return Page(items, items[-1].id if len(stored) > limit else None)

    async def objects(self, cluster: str, bundle: str) -> Page[ObjectView]:
        agent = self._agent(cluster)
        self._known_bundle(bundle)
        heard = clusters.observed(agent.state)
        standing = self._parts.agents.objects(cluster, bundle)
        return Page(tuple(clusters.object_view(each, observed=heard) for each in standing))

    async def diff(self, bundle: str, cluster: str) -> DiffView:
        """Asks the cluster; raises Unavailable, Unauthorized or Rejected when it does not answer or refuses."""
        self._agent(cluster)
        self._known_bundle(bundle)
        return diff_view(bundle, cluster, await self._parts.agents.diff(bundle, cluster))

    async def explain(self, subject: str) -> ExplainView:
        """Why a rollout, a cluster or a bundle does not move; NotFound when `subject` names none of them."""
        fleet = self._fleet()
        if self._parts.agents.view(subject) is not None:
            return explanations.explain_cluster(await self.cluster(subject), self._states(fleet), self._parts.now())
        if fleet is not None and any(bundle.name == subject for bundle in fleet.bundles):
            facts = self._facts(self._known_bundle(subject), await self._clusters())
            return explanations.explain_bundle(facts, self._parts.now())
        try:
            rollout = await self._rollout(subject)
        except NotFound:
            raise NotFound(f"no rollout, cluster or bundle is called {subject!r}; see `fleet status`") from None
        return explanations.explain_rollout(rollout, self._state_of(rollout.bundle), self._parts.now())

    # --- events ------------------------------------------------------------------------------------------------------

    async def events(self, since: int, limit: int) -> Sequence[EventView]:
        """Those after `since`, oldest first."""
        return [event_view(event) for event in await self._parts.history.events(since, limit)]

    async def last_seq(self) -> int:
        return await self._parts.history.last_seq()

    async def wait_beyond(self, seq: int) -> None:
        await self._parts.log.wait_beyond(seq)

    def now(self) -> float:
        return self._parts.now()

    # --- commands ----------------------------------------------------------------------------------------------------

    async def command(self, command: Commanded) -> RolloutView:
        """Raises Conflict when the command does not apply, NotFound when its rollout or bundle does not exist."""
        if command.bundle is not None:
            self._known_bundle(command.bundle)
        return rollout_view(await self._parts.conductor.command(command))

    async def sync(self, source: str | None, actor: str) -> Page[SourceView]:
        """Has one source, or every one, fetched now; returns where they stand before that."""
        self._parts.sources.nudge(source)
        data = {"name": "sync", "source": source}
        await self._parts.log.append([Event(type="command", time=self._parts.now(), actor=actor, data=data)])
        return Page(
            tuple(source_view(each) for each in self._parts.sources.states() if source is None or each.name == source)
        )

    # --- what the above are made of ----------------------------------------------------------------------------------

    def _fleet(self) -> Fleet | None:
        in_force = self._parts.configuration.in_force
        return None if in_force is None else in_force.fleet

    def _states(self, fleet: Fleet | None) -> tuple[BundleState, ...]:
        names = () if fleet is None else tuple(bundle.name for bundle in fleet.bundles)
        return tuple(state for name in names if (state := self._state_of(name)) is not None)

    def _state_of(self, bundle: str) -> BundleState | None:
        return self._parts.conductor.state(bundle)

    def _known_bundle(self, name: str) -> Bundle:
        fleet = self._fleet()
        found = next((bundle for bundle in fleet.bundles if bundle.name == name), None) if fleet else None
        if found is None:
            raise NotFound(f"no bundle {name!r} in fleet.yaml; `fleet bundles` lists them")
        return found

    def _agent(self, cluster: str) -> ports.AgentView:
        agent = self._parts.agents.view(cluster)
        if agent is None:
            raise NotFound(f"no cluster {cluster!r} in fleet.yaml; `fleet clusters` lists them")
        return agent

    async def _clusters(self) -> tuple[ClusterView, ...]:
        """Every cluster of fleet.yaml, and those that left it and still hold something, by name."""
        fleet, now = self._fleet(), self._parts.now()
        views: dict[str, ClusterView] = {}
        states: dict[str, BundleState | None] = {}
        for agent in self._parts.agents.views():
            recorded = {}
            for each in agent.bundles:
                if each.bundle not in states:  # what the clocks of a bundle show now is worked out once
                    states[each.bundle] = self._state_of(each.bundle)
                recorded[each.bundle] = await self._recorded(states[each.bundle], agent.name)
            views[agent.name] = clusters.cluster_view(agent, recorded, now)
        for cluster in fleet.clusters if fleet else ():
            views.setdefault(cluster.name, clusters.unseen(cluster))
        return tuple(views[name] for name in sorted(views))

    async def _recorded(self, state: BundleState | None, cluster: str) -> dict[str, str]:
        """Revisions of the release that is recorded on a cluster."""
        record = state.records.get(cluster) if state else None
        if state is None or record is None or record.recorded is None:
            return {}
        return await self._revisions_of(record.recorded.release, state)

    async def _revisions_of(self, release: str, state: BundleState) -> dict[str, str]:
        known = self._revisions.get(release)
        if known is not None:
            return known
        held = (each.release for each in (state.active, state.waiting, state.previous) if each is not None)
        found = next((each for each in held if each.id == release), None) or await self._parts.history.release(release)
        if found is None:
            return {}
        self._revisions[release] = dict(found.revisions)
        if len(self._revisions) > KEPT_REVISIONS:
            self._revisions.popitem(last=False)
        return self._revisions[release]

    def _bundles(self, seen: Iterable[ClusterView]) -> tuple[BundleView, ...]:
        fleet = self._fleet()
        by_name = {view.name: view for view in seen}
        names = sorted(fleet.bundles, key=lambda bundle: bundle.name) if fleet else ()
        return tuple(bundles.bundle_view(self._facts(bundle, by_name.values())) for bundle in names)

    def _facts(self, bundle: Bundle, seen: Iterable[ClusterView]) -> BundleFacts:
        fleet = self._fleet()
        members = () if fleet is None else tuple(cluster.name for cluster in targets.targets(fleet, bundle))
        return BundleFacts(
            bundle=bundle,
            targets=members,
            state=self._state_of(bundle.name),
            clusters={view.name: view for view in seen},
            problem=self._parts.problem(bundle.name),
        )

    def _newest(self, stored: Rollout) -> Rollout:
        """What the conductor holds is never older than what the store answered."""
        state = self._state_of(stored.bundle)
        held = (state.active, state.waiting, state.previous) if state else ()
        return next((each for each in held if each is not None and each.id == stored.id), stored)

    async def _rollout(self, id: str) -> Rollout:
        state = self._state_of(id.rpartition("-")[0])
        for held in (state.active, state.waiting, state.previous) if state else ():
            if held is not None and held.id == id:
                return held
        stored = await self._parts.history.rollout(id)
        if stored is None:
            raise NotFound(f"no rollout {id!r}; `fleet rollouts` lists them")
        return stored


def _page(views: Sequence[T], key: Callable[[T], str], after: str | None, limit: int) -> Page[T]:
    """The `limit` views after the key `after`; `views` are sorted by key."""
    rest = [view for view in views if after is None or key(view) > after]
    items = tuple(rest[:limit])
    return Page(items, key(items[-1]) if len(rest) > limit else None)
