"""Clusters that were passed over, and are given what their wave has proven as soon as they can take it.

Debts arise where a wave passes without a cluster (unreachable, paused) and where a cluster joins; they are paid outside
of any rollout, and forgiven when a newer release reaches the cluster, or when the content is quarantined.
"""

from __future__ import annotations

from fleet.core.rollout import member
from fleet.core.rollout.draft import Draft
from fleet.core.rollout.evidence import Sight, sight
from fleet.model.rollout import ClusterRecord, MemberState, WaveState


def settle(draft: Draft) -> None:
    if draft.suspended:
        return
    owing = [(cluster, record) for cluster, record in draft.records.items() if record.debt is not None]
    for cluster, record in owing:
        if cluster not in draft.paused_clusters and not _taken(draft, cluster):
            _pay(draft, cluster, record)


def _taken(draft: Draft, cluster: str) -> bool:
    """Whether the running rollout owns the cluster now, or is about to (I5)."""
    if draft.active is None:
        return False
    return any(
        one.cluster == cluster and (member.in_flight(one) or one.state is MemberState.PENDING)
        for run in draft.active.waves
        if run.state is WaveState.ROLLING
        for one in run.members
    )


def _pay(draft: Draft, cluster: str, record: ClusterRecord) -> None:
    report, debt = draft.reports.get(cluster), record.debt
    if debt is None or report is None or not report.reachable or record.fence:
        return
    number = f"{draft.bundle}-{debt.number}"
    recorded = record.recorded
    given = recorded is not None and (recorded.release, recorded.digest) == (debt.release, debt.digest)
    if not given or report.fence >= record.seq:
        draft.deploy(cluster, debt, "catchup", number, None)
    elif sight(report, record.seq, debt.digest, draft.listening) is Sight.HEALTHY:
        draft.mark_good(cluster, debt)
        draft.say(
            "cluster.state",
            rollout=number,
            cluster=cluster,
            **{"from": MemberState.SKIPPED, "to": MemberState.UPDATED},
            reason="catchup",
            seq=record.seq,
        )
