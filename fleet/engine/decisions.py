"""One decision about one bundle: the inputs that wait are fed to `core.rollout`, and what comes out is one commit.

Everything here is synchronous and changes nothing but the decision itself; the conductor stores it and then acts.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.core import rollout as engine
from fleet.core import targets
from fleet.engine.box import Inbox
from fleet.model.cluster import Assignment, MemberReport
from fleet.model.events import Event
from fleet.model.fleetfile import Bundle, Fleet
from fleet.model.rollout import (
    BundleState,
    Commit,
    Deploy,
    FactsChanged,
    Now,
    Release,
    ReleaseReady,
    Rollout,
    RolloutEvent,
    Step,
    Ticked,
)

replace = msgspec.structs.replace


class Decision:
    """Several steps, one after another, that become durable together."""

    def __init__(self, base: BundleState, wall: float, elapsed: float) -> None:
        self._base = base
        self._wall = wall
        self._elapsed = elapsed
        self._releases: list[Release] = []
        self._deploys: list[Deploy] = []
        self._events: list[Event] = []
        self._ended: dict[str, Rollout] = {}
        self._withdrawn: dict[str, None] = {}
        self.state = base
        self.changed = False
        self.wake_after: float | None = None

    def take(self, inbox: Inbox) -> None:
        """Decides about everything that waits; about the time alone when nothing does."""
        if inbox.facts is not None:
            self.step(inbox.facts)
        if inbox.reports:
            self._add(engine.fold(self.state, inbox.reports.values(), self._now()))
        if inbox.release is not None:
            self.step(inbox.release)
        if not inbox:
            self.step(Ticked())

    def step(self, event: RolloutEvent) -> Step:
        """Returns the step; one that is refused adds nothing."""
        step = engine.step(self.state, event, self._now())
        if step.refused is None:
            if isinstance(event, ReleaseReady) and step.changed:
                self._releases.append(event.release)
            self._add(step)
        return step

    def _now(self) -> Now:
        return Now(self._wall, self._elapsed)

    def _add(self, step: Step) -> None:
        self._elapsed = 0.0
        self.state = step.state
        self.changed = self.changed or step.changed
        self.wake_after = step.wake_after
        self._deploys += step.deploys
        self._events += step.events
        self._ended.update((rollout.id, rollout) for rollout in step.ended)
        for deploy in step.deploys:
            self._withdrawn.pop(deploy.cluster, None)
        for cluster in step.withdrawn:
            self._withdrawn[cluster] = None
            self._deploys = [deploy for deploy in self._deploys if deploy.cluster != cluster]

    # --- what becomes of it ------------------------------------------------------------------------------------------

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """The last intent for each cluster: an earlier one of the same decision was never sent."""
        last = {deploy.cluster: deploy for deploy in self._deploys}
        return tuple(engine.assignment(self._base.bundle, deploy) for deploy in last.values())

    @property
    def withdrawn(self) -> tuple[tuple[str, str], ...]:
        return tuple((cluster, self._base.bundle) for cluster in self._withdrawn)

    def commit(self) -> Commit:
        """The one transaction; reports are evidence of this process and are not stored."""
        stored = replace(self.state, version=self._base.version + 1, reports={}, listening=0.0)
        return Commit(
            state=stored,
            expected_version=self._base.version,
            releases=tuple(self._releases),
            rollouts=self._rollouts(),
            assignments=self.assignments,
            withdrawn=self.withdrawn,
            events=tuple(self._events),
        )

    def durable(self) -> BundleState:
        """The state to go on with once `commit` is stored."""
        return replace(self.state, version=self._base.version + 1)

    def _rollouts(self) -> tuple[Rollout, ...]:
        before = (self._base.active, self._base.waiting)
        live = (r for r in (self.state.active, self.state.waiting) if r is not None and r not in before)
        return tuple({**self._ended, **{rollout.id: rollout for rollout in live}}.values())

    def find(self, rollout: str | None) -> Rollout | None:
        """A rollout of the decided state by its id; None finds the newest."""
        known = {r.id: r for r in (self.state.previous, self.state.waiting, self.state.active) if r is not None}
        known.update(self._ended)
        if rollout is not None:
            return known.get(rollout)
        return max(known.values(), key=lambda r: r.number, default=None)


def reports_of(reachable: Iterable[tuple[str, bool]], state: BundleState) -> dict[str, MemberReport]:
    """Reports for clusters of a bundle that hold nothing of it, and of which only their being there is known."""
    wanted = state.clusters or frozenset()
    found = {}
    for cluster, there in reachable:
        known = state.reports.get(cluster)
        if cluster in wanted and (known is None or (known.seq == 0 and known.reachable is not there)):
            found[cluster] = MemberReport(cluster=cluster, bundle=state.bundle, reachable=there)
    return found


def facts_of(fleet: Fleet, bundle: Bundle | None, alive: frozenset[str]) -> FactsChanged:
    """None: the bundle left fleet.yaml, and what it left behind is dealt with as it said while it was there."""
    if bundle is None:
        return FactsChanged(clusters=frozenset(), paused=frozenset(), suspended=False, alive=alive, fleet=fleet.name)
    wanted = targets.targets(fleet, bundle)
    return FactsChanged(
        clusters=frozenset(cluster.name for cluster in wanted),
        paused=frozenset(cluster.name for cluster in wanted if cluster.paused),
        suspended=bundle.suspend,
        deletion=bundle.deletion,
        alive=alive,
        fleet=fleet.name,
    )
