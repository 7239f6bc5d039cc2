"""Two control planes at one cluster: which of them goes on (I10, scenario 43).

A cluster takes an intent only with a higher number than the one that it holds. A control plane that begins with an
empty database meets higher numbers everywhere, and goes beyond each of them once. One whose intents a cluster has
carried out before, and that finds a higher number there now, has been taken over from: it stops there and says so, or
the two would outbid each other for ever. Only a person can tell which is the right one; `retry`, or a rollback by
hand, takes the cluster back.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleet.core.rollout import member
from fleet.core.rollout.draft import Draft
from fleet.model.cluster import MemberReport, Purpose
from fleet.model.rollout import Member, MemberState, WaveRun

replace = msgspec.structs.replace

TAKEN = "another control plane has taken this cluster over (its inventory holds number {}); stop one of the two"


def note(draft: Draft, reports: Iterable[MemberReport]) -> None:
    """Remembers beyond a restart where we have had our say, and where somebody else has it now."""
    for report in reports:
        record = draft.record(report.cluster)
        if record.recorded is None or (report.seq, report.digest) != (record.seq, record.recorded.digest):
            continue
        after = record
        if report.reachable and report.phase == "applied":
            after = replace(record, claimed=True, fence=0)
        elif report.fence >= record.seq and record.claimed:
            after = replace(record, fence=report.fence)
        if after != record:
            draft.put_record(report.cluster, after)


def taken(draft: Draft, one: Member) -> Member:
    """A cluster that is somebody else's: given up, and nothing is held against the release."""
    state = MemberState.ROLLBACK_FAILED if one.state is MemberState.ROLLING_BACK else MemberState.ERRORED
    taken_over = TAKEN.format(draft.record(one.cluster).fence)
    message = f"{taken_over}; if this one is to go on, `fleet retry {draft.running.id}` takes the cluster back"
    attempts, wall = max(1, one.attempts), draft.now.wall
    return replace(one, state=state, reason="fenced", message=message, ended_at=wall, attempts=attempts)


def settle(draft: Draft, run: WaveRun, one: Member, purpose: Purpose) -> Member:
    """What becomes of a cluster in flight that holds a higher number than its intent has."""
    record, report = draft.record(one.cluster), draft.reports.get(one.cluster)
    if not member.in_flight(one):
        return one
    if record.fence:
        return taken(draft, one)
    if report is None or report.fence < one.seq or report.seq != one.seq or record.recorded is None:
        return one
    seq = draft.deploy(one.cluster, record.recorded, purpose, draft.running.id, run.plan.name)
    return replace(one, seq=seq, attempts=one.attempts + 1)
