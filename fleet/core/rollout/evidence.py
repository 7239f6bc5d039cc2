"""What a report proves about one cluster: only what was observed at our (seq, digest) counts (I8).

Used by everything here that asks whether a cluster can be reached, or is healthy with what it was given.
"""

from __future__ import annotations

from enum import Enum

from fleet.model.cluster import Health, MemberReport

GRACE = 75.0
"""Seconds that a process waits for a first report before silence means lost; as long as a watch may be silent."""


class Sight(Enum):
    """What is known of a cluster's health with the content of one intent."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    LOST = "lost"
    """The cluster cannot be reached, or stays silent."""
    UNSEEN = "unseen"
    """This process has not been told yet; neither good nor bad."""


# Looked at for every cluster in every decision, and an attribute of an Enum costs as much as the rest of the look.
_HEALTHY, _UNHEALTHY, _LOST, _UNSEEN = Sight.HEALTHY, Sight.UNHEALTHY, Sight.LOST, Sight.UNSEEN
# A CronJob that is suspended, or a Deployment that is paused, is so by its manifest: what was released is in place.
_CURRENT, _SUSPENDED = Health.HEALTHY, Health.SUSPENDED


def sight(report: MemberReport | None, seq: int, digest: str | None, listening: float) -> Sight:
    """`listening`: seconds that this process has been waiting for reports."""
    if report is None:
        return _UNSEEN if listening < GRACE else _LOST
    if not report.reachable:
        return _LOST
    if report.seq != seq or report.digest != digest:
        return _UNSEEN if listening < GRACE else _LOST
    if report.phase == "applied" and (report.health is _CURRENT or report.health is _SUSPENDED):
        return _HEALTHY
    looking = report.phase in ("idle", "applying") or (report.phase == "applied" and report.health is Health.UNKNOWN)
    # The agents of a process that has just started look first: what was seen before counts until they have.
    return _UNSEEN if looking and listening < GRACE else _UNHEALTHY


def concerns(report: MemberReport | None, seq: int, digest: str | None) -> MemberReport | None:
    """The report, if it speaks of this intent and the cluster is there."""
    if report is None or not report.reachable or report.seq != seq or report.digest != digest:
        return None
    return report


def reachable(report: MemberReport | None, listening: float) -> bool | None:
    """None: not known yet."""
    if report is None:
        return None if listening < GRACE else False
    return report.reachable


def complaint(report: MemberReport | None) -> str:
    """The most telling sentence of a report."""
    if report is None:
        return "no report from the cluster"
    failed = report.outcome.failed if report.outcome is not None else ()
    first = f"{failed[0].object}: {failed[0].error}" if failed else ""
    return report.message or first or report.health_reason or f"health is {report.health}"
