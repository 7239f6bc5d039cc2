"""What becomes of an intent that nobody waits for any more, and that its cluster did not carry out (I6).

An assignment stands until the next one: an agent that comes back, or goes on retrying, would apply it long after its
rollout was halted or aborted. So where a cluster leaves flight without having reported `applied`, what it held before
is assigned to it again by the same decision. The last report has the word: what was applied unseen is undone, too,
which costs an apply and never leaves a release behind that nobody watches.

A definite error is no such case: the cluster carried the intent out as far as it can, and people decide (T10, halt).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import concerns
from fleet.model.rollout import ClusterRecord, HistoryEntry, Member, MemberState, WaveRun

replace = msgspec.structs.replace

_UNAPPLIED = (MemberState.APPLYING, MemberState.ERRORED)


def remember(draft: Draft, one: Member) -> Member:
    """Notes what a cluster holds and is owed, before it is given the release of the active rollout."""
    record = draft.record(one.cluster)
    recorded = record.recorded
    if one.attempts > 0 and recorded is not None and recorded.release == draft.running.release.id:
        # What an earlier attempt of this rollout left there is no place to return to.
        return one
    return replace(one, former=recorded, debt=record.debt)


def leave(draft: Draft, run: WaveRun, flown: Member) -> None:
    """A cluster of the active rollout leaves flight; `flown` is how it flew.

    Nothing happens where its intent was carried out, or is not the newest one there any more.
    """
    cluster, record, former = flown.cluster, draft.record(flown.cluster), flown.former
    if flown.state not in _UNAPPLIED or not draft.belongs(cluster):
        return
    if record.recorded is None or (record.seq, record.recorded.digest) != (flown.seq, flown.digest):
        return
    if _applied(draft, cluster, record):
        return
    before = () if former is None or former.digest is None else (former, *_goods(record))
    _return(draft, cluster, before, draft.running.id, run.plan.name)
    if flown.debt is not None and flown.debt.content not in draft.quarantined:
        draft.owe(cluster, flown.debt)


def forgive(draft: Draft, content: str) -> None:
    """Debts of content that is quarantined now, and catch-ups that are under way with it: they are starts, too."""
    for cluster, record in tuple(draft.records.items()):
        debt, recorded = record.debt, record.recorded
        if debt is None or debt.content != content:
            continue
        draft.owe(cluster, None)
        sent = recorded is not None and (recorded.release, recorded.digest) == (debt.release, debt.digest)
        if sent and draft.belongs(cluster) and not _applied(draft, cluster, record):
            _return(draft, cluster, _goods(record), f"{draft.bundle}-{debt.number}", None)


def _applied(draft: Draft, cluster: str, record: ClusterRecord) -> bool:
    digest = None if record.recorded is None else record.recorded.digest
    told = concerns(draft.reports.get(cluster), record.seq, digest)
    return told is not None and told.phase == "applied"


def _goods(record: ClusterRecord) -> Iterable[HistoryEntry]:
    return (good for good in (record.last_good, *record.earlier) if good is not None and good.digest is not None)


def _return(draft: Draft, cluster: str, before: Iterable[HistoryEntry], rollout: str, wave: str | None) -> None:
    """To the first that is not quarantined (I6).

    Where there is none, or another control plane is at work, what is there is left to itself.
    """
    back = next((entry for entry in before if entry.content not in draft.quarantined), None)
    if back is None or draft.record(cluster).fence:
        draft.withdraw(cluster)
    else:
        draft.deploy(cluster, replace(back, at=draft.now.wall), "rollback", rollout, wave)
