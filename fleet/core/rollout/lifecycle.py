"""The lock of a bundle: how a rollout is made, starts, gives way to a newer one, drains and ends (T1, T2, T13, T14).

One rollout holds the lock (`active`), one may wait for it (`waiting`, the newest wins), the last that ended is
remembered (`previous`). Drained means that no apply is outstanding; what is merely being verified need not be waited
for, so that a fix passes at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

import msgspec

from fleet.core.rollout import gate, member, quarantine, undo, wave
from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import concerns, reachable
from fleet.model.rollout import (
    Member,
    MemberState,
    Plan,
    Release,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)

replace = msgspec.structs.replace

MAX_SUPERSEDES = 5
"""Rollouts in a row that give way (the default of `maxSupersedes`); then one must finish, or nothing ever reaches prod.

A rollout that only waits for a person's approval always gives way, and is not counted: it was not going to move.
"""

_DRAINING = {
    RolloutState.SUPERSEDING: (RolloutState.SUPERSEDED, "superseded"),
    RolloutState.ABORTING: (RolloutState.ABORTED, "aborted"),
    RolloutState.HALTING: (RolloutState.HALTED, "halted"),
}
GOING = (RolloutState.RUNNING, RolloutState.BLOCKED)
_UNDER_WAY = (WaveState.GATING, WaveState.ROLLING, WaveState.BAKING, WaveState.VERIFYING)


def trace_id(fleet: str, rollout: str, release: str) -> str:
    """32 hex digits; the same after any restart, so that a repeated export continues the same trace."""
    return hashlib.blake2b("\0".join((fleet, rollout, release)).encode(), digest_size=16).hexdigest()


def make(
    draft: Draft,
    release: Release,
    plan: Plan,
    *,
    state: RolloutState,
    kind: Literal["forward", "rollback"] = "forward",
    actor: str = "system",
    reason: str = "",
) -> Rollout:
    """T1: a rollout with its frozen plan, linked with the newest one before it."""
    number = draft.next_number
    draft.next_number = number + 1
    name = f"{draft.bundle}-{number}"
    newest = draft.waiting or draft.active or draft.previous
    wall = draft.now.wall
    rollout = Rollout(
        id=name,
        bundle=draft.bundle,
        number=number,
        release=release,
        plan=plan,
        waves=tuple(WaveRun(plan=planned) for planned in plan.waves),
        actor=actor,
        created_at=wall,
        trace_id=trace_id(draft.fleet, name, release.id),
        predecessor=None if newest is None else newest.id,
        kind=kind,
    )
    draft.say("release.created", rollout=name, actor=actor, release=release.id, revisions=release.revisions)
    if state is not RolloutState.REJECTED:
        _link(draft, name)
    return draft.move(rollout, state, reason, actor)


def _link(draft: Draft, successor: str) -> None:
    """A rollout with a successor can not be retried."""
    if draft.active is not None:
        draft.active = replace(draft.active, successor=successor)
        draft.touch(draft.active)
    elif draft.waiting is None and draft.previous is not None:
        draft.previous = replace(draft.previous, successor=successor)
        draft.store_ended(draft.previous)


def reject(draft: Draft, release: Release, plan: Plan, why: str) -> None:
    """I6: quarantined content gets a rollout that ends before it begins, so that people see why nothing happens."""
    rollout = make(draft, release, plan, state=RolloutState.REJECTED, reason=f"quarantined: {why}")
    draft.store_ended(replace(rollout, ended_at=draft.now.wall))


def drop_waiting(draft: Draft, to: RolloutState, reason: str, successor: str | None = None) -> None:
    waiting = draft.waiting
    if waiting is None:
        return
    ended = draft.move(waiting, to, reason)
    draft.store_ended(replace(ended, ended_at=draft.now.wall, blocked_by=None, successor=successor))
    draft.waiting = None


# --- starting and giving way -----------------------------------------------------------------------------------------


def start(draft: Draft) -> None:
    """T2, when the lock is free."""
    waiting = draft.waiting
    if draft.active is not None or waiting is None or draft.suspended:
        return
    known = quarantine.reason(draft, waiting.release)
    if known is not None:
        drop_waiting(draft, RolloutState.REJECTED, f"quarantined: {known}")
        return
    started = replace(draft.move(waiting, RolloutState.RUNNING), started_at=draft.now.wall, blocked_by=None)
    draft.active, draft.waiting = started, None


def supersede(draft: Draft) -> None:
    """T14: makes room for a waiting release, unless a protected wave has started."""
    active, waiting = draft.active, draft.waiting
    if active is None or waiting is None or draft.suspended or active.state not in GOING:
        return
    if any(run.plan.protected and run.state in wave.PROTECTING for run in active.waves):
        return
    index = wave.current(active)
    idle = index is not None and bool(gate.waiting(active.waves[index]))
    if not idle and draft.supersedes >= MAX_SUPERSEDES:
        return
    draft.supersedes += not idle
    why = f"superseded by {waiting.id}"
    if index is not None and active.waves[index].state is WaveState.GATING:
        gate.void(draft, index, why)
    if active.paused:
        # Somebody stopped this bundle for a reason; a commit of somebody else is no answer to it.
        draft.waiting = replace(waiting, paused=True)
        draft.touch(waiting)
    draft.active = draft.move(draft.running, RolloutState.SUPERSEDING, why)


# --- draining and ending ---------------------------------------------------------------------------------------------


def drain(draft: Draft) -> None:
    """One look at what is outstanding; ends the rollout when nothing is."""
    rollout = draft.running
    to, word = _DRAINING[rollout.state]
    index = wave.current(rollout)
    if index is not None:
        run = rollout.waves[index]
        members = tuple(_drained(draft, run, one, word) for one in run.members)
        if members != run.members:
            draft.put_wave(index, replace(run, members=members))
        if any(member.in_flight(one) for one in members):
            return
    end(draft, to)


def _drained(draft: Draft, run: WaveRun, one: Member, word: str) -> Member:
    if not member.in_flight(one):
        return one
    after = member.advance(one, draft.reports.get(one.cluster), run.plan.health, draft.listening, draft.now.wall)
    if one.state is MemberState.APPLYING and after.state is MemberState.APPLYING and _outstanding(draft, one):
        return one
    landed = one
    if one.state in (MemberState.APPLYING, MemberState.ERRORED) and after.state is not one.state:
        wave.tell(draft, run, one, after)
        landed = after
    if member.in_flight(landed):
        skipped = member.skip(landed, word, draft.now.wall, landed.message)
        draft.say_member(run, landed, skipped)
        landed = skipped
    if landed.state is not MemberState.FAILED:
        undo.leave(draft, run, one)
    return landed


def _outstanding(draft: Draft, one: Member) -> bool:
    """Whether an apply may still be under way; a cluster out of reach is fenced by its next seq instead (I10)."""
    report = draft.reports.get(one.cluster)
    if reachable(report, draft.listening) is False:
        return False
    told = concerns(report, one.seq, one.digest)
    return told is None or told.phase in ("idle", "applying")


def cut_short(draft: Draft, word: str, reason: str, sent: Collection[str] = ()) -> None:
    """Ends the running rollout without draining: what it left under way is fenced by the next seq (I10).

    Clusters in `sent` are given something else by this very decision.
    """
    index = wave.current(draft.running)
    if index is not None:
        run = draft.running.waves[index]
        members = list(run.members)
        for i, one in enumerate(members):
            if member.in_flight(one):
                members[i] = member.skip(one, word, draft.now.wall, reason)
                draft.say_member(run, one, members[i])
                if one.cluster not in sent:
                    undo.leave(draft, run, one)
        draft.put_wave(index, replace(run, members=tuple(members)))
    end(draft, RolloutState.ABORTED, reason)


def succeed(draft: Draft) -> None:
    """T13, once the last wave has passed."""
    if wave.current(draft.running) is None:
        end(draft, RolloutState.SUCCEEDED)


def end(draft: Draft, to: RolloutState, reason: str = "") -> None:
    """Releases the lock. The rollout may be in its last state already."""
    index = wave.current(draft.running)
    if index is not None and draft.running.waves[index].state in _UNDER_WAY:
        draft.move_wave(index, WaveState.SKIPPED, to.lower())
    rollout = draft.running
    if rollout.state is not to:
        rollout = draft.move(rollout, to, reason)
    rollout = replace(rollout, ended_at=draft.now.wall, blocked_by=None, paused=False, stuck=0.0)
    draft.store_ended(rollout)
    draft.previous, draft.active = rollout, None
    draft.joining = {c: j for c, j in draft.joining.items() if j.rollout != rollout.id}
    if to is not RolloutState.SUPERSEDED:
        draft.supersedes = 0
