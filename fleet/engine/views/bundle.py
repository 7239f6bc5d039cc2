"""Where a bundle stands over all clusters that it targets.

`BundleFacts` is what is known of one bundle at one instant; the counts and the one-word state are pure functions of
it. A cluster is counted once: failed (its member failed, or what runs there is Degraded), else unknown (not heard),
else updated (it recorded what the newest release wants there), else pending. `drifted` overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from fleet.engine.views.cluster import ClusterBundle, ClusterView, observed
from fleet.engine.views.rollout import wave_runs
from fleet.model.cluster import Health, Sync
from fleet.model.fleetfile import Bundle
from fleet.model.rollout import BundleState, Member, MemberState, Rollout, RolloutState

_FAILED = frozenset({MemberState.FAILED, MemberState.ERRORED, MemberState.ROLLBACK_FAILED})
_DONE = frozenset({MemberState.UPDATED, MemberState.NOOP, MemberState.ROLLED_BACK})
_STOPPED = frozenset({RolloutState.HALTED, RolloutState.EXPIRED})


class BundleStateName(StrEnum):
    SYNCED = "Synced"
    ROLLING_OUT = "RollingOut"
    BLOCKED = "Blocked"
    DEGRADED = "Degraded"
    UNKNOWN = "Unknown"


class BundleCounts(msgspec.Struct, frozen=True, rename="camel"):
    total: int = 0
    updated: int = 0
    pending: int = 0
    failed: int = 0
    unknown: int = 0
    drifted: int = 0


class BundleView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    strategy: str
    state: BundleStateName
    release: str | None
    """Of the newest rollout."""
    revisions: dict[str, str]
    rollout: str | None
    """The active one, else the one that waits, else the last that ended."""
    suspended: bool
    reason: str | None
    """Why the state is not Synced, in one sentence."""
    clusters: BundleCounts


class BundleFacts(msgspec.Struct, frozen=True):
    bundle: Bundle
    targets: tuple[str, ...]
    state: BundleState | None
    """None until the bundle was decided about."""
    clusters: Mapping[str, ClusterView]
    problem: str | None = None
    """Why the newest commit made no release of this bundle (it cannot be rendered, for example)."""


def current_rollout(state: BundleState | None) -> Rollout | None:
    """The rollout that a person means by the bundle's name."""
    if state is None:
        return None
    return state.active or state.waiting or state.previous


def bundle_view(facts: BundleFacts) -> BundleView:
    rollout = current_rollout(facts.state)
    counts = count(facts)
    name, reason = judge(facts, counts)
    return BundleView(
        name=facts.bundle.name,
        namespace=facts.bundle.namespace,
        strategy=facts.bundle.strategy,
        state=name,
        release=rollout.release.id if rollout else None,
        revisions=dict(rollout.release.revisions) if rollout else {},
        rollout=rollout.id if rollout else None,
        suspended=facts.bundle.suspend,
        reason=reason,
        clusters=counts,
    )


def count(facts: BundleFacts) -> BundleCounts:
    rollout = current_rollout(facts.state)
    members = _members(rollout)
    tally = {"updated": 0, "pending": 0, "failed": 0, "unknown": 0}
    drifted = 0
    for name in facts.targets:
        standing = _standing(facts, name)
        drifted += standing is not None and standing.drifted > 0
        tally[_place(facts.clusters.get(name), standing, rollout, members.get(name))] += 1
    return BundleCounts(total=len(facts.targets), drifted=drifted, **tally)


def judge(facts: BundleFacts, counts: BundleCounts) -> tuple[BundleStateName, str | None]:
    """The one-word state, and why it is not Synced."""
    name, reason = _under_way(facts) or _settled(facts, counts)
    if facts.problem:
        return (BundleStateName.DEGRADED if name is BundleStateName.SYNCED else name), facts.problem
    return name, reason


def _under_way(facts: BundleFacts) -> tuple[BundleStateName, str] | None:
    active = facts.state.active if facts.state else None
    if active is None:
        return None
    if active.blocked_by is not None:
        return (
            BundleStateName.BLOCKED,
            f"{active.id} waits for {active.blocked_by.kind} {active.blocked_by.name}".rstrip(),
        )
    if active.state is RolloutState.BLOCKED or active.paused:
        return BundleStateName.BLOCKED, f"{active.id} is paused" if active.paused else f"{active.id} is blocked"
    return BundleStateName.ROLLING_OUT, f"{active.id} is {active.state}"


def _settled(facts: BundleFacts, counts: BundleCounts) -> tuple[BundleStateName, str | None]:
    last = facts.state.previous if facts.state else None
    if last is not None and last.state in (*_STOPPED, RolloutState.REJECTED):
        return BundleStateName.DEGRADED, f"{last.id} ended {last.state}" + (f": {last.reason}" if last.reason else "")
    if counts.failed:
        return BundleStateName.DEGRADED, f"{counts.failed} of {counts.total} clusters failed or are degraded"
    if counts.unknown:
        return BundleStateName.UNKNOWN, f"{counts.unknown} of {counts.total} clusters are not heard"
    if last is None and counts.pending:
        return BundleStateName.UNKNOWN, "nothing was released yet"
    if counts.pending:
        return BundleStateName.ROLLING_OUT, f"{counts.pending} of {counts.total} clusters still catch up"
    return BundleStateName.SYNCED, None


def _place(
    view: ClusterView | None, standing: ClusterBundle | None, rollout: Rollout | None, member: Member | None
) -> Literal["updated", "pending", "failed", "unknown"]:
    if (member is not None and member.state in _FAILED) or (
        standing is not None and standing.health is Health.DEGRADED
    ):
        return "failed"
    if view is None or not observed(view.state) or (standing is not None and standing.sync is Sync.UNKNOWN):
        return "unknown"
    if rollout is None or standing is None or standing.sync is not Sync.SYNCED:
        return "pending"
    return "updated" if _has_newest(rollout, standing, member) else "pending"


def _has_newest(rollout: Rollout, standing: ClusterBundle, member: Member | None) -> bool:
    """Whether the cluster got what the rollout brings; health that is not proven yet is not "updated"."""
    if rollout.state.terminal and rollout.state not in _STOPPED:
        return True
    if member is None:
        return standing.recorded is not None and standing.recorded == standing.wanted
    return member.state in _DONE and standing.recorded == member.digest


def _members(rollout: Rollout | None) -> dict[str, Member]:
    if rollout is None:
        return {}
    return {member.cluster: member for run in wave_runs(rollout) for member in run.members}


def _standing(facts: BundleFacts, cluster: str) -> ClusterBundle | None:
    view = facts.clusters.get(cluster)
    if view is None:
        return None
    return next((each for each in view.bundles if each.bundle == facts.bundle.name), None)
