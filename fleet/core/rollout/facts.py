"""Live facts of fleet.yaml, that act at once also on a running rollout: which clusters there are, which are paused,
whether the bundle is suspended (rollouts.md, what happens when, 3 and 15).

A cluster that the bundle does not belong to any more is left as it is, or cleaned, as `deletion` says.
"""

from __future__ import annotations

import msgspec

from fleet.core.rollout import lifecycle, member, undo
from fleet.core.rollout.draft import Draft, blank
from fleet.core.rollout.evidence import concerns
from fleet.model.rollout import FactsChanged, Member, RolloutState, WaveRun, WaveState

replace = msgspec.structs.replace

_LIVE = (WaveState.GATING, WaveState.ROLLING, WaveState.BAKING, WaveState.VERIFYING)


def change(draft: Draft, event: FactsChanged) -> None:
    deletion = event.deletion or draft.deletion
    known = draft.clusters or frozenset()
    if event.clusters - known:
        # Agents of new clusters get as long to report first as those of a process that starts.
        draft.listening = 0.0
    before = (draft.clusters, draft.paused_clusters, draft.suspended, draft.deletion, draft.fleet)
    draft.clusters, draft.paused_clusters = event.clusters, event.paused
    draft.suspended, draft.deletion = event.suspended, deletion
    draft.fleet = event.fleet or draft.fleet
    if before != (draft.clusters, draft.paused_clusters, draft.suspended, draft.deletion, draft.fleet):
        draft.moves += 1
    if event.clusters:
        _skip_members(draft)
    else:
        _end_all(draft)
    alive = event.clusters if event.alive is None else event.alive
    for cluster in sorted(draft.records.keys() - event.clusters):
        _let_go(draft, cluster, clean=deletion == "delete" and cluster in alive)
    if draft.joining.keys() - event.clusters:
        draft.joining = {c: j for c, j in draft.joining.items() if c in event.clusters}
        draft.moves += 1


def _end_all(draft: Draft) -> None:
    """The bundle itself left: if it comes back, it begins anew, whatever its content."""
    why = f"bundle {draft.bundle} left fleet.yaml"
    lifecycle.drop_waiting(draft, RolloutState.ABORTED, why)
    if draft.active is not None:
        lifecycle.cut_short(draft, "left", why)
    draft.previous, draft.head, draft.proven = None, None, {}


def _skip_members(draft: Draft) -> None:
    """Clusters that left count neither way; those paused in the middle are owed what the wave proves."""
    if draft.active is None:
        return
    for index, run in enumerate(draft.active.waves):
        if run.state not in _LIVE:
            continue
        members = tuple(_skipped(draft, run, one) for one in run.members)
        if members != run.members:
            draft.put_wave(index, replace(run, members=members))


def _skipped(draft: Draft, run: WaveRun, one: Member) -> Member:
    left = not draft.belongs(one.cluster)
    if left and (one.state in member.OPEN or one.state in member.SUCCEEDED) and not member.given_up(one):
        reason = "left"
    elif one.cluster in draft.paused_clusters and member.in_flight(one):
        reason = "paused"
    else:
        return one
    after = member.skip(one, reason, draft.now.wall)
    draft.say_member(run, one, after)
    undo.leave(draft, run, one)
    return after


# --- clusters that the bundle does not belong to any more ------------------------------------------------------------


def _let_go(draft: Draft, cluster: str, *, clean: bool) -> None:
    record = draft.records[cluster]
    recorded = record.recorded
    if recorded is None:
        if record != blank(record):
            draft.put_record(cluster, blank(record))
        return
    if not clean or record.fence:
        draft.withdraw(cluster)
    elif recorded.digest is not None:
        removed = replace(recorded, digest=None, at=draft.now.wall)
        draft.deploy(cluster, removed, "remove", f"{draft.bundle}-{recorded.number}", None)
        draft.put_record(cluster, replace(blank(draft.record(cluster)), recorded=removed))


def settle(draft: Draft) -> None:
    """Withdraws the assignment of a cluster once everything of the bundle is removed there."""
    if draft.clusters is None:
        return
    for cluster in sorted(draft.records.keys() - draft.clusters):
        record = draft.records[cluster]
        if record.recorded is None or record.recorded.digest is not None:
            continue
        report = draft.reports.get(cluster)
        told = concerns(report, record.seq, None)
        if record.fence or (told is not None and told.phase == "applied"):
            draft.withdraw(cluster)
        elif report is not None and report.seq == record.seq and report.fence >= record.seq:
            draft.deploy(cluster, record.recorded, "remove", f"{draft.bundle}-{record.recorded.number}", None)
