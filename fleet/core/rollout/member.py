"""One cluster's way through a wave: Applying → Verifying → Soaking → Updated, or Failed, or Errored (T6 to T8).

Pure over one `Member`; `wave` and `rollback` call `advance` until nothing changes any more.
"""

from __future__ import annotations

import msgspec

from fleet.core.rollout.evidence import Sight, complaint, concerns, sight
from fleet.model.cluster import Health, MemberReport
from fleet.model.fleetfile import HealthPolicy
from fleet.model.rollout import Member, MemberState

replace = msgspec.structs.replace

EPSILON = 1e-6
"""Seconds; sums of intervals miss a threshold by rounding."""

SUCCEEDED = (MemberState.UPDATED, MemberState.NOOP)
_VERIFIED_BY_TIME = (MemberState.VERIFYING, MemberState.SOAKING)
_APPLIED_BY_AGENT = (MemberState.APPLYING, MemberState.ERRORED)
_FLYING = (*_VERIFIED_BY_TIME, MemberState.APPLYING, MemberState.ROLLING_BACK)
OPEN = (*_FLYING, MemberState.ERRORED, MemberState.PENDING)
"""States in which a rollout will still do something about a cluster."""


def in_flight(member: Member) -> bool:
    """Whether it holds a slot: an Errored one does while it is retried (rollouts.md 3)."""
    return member.state in _FLYING or (member.state is MemberState.ERRORED and member.ended_at is None)


def given_up(member: Member) -> bool:
    """Errored for good: infrastructure, not the release."""
    return member.state is MemberState.ERRORED and member.ended_at is not None


def begin(member: Member, seq: int, previous: str | None, wall: float) -> Member:
    """A new attempt with its own fencing number; every clock starts again."""
    return replace(
        member,
        state=MemberState.APPLYING,
        reason=None,
        message="",
        attempts=member.attempts + 1,
        seq=seq,
        previous=member.previous or previous,
        started_at=wall,
        ended_at=None,
        applying=0.0,
        verifying=0.0,
        soaked=0.0,
        unwell=0.0,
        bake_lost=0.0,
        drift_restarts=0,
        outcome=None,
    )


def reset(member: Member) -> Member:
    """Back to Pending, for a retry; attempts and seq go on."""
    return replace(member, state=MemberState.PENDING, reason=None, message="", ended_at=None)


def skip(member: Member, reason: str, wall: float, message: str = "") -> Member:
    return replace(member, state=MemberState.SKIPPED, reason=reason, message=message, ended_at=wall)


def fail(member: Member, reason: str, message: str, wall: float) -> Member:
    return replace(member, state=MemberState.FAILED, reason=reason, message=message, ended_at=wall)


def advance(member: Member, report: MemberReport | None, policy: HealthPolicy, listening: float, wall: float) -> Member:
    """The next state of a cluster that holds a slot; the same object when nothing happens."""
    if member.state in _APPLIED_BY_AGENT and member.ended_at is None:
        return _applying(member, report, policy.progress_deadline, wall)
    if member.state in _VERIFIED_BY_TIME:
        return _verifying(member, report, policy, listening, wall)
    return member


def _applying(member: Member, report: MemberReport | None, deadline: float, wall: float) -> Member:
    told = concerns(report, member.seq, member.digest)
    if told is not None and told.phase == "applied":
        return replace(
            member,
            state=MemberState.VERIFYING,
            reason=None,
            message="",
            verifying=0.0,
            soaked=0.0,
            drift_restarts=told.drift_restarts,
            outcome=told.outcome,
        )
    if told is not None and told.phase == "failed":
        return fail(replace(member, outcome=told.outcome), "apply", complaint(told), wall)
    if member.applying >= deadline - EPSILON:
        return _give_up(member, report, deadline, wall)
    if told is not None and told.phase == "errored":
        message = complaint(told)
        if member.state is not MemberState.ERRORED or member.message != message:
            return replace(member, state=MemberState.ERRORED, reason="apply", message=message, outcome=told.outcome)
    return member


def _give_up(member: Member, report: MemberReport | None, deadline: float, wall: float) -> Member:
    """Not the release's fault as far as anybody can tell, so nothing is quarantined for it (lesson 7)."""
    if report is None or not report.reachable:
        reason, why = "unreachable", complaint(report) if report is not None else "no report from the cluster"
    elif member.state is MemberState.ERRORED:
        reason, why = "apply", member.message
    else:
        reason, why = "deadline", "the apply has not ended"
    message = f"not applied within {deadline:g} s: {why}"
    return replace(member, state=MemberState.ERRORED, reason=reason, message=message, ended_at=wall)


def _verifying(
    member: Member, report: MemberReport | None, policy: HealthPolicy, listening: float, wall: float
) -> Member:
    seen = sight(report, member.seq, member.digest, listening)
    if seen is Sight.UNSEEN:
        return member
    if report is not None and seen is Sight.HEALTHY:
        return _soaking(member, report, policy.stable_for, wall)
    told = concerns(report, member.seq, member.digest)
    if told is not None and told.phase == "failed":
        return fail(member, "apply", complaint(told), wall)
    if member.state is MemberState.SOAKING:
        return replace(member, state=MemberState.VERIFYING, soaked=0.0)
    if member.verifying >= policy.progress_deadline - EPSILON:
        return fail(member, fault(seen, report), late(report, policy.progress_deadline), wall)
    return member


def _soaking(member: Member, report: MemberReport, stable_for: float, wall: float) -> Member:
    if report.drift_restarts != member.drift_restarts:
        # Fewer than before: the agent is a new process and counts anew, which proves no repair.
        soaked = 0.0 if report.drift_restarts > member.drift_restarts else member.soaked
        return replace(member, soaked=soaked, drift_restarts=report.drift_restarts)
    if member.state is MemberState.VERIFYING:
        return replace(member, state=MemberState.SOAKING, soaked=0.0)
    if member.soaked >= stable_for - EPSILON:
        return replace(member, state=MemberState.UPDATED, reason=None, message="", ended_at=wall)
    return member


def fault(seen: Sight, report: MemberReport | None) -> str:
    """The word for why a cluster that was given the content did not get healthy."""
    if seen is Sight.LOST:
        return "lost"
    if report is not None and report.health in (Health.DEGRADED, Health.MISSING):
        return "health"
    return "deadline"


def late(report: MemberReport | None, deadline: float) -> str:
    return f"not healthy {deadline:g} s after the apply: {complaint(report)}"
