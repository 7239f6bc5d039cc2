"""A small world around the rollout engine: clusters that apply what they are assigned, and a virtual clock.

Decisions go through `step` alone, and what the clusters do is a function of what was decided, so a test reads as a
transcript: push, pass time, break something, look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from fleet.core import rollout as engine
from fleet.core.rollout.evidence import GRACE
from fleet.model.cluster import DeployOptions, Health, MemberReport
from fleet.model.events import Event
from fleet.model.fleetfile import ApprovalGate, HealthPolicy
from fleet.model.rollout import (
    BundleState,
    Commanded,
    Deploy,
    FactsChanged,
    Member,
    Now,
    Plan,
    PlannedWave,
    Release,
    ReleaseReady,
    Reported,
    Rollout,
    RolloutEvent,
    Step,
    Ticked,
    WaveRun,
)

Behaviour = Literal["good", "unhealthy", "failed", "errored", "slow"]
HEALTH = HealthPolicy(stable_for=30.0, progress_deadline=300.0)
PLAIN = DeployOptions()
CommandName = Literal["approve", "reject", "pause", "resume", "abort", "retry", "rollback"]


def wave(
    name: str,
    *clusters: str,
    limit: int | str = 1,
    bake: float = 0.0,
    gates: tuple[ApprovalGate, ...] = (),
    protected: bool = False,
    health: HealthPolicy = HEALTH,
) -> PlannedWave:
    return PlannedWave(name, clusters, limit, bake, protected, gates, health)


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class SimulatedCluster:
    """What an agent and its cluster would do with an assignment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reachable = True
        self.assigned: Deploy | None = None
        self.applied: Deploy | None = None
        self.behaviour: dict[str, Behaviour] = {}
        """Digest → what comes of it here."""
        self.restarts = 0
        self.fence = 0
        self.paused = False
        """Nothing is written then; what was applied before is still looked at."""

    def report(self) -> MemberReport:
        assigned = self.assigned
        if assigned is None or not self.reachable:
            return MemberReport(
                cluster=self.name, bundle="shop", reachable=self.reachable, drift_restarts=self.restarts
            )
        told = MemberReport(
            cluster=self.name,
            bundle="shop",
            reachable=True,
            seq=assigned.seq,
            digest=assigned.digest,
            phase="applying",
            drift_restarts=self.restarts,
        )
        if assigned.seq <= self.fence:
            return msgspec.structs.replace(told, phase="errored", message="fenced", fence=self.fence)
        if self.paused and self.applied is not assigned:
            return msgspec.structs.replace(told, phase="idle")
        how = self.behaviour.get(assigned.digest or "", "good")
        if how == "slow":
            return told
        if how == "failed":
            return msgspec.structs.replace(told, phase="failed", message="admission denied the Deployment")
        if how == "errored":
            return msgspec.structs.replace(told, phase="errored", message="503 from the API server")
        self.applied = assigned
        health = Health.DEGRADED if how == "unhealthy" else Health.HEALTHY
        return msgspec.structs.replace(
            told,
            phase="applied",
            health=health,
            drift_restarts=self.restarts,
            health_reason="" if how == "good" else how,
        )


