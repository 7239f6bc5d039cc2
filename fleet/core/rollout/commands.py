"""What people ask for: approve, reject, pause, resume, abort, retry, rollback (rollouts.md, what happens when, 8).

Every command is idempotent, is refused in words that name what would apply, and leaves an entry in the event log.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fleet.core.rollout import gate, lifecycle, quarantine, rollback
from fleet.core.rollout.draft import Draft
from fleet.model.rollout import (
    Commanded,
    GateState,
    Member,
    MemberState,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)

replace = msgspec.structs.replace

Refusal = str | None
_RETRIED = (MemberState.FAILED, MemberState.ERRORED, MemberState.SKIPPED)


def command(draft: Draft, asked: Commanded) -> Refusal:
    """Carries a command out; returns why it does not apply, else None."""
    if asked.name == "rollback":
        return _stale(draft.active, asked) or rollback.begin(draft, asked)
    candidates = (draft.active, draft.waiting, draft.previous)
    rollout = next((r for r in candidates if r is not None and r.id == asked.rollout), None)
    if rollout is None:
        newest = draft.active or draft.waiting or draft.previous
        hint = "" if newest is None else f"; the newest is {newest.id} ({newest.state})"
        return f"{asked.rollout} is over and was followed by others{hint}"
    return _stale(rollout, asked) or _COMMANDS[asked.name](draft, rollout, asked)


def _stale(rollout: Rollout | None, asked: Commanded) -> Refusal:
    if rollout is None or asked.expected_version is None or asked.expected_version == rollout.version:
        return None
    return f"{rollout.id} changed meanwhile: it is at version {rollout.version}, not {asked.expected_version}"


def _answer(draft: Draft, rollout: Rollout, asked: Commanded) -> Refusal:
    if draft.active is None or rollout.id != draft.active.id:
        if rollout.state.terminal:
            return f"{rollout.id} is {rollout.state}: an answer counts for nothing now"
        return f"{rollout.id} waits for another rollout to end; answer its gates when it asks"
    if rollout.state not in lifecycle.GOING:
        return f"{rollout.id} is {rollout.state} and asks for nothing any more"
    return gate.answer(draft, rollout, asked)


def _pause(draft: Draft, rollout: Rollout, asked: Commanded) -> Refusal:
    return _hold(draft, rollout, paused=True)


def _resume(draft: Draft, rollout: Rollout, asked: Commanded) -> Refusal:
    return _hold(draft, rollout, paused=False)


def _hold(draft: Draft, rollout: Rollout, *, paused: bool) -> Refusal:
    if rollout.state.terminal:
        return f"{rollout.id} is {rollout.state}; there is nothing to {'pause' if paused else 'resume'}"
    if rollout.kind == "rollback" or rollout.state not in (*lifecycle.GOING, RolloutState.PLANNED):
        return f"{rollout.id} is {rollout.state}; it starts nothing more, and ends by itself"
    if rollout.paused is not paused:
        _put(draft, replace(rollout, paused=paused))
    return None


def _abort(draft: Draft, rollout: Rollout, asked: Commanded) -> Refusal:
    reason = f"aborted by {asked.actor}" + (f": {asked.comment}" if asked.comment else "")
    if rollout.state in (RolloutState.ABORTING, RolloutState.ABORTED):
        return None
    if draft.waiting is not None and rollout.id == draft.waiting.id:
        lifecycle.drop_waiting(draft, RolloutState.ABORTED, reason)
        return None
    if rollout.state not in lifecycle.GOING:
        return f"{rollout.id} is {rollout.state}; there is nothing to abort"
    draft.active = draft.move(rollout, RolloutState.ABORTING, reason, asked.actor)
    return None


def _retry(draft: Draft, rollout: Rollout, asked: Commanded) -> Refusal:
    """Only where a Halted or Expired rollout is still the newest; otherwise what is newer has the word."""
    if rollout.state not in (RolloutState.HALTED, RolloutState.EXPIRED):
        if not rollout.state.terminal:
            return f"{rollout.id} is {rollout.state}; only a Halted or Expired rollout can be retried"
        return f"{rollout.id} is {rollout.state}; only a Halted or Expired one can be retried, else push a commit"
    if rollout.successor is not None or draft.active is not None or draft.waiting is not None:
        successor = rollout.successor or (draft.active or draft.waiting or rollout).id
        return f"{rollout.id} has a successor, {successor}; it can not be retried any more"
    quarantine.pardon(draft, rollout, asked.actor)
    state = RolloutState.ROLLING_BACK if rollout.kind == "rollback" else RolloutState.RUNNING
    moved = draft.move(rollout, state, actor=asked.actor)
    draft.active = replace(moved, reason="", ended_at=None, stuck=0.0)
    draft.previous = None
    for index, run in enumerate(rollout.waves):
        if run.state is WaveState.FAILED:
            _reopen(draft, index, run)
    return None


def _reopen(draft: Draft, index: int, run: WaveRun) -> None:
    if draft.running.kind == "rollback":
        run = draft.move_wave(index, WaveState.ROLLING, "retried")
        members = tuple(_rolled_back_again(draft, run, m) for m in run.members)
        draft.put_wave(index, replace(run, members=members, ended_at=None))
        return
    passed = all(asked.state is GateState.PASSED for asked in run.gates)
    if not run.members:
        draft.put_wave(index, replace(draft.move_wave(index, WaveState.PENDING, "retried"), ended_at=None))
        return
    run = draft.move_wave(index, WaveState.ROLLING if passed else WaveState.GATING, "retried")
    members = tuple(_pending_again(draft, run, m) for m in run.members)
    draft.put_wave(index, replace(run, members=members, ended_at=None, baked=0.0, bake_clock=0.0))
    if not passed:
        gate.ask(draft, index, run.gates)


def _pending_again(draft: Draft, run: WaveRun, one: Member) -> Member:
    if one.state not in _RETRIED or one.reason == "left":
        return replace(one, bake_lost=0.0, unwell=0.0)
    after = replace(one, state=MemberState.PENDING, reason=None, message="", ended_at=None, bake_lost=0.0, unwell=0.0)
    draft.say_member(run, one, after)
    return after


def _rolled_back_again(draft: Draft, run: WaveRun, one: Member) -> Member:
    if one.state is not MemberState.ROLLBACK_FAILED:
        return one
    after = rollback.again(draft, one)
    draft.say_member(run, one, after)
    return after


def _put(draft: Draft, rollout: Rollout) -> None:
    if draft.active is not None and draft.active.id == rollout.id:
        draft.active = rollout
    else:
        draft.waiting = rollout
    draft.touch(rollout)


_COMMANDS: dict[str, Callable[[Draft, Rollout, Commanded], Refusal]] = {
    "approve": _answer,
    "reject": _answer,
    "pause": _pause,
    "resume": _resume,
    "abort": _abort,
    "retry": _retry,
}
