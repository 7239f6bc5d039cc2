"""Going back by hand: a rollout of its own, that starts in RollingBack and is never blocked (T15, I7, I14).

Every cluster returns to *its own* newest good release, fixed with the intent, or to the release that is named. The
content that is left is quarantined, so that the same head does not come back by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from fleet.core.rollout import fence, lifecycle, member, quarantine, wave
from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import Sight, complaint, concerns, sight
from fleet.model.rollout import (
    BundleState,
    ClusterRecord,
    Commanded,
    HistoryEntry,
    Member,
    MemberState,
    Plan,
    PlannedWave,
    Release,
    RolloutState,
    WaveState,
)

replace = msgspec.structs.replace

DEADLINE = 900.0
"""Seconds for a cluster to be back and healthy (the default of `rollback.deadline`)."""
WAVE = "rollback"


class Return(msgspec.Struct, frozen=True):
    """Who goes back from what to what; `None` as a destination: nothing good was there before."""

    left: HistoryEntry
    destinations: dict[str, HistoryEntry | None]


def principal(state: BundleState, command: Commanded) -> str | None:
    """Id of the release that most clusters would return to: what the new rollout is shown as. None: no destination."""
    if command.release is not None:
        return command.release
    found = _own_last_good(state, command)
    if found is None:
        return None
    counts = Counter(entry.release for entry in found.destinations.values() if entry is not None)
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None


def begin(draft: Draft, command: Commanded) -> str | None:
    """Starts a rollback on all clusters at once; returns why that is not possible, else None."""
    active = draft.active
    if active is not None and active.kind == "rollback":
        return (
            f"{active.id} is rolling back already; it ends by itself, `fleet rollout {active.id}` shows how far it is"
        )
    unknown = [c for c in command.clusters if c not in _present(draft)]
    if unknown:
        return f"bundle {draft.bundle} holds nothing on {', '.join(unknown)}"
    found = _named(draft, command, command.target) if command.release else _own_last_good(draft, command)
    if found is None or not found.destinations:
        return _nothing(draft, command)
    if all(entry is None for entry in found.destinations.values()):
        return f"no cluster had a good release of {draft.bundle} before this one; name one: --to RELEASE"
    if command.target is None:
        return "the release to return to is not stored any more; name another one: --to RELEASE"
    known = quarantine.reason(draft, command.target)
    if known is not None:
        return f"release {command.target.id} is quarantined: {known}"
    if active is not None:
        sent = [c for c, entry in found.destinations.items() if entry is not None and c not in draft.paused_clusters]
        lifecycle.cut_short(draft, "aborted", f"rolled back by {command.actor}", sent)
    _go(draft, command, command.target, found)
    return None


def _nothing(draft: Draft, command: Commanded) -> str:
    if command.release:
        return f"every cluster holds {command.release} already, or it was not made for it"
    if draft.active is not None:
        return f"{draft.active.id} has changed no cluster yet; stop it with `fleet abort {draft.active.id}`"
    return f"bundle {draft.bundle} has not been deployed anywhere yet"


# --- where to --------------------------------------------------------------------------------------------------------


def _present(state: BundleState | Draft) -> Mapping[str, ClusterRecord]:
    """Records of clusters that hold something of the bundle and still belong to it."""
    return {
        cluster: record
        for cluster, record in state.records.items()
        if record.recorded is not None
        and record.recorded.digest is not None
        and (state.clusters is None or cluster in state.clusters)
    }


def _selected(state: BundleState | Draft, command: Commanded) -> dict[str, HistoryEntry]:
    return {
        cluster: record.recorded
        for cluster, record in sorted(_present(state).items())
        if record.recorded is not None and (not command.clusters or cluster in command.clusters)
    }


def _own_last_good(state: BundleState | Draft, command: Commanded) -> Return | None:
    """Clusters that hold what is left, each with the newest release that was good there and is not quarantined."""
    held = _selected(state, command)
    active = state.active
    if active is not None:
        held = {c: entry for c, entry in held.items() if entry.content == active.release.content}
    if not held:
        return None
    left = max(held.values(), key=lambda entry: (entry.number, entry.at))
    destinations: dict[str, HistoryEntry | None] = {}
    for cluster, entry in held.items():
        if entry.content == left.content:
            record = state.records[cluster]
            goods = (good for good in (record.last_good, *record.earlier) if good is not None)
            destinations[cluster] = next((g for g in goods if _acceptable(state, g, left)), None)
    return Return(left, destinations)


def _acceptable(state: BundleState | Draft, good: HistoryEntry, left: HistoryEntry) -> bool:
    return good.content != left.content and good.content not in state.quarantined and good.digest is not None


def _named(draft: Draft, command: Commanded, target: Release | None) -> Return | None:
    """Clusters that hold something else than the release that a person names."""
    if target is None:
        return None
    moved: dict[str, HistoryEntry | None] = {}
    leaving: list[HistoryEntry] = []
    for cluster, held in _selected(draft, command).items():
        digest = target.digests.get(cluster)
        if digest is None or (digest == held.digest and held.content == target.content):
            continue
        leaving.append(held)
        moved[cluster] = HistoryEntry(
            target.id, target.content, digest, draft.now.wall, target.options, draft.next_number
        )
    return Return(max(leaving, key=lambda e: (e.number, e.at)), moved) if leaving else None


# --- going -----------------------------------------------------------------------------------------------------------


def _go(draft: Draft, command: Commanded, target: Release, found: Return) -> None:
    wall, left = draft.now.wall, found.left
    recorded = [(c, r.recorded) for c, r in _present(draft).items()]
    held = {c: e.digest for c, e in recorded if e is not None and e.digest and e.content == left.content}
    quarantine.condemn(draft, left.release, left.content, held, f"left by a rollback of {command.actor}")
    clusters = tuple(found.destinations)
    plan = Plan(strategy=WAVE, waves=(PlannedWave(name=WAVE, clusters=clusters, max_concurrency="100%"),))
    rollout = lifecycle.make(draft, target, plan, state=RolloutState.ROLLING_BACK, kind="rollback", actor=command.actor)
    draft.active = replace(rollout, started_at=wall, reason=command.comment)
    members = []
    run = draft.move_wave(0, WaveState.ROLLING, started_at=wall)
    for cluster, entry in found.destinations.items():
        fresh = Member(cluster=cluster, digest="" if entry is None or entry.digest is None else entry.digest)
        if entry is None:
            after = member.fail(fresh, "firstInstall", "nothing good was there before; what is there stays", wall)
        elif cluster in draft.paused_clusters:
            after = member.skip(fresh, "paused", wall)
            draft.owe(cluster, replace(entry, at=wall, number=rollout.number))
        else:
            after = _send(draft, fresh, replace(entry, at=wall, number=rollout.number))
        draft.say_member(run, fresh, after)
        members.append(after)
    draft.put_wave(0, replace(run, members=tuple(members)))


def _send(draft: Draft, one: Member, entry: HistoryEntry) -> Member:
    recorded = draft.record(one.cluster).recorded
    seq = draft.deploy(one.cluster, entry, "rollback", draft.running.id, WAVE)
    sent = member.begin(one, seq, None if recorded is None else recorded.release, draft.now.wall)
    return replace(sent, state=MemberState.ROLLING_BACK)


def again(draft: Draft, one: Member) -> Member:
    """Another attempt at what a cluster should have returned to, after `retry`."""
    recorded = draft.record(one.cluster).recorded
    return one if recorded is None else _send(draft, one, recorded)


def progress(draft: Draft) -> None:
    """Reads what the clusters report; ends the rollout when each has a verdict. No older release is tried."""
    run = draft.running.waves[0]
    members = list(run.members)
    for i, one in enumerate(members):
        if one.state is MemberState.ROLLING_BACK:
            members[i] = _followed(draft, one)
            if members[i].state is not one.state:
                draft.say_member(run, one, members[i])
    draft.put_wave(0, replace(run, members=tuple(members)))
    if any(one.state is MemberState.ROLLING_BACK for one in members):
        return
    bad = [m for m in members if m.state in (MemberState.ROLLBACK_FAILED, MemberState.FAILED)]
    if bad:
        reason = f"RollbackFailed: {wave.described(bad)}"
        draft.move_wave(0, WaveState.FAILED, reason)
        lifecycle.end(draft, RolloutState.HALTED, reason)
    else:
        draft.move_wave(0, WaveState.PASSED)
        lifecycle.end(draft, RolloutState.ROLLED_BACK)


def _followed(draft: Draft, one: Member) -> Member:
    one = fence.settle(draft, draft.running.waves[0], one, "rollback")
    if one.state is not MemberState.ROLLING_BACK:
        return one
    report, wall = draft.reports.get(one.cluster), draft.now.wall
    seen, told = sight(report, one.seq, one.digest, draft.listening), concerns(report, one.seq, one.digest)
    recorded = draft.record(one.cluster).recorded
    if seen is Sight.HEALTHY and told is not None and recorded is not None:
        draft.mark_good(one.cluster, recorded, returned=True)
        return replace(one, state=MemberState.ROLLED_BACK, outcome=told.outcome, ended_at=wall)
    if told is not None and told.phase == "failed":
        return _failed(one, "apply", complaint(told), wall)
    if one.applying < DEADLINE - member.EPSILON:
        return one
    if told is not None and told.phase != "applied":
        return _failed(one, "apply", f"not back within {DEADLINE:g} s: {complaint(told)}", wall)
    gone = report is None or not report.reachable
    reason = "lost" if gone else member.fault(seen, report)
    return _failed(one, reason, f"not back and healthy within {DEADLINE:g} s: {complaint(report)}", wall)


def _failed(one: Member, reason: str, message: str, wall: float) -> Member:
    return replace(one, state=MemberState.ROLLBACK_FAILED, reason=reason, message=message, ended_at=wall)
