"""Names what a rollout waits for, and who can do something about it (I16): Running ⇄ Blocked."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.core.rollout import gate, lifecycle, member, wave
from fleet.core.rollout.draft import Draft
from fleet.model.rollout import BlockedBy, MemberState, Rollout, RolloutState, WaveRun, WaveState

replace = msgspec.structs.replace


def settle(draft: Draft) -> None:
    """The last word of a decision, when everything that could move has moved."""
    if draft.active is not None and draft.active.state in lifecycle.GOING:
        draft.active = _named(draft, draft.active)
    elif draft.active is not None and draft.active.blocked_by is not None:
        draft.active = replace(draft.active, blocked_by=None, stuck=0.0)
    if draft.waiting is not None:
        blocked = _same_since(draft.waiting.blocked_by, _queued(draft, draft.waiting))
        if blocked != draft.waiting.blocked_by:
            draft.waiting = replace(draft.waiting, blocked_by=blocked)
            draft.touch(draft.waiting)


def _named(draft: Draft, rollout: Rollout) -> Rollout:
    blocked = _same_since(rollout.blocked_by, _blocked(draft, rollout))
    state = RolloutState.RUNNING if blocked is None else RolloutState.BLOCKED
    if state is not rollout.state:
        reason = "" if blocked is None else f"{blocked.kind} {blocked.name}"
        rollout = replace(draft.move(rollout, state, reason), reason=rollout.reason)
    elif blocked != rollout.blocked_by:
        draft.touch(rollout)
    stuck = rollout.stuck if blocked is not None and blocked.kind == "unreachable" else 0.0
    return replace(rollout, blocked_by=blocked, stuck=stuck)


def _same_since(before: BlockedBy | None, after: BlockedBy | None) -> BlockedBy | None:
    if before is not None and after is not None and (before.kind, before.name) == (after.kind, after.name):
        return replace(after, since=before.since)
    return after


def _queued(draft: Draft, waiting: Rollout) -> BlockedBy | None:
    if draft.suspended:
        return _suspended(draft)
    if draft.active is None:
        return None
    return BlockedBy("rollout", draft.active.id, draft.now.wall, next=f"fleet explain {draft.active.id}")


def _suspended(draft: Draft) -> BlockedBy:
    advice = f"remove `suspend: true` from bundle {draft.bundle} in fleet.yaml"
    return BlockedBy("paused", "suspend", draft.now.wall, next=advice)


def _blocked(draft: Draft, rollout: Rollout) -> BlockedBy | None:
    if rollout.paused:
        return BlockedBy("paused", rollout.id, draft.now.wall, next=f"fleet resume {rollout.id}")
    if draft.suspended:
        return _suspended(draft)
    index = wave.current(rollout)
    if index is None:
        return None
    run = rollout.waves[index]
    if run.state is WaveState.GATING:
        return _by_gate(draft, rollout, run)
    if run.state is WaveState.ROLLING:
        return _by_clusters(draft, run)
    counted = [m.cluster for m in run.members if m.state in member.SUCCEEDED]
    if run.state in (WaveState.BAKING, WaveState.VERIFYING) and draft.paused_clusters.issuperset(counted):
        return _paused(draft, counted)
    return None


def _by_gate(draft: Draft, rollout: Rollout, run: WaveRun) -> BlockedBy | None:
    asked = next(iter(gate.waiting(run)), None)
    if asked is None:
        return None
    since = draft.now.wall if asked.since is None else asked.since
    name = asked.gate.name
    return BlockedBy("gate", name, since, asked.gate.approvers, f"fleet approve {rollout.id} {name}")


def _by_clusters(draft: Draft, run: WaveRun) -> BlockedBy | None:
    """Nothing is under way and something remains, so what remains could not be started."""
    pending = [m.cluster for m in run.members if m.state is MemberState.PENDING]
    if not pending or any(member.in_flight(m) for m in run.members) or wave.unheard(draft, run):
        return None
    if draft.paused_clusters.issuperset(pending):
        return _paused(draft, pending)
    gone = [c for c in pending if c not in draft.paused_clusters]
    return BlockedBy("unreachable", _names(gone), draft.now.wall, next=f"fleet explain {gone[0]}")


def _paused(draft: Draft, clusters: list[str]) -> BlockedBy:
    advice = f"remove `paused: true` from cluster {clusters[0]} in fleet.yaml" if clusters else ""
    return BlockedBy("paused", _names(clusters), draft.now.wall, next=advice)


def _names(clusters: Iterable[str]) -> str:
    listed = list(clusters)
    return ", ".join(listed[: wave.NAMED]) + (f" +{len(listed) - wave.NAMED}" if len(listed) > wave.NAMED else "")
