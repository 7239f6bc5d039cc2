"""A rollout with its waves, gates and clusters."""

from __future__ import annotations

from typing import Literal

import msgspec

from fleet.engine.views.timestamps import rfc3339
from fleet.model.cluster import ApplyOutcome
from fleet.model.rollout import (
    BlockedBy,
    GateRun,
    GateState,
    Member,
    MemberState,
    PlannedWave,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)


class BlockedView(msgspec.Struct, frozen=True, rename="camel"):
    kind: Literal["gate", "window", "budget", "unreachable", "paused", "dependency", "rollout"]
    name: str
    since: str
    who: tuple[str, ...]
    next: str
    """The command to type; empty when nothing but time or the cluster can help."""


class ObjectError(msgspec.Struct, frozen=True, rename="camel"):
    object: str
    error: str


class MemberObjects(msgspec.Struct, frozen=True, rename="camel"):
    total: int
    applied: int
    pruned: int
    failed: tuple[ObjectError, ...]


class MemberView(msgspec.Struct, frozen=True, rename="camel"):
    cluster: str
    state: MemberState
    reason: str | None
    message: str | None
    attempts: int
    seq: int
    started_at: str | None
    ended_at: str | None
    objects: MemberObjects | None


class GateView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    when: Literal["before", "during", "after"]
    state: GateState
    by: str | None
    at: str | None
    detail: str | None


class WaveView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    state: WaveState
    started_at: str | None
    ended_at: str | None
    bake_remaining_seconds: float
    """Observed-healthy seconds that the wave still has to bake."""
    gates: tuple[GateView, ...]
    clusters: tuple[MemberView, ...]


class RolloutView(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    bundle: str
    release: str
    revisions: dict[str, str]
    author: str
    message: str
    state: RolloutState
    reason: str | None
    blocked_by: BlockedView | None
    paused: bool
    actor: str
    created_at: str
    ended_at: str | None
    trace_id: str
    version: int
    successor: str | None
    waves: tuple[WaveView, ...]


def rollout_view(rollout: Rollout) -> RolloutView:
    return RolloutView(
        id=rollout.id,
        bundle=rollout.bundle,
        release=rollout.release.id,
        revisions=dict(rollout.release.revisions),
        author=rollout.release.author,
        message=rollout.release.message,
        state=rollout.state,
        reason=rollout.reason or None,
        blocked_by=None if rollout.blocked_by is None else blocked_view(rollout.blocked_by),
        paused=rollout.paused,
        actor=rollout.actor,
        created_at=rfc3339(rollout.created_at),
        ended_at=rfc3339(rollout.ended_at),
        trace_id=rollout.trace_id,
        version=rollout.version,
        successor=rollout.successor,
        waves=tuple(_wave(run) for run in wave_runs(rollout)),
    )


def blocked_view(blocked: BlockedBy) -> BlockedView:
    return BlockedView(blocked.kind, blocked.name, rfc3339(blocked.since), blocked.who, blocked.next)


def wave_runs(rollout: Rollout) -> tuple[WaveRun, ...]:
    """Every wave of the plan with its members, also those that have not begun and so froze no membership yet."""
    begun = {run.plan.name: run for run in rollout.waves}
    waves = tuple(begun.get(wave.name) or WaveRun(plan=wave) for wave in rollout.plan.waves)
    return tuple(run if run.members else _foreseen(run, run.plan, rollout) for run in waves)


def _foreseen(run: WaveRun, plan: PlannedWave, rollout: Rollout) -> WaveRun:
    gates = run.gates or tuple(GateRun(gate=gate) for gate in plan.gates_before)
    digests = rollout.release.digests
    members = tuple(Member(cluster=name, digest=digests.get(name, "")) for name in plan.clusters)
    return msgspec.structs.replace(run, gates=gates, members=members)


def _wave(run: WaveRun) -> WaveView:
    over = run.state in (WaveState.PASSED, WaveState.SKIPPED, WaveState.FAILED, WaveState.VERIFYING)
    return WaveView(
        name=run.plan.name,
        state=run.state,
        started_at=rfc3339(run.started_at),
        ended_at=rfc3339(run.ended_at),
        bake_remaining_seconds=0.0 if over else round(max(0.0, run.plan.bake - run.baked), 3),
        gates=tuple(_gate(gate) for gate in run.gates),
        clusters=tuple(_member(member) for member in run.members),
    )


def _gate(run: GateRun) -> GateView:
    return GateView(
        name=run.gate.name,
        when=run.when,
        state=run.state,
        by=", ".join(dict.fromkeys(answer.by for answer in run.answers)) or None,
        at=rfc3339(run.at if run.at is not None or not run.answers else run.answers[-1].at),
        detail=run.detail or None,
    )


def _member(member: Member) -> MemberView:
    return MemberView(
        cluster=member.cluster,
        state=member.state,
        reason=member.reason,
        message=member.message or None,
        attempts=member.attempts,
        seq=member.seq,
        started_at=rfc3339(member.started_at),
        ended_at=rfc3339(member.ended_at),
        objects=None if member.outcome is None else _objects(member.outcome),
    )


def _objects(outcome: ApplyOutcome) -> MemberObjects:
    failed = tuple(ObjectError(failure.object, failure.error) for failure in outcome.failed)
    return MemberObjects(outcome.total, outcome.applied, outcome.pruned, failed)
