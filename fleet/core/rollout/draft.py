"""The state of one bundle while one decision changes it.

`step` makes a draft of the frozen state, the other modules of this package change the draft, and `finish` turns it into
the frozen result. A draft never leaves `step`, so callers see a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fleet.model.cluster import Assignment, MemberReport, Purpose
from fleet.model.events import Event
from fleet.model.rollout import (
    BundleState,
    ClusterRecord,
    Deploy,
    HistoryEntry,
    Member,
    Now,
    Rollout,
    RolloutState,
    Step,
    WaveRun,
    WaveState,
)

replace = msgspec.structs.replace

KEPT_GOOD = 10
"""Earlier good releases remembered per cluster."""


class Draft:
    """Mutable; one decision long."""

    def __init__(self, state: BundleState, now: Now) -> None:
        self._base = state
        self.now = now
        self.bundle = state.bundle
        self.active = state.active
        self.waiting = state.waiting
        self.previous = state.previous
        self.head = state.head
        self.next_number = state.next_number
        self.reports: Mapping[str, MemberReport] = state.reports
        self.records: dict[str, ClusterRecord] = state.records
        self.quarantined = state.quarantined
        self.condemned = state.condemned
        self.proven = state.proven
        self.joining = state.joining
        self.supersedes = state.supersedes
        self.clusters = state.clusters
        self.paused_clusters = state.paused_clusters
        self.suspended = state.suspended
        self.deletion = state.deletion
        self.fleet = state.fleet
        self.listening = state.listening
        self.warning: str | None = None
        self.moves = 0
        """Grows with every change that must be stored."""
        self.turns = 0
        """Grows with every transition of a rollout or a wave, after which others may be due."""
        self._touched: set[str] = set()
        self._deploys: list[Deploy] = []
        self._events: list[Event] = []
        self._ended: dict[str, Rollout] = {}
        self._withdrawn: list[str] = []

    # --- telling -----------------------------------------------------------------------------------------------------

    def say(
        self,
        kind: str,
        *,
        rollout: str | None = None,
        wave: str | None = None,
        cluster: str | None = None,
        actor: str = "system",
        **data: Any,
    ) -> None:
        self.moves += 1
        if rollout is not None:
            self._touched.add(rollout)
        self._events.append(
            Event(
                type=kind,
                time=self.now.wall,
                bundle=self.bundle,
                rollout=rollout,
                wave=wave,
                cluster=cluster,
                actor=actor,
                data=data,
            )
        )

    def touch(self, rollout: Rollout) -> None:
        """Something of the rollout changed that has no event of its own."""
        self.moves += 1
        self._touched.add(rollout.id)

    # --- rollouts ----------------------------------------------------------------------------------------------------

    def move(self, rollout: Rollout, to: RolloutState, reason: str = "", actor: str = "system") -> Rollout:
        """Changes the state of a rollout and tells it; the caller puts the result where it belongs."""
        self.turns += 1
        data = {"from": rollout.state, "to": to} | ({"reason": reason} if reason else {})
        self.say("rollout.state", rollout=rollout.id, actor=actor, release=rollout.release.id, **data)
        return replace(rollout, state=to, reason=reason or rollout.reason)

    def move_wave(self, index: int, to: WaveState, reason: str = "", **changes: Any) -> WaveRun:
        """Changes the state of a wave of the active rollout, with other fields of it."""
        self.turns += 1
        rollout = self.running
        wave = rollout.waves[index]
        data = {"from": wave.state, "to": to} | ({"reason": reason} if reason else {})
        self.say("wave.state", rollout=rollout.id, wave=wave.plan.name, **data)
        if to in (WaveState.PASSED, WaveState.SKIPPED, WaveState.FAILED):
            changes["ended_at"] = self.now.wall
        return self.put_wave(index, replace(wave, state=to, **changes))

    def put_wave(self, index: int, wave: WaveRun) -> WaveRun:
        rollout = self.running
        waves = (*rollout.waves[:index], wave, *rollout.waves[index + 1 :])
        self.active = replace(rollout, waves=waves)
        return wave

    def say_member(self, wave: WaveRun, before: Member, after: Member) -> None:
        """Tells that a cluster of the active rollout changed its state."""
        data: dict[str, Any] = {"from": before.state, "to": after.state, "seq": after.seq}
        if after.reason:
            data["reason"] = after.reason
        if after.message:
            data["message"] = after.message
        self.say("cluster.state", rollout=self.running.id, wave=wave.plan.name, cluster=after.cluster, **data)

    @property
    def running(self) -> Rollout:
        """The active rollout, where the caller knows that there is one."""
        if self.active is None:
            raise AssertionError(f"{self.bundle}: no rollout holds the lock")
        return self.active

    @property
    def held(self) -> bool:
        """Whether people keep the active rollout from starting anything."""
        return self.suspended or (self.active is not None and self.active.paused)

    def store_ended(self, rollout: Rollout) -> None:
        self.moves += 1
        self.turns += 1
        self._touched.add(rollout.id)
        self._ended[rollout.id] = rollout

    def belongs(self, cluster: str) -> bool:
        """Whether the bundle goes to a cluster by the fleet.yaml in force, as far as that was told."""
        return self.clusters is None or cluster in self.clusters

    # --- clusters ----------------------------------------------------------------------------------------------------

    def record(self, cluster: str) -> ClusterRecord:
        return self.records.get(cluster) or ClusterRecord()

    def put_record(self, cluster: str, record: ClusterRecord) -> None:
        if self.records is self._base.records:
            self.records = dict(self.records)
        self.records[cluster] = record
        self.moves += 1

    def deploy(self, cluster: str, entry: HistoryEntry, purpose: Purpose, rollout: str, wave: str | None) -> int:
        """Intends to put `entry` on a cluster (I11: durable with this very decision); returns the new seq."""
        record = self.record(cluster)
        report = self.reports.get(cluster)
        # The cluster may know a higher number than we do: whether we may go beyond it is decided in `fence`.
        others = max(record.fence, 0 if report is None else report.fence)
        seen = max(record.seq, others, 0 if report is None else report.seq)
        seq, claimed = seen + 1, record.claimed or others >= max(1, record.seq)
        record = replace(record, seq=seq, recorded=entry, claimed=claimed, fence=0)
        if purpose != "catchup":
            # What was owed is older than what the cluster gets now.
            record = replace(record, owed=None, debt=None)
        self.put_record(cluster, record)
        self._withdrawn = [name for name in self._withdrawn if name != cluster]
        self._deploys.append(
            Deploy(
                cluster=cluster,
                release=entry.release,
                digest=entry.digest,
                seq=seq,
                purpose=purpose,
                rollout=rollout,
                wave=wave,
                options=entry.options,
            )
        )
        self.say(
            "apply.started",
            rollout=rollout,
            wave=wave,
            cluster=cluster,
            purpose=purpose,
            seq=seq,
            release=entry.release,
            digest=entry.digest,
        )
        return seq

    def withdraw(self, cluster: str) -> None:
        """Leaves what is on a cluster to itself; only its fence is remembered, and whether it is there."""
        self.put_record(cluster, blank(self.record(cluster)))
        known = self.reports.get(cluster)
        self.reports = {c: report for c, report in self.reports.items() if c != cluster}
        if known is not None and self.belongs(cluster):
            self.reports = {**self.reports, cluster: unassigned(known)}
        self._withdrawn.append(cluster)

    def mark_good(self, cluster: str, entry: HistoryEntry, *, returned: bool = False) -> None:
        """`entry` passed its wave's gates on a cluster, or was returned to and found healthy; nothing is owed then.

        What was good after an entry that is `returned` to is forgotten: a person went back beyond it.
        """
        record = self.record(cluster)
        goods = tuple(e for e in (record.last_good, *record.earlier) if e is not None)
        at = next((i for i, e in enumerate(goods) if e.content == entry.content), None)
        if returned and at is not None:
            goods = goods[at:]
        before = tuple(e for e in goods if e.content != entry.content)[:KEPT_GOOD]
        self.put_record(cluster, replace(record, last_good=entry, earlier=before, owed=None, debt=None))

    def owe(self, cluster: str, entry: HistoryEntry | None) -> None:
        """What a cluster must still get; None: nothing any more."""
        owed = None if entry is None else entry.release
        self.put_record(cluster, replace(self.record(cluster), owed=owed, debt=entry))

    # --- the result --------------------------------------------------------------------------------------------------

    def finish(self, wake_after: float | None) -> Step:
        ended = tuple(self._versioned(rollout) for rollout in self._ended.values())
        previous = next((r for r in ended if self.previous is not None and r.id == self.previous.id), self.previous)
        state = replace(
            self._base,
            active=None if self.active is None else self._versioned(self.active),
            waiting=None if self.waiting is None else self._versioned(self.waiting),
            previous=previous,
            head=self.head,
            next_number=self.next_number,
            records=self.records,
            quarantined=self.quarantined,
            condemned=self.condemned,
            proven=self.proven,
            reports=self.reports,
            joining=self.joining,
            supersedes=self.supersedes,
            clusters=self.clusters,
            paused_clusters=self.paused_clusters,
            suspended=self.suspended,
            deletion=self.deletion,
            fleet=self.fleet,
            listening=self.listening,
        )
        return Step(
            state=state,
            deploys=tuple(self._deploys),
            events=tuple(self._events),
            ended=ended,
            wake_after=wake_after,
            withdrawn=tuple(self._withdrawn),
            warning=self.warning,
            changed=self.moves > 0,
        )

    def _versioned(self, rollout: Rollout) -> Rollout:
        return replace(rollout, version=rollout.version + 1) if rollout.id in self._touched else rollout


def blank(record: ClusterRecord) -> ClusterRecord:
    """Of a cluster that holds nothing of the bundle: only its fence."""
    return ClusterRecord(seq=record.seq, claimed=record.claimed, fence=record.fence)


def unassigned(report: MemberReport) -> MemberReport:
    """What a report still says of a cluster that is assigned nothing: whether it is there."""
    return MemberReport(cluster=report.cluster, bundle=report.bundle, reachable=report.reachable)


def assignment(bundle: str, deploy: Deploy) -> Assignment:
    """The durable row of an intent."""
    return Assignment(
        cluster=deploy.cluster,
        bundle=bundle,
        release=None if deploy.digest is None else deploy.release,
        digest=deploy.digest,
        seq=deploy.seq,
        rollout=deploy.rollout,
        wave=deploy.wave,
        purpose=deploy.purpose,
        options=deploy.options,
    )
