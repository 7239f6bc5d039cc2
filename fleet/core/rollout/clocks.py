"""The accumulators of a bundle: what an interval adds to each, and when the next of them runs out.

An interval belongs to what was known while it lasted, so `advance` runs before the event of a decision is looked at.
Only seconds of this process's monotonic clock are added: neither a restart nor a jump of the wall clock shortens or
lengthens anything (scenario 45).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fleet.core.rollout import gate, member, rollback, wave
from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import GRACE, Sight, sight
from fleet.model.rollout import GateState, Member, MemberState, Rollout, WaveRun, WaveState

replace = msgspec.structs.replace

_APPLYING = (MemberState.APPLYING, MemberState.ERRORED, MemberState.ROLLING_BACK)


def advance(draft: Draft) -> None:
    """Adds the interval since the previous decision to every clock that ran."""
    elapsed = draft.now.elapsed
    if elapsed <= 0:
        return
    rollout = draft.active
    if rollout is not None:
        if rollout.blocked_by is not None and rollout.blocked_by.kind == "unreachable":
            rollout = replace(rollout, stuck=rollout.stuck + elapsed)
        draft.active = rollout
        index = wave.current(rollout)
        if index is not None:
            draft.put_wave(index, _advanced(draft, rollout.waves[index], elapsed))
    draft.listening = min(GRACE, draft.listening + elapsed)


def _advanced(draft: Draft, run: WaveRun, elapsed: float) -> WaveRun:
    if run.state is WaveState.GATING:
        gates = tuple(
            replace(asked, waited=asked.waited + elapsed) if asked.state is GateState.WAITING else asked
            for asked in run.gates
        )
        return replace(run, gates=gates)
    if run.state in (WaveState.BAKING, WaveState.VERIFYING):
        return _baked(draft, run, elapsed)
    members: list[Member] | None = None
    for i, one in enumerate(run.members):
        if member.in_flight(one):
            members = list(run.members) if members is None else members
            members[i] = _flown(draft, one, elapsed)
    return run if members is None else replace(run, members=tuple(members))


def _flown(draft: Draft, one: Member, elapsed: float) -> Member:
    report = draft.reports.get(one.cluster)
    if one.state in _APPLYING:
        unheard = report is None and draft.listening < GRACE
        return one if unheard else replace(one, applying=one.applying + elapsed)
    seen = sight(report, one.seq, one.digest, draft.listening)
    if seen is Sight.UNSEEN:
        return one
    soaked = one.soaked + elapsed if seen is Sight.HEALTHY and one.state is MemberState.SOAKING else one.soaked
    return replace(one, verifying=one.verifying + elapsed, soaked=soaked)


def _baked(draft: Draft, run: WaveRun, elapsed: float) -> WaveRun:
    """The wave's clock always runs; a cluster that is not seen healthy loses the interval (I15)."""
    members: list[Member] | None = None
    for i, one in enumerate(run.members):
        if one.state not in member.SUCCEEDED:
            continue
        seen = sight(draft.reports.get(one.cluster), one.seq, one.digest, draft.listening)
        if seen is Sight.HEALTHY:
            continue
        counts = seen is not Sight.UNSEEN and one.cluster not in draft.paused_clusters
        unwell = one.unwell + elapsed if counts else one.unwell
        members = list(run.members) if members is None else members
        members[i] = replace(one, bake_lost=one.bake_lost + elapsed, unwell=unwell)
    clock = run.bake_clock + elapsed
    run = replace(run, bake_clock=clock, members=run.members if members is None else tuple(members))
    return replace(run, baked=wave.baked(run, draft.paused_clusters))


# --- when to look again ----------------------------------------------------------------------------------------------


def wake_after(draft: Draft) -> float | None:
    """Seconds until a clock runs out; None: only an event can change anything."""
    rollout = draft.active
    if rollout is None:
        return None
    index = wave.current(rollout)
    soonest = None if index is None else min(_due(draft, rollout, rollout.waves[index]), default=None)
    return None if soonest is None else max(0.0, soonest)


def _due(draft: Draft, rollout: Rollout, run: WaveRun) -> Iterator[float]:
    if run.state is WaveState.GATING:
        yield from (asked.gate.timeout - asked.waited for asked in gate.waiting(run))
        return
    if rollout.blocked_by is not None and rollout.blocked_by.kind == "unreachable":
        yield wave.BLOCKED_TIMEOUT - rollout.stuck
    if draft.listening < GRACE and any(_silent(draft, one) for one in run.members):
        yield GRACE - draft.listening
    if run.state in (WaveState.BAKING, WaveState.VERIFYING):
        yield from _baking(draft, run)
        return
    yield from (_lands(draft, run, one) for one in run.members if member.in_flight(one))


def _silent(draft: Draft, one: Member) -> bool:
    """Whether the end of the grace period would change what is known of a cluster."""
    if one.state is MemberState.PENDING or one.state in _APPLYING:
        return one.cluster not in draft.reports
    if one.state in member.OPEN or one.state in member.SUCCEEDED:
        return sight(draft.reports.get(one.cluster), one.seq, one.digest, draft.listening) is Sight.UNSEEN
    return False


def _lands(draft: Draft, run: WaveRun, one: Member) -> float:
    """Seconds until the clock that runs for a cluster in flight runs out."""
    report, policy = draft.reports.get(one.cluster), run.plan.health
    if one.state in _APPLYING:
        deadline = rollback.DEADLINE if one.state is MemberState.ROLLING_BACK else policy.progress_deadline
        # It stands still while the cluster is unheard of; the end of the grace period starts it.
        unheard = report is None and draft.listening < GRACE
        return deadline - one.applying + (GRACE - draft.listening if unheard else 0.0)
    seen = sight(report, one.seq, one.digest, draft.listening)
    if seen is Sight.UNSEEN:
        # Both clocks stand still, the one of a cluster that soaks perhaps beyond the deadline.
        return GRACE - draft.listening
    return policy.stable_for - one.soaked if seen is Sight.HEALTHY else policy.progress_deadline - one.verifying


def _baking(draft: Draft, run: WaveRun) -> Iterator[float]:
    """All healthy: the end of the bake. Otherwise: when the first that is unwell counts as failed."""
    counted = [m for m in run.members if m.state in member.SUCCEEDED and m.cluster not in draft.paused_clusters]
    unwell = False
    for one in counted:
        seen = sight(draft.reports.get(one.cluster), one.seq, one.digest, draft.listening)
        if seen is not Sight.HEALTHY:
            unwell = True
            if seen is not Sight.UNSEEN:
                yield run.plan.health.progress_deadline - one.unwell
    if counted and not unwell:
        yield run.plan.bake - run.baked
