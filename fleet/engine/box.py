"""What the conductor keeps per bundle between two decisions: its state, what waits for it, and when it is due.

Each kind of input is held as its latest value, so the size of all boxes is bounded by the fleet, not by what happens.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from fleet.errors import FleetError, StoreError
from fleet.model.cluster import MemberReport
from fleet.model.rollout import BundleState, Commanded, FactsChanged, ReleaseReady, Rollout


class Inbox:
    """What waits to be decided about; the latest of each kind counts, so its size is bounded by the fleet's."""

    def __init__(self) -> None:
        self.facts: FactsChanged | None = None
        self.release: ReleaseReady | None = None
        self.reports: dict[str, MemberReport] = {}

    def __bool__(self) -> bool:
        return self.facts is not None or self.release is not None or bool(self.reports)

    def hear(self, reports: Mapping[str, MemberReport]) -> None:
        self.reports.update(reports)

    def add(self, reports: Mapping[str, MemberReport]) -> None:
        """Only for clusters of which nothing waits that says more."""
        for cluster, report in reports.items():
            waiting = self.reports.get(cluster)
            if waiting is None or waiting.seq == 0:
                self.reports[cluster] = report

    def snapshot(self) -> Inbox:
        copy = Inbox()
        copy.facts, copy.release, copy.reports = self.facts, self.release, dict(self.reports)
        return copy

    def remove(self, done: Inbox) -> None:
        """Forgets what was decided about; what came meanwhile stays."""
        if self.facts is done.facts:
            self.facts = None
        if self.release is done.release:
            self.release = None
        for cluster, report in done.reports.items():
            if self.reports.get(cluster) is report:
                del self.reports[cluster]


class Answer:
    """A request that somebody waits for."""

    def __init__(self, command: Commanded | None = None) -> None:
        self.command = command
        self.done = anyio.Event()
        self.rollout: Rollout | None = None
        self.error: FleetError | None = None
        self.abandoned = False

    def give(self, rollout: Rollout | None = None, error: FleetError | None = None) -> None:
        self.rollout, self.error = rollout, error
        self.done.set()


class Box:
    """What the conductor keeps about one bundle beside its state; times are monotonic seconds."""

    def __init__(self, state: BundleState, now: float | None = None) -> None:
        self.state = state
        self.inbox = Inbox()
        self.submitted: list[Answer] = []
        self.stored_at = 0.0 if now is None else now
        self.failures = 0
        self.doubt: StoreError | None = None
        """Why it is not known whether the last decision is stored."""
        self._wake_at = now
        self._retry_at: float | None = None
        self._decided_at: float | None = None
        self._credit: float | None = None

    def elapsed(self, now: float) -> float:
        """Seconds since the last decision of this process. While the store is down no clock runs (scenario 44)."""
        if self._credit is not None:
            return self._credit
        return 0.0 if self._decided_at is None else max(0.0, now - self._decided_at)

    def due(self, now: float) -> bool:
        if self._retry_at is not None:
            return self._retry_at <= now
        return bool(self.inbox) or (self._wake_at is not None and self._wake_at <= now)

    def next_look(self, now: float) -> float | None:
        if self._retry_at is not None:
            return self._retry_at
        return now if self.inbox else self._wake_at

    def decided(self, now: float, wake_at: float | None) -> None:
        self._decided_at, self._credit, self._retry_at, self.failures = now, None, None, 0
        self._wake_at = wake_at

    def failed(self, now: float, retry_at: float) -> None:
        self._credit = self.elapsed(now)
        self._retry_at = retry_at
        self.failures += 1