class World:
    """One bundle, `shop`, on some clusters; `check` runs after every decision."""

    def __init__(
        self, *waves: PlannedWave, check: Callable[[BundleState, RolloutEvent | None, Step], None] | None = None
    ):
        self.waves = waves
        self.clusters = {c: SimulatedCluster(c) for planned in waves for c in planned.clusters}
        self.state = BundleState(bundle="shop", fleet="acme")
        self.wall = 1_000_000.0
        self.elapsed = 0.0
        self.wake: float | None = None
        self.events: list[Event] = []
        self.deploys: list[Deploy] = []
        self.withdrawn: list[str] = []
        self.ended: dict[str, Rollout] = {}
        self.paused: set[str] = set()
        self.suspended = False
        self.check = check
        self.consumed = 0.0
        """Seconds that the decision which is being checked added to the clocks."""
        self.facts()

    # --- deciding ----------------------------------------------------------------------------------------------------

    def decide(self, event: RolloutEvent) -> Step:
        before = self.state
        step = engine.step(before, event, Now(self.wall, self.elapsed))
        self._take(before, event, step)
        return step

    def _take(self, before: BundleState, event: RolloutEvent | None, step: Step) -> None:
        self.consumed = self.elapsed
        if step.refused is None:
            self.elapsed = 0.0
            self.wake = step.wake_after
        self.state = step.state
        self.events += step.events
        self.ended.update((rollout.id, rollout) for rollout in step.ended)
        self.withdrawn += step.withdrawn
        for deploy in step.deploys:
            self.deploys.append(deploy)
            self.clusters.setdefault(deploy.cluster, SimulatedCluster(deploy.cluster)).assigned = deploy
        for name in step.withdrawn:
            if name in self.clusters:
                self.clusters[name].assigned = None
        if self.check is not None:
            self.check(before, event, step)

    def push(
        self,
        name: str,
        *,
        waves: Iterable[PlannedWave] | None = None,
        same_on: Mapping[str, str] | None = None,
        author: str = "",
        options: DeployOptions = PLAIN,
        settle: bool = True,
    ) -> Release:
        """A commit; `same_on` gives clusters the content of an earlier one."""
        planned = self.waves if waves is None else tuple(waves)
        digests = {c: digest(name) for each in planned for c in each.clusters}
        digests.update({c: digest(other) for c, other in (same_on or {}).items()})
        content = digest(repr(sorted(digests.items())) + repr(options))
        release = Release(f"shop-{content[7:19]}", "shop", content, {"apps": name}, digests, options, author, name)
        self.decide(ReleaseReady(release, Plan("standard", planned)))
        if settle:
            self.settle()
        return release

    def command(self, name: CommandName, rollout: str | None = None, **more: Any) -> Step:
        actor = more.pop("actor", "ann")
        chosen = rollout or (self.state.active.id if self.state.active else None)
        step = self.decide(Commanded(name=name, actor=actor, rollout=chosen, **more))
        self.settle()
        return step

    def rollback(self, target: Release | None, *, clusters: tuple[str, ...] = (), named: bool = False) -> Step:
        release = target.id if named and target is not None else None
        asked = Commanded(
            name="rollback", actor="ann", bundle="shop", clusters=clusters, target=target, release=release
        )
        step = self.decide(asked)
        self.settle()
        return step

    def facts(self, *, clusters: Iterable[str] | None = None, deletion: Literal["orphan", "delete"] = "orphan") -> Step:
        present = frozenset(self.clusters if clusters is None else clusters)
        for cluster in self.clusters.values():
            cluster.paused = cluster.name in self.paused
        return self.decide(
            FactsChanged(
                clusters=present,
                paused=frozenset(self.paused),
                suspended=self.suspended,
                deletion=deletion,
                alive=frozenset(self.clusters),
            )
        )

    # --- the world ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Every cluster does what it was told, and every report is decided about, until nothing is new."""
        while True:
            news = [r for c in self.clusters.values() if (r := c.report()) != self.state.reports.get(c.name)]
            if not news:
                return
            for report in news:
                self.decide(Reported(report))

    def behave(self, name: str, how: Behaviour, *clusters: str) -> None:
        """What the content of a commit comes to; on every cluster unless some are named."""
        for cluster in clusters or tuple(self.clusters):
            self.clusters[cluster].behaviour[digest(name)] = how

    def reach(self, cluster: str, reachable: bool) -> None:
        self.clusters[cluster].reachable = reachable
        self.settle()

    def drift(self, cluster: str) -> None:
        """A repair on a cluster."""
        self.clusters[cluster].restarts += 1
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Exactly as the conductor does it: a decision when a clock runs out, none in between."""
        left = seconds
        while self.wake is not None and self.wake - self.elapsed <= left:
            pause = max(0.0, self.wake - self.elapsed)
            left -= pause
            self._tick(pause)
        self.elapsed += left
        self.wall += left

    def _tick(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += seconds
        self.decide(Ticked())
        self.settle()

    def crash(self) -> None:
        """The control plane starts again: what was stored is there, reports and running clocks are not."""
        body = msgspec.json.encode(msgspec.structs.replace(self.state, reports={}, listening=0.0))
        self.state = msgspec.json.decode(body, type=BundleState)
        self.elapsed = 0.0
        for name, cluster in self.clusters.items():
            cluster.restarts = 0
            stored = self.state.records.get(name)
            if stored is not None and cluster.assigned is not None:
                assert cluster.assigned.seq == stored.seq, "an assignment that is not in the records"
        self.decide(Ticked())

    def hear(self) -> None:
        """Lets the grace period for first reports end."""
        self.pass_time(GRACE)

    # --- looking -----------------------------------------------------------------------------------------------------

    def rollout(self, number: int | None = None) -> Rollout:
        known = {**self.ended, **{r.id: r for r in (self.state.active, self.state.waiting) if r is not None}}
        if number is None:
            return max(known.values(), key=lambda r: r.number)
        return known[f"shop-{number}"]

    def run(self, name: str, number: int | None = None) -> WaveRun:
        return next(run for run in self.rollout(number).waves if run.plan.name == name)

    def member(self, cluster: str, number: int | None = None) -> Member:
        members = (m for run in self.rollout(number).waves for m in run.members)
        return next(m for m in members if m.cluster == cluster)

    def states(self, number: int | None = None) -> dict[str, str]:
        """Cluster → state, with the reason if there is one."""
        return {
            m.cluster: str(m.state) + (f"({m.reason})" if m.reason else "")
            for run in self.rollout(number).waves
            for m in run.members
        }

    def holds(self) -> dict[str, str | None]:
        """Cluster → revision of what is applied there."""
        named = {release: rollout.release.revisions["apps"] for release, rollout in self._by_release().items()}
        return {c.name: named[c.applied.release] if c.applied else None for c in self.clusters.values()}

    def _by_release(self) -> dict[str, Rollout]:
        known = [*self.ended.values(), *(r for r in (self.state.active, self.state.waiting) if r is not None)]
        return {rollout.release.id: rollout for rollout in known}

    def started(self, purpose: str = "forward") -> list[str]:
        return [deploy.cluster for deploy in self.deploys if deploy.purpose == purpose]

    def told(self, kind: str, key: str = "to") -> list[object]:
        return [event.data.get(key) for event in self.events if event.type == kind]
