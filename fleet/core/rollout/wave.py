"""A wave of the active rollout: membership, gates, starts, bake, verdict (T3 to T5, T7, T8, T10 to T12).

`progress` moves the current wave by one transition, if one is due; `step` calls it until nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fleet.core.rollout import fence, gate, member, quarantine, undo
from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import GRACE, Sight, concerns, reachable, sight
from fleet.model.cluster import ApplyOutcome
from fleet.model.rollout import (
    GateRun,
    GateState,
    HistoryEntry,
    Member,
    MemberState,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)

replace = msgspec.structs.replace

UNREACHABLE_MAX = 1
"""Unreachable clusters that a wave skips at most (the default of `unreachable.max`)."""
BLOCKED_TIMEOUT = 3600.0
"""Seconds in Blocked(unreachable) before the rollout halts (the default of `blockedTimeout`)."""
FAILED_OBJECTS = 20
"""Objects that an event names at most."""
NAMED = 3
"""Clusters that a reason names before it counts the rest."""

_ENDED = (WaveState.PASSED, WaveState.SKIPPED)
PROTECTING = (WaveState.ROLLING, WaveState.BAKING, WaveState.VERIFYING, WaveState.PASSED, WaveState.FAILED)
"""States of a protected wave in which it has started, so that a newer release queues."""


def current(rollout: Rollout) -> int | None:
    """Index of the wave that is under way or comes next; None: all have ended well."""
    return next((i for i, wave in enumerate(rollout.waves) if wave.state not in _ENDED), None)


def entry(draft: Draft, rollout: Rollout, cluster: str, digest: str) -> HistoryEntry:
    release = rollout.release
    return HistoryEntry(
        release=release.id,
        content=release.content,
        digest=digest,
        at=draft.now.wall,
        options=release.options,
        number=rollout.number,
    )


def progress(draft: Draft) -> None:
    rollout = draft.running
    index = current(rollout)
    if index is None:
        return
    match rollout.waves[index].state:
        case WaveState.PENDING:
            _freeze(draft, index)
        case WaveState.GATING:
            _gate(draft, index)
        case WaveState.ROLLING:
            _roll(draft, index)
        case WaveState.BAKING | WaveState.VERIFYING:
            _bake(draft, index)
        case _:
            pass


# --- starting --------------------------------------------------------------------------------------------------------


def _freeze(draft: Draft, index: int) -> None:
    """T3. Clusters that join, leave or are relabelled later change nothing in the list (lesson 3)."""
    rollout = draft.running
    plan, digests = rollout.waves[index].plan, rollout.release.digests
    members = tuple(
        Member(cluster=cluster, digest=digests[cluster])
        for cluster in plan.clusters
        if cluster in digests and draft.belongs(cluster)
    )
    draft.move_wave(index, WaveState.GATING, members=members, started_at=draft.now.wall)
    gate.ask(draft, index, tuple(GateRun(gate=asked) for asked in plan.gates_before))
    if not members:
        fail(draft, index, f"wave {plan.name} has no cluster left", attributable=False)


def _gate(draft: Draft, index: int) -> None:
    """T4, and what happens to a gate that nobody answered or somebody rejected."""
    rollout = draft.running
    wave = rollout.waves[index]
    rejected = next((run for run in wave.gates if run.state is GateState.REJECTED), None)
    if rejected is not None:
        given = rejected.answers[-1]
        words = f": {given.comment}" if given.comment else ""
        fail(draft, index, f"gate {rejected.gate.name} was rejected by {given.by}{words}", attributable=False)
        return
    late = gate.overdue(wave)
    if late is not None:
        detail = f"no answer within {late.gate.timeout:g} s"
        gate.put(draft, index, late, replace(late, state=GateState.EXPIRED, at=draft.now.wall, detail=detail))
        expire(draft, index, f"gate {late.gate.name} had {detail}")
        return
    if all(run.state is GateState.PASSED for run in wave.gates) and not draft.held:
        draft.move_wave(index, WaveState.ROLLING)


def expire(draft: Draft, index: int, reason: str) -> None:
    """Nothing of the wave was started, so there is nothing to drain."""
    draft.move_wave(index, WaveState.FAILED, reason)
    draft.active = draft.move(draft.running, RolloutState.EXPIRED, reason)


# --- rolling ---------------------------------------------------------------------------------------------------------


def _roll(draft: Draft, index: int) -> None:
    observe(draft, index)
    if _broken(draft, index):
        return
    run = draft.running.waves[index]
    if draft.running.stuck >= BLOCKED_TIMEOUT - member.EPSILON:
        names = [m for m in run.members if m.state is MemberState.PENDING]
        why = f"unreachable for {BLOCKED_TIMEOUT:g} s: {_listed(m.cluster for m in names)}"
        fail(draft, index, f"wave {run.plan.name}: {why}", attributable=False)
        return
    if not draft.held:
        _start(draft, index)
    if not _broken(draft, index):
        _close(draft, index)


def observe(draft: Draft, index: int) -> None:
    """Moves every cluster that holds a slot as far as the reports prove."""
    wave = draft.running.waves[index]
    members = list(wave.members)
    for i, one in enumerate(members):
        if member.in_flight(one):
            seen = follow(draft, wave, one)
            members[i] = fence.settle(draft, wave, seen, "forward")
            if members[i].state is not seen.state:
                tell(draft, wave, seen, members[i])
            if member.given_up(members[i]):
                undo.leave(draft, wave, one)
    draft.put_wave(index, replace(wave, members=tuple(members)))


def follow(draft: Draft, wave: WaveRun, one: Member) -> Member:
    report, policy, listening, wall = draft.reports.get(one.cluster), wave.plan.health, draft.listening, draft.now.wall
    while True:
        after = member.advance(one, report, policy, listening, wall)
        if after is one:
            return one
        if after.state is not one.state:
            tell(draft, wave, one, after)
        one = after


def tell(draft: Draft, wave: WaveRun, before: Member, after: Member) -> None:
    """The events of one transition of one cluster."""
    applied = after.state in (MemberState.VERIFYING, MemberState.FAILED, MemberState.ERRORED)
    if before.state in (MemberState.APPLYING, MemberState.ERRORED) and applied:
        outcome = after.outcome
        draft.say(
            "apply.finished",
            rollout=draft.running.id,
            wave=wave.plan.name,
            cluster=after.cluster,
            seq=after.seq,
            attempt=after.attempts,
            result="applied" if after.state is MemberState.VERIFYING else after.state.lower(),
            objects=None if outcome is None else _counted(outcome),
        )
    draft.say_member(wave, before, after)


def _counted(outcome: ApplyOutcome) -> dict[str, Any]:
    """Plain values, for the event log."""
    shown = replace(outcome, failed=outcome.failed[:FAILED_OBJECTS])
    return dict(msgspec.to_builtins(shown))


def concurrency(limit: int | str, counted: int) -> int:
    """Percentages are of the frozen membership, rounded down, at least 1 (rollouts.md 2)."""
    if isinstance(limit, str):
        return max(1, counted * int(limit.rstrip("%")) // 100)
    return limit


def _start(draft: Draft, index: int) -> None:
    """T5, in the order of the plan, as far as there are slots."""
    rollout = draft.running
    wave = rollout.waves[index]
    members = list(wave.members)
    paused = draft.paused_clusters
    counted = sum(m.reason != "paused" for m in members)
    slots = concurrency(wave.plan.max_concurrency, counted) - sum(member.in_flight(m) for m in members)
    skippable = UNREACHABLE_MAX - sum(m.reason == "unreachable" and m.state is MemberState.SKIPPED for m in members)
    # A wave that consists of paused clusters alone waits for people; skipping them all would prove nothing and halt.
    may_pass_over = any(m.cluster not in paused and m.state is not MemberState.SKIPPED for m in members)
    for i, one in enumerate(members):
        if slots <= 0:
            break
        if one.state is not MemberState.PENDING:
            continue
        there = reachable(draft.reports.get(one.cluster), draft.listening)
        if one.cluster in paused:
            after = member.skip(one, "paused", draft.now.wall) if may_pass_over else one
        elif there is None:
            after = one
        elif not there:
            after = member.skip(one, "unreachable", draft.now.wall) if skippable > 0 else one
            skippable -= 1
        elif draft.record(one.cluster).fence and one.attempts == 0:
            after = fence.taken(draft, one)
        else:
            after = _already(draft, one) or _apply(draft, wave, one)
            slots -= after.state is MemberState.APPLYING
        if after is not one:
            members[i] = after
            draft.say_member(wave, one, after)
    draft.put_wave(index, replace(wave, members=tuple(members)))


def _already(draft: Draft, one: Member) -> Member | None:
    """NoOp: the cluster was given this very content before, and is seen healthy with it now."""
    record, options = draft.record(one.cluster), draft.running.release.options
    recorded = record.recorded
    if recorded is None or recorded.digest != one.digest or recorded.options != options:
        return None
    report = draft.reports.get(one.cluster)
    if report is None or sight(report, record.seq, one.digest, draft.listening) is not Sight.HEALTHY:
        return None
    wall = draft.now.wall
    return replace(
        one,
        state=MemberState.NOOP,
        seq=record.seq,
        previous=recorded.release,
        drift_restarts=report.drift_restarts,
        ended_at=wall,
    )


def _apply(draft: Draft, wave: WaveRun, one: Member) -> Member:
    rollout = draft.running
    recorded = draft.record(one.cluster).recorded
    one = undo.remember(draft, one)
    intent = entry(draft, rollout, one.cluster, one.digest)
    seq = draft.deploy(one.cluster, intent, "forward", rollout.id, wave.plan.name)
    return member.begin(one, seq, None if recorded is None else recorded.release, draft.now.wall)


def _close(draft: Draft, index: int) -> None:
    """T11, once no cluster of the wave can still be started or waited for."""
    wave = draft.running.waves[index]
    if any(m.state is MemberState.PENDING or member.in_flight(m) for m in wave.members):
        return
    if not any(m.state in member.SUCCEEDED for m in wave.members):
        fail(draft, index, f"wave {wave.plan.name} updated no cluster: {described(wave.members)}", attributable=False)
        return
    changed = any(m.state is MemberState.UPDATED for m in wave.members)
    draft.move_wave(index, WaveState.BAKING if changed and wave.plan.bake > 0 else WaveState.VERIFYING)


# --- baking ----------------------------------------------------------------------------------------------------------


def _bake(draft: Draft, index: int) -> None:
    """T12. A cluster counts while it is not paused; what was repaired starts its clock again."""
    wave = draft.running.waves[index]
    members = list(wave.members)
    healthy = counted = 0
    for i, one in enumerate(members):
        if one.state not in member.SUCCEEDED or one.cluster in draft.paused_clusters:
            continue
        counted += 1
        after, well = _watched(draft, wave, one)
        if after is not one:
            members[i] = after
            if after.state is not one.state:
                draft.say_member(wave, one, after)
        healthy += well
    wave = replace(wave, members=tuple(members))
    draft.put_wave(index, replace(wave, baked=baked(wave, draft.paused_clusters)))
    if _broken(draft, index, " while baking"):
        return
    if not any(m.state in member.SUCCEEDED for m in members):
        fail(draft, index, f"wave {wave.plan.name} has no cluster left: {described(members)}", attributable=False)
    elif counted:
        _judge(draft, index, all_healthy=healthy == counted)


def baked(run: WaveRun, paused: frozenset[str]) -> float:
    """Observed-healthy seconds of the cluster that has the fewest; paused ones do not count."""
    lost = [one.bake_lost for one in run.members if one.state in member.SUCCEEDED and one.cluster not in paused]
    return max(0.0, run.bake_clock - max(lost)) if lost else run.baked


def _watched(draft: Draft, wave: WaveRun, one: Member) -> tuple[Member, bool]:
    report = draft.reports.get(one.cluster)
    if draft.record(one.cluster).fence:
        return fence.taken(draft, one), False
    told, seen = concerns(report, one.seq, one.digest), sight(report, one.seq, one.digest, draft.listening)
    if told is not None and told.drift_restarts != one.drift_restarts:
        if told.drift_restarts > one.drift_restarts:
            one = replace(one, bake_lost=wave.bake_clock)
            draft.touch(draft.running)  # a restart must not forget that the cluster was repaired
        one = replace(one, drift_restarts=told.drift_restarts)
    if seen is Sight.HEALTHY:
        return (one if one.unwell == 0.0 else replace(one, unwell=0.0)), True
    deadline = wave.plan.health.progress_deadline
    if seen is not Sight.UNSEEN and one.unwell >= deadline - member.EPSILON:
        reason = member.fault(seen, report)
        return member.fail(one, reason, member.late(report, deadline), draft.now.wall), False
    return one, False


def _judge(draft: Draft, index: int, *, all_healthy: bool) -> None:
    wave = draft.running.waves[index]
    changed = any(m.state is MemberState.UPDATED for m in wave.members)
    baked = not changed or wave.baked >= wave.plan.bake - member.EPSILON
    if wave.state is WaveState.BAKING and baked:
        draft.move_wave(index, WaveState.VERIFYING)
    elif wave.state is WaveState.VERIFYING and not baked:
        draft.move_wave(index, WaveState.BAKING, "drift was repaired")
    elif wave.state is WaveState.VERIFYING and all_healthy:
        _pass(draft, index)


def _pass(draft: Draft, index: int) -> None:
    """T12: only here a release becomes good on a cluster, and is proven for a wave."""
    rollout = draft.running
    wave = rollout.waves[index]
    for one in wave.members:
        if one.state in member.SUCCEEDED:
            draft.mark_good(one.cluster, entry(draft, rollout, one.cluster, one.digest))
        elif one.state is MemberState.SKIPPED and one.reason in ("unreachable", "paused"):
            draft.owe(one.cluster, entry(draft, rollout, one.cluster, one.digest))
    draft.proven = {**draft.proven, wave.plan.name: rollout.release.id}
    draft.move_wave(index, WaveState.PASSED)
    draft.say("release.proven", rollout=rollout.id, wave=wave.plan.name, release=rollout.release.id)
    for cluster, joining in tuple(draft.joining.items()):
        if joining.rollout == rollout.id and joining.wave == wave.plan.name:
            draft.owe(cluster, joining.entry)
            draft.joining = {c: j for c, j in draft.joining.items() if c != cluster}


# --- verdict ---------------------------------------------------------------------------------------------------------


def _broken(draft: Draft, index: int, when: str = "") -> bool:
    """Whether a cluster has ended badly; the wave has failed then."""
    run = draft.running.waves[index]
    failed = [m for m in run.members if m.state is MemberState.FAILED]
    errored = [m for m in run.members if member.given_up(m)]
    if failed:
        fail(draft, index, f"wave {run.plan.name} failed{when}: {described(failed)}", attributable=True)
    elif errored:
        fail(draft, index, f"wave {run.plan.name} could not be applied: {described(errored)}", attributable=False)
    return bool(failed or errored)


def fail(draft: Draft, index: int, reason: str, *, attributable: bool) -> None:
    """T10: what the release is to blame for is quarantined; what the network is to blame for is not (lesson 7)."""
    draft.move_wave(index, WaveState.FAILED, reason)
    rollout = draft.running
    if attributable:
        why = f"{reason} ({rollout.id})"
        quarantine.condemn(draft, rollout.release.id, rollout.release.content, rollout.release.digests, why)
    draft.active = draft.move(draft.running, RolloutState.HALTING, reason)


def described(members: Iterable[Member]) -> str:
    """The first few clusters with what became of them."""
    told = list(members)
    parts = [f"{m.cluster}: {m.reason or m.state}" + (f" ({m.message})" if m.message else "") for m in told[:NAMED]]
    return "; ".join(parts) + (f"; and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _listed(names: Iterable[str]) -> str:
    told = list(names)
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")


def unheard(draft: Draft, wave: WaveRun) -> bool:
    """Whether a cluster that could start has not been heard of yet in this process."""
    silent = draft.listening < GRACE
    return silent and any(m.state is MemberState.PENDING and m.cluster not in draft.reports for m in wave.members)
