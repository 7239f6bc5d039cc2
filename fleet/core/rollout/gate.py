"""Approval gates: who may answer, when a gate is passed, and when it has waited too long.

A gate belongs to one wave of one rollout; a person answers it by a command, and no time-out ever passes it (I13).
"""

from __future__ import annotations

import msgspec

from fleet.core.rollout.draft import Draft
from fleet.core.rollout.member import EPSILON
from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import Approval, Commanded, GateRun, GateState, Rollout, WaveRun, WaveState

replace = msgspec.structs.replace


def ask(draft: Draft, index: int, gates: tuple[GateRun, ...]) -> None:
    """Gates of a wave that begins, or begins again: all wait, at the same time."""
    draft.put_wave(index, replace(draft.running.waves[index], gates=gates))
    for run in gates:
        put(draft, index, run, GateRun(gate=run.gate, state=GateState.WAITING, since=draft.now.wall))


def waiting(wave: WaveRun) -> tuple[GateRun, ...]:
    return tuple(run for run in wave.gates if run.state is GateState.WAITING)


def overdue(wave: WaveRun) -> GateRun | None:
    return next((run for run in waiting(wave) if run.waited >= run.gate.timeout - EPSILON), None)


def may_answer(gate: ApprovalGate, actor: str, groups: tuple[str, ...]) -> bool:
    """`approvers` holds `user:NAME`, `group:NAME` or a bare user name; empty lets anyone signed in answer."""
    if not gate.approvers:
        return bool(actor)
    return any(_is(approver, actor, groups) for approver in gate.approvers)


def _is(approver: str, actor: str, groups: tuple[str, ...]) -> bool:
    kind, colon, name = approver.partition(":")
    if colon and kind == "group":
        return name in groups
    return bool(actor) and actor == (name if colon and kind == "user" else approver)


def missing(run: GateRun) -> int:
    """Approvals that are still needed."""
    return run.gate.count - len({answer.by for answer in run.answers if answer.accepted})


def answer(draft: Draft, rollout: Rollout, command: Commanded) -> str | None:
    """Records a person's answer on the active rollout; returns why it does not apply, else None."""
    index = next((i for i, wave in enumerate(rollout.waves) if wave.state is WaveState.GATING), None)
    open_gates = () if index is None else waiting(rollout.waves[index])
    if command.gate is None and len(open_gates) > 1:
        return f"several gates wait ({', '.join(run.gate.name for run in open_gates)}): name one"
    run = next((run for run in open_gates if command.gate in (None, run.gate.name)), None)
    if index is None or run is None:
        return _not_waiting(rollout, command)
    refusal = _refusal(draft, run.gate, rollout, command)
    if refusal is not None:
        return refusal
    if any(given.by == command.actor and given.accepted for given in run.answers) and command.name == "approve":
        return None
    accepted = command.name == "approve"
    given = Approval(command.actor, command.groups, draft.now.wall, accepted, command.comment)
    answered = replace(run, answers=(*run.answers, given), detail=draft.warning or run.detail)
    if not accepted:
        answered = replace(answered, state=GateState.REJECTED, at=draft.now.wall, detail=command.comment)
    elif missing(answered) <= 0:
        answered = replace(answered, state=GateState.PASSED, at=draft.now.wall)
    put(draft, index, run, answered, command.actor)
    return None


def _not_waiting(rollout: Rollout, command: Commanded) -> str | None:
    """Answering again what was answered is no error; anything else is told why it does not apply."""
    done = GateState.PASSED if command.name == "approve" else GateState.REJECTED
    for wave in rollout.waves:
        for run in wave.gates:
            if command.gate in (None, run.gate.name) and run.state is done:
                return None
    known = {gate.name for wave in rollout.plan.waves for gate in wave.gates_before}
    if command.gate is not None and command.gate not in known:
        return f"{rollout.id} has no gate {command.gate} (its gates: {', '.join(sorted(known)) or 'none'})"
    which = f"gate {command.gate}" if command.gate else "a gate"
    return f"{rollout.id} does not wait for {which} now; `fleet explain {rollout.id}` tells what it waits for"


def _refusal(draft: Draft, gate: ApprovalGate, rollout: Rollout, command: Commanded) -> str | None:
    if not may_answer(gate, command.actor, command.groups):
        listed = ", ".join(gate.approvers) or "anyone signed in"
        return f"{command.actor or 'nobody'} may not answer gate {gate.name}: its approvers are {listed}"
    author = rollout.release.author
    if command.name == "approve" and not gate.allow_author and author and author.lower() == command.actor.lower():
        said = f"{command.actor} is the author of the commit, and gate {gate.name} wants somebody else's approval"
        if command.strict_author:
            return said
        draft.warning = said
    return None


def put(draft: Draft, index: int, before: GateRun, after: GateRun, actor: str = "system") -> None:
    """Replaces a gate of a wave of the active rollout, and tells it."""
    rollout = draft.running
    wave = rollout.waves[index]
    gates = tuple(after if run is before else run for run in wave.gates)
    draft.say(
        "gate.state",
        rollout=rollout.id,
        wave=wave.plan.name,
        actor=actor,
        gate=after.gate.name,
        **{"from": before.state, "to": after.state},
        approvals=sum(given.accepted for given in after.answers),
        detail=after.detail or None,
    )
    draft.put_wave(index, replace(wave, gates=gates))


def void(draft: Draft, index: int, why: str) -> None:
    """Approvals of a wave that has not started count for nothing once the rollout is superseded (I12)."""
    for run in draft.running.waves[index].gates:
        if run.state in (GateState.WAITING, GateState.PASSED):
            put(draft, index, run, replace(run, state=GateState.PENDING, detail=f"void: {why}"))
