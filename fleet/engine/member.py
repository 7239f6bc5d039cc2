"""What the control plane remembers of one member cluster between and during connections, and what it tells of it.

Reports go to the conductor when they differ from the last one. Health counts only for the assignment that was applied,
and only while every kind of the bundle is observed; a cluster that is not reached is unknown, never as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from fleet.core import backoff
from fleet.engine.records import Records, Wanted
from fleet.model.cluster import (
    ApplyOutcome,
    Assignment,
    ClusterState,
    Health,
    Inventory,
    MemberReport,
    Sync,
)
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.fleetfile import Cluster
from fleet.model.objects import GroupKind, ObjectId

Phase = Literal["idle", "applying", "applied", "failed", "errored"]


class Wait(msgspec.Struct, frozen=True):
    """A deploy that cannot go on before one of its stages is Current; monotonic seconds."""

    stage: str
    since: float
    changed: int = 0
    """Objects that the passes so far have written."""


class Standing:
    """Where one bundle stands on this cluster."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.wanted: Wanted | None = None
        """None until the content has been loaded."""
        self.phase: Phase = "idle"
        self.outcome: ApplyOutcome | None = None
        self.message = ""
        self.fence = 0
        self.attempts = 0
        self.settled = False
        """Whether everything stale is gone, or kept on purpose."""
        self.landed = False
        """Whether it was applied as a whole once: a rollout does not wait for it any more."""
        self.wait: Wait | None = None
        """What the deploy waits for between its passes; the phase is `applying` then."""
        self.suspended = False
        """Whether fleet.yaml suspends the bundle: nothing is written for it."""
        self.repairs = 0
        """Repairs of drift since the apply."""
        self.reported: MemberReport | None = None
        self.blocked: tuple[str, ...] = ()
        """Why the last prune left something, as it was told."""

    @property
    def shown(self) -> Phase:
        """The phase as it counts for a rollout: a removal is applied once everything is gone."""
        removing = self.assignment.digest is None and self.phase == "applied" and not self.settled
        return "applying" if removing else self.phase

    def assign(self, assignment: Assignment) -> None:
        """A new assignment: nothing that was known of the old one counts."""
        if (assignment.seq, assignment.digest) != (self.assignment.seq, self.assignment.digest):
            self.wanted, self.phase, self.outcome, self.message = None, "idle", None, ""
            self.fence, self.attempts, self.settled, self.repairs, self.blocked = 0, 0, False, 0, ()
            self.landed, self.wait = False, None
        self.assignment = assignment


class RepairMemory:
    """What is remembered of drift beyond a session, by object."""

    def __init__(self) -> None:
        self.open: dict[ObjectId, Drift] = {}
        """Records of drift that are not over."""
        self.heats: dict[ObjectId, backoff.Heat] = {}
        self.contested: set[ObjectId] = set()
        """Objects whose fight has been told."""
        self.reowned: dict[ObjectId, float] = {}
        """When an object was last applied only to own its fields again; monotonic seconds."""


class Member:
    """The memory of one cluster."""

    def __init__(
        self,
        spec: Cluster,
        report: Callable[[MemberReport], None],
        emit: Callable[[Event], None],
        wall: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.records = Records()
        self.standings: dict[str, Standing] = {}
        self.inventories: dict[str, Inventory] = {}
        self.repairs = RepairMemory()
        self.state = ClusterState.CONNECTING
        self.reason: str | None = None
        self.observed_at: float | None = None
        """Wall time of the last sign of life, seconds since the epoch."""
        self.kubernetes: str | None = None
        self.unobserved: Callable[[frozenset[GroupKind]], str | None] = _not_connected
        """Why not all of these kinds are watched now; replaced while a session is connected."""
        self._report = report
        self._emit = emit
        self._wall = wall

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def reachable(self) -> bool:
        return self.state is ClusterState.READY

    def may_write(self, standing: Standing) -> bool:
        """Whether anything may be changed for a bundle: not on a paused cluster, and not while it is suspended."""
        return not self.spec.paused and not standing.suspended

    def enter(self, state: ClusterState, reason: str | None = None) -> None:
        """The cluster is in another state of connection; every bundle is reported anew."""
        before = self.state
        self.reason = reason
        if before is state:
            return
        self.state = state
        if state is ClusterState.READY:
            self.say("cluster.connected", kubernetes=self.kubernetes)
        elif before is ClusterState.READY:
            self.say("cluster.lost", state=state.value, reason=reason)
        # A report without a bundle says only whether the cluster is there, also before anything is assigned to it.
        self._report(MemberReport(cluster=self.name, bundle="", reachable=self.reachable))
        self.report_all()

    def disconnected(self) -> None:
        """The session is over: nothing is observed any more."""
        self.unobserved = _not_connected

    def health(self, standing: Standing) -> tuple[Health, str]:
        """The health of a bundle as evidence for its present assignment."""
        if not self.reachable:
            return Health.UNKNOWN, self.reason or "the cluster is not reached"
        if standing.wanted is None or standing.phase in ("idle", "applying"):
            return Health.UNKNOWN, "not applied yet"
        if not standing.wanted.by_id:
            return Health.HEALTHY, ""
        reason = self.unobserved(standing.wanted.kinds)
        if reason is not None:
            return Health.UNKNOWN, reason
        return self.records.health(standing.assignment.bundle)

    def sync(self, standing: Standing) -> Sync:
        if not self.reachable:
            return Sync.UNKNOWN
        if standing.shown in ("idle", "applying"):
            return Sync.APPLYING
        drifted = self.records.drifted(standing.assignment.bundle)
        return Sync.SYNCED if standing.phase == "applied" and not drifted else Sync.OUT_OF_SYNC

    def report(self, bundle: str) -> None:
        """Tells the conductor where a bundle stands, if that is news.

        Before the first connection succeeded or failed nothing is known, which is not the same as unreachable.
        """
        standing = self.standings.get(bundle)
        if standing is None or self.state is ClusterState.CONNECTING:
            return
        health, reason = self.health(standing)
        news = MemberReport(
            cluster=self.name,
            bundle=bundle,
            reachable=self.reachable,
            seq=standing.assignment.seq,
            digest=standing.assignment.digest,
            phase=standing.shown,
            outcome=standing.outcome,
            health=health,
            health_reason=reason,
            drift_restarts=standing.repairs,
            message=standing.message or "; ".join(standing.blocked if standing.shown == "applying" else ()),
            fence=standing.fence,
        )
        if news == standing.reported:
            return
        before = standing.reported.health if standing.reported is not None else Health.UNKNOWN
        standing.reported = news
        if before is not health:
            self.say("health.changed", bundle, **{"from": before.value, "to": health.value, "reason": reason})
        self._report(news)

    def report_all(self) -> None:
        for bundle in self.standings:
            self.report(bundle)

    def say(self, kind: str, bundle: str | None = None, **data: object) -> None:
        """An entry in the event log about this cluster."""
        standing = self.standings.get(bundle) if bundle is not None else None
        assignment = standing.assignment if standing is not None else None
        self._emit(
            Event(
                type=kind,
                time=self._wall(),
                bundle=bundle,
                rollout=assignment.rollout if assignment is not None else None,
                wave=assignment.wave if assignment is not None else None,
                cluster=self.name,
                data=msgspec.to_builtins(data),
            )
        )


def _not_connected(kinds: frozenset[GroupKind]) -> str | None:
    return "the cluster is not connected"
