"""Why a rollout stands where it stands, in sentences: the most important first, each with what somebody can do.

Pure over the state that decisions are made on, so what is told is what the engine acts on.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fleet.core.rollout import fence, gate, lifecycle, member, rollback, wave
from fleet.core.rollout.evidence import Sight, complaint, sight
from fleet.model.rollout import (
    BlockedBy,
    BundleState,
    ClusterRecord,
    Member,
    MemberState,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)

MOST = 5
"""Clusters that are explained one by one."""


class Explanation(msgspec.Struct, frozen=True):
    state: str
    waiting_for: BlockedBy | None
    """None: nothing that somebody could act on holds it up."""
    because: tuple[str, ...]


def explain(rollout: Rollout, state: BundleState | None, now: float) -> Explanation:
    """`now`: seconds since the epoch, for ages; `state` is None when the bundle is not decided about here."""
    if rollout.state.terminal:
        because = tuple(_ended(rollout, now))
    elif state is not None and state.waiting is not None and state.waiting.id == rollout.id:
        because = tuple(_queued(rollout, state, now))
    else:
        because = tuple(_standing(rollout, state, now))
    return Explanation(rollout.state, rollout.blocked_by, because)


def explain_cluster(cluster: str, state: BundleState) -> tuple[str, ...]:
    """What a bundle still owes a cluster, or holds against it."""
    record = state.records.get(cluster)
    told = []
    if record is not None and record.debt is not None:
        told.append(_debt(cluster, record, state))
    if cluster in state.joining:
        joining = state.joining[cluster]
        told.append(f"it gets {state.bundle} once wave {joining.wave} of {joining.rollout} has passed")
    elif record is None and state.clusters is not None and cluster in state.clusters and state.active is None:
        told.append(f"it holds nothing of {state.bundle} yet and gets the next release that its wave proves")
    return tuple(told)


# --- not running -----------------------------------------------------------------------------------------------------


def _ended(rollout: Rollout, now: float) -> Iterator[str]:
    when = "" if rollout.ended_at is None else f" {age(now - rollout.ended_at)} ago"
    yield f"it ended {rollout.state}{when}" + (f": {rollout.reason}" if rollout.reason else "")
    if rollout.successor is not None:
        yield f"{rollout.successor} came after it"
    elif rollout.state in (RolloutState.HALTED, RolloutState.EXPIRED):
        yield f"`fleet retry {rollout.id}` goes on with it; a new commit starts a new rollout"
    elif rollout.state is RolloutState.REJECTED:
        yield "a commit that changes the manifests starts a new rollout"


def _queued(rollout: Rollout, state: BundleState, now: float) -> Iterator[str]:
    blocked = rollout.blocked_by
    if blocked is not None and blocked.kind == "paused":
        yield f"bundle {state.bundle} is suspended since {age(now - blocked.since)}: {blocked.next}"
    active = state.active
    if active is None:
        return
    yield f"it waits for {active.id} ({active.state}) to end"
    if any(run.plan.protected and run.state in wave.PROTECTING for run in active.waves):
        yield f"{active.id} has started a protected wave, and finishes before anything newer starts"
    elif active.state in lifecycle.GOING and state.supersedes >= lifecycle.MAX_SUPERSEDES:
        yield f"{state.supersedes} rollouts in a row gave way to newer ones, so {active.id} finishes first"
    if active.blocked_by is not None and active.blocked_by.next:
        yield f"{active.id} waits for {active.blocked_by.kind} {active.blocked_by.name}: `{active.blocked_by.next}`"


# --- running ---------------------------------------------------------------------------------------------------------


def _standing(rollout: Rollout, state: BundleState | None, now: float) -> Iterator[str]:
    index = wave.current(rollout)
    run = None if index is None else rollout.waves[index]
    if rollout.blocked_by is not None:
        yield _blocked(rollout.blocked_by, run, now)
    elif rollout.reason:
        yield f"it is {rollout.state}: {rollout.reason}"
    if run is not None:
        yield from _wave(run, rollout, state)
    if state is not None:
        if state.waiting is not None:
            yield f"{state.waiting.id} waits for it to end"
        owing = [(c, r) for c, r in state.records.items() if r.debt is not None]
        yield from (_debt(cluster, record, state) for cluster, record in owing[:MOST])


def _blocked(blocked: BlockedBy, run: WaveRun | None, now: float) -> str:
    since = f"since {age(now - blocked.since)}"
    if blocked.kind == "gate":
        who = f" by {' or '.join(blocked.who)}" if blocked.who else ""
        asked = next((g for g in gate.waiting(run) if g.gate.name == blocked.name), None) if run is not None else None
        more = f" ({gate.missing(asked)} of {asked.gate.count} still missing)" if asked and asked.gate.count > 1 else ""
        name = "" if run is None else f"wave {run.plan.name} "
        return f"{name}waits for approval {blocked.name}{who}{more} {since}: `{blocked.next}`"
    if blocked.kind == "unreachable":
        limit = age(wave.BLOCKED_TIMEOUT)
        return f"cluster {blocked.name} can not be reached {since}; after {limit} the rollout halts: `{blocked.next}`"
    if blocked.kind == "paused":
        command = blocked.next.startswith("fleet ")
        return f"{blocked.name} is paused {since}: " + (f"`{blocked.next}`" if command else blocked.next)
    return f"it waits for {blocked.kind} {blocked.name} {since}: `{blocked.next}`"


def _wave(run: WaveRun, rollout: Rollout, state: BundleState | None) -> Iterator[str]:
    name = run.plan.name
    if run.state in (WaveState.BAKING, WaveState.VERIFYING):
        if run.state is WaveState.BAKING:
            yield f"wave {name} bakes: {run.baked:.0f} of {run.plan.bake:g} s seen healthy"
        else:
            yield f"wave {name} passes once every cluster of it is healthy at the same time"
        counted = [m for m in run.members if m.state in member.SUCCEEDED]
        yield from _first(_unwell(one, run, state) for one in counted)
        return
    under_way = [m for m in run.members if member.in_flight(m)]
    if run.state is WaveState.ROLLING:
        done = sum(m.state not in member.OPEN for m in run.members)
        yield f"wave {name}: {done} of {len(run.members)} clusters done, {len(under_way)} under way"
    yield from _first(_under_way(one, run, rollout, state) for one in under_way)


def _first(sentences: Iterator[str | None]) -> Iterator[str]:
    told = 0
    for sentence in sentences:
        if sentence is not None:
            told += 1
            yield sentence
        if told == MOST:
            return


def _unwell(one: Member, run: WaveRun, state: BundleState | None) -> str | None:
    if state is None:
        return None
    report = state.reports.get(one.cluster)
    seen = sight(report, one.seq, one.digest, state.listening)
    if seen is Sight.HEALTHY:
        return None
    if seen is Sight.UNSEEN:
        return f"{one.cluster} has not reported since this process started"
    left = max(0.0, run.plan.health.progress_deadline - one.unwell)
    return f"{one.cluster} is not seen healthy ({complaint(report)}); in {left:.0f} s it counts as failed"


def _under_way(one: Member, run: WaveRun, rollout: Rollout, state: BundleState | None) -> str:
    policy = run.plan.health
    report = None if state is None else state.reports.get(one.cluster)
    match one.state:
        case MemberState.SOAKING:
            return f"{one.cluster} is healthy for {one.soaked:.0f} of {policy.stable_for:g} s"
        case MemberState.VERIFYING:
            left = max(0.0, policy.progress_deadline - one.verifying)
            return f"{one.cluster} is not healthy yet ({complaint(report)}); in {left:.0f} s it counts as failed"
        case MemberState.ERRORED:
            left = max(0.0, policy.progress_deadline - one.applying)
            return f"{one.cluster} is tried again for {left:.0f} s more: {one.message}"
        case MemberState.ROLLING_BACK:
            left = max(0.0, rollback.DEADLINE - one.applying)
            return f"{one.cluster} is going back ({complaint(report)}); {left:.0f} s are left"
        case _:
            left = max(0.0, policy.progress_deadline - one.applying)
            return f"{one.cluster} is being applied since {one.applying:.0f} s, {left:.0f} s are left"


def _debt(cluster: str, record: ClusterRecord, state: BundleState) -> str:
    report = state.reports.get(cluster)
    if cluster in state.paused_clusters:
        when = "when it is not paused any more"
    elif report is None or not report.reachable:
        when = "when it can be reached again"
    elif record.fence:
        when = f"with the next release that a person retries: {fence.TAKEN.format(record.fence)}"
    elif record.recorded is not None and record.debt is not None and record.recorded.release == record.debt.release:
        when = f"and is not healthy with it yet ({complaint(report)})"
    else:
        when = "next"
    return f"{cluster} was passed over; it gets {record.owed} {when}"


def age(seconds: float) -> str:
    """`3m`, `2h`, `5d`: one unit, rounded down."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
