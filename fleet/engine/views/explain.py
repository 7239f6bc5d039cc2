"""Why something does not move: the blocking thing, since when, who can act, the command to type.

About a rollout `core.rollout.explain` decides; here its answer becomes JSON, and clusters and bundles are explained
by what their agents see and by the rollouts that they wait for.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.core import rollout as engine
from fleet.core.rollout.explain import age
from fleet.engine.views.bundle import BundleFacts, bundle_view, current_rollout
from fleet.engine.views.cluster import ClusterView, observed
from fleet.engine.views.rollout import BlockedView, blocked_view, wave_runs
from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.rollout import BundleState, Member, MemberState, Rollout, WaveRun

_AT_REST = (MemberState.UPDATED, MemberState.NOOP, MemberState.SKIPPED)


class ExplainView(msgspec.Struct, frozen=True, rename="camel"):
    subject: str
    state: str
    waiting_for: BlockedView | None
    """null: nothing that somebody could act on holds it up."""
    because: tuple[str, ...]
    """One sentence each, the most important first."""
    cluster: str | None
    """The cluster that was asked about."""


def explain_rollout(rollout: Rollout, state: BundleState | None, now: float) -> ExplainView:
    found = engine.explain(rollout, state, now)
    return ExplainView(
        subject=f"rollout {rollout.id}",
        state=rollout.state,
        waiting_for=None if found.waiting_for is None else blocked_view(found.waiting_for),
        because=found.because,
        cluster=None,
    )


def explain_bundle(facts: BundleFacts, now: float) -> ExplainView:
    view = bundle_view(facts)
    rollout = current_rollout(facts.state)
    because = [view.reason] if view.reason else ["every cluster has the newest release"]
    if facts.bundle.suspend:
        because.insert(0, "the bundle is suspended in fleet.yaml: no rollout starts")
    if rollout is not None and not rollout.state.terminal:
        because += engine.explain(rollout, facts.state, now).because
    blocked = rollout.blocked_by if rollout is not None else None
    return ExplainView(
        subject=f"bundle {facts.bundle.name}",
        state=view.state,
        waiting_for=None if blocked is None else blocked_view(blocked),
        because=tuple(dict.fromkeys(because)),
        cluster=None,
    )


def explain_cluster(view: ClusterView, states: Iterable[BundleState], now: float) -> ExplainView:
    because = _standing(view)
    waiting_for = None
    for state in states:
        because += engine.explain_cluster(view.name, state)
        if state.active is None:
            continue
        found = _member(state.active, view.name)
        if found is None or found[1].state in _AT_REST:
            continue
        because.append(_in_rollout(state.active, *found))
        if waiting_for is None and state.active.blocked_by is not None:
            waiting_for = blocked_view(state.active.blocked_by)
            because += engine.explain(state.active, state, now).because
    if not because:
        because.append("it is watched, every bundle on it is as released, and no rollout waits for it")
    return ExplainView(
        subject=f"cluster {view.name}",
        state=view.state,
        waiting_for=waiting_for,
        because=tuple(dict.fromkeys(because)),
        cluster=view.name,
    )


def _standing(view: ClusterView) -> list[str]:
    """What its agent sees that is not as it should be."""
    because = []
    reason = f": {view.reason}" if view.reason else ""
    if view.state is ClusterState.PAUSED:
        because.append("it is paused in fleet.yaml: nothing is applied there, drift is only reported")
    elif not observed(view.state):
        heard = "never" if view.age_seconds is None else f"{age(view.age_seconds)} ago"
        because.append(f"it is {view.state}{reason}; last heard {heard}")
    for each in view.bundles:
        if each.sync in (Sync.OUT_OF_SYNC, Sync.APPLYING):
            because.append(f"bundle {each.bundle} is {each.sync} there")
        if each.health not in (Health.HEALTHY, Health.SUSPENDED, Health.UNKNOWN):
            because.append(f"bundle {each.bundle} is {each.health} there; see `fleet cluster {view.name}`")
        if each.drifted:
            because.append(
                f"{each.drifted} objects of {each.bundle} differ: `fleet drift --cluster {view.name} --open`"
            )
    return because


def _member(rollout: Rollout, cluster: str) -> tuple[WaveRun, Member] | None:
    found = ((run, member) for run in wave_runs(rollout) for member in run.members if member.cluster == cluster)
    return next(found, None)


def _in_rollout(rollout: Rollout, run: WaveRun, member: Member) -> str:
    if member.state is MemberState.PENDING:
        return f"{rollout.id} has not come to it yet: wave {run.plan.name} is {run.state}"
    reason = f" ({member.reason})" if member.reason else ""
    message = f": {member.message}" if member.message else ""
    return f"{rollout.id} has it {member.state}{reason}{message}"
