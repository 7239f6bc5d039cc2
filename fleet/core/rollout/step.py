"""The decision about one bundle: `step(state, event, now) -> Step` (rollouts.md 3).

Pure: no clock, no randomness, no I/O. One decision runs the clocks on to now, takes the event in, and then moves
everything that is due until nothing moves. The result is stored as a whole before anything is done about it, so the
intents (`deploys`) are durable together with the state that explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fleet.core.rollout import (
    admission,
    blocking,
    catchup,
    clocks,
    commands,
    facts,
    fence,
    lifecycle,
    rollback,
    wave,
)
from fleet.core.rollout.draft import Draft, unassigned
from fleet.model.cluster import MemberReport
from fleet.model.events import Event
from fleet.model.rollout import (
    BundleState,
    Commanded,
    FactsChanged,
    Now,
    ReleaseReady,
    Reported,
    RolloutEvent,
    RolloutState,
    Step,
)

_SPARE = 20
"""Transitions that one decision may make beside those of the waves; more means that two rules contradict each other."""


def step(state: BundleState, event: RolloutEvent, now: Now) -> Step:
    """Decides what `event` leads to. A command that does not apply leaves the state as it was (`refused` tells why)."""
    draft = Draft(state, now)
    clocks.advance(draft)
    match event:
        case ReleaseReady():
            admission.admit(draft, event)
        case Reported():
            _report(draft, (event.report,))
        case FactsChanged():
            facts.change(draft, event)
        case Commanded():
            refused = _command(draft, event)
            if refused is not None:
                return _refusal(state, event, now, refused)
        case _:
            pass
    return _decide(draft)


def fold(state: BundleState, reports: Iterable[MemberReport], now: Now) -> Step:
    """One decision about many reports: as `step` with the last report of each cluster, at the price of one."""
    draft = Draft(state, now)
    clocks.advance(draft)
    _report(draft, reports)
    return _decide(draft)


def aged(state: BundleState, elapsed: float) -> BundleState:
    """The state with its clocks run on by `elapsed` seconds, for people to look at; nothing is decided."""
    draft = Draft(state, Now(0.0, elapsed))
    clocks.advance(draft)
    return draft.finish(None).state


def _report(draft: Draft, reports: Iterable[MemberReport]) -> None:
    """What an agent still says of an assignment that was withdrawn meanwhile tells only that its cluster is there."""
    held = ((r, draft.record(r.cluster).recorded) for r in reports)
    heard = {r.cluster: unassigned(r) if recorded is None and r.seq else r for r, recorded in held}
    draft.reports = {**draft.reports, **heard}
    fence.note(draft, heard.values())


def _command(draft: Draft, event: Commanded) -> str | None:
    names = {key: value for key, value in (("gate", event.gate), ("comment", event.comment)) if value}
    draft.say("command", rollout=event.rollout, actor=event.actor, name=event.name, **names)
    return commands.command(draft, event)


def _refusal(state: BundleState, event: Commanded, now: Now, why: str) -> Step:
    said = Event(
        type="command",
        time=now.wall,
        bundle=state.bundle,
        rollout=event.rollout,
        actor=event.actor,
        data={"name": event.name, "refused": why},
    )
    return Step(state=state, events=(said,), refused=why, changed=False)


# --- moving on -------------------------------------------------------------------------------------------------------


def _decide(draft: Draft) -> Step:
    limit = _SPARE + sum(8 for r in (draft.active, draft.waiting) if r is not None for _ in r.waves)
    for _ in range(limit):
        # What happens to clusters within one wave is settled in one go; only a turn of the wave can make more due.
        before = draft.turns
        _move(draft)
        if draft.turns == before:
            break
    else:
        raise AssertionError(f"{draft.bundle}: the rules of a rollout contradict each other")
    facts.settle(draft)
    catchup.settle(draft)
    blocking.settle(draft)
    return draft.finish(clocks.wake_after(draft))


def _move(draft: Draft) -> None:
    lifecycle.start(draft)
    lifecycle.supersede(draft)
    if draft.active is not None:
        _MOVES[draft.active.state](draft)


def _forward(draft: Draft) -> None:
    wave.progress(draft)
    if draft.active is not None and draft.active.state in lifecycle.GOING:
        lifecycle.succeed(draft)


def _expire(draft: Draft) -> None:
    lifecycle.end(draft, RolloutState.EXPIRED)


_MOVES: dict[RolloutState, Callable[[Draft], None]] = {
    RolloutState.RUNNING: _forward,
    RolloutState.BLOCKED: _forward,
    RolloutState.SUPERSEDING: lifecycle.drain,
    RolloutState.ABORTING: lifecycle.drain,
    RolloutState.HALTING: lifecycle.drain,
    RolloutState.ROLLING_BACK: rollback.progress,
    RolloutState.EXPIRED: _expire,
}
