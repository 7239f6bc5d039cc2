"""What a new release of a bundle leads to: a rollout, a place in the queue, a rejection, or nothing (T1).

Nothing: the content is the newest seen already, or differs from it only in which clusters there are. Then the clusters
that joined get it as a catch-up, once it is proven for their wave, and no rollout is disturbed (lesson 3).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fleet.core.rollout import lifecycle, member, quarantine
from fleet.core.rollout.draft import Draft
from fleet.model.rollout import (
    HistoryEntry,
    Joining,
    Plan,
    Release,
    ReleaseReady,
    Rollout,
    RolloutState,
    WaveState,
)

replace = msgspec.structs.replace


def admit(draft: Draft, event: ReleaseReady) -> None:
    release = event.release
    seen = release.content == draft.head
    host = None if draft.waiting is not None else draft.active or draft.previous
    if host is not None and _only_clusters_differ(host, release, seen=seen):
        _remember(draft, release)
        if not _welcome(draft, host, release, event.plan):
            return
    elif seen:
        return
    _remember(draft, release)
    known = quarantine.reason(draft, release)
    if known is not None:
        lifecycle.reject(draft, release, event.plan, known)
    elif _wanted_again(draft, release):
        lifecycle.drop_waiting(draft, RolloutState.SUPERSEDED, f"{draft.running.id} holds what is wanted again")
    elif draft.active is not None or draft.waiting is not None or not _in_place(draft, release):
        _queue(draft, release, event.plan)


def _remember(draft: Draft, release: Release) -> None:
    if draft.head != release.content:
        draft.head = release.content
        draft.moves += 1


def _wanted_again(draft: Draft, release: Release) -> bool:
    active = draft.active
    return active is not None and active.state in lifecycle.GOING and active.release.content == release.content


def _in_place(draft: Draft, release: Release) -> bool:
    """Whether every cluster holds this content, or is owed it: equal digests end here."""
    for cluster, digest in release.digests.items():
        if not draft.belongs(cluster):
            continue
        record = draft.record(cluster)
        held = record.debt or record.recorded
        if held is None or held.digest != digest or held.options != release.options:
            return False
    return True


def _queue(draft: Draft, release: Release, plan: Plan) -> None:
    """Depth one, the newest wins; `lifecycle` starts it, as soon as the lock is free or can be freed."""
    paused = draft.waiting is not None and draft.waiting.paused
    rollout = lifecycle.make(draft, release, plan, state=RolloutState.PLANNED)
    lifecycle.drop_waiting(draft, RolloutState.SUPERSEDED, f"superseded by {rollout.id}", rollout.id)
    draft.waiting = replace(rollout, paused=paused)


# --- joiners ---------------------------------------------------------------------------------------------------------


def _only_clusters_differ(host: Rollout, release: Release, *, seen: bool) -> bool:
    ours = host.release
    if host.kind != "forward" or ours.options != release.options:
        return False
    if not quarantine.same_content(ours.digests, release.digests):
        return False
    settled = host.state is RolloutState.SUCCEEDED or host.state in lifecycle.GOING
    return seen or settled or ours.digests.keys() != release.digests.keys()


def _welcome(draft: Draft, host: Rollout, release: Release, plan: Plan) -> bool:
    """Sees to the clusters that joined; returns whether some can only be reached by a rollout of their own."""
    waves = {cluster: wave.name for wave in plan.waves for cluster in wave.clusters}
    runs = {run.plan.name: run for run in host.waves}
    unreached = False
    for cluster in _joiners(draft, host, release):
        run = runs.get(waves.get(cluster, ""))
        entry = HistoryEntry(
            release=release.id,
            content=release.content,
            digest=release.digests[cluster],
            at=draft.now.wall,
            options=release.options,
            number=host.number,
        )
        if run is not None and run.state is WaveState.PASSED:
            draft.owe(cluster, entry)
        elif run is not None and not host.state.terminal:
            draft.joining = {**draft.joining, cluster: Joining(entry, run.plan.name, host.id)}
            draft.moves += 1
        else:
            # What halted does not start again because a cluster joined; what succeeded goes where it has not been.
            unreached |= not host.state.terminal or host.state is RolloutState.SUCCEEDED
    return unreached


def _joiners(draft: Draft, host: Rollout, release: Release) -> Iterator[str]:
    """Clusters of the release that hold nothing of the bundle, and that no wave of the running rollout will reach."""
    for cluster in release.digests:
        record = draft.record(cluster)
        holds = record.recorded is not None and record.recorded.digest is not None
        if holds or record.debt is not None or cluster in draft.joining or not draft.belongs(cluster):
            continue
        if host.state.terminal or not _will_reach(host, cluster):
            yield cluster


def _will_reach(rollout: Rollout, cluster: str) -> bool:
    for run in rollout.waves:
        if run.state is WaveState.PENDING:
            if cluster in run.plan.clusters and cluster in rollout.release.digests:
                return True
        elif any(m.cluster == cluster and m.state in member.OPEN for m in run.members):
            return True
    return False
