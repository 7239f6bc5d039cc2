"""Follows the control plane while the tour goes on: tells what happens, until something is true or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from fleet.cli.client import Client
from fleet.cli.demo.narrator import Narrator
from fleet.cli.failure import Exit, Failure
from fleet.cli.show_rollout import ENDED

Json = dict[str, Any]
PERIOD = 0.2
"""Seconds between two looks."""
_TOLD_MEMBER = frozenset({"Updated", "NoOp", "Failed", "Errored", "RolledBack", "RollbackFailed"})
_TOLD_WAVE = frozenset({"Rolling", "Baking", "Passed", "Failed"})


class NotTrue(Failure):
    """A step of the tour did not come true, or not within its deadline."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.NO, message)


class Follower:
    """`deadline` is the longest time, in seconds, that one wait may take."""

    def __init__(self, client: Client, narrator: Narrator, deadline: float) -> None:
        self._client = client
        self._narrator = narrator
        self._deadline = deadline
        self._seq = 0
        self._began = time.monotonic()

    def begin(self) -> None:
        """Times are told from now on; what happened before is not told any more."""
        self._began = time.monotonic()
        for event in self._client.events(self._seq, follow=False):
            self._seq = event["seq"]

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def rollout_of(self, sha: str) -> Json:
        """The rollout that brings the commit, once there is one."""

        def look() -> Json | None:
            items = self._client.list("/rollouts", most=10)["items"]
            return next((each for each in items if sha in each["revisions"].values()), None)

        return self.until(f"a rollout of {sha[:10]}", look)

    def rollout(self, id: str, what: str, condition: Callable[[Json], bool], fatal: frozenset[str] = ENDED) -> Json:
        """The rollout, once `condition` holds; a rollout that ends otherwise is told at once."""

        def look() -> Json | None:
            rollout = self._client.get(f"/rollouts/{id}")
            if condition(rollout):
                return rollout
            if rollout["state"] in fatal:
                reason = f" ({rollout['reason']})" if rollout["reason"] else ""
                raise NotTrue(f"{id} ended {rollout['state']}{reason}; expected was: {what}")
            return None

        return self.until(what, look)

    def until(self, what: str, look: Callable[[], Json | None]) -> Json:
        """What `look` finds, telling events meanwhile. Raises NotTrue after the deadline."""
        end = time.monotonic() + self._deadline
        while True:
            found = look()
            self.tell()
            if found is not None:
                return found
            if time.monotonic() > end:
                raise NotTrue(f"not within {self._deadline:.0f} s: {what}")
            time.sleep(PERIOD)

    def tell(self) -> None:
        """Prints what happened since the last look."""
        for event in self._client.events(self._seq, follow=False):
            self._seq = event["seq"]
            words = told(event)
            if words:
                self._narrator.event(self.elapsed(), *words)

    def watch(self, alive: Callable[[], bool]) -> None:
        """Tells events for as long as `alive` holds. Raises Failure when the server ended by itself."""
        while alive():
            try:
                self.tell()
            except Failure as failure:
                if failure.exit is not Exit.UNREACHABLE:
                    raise
            time.sleep(1.0)


def told(event: Mapping[str, Any]) -> list[str]:
    """The words of an event that is worth a line; none for the others."""
    data, kind = event["data"], event["type"]
    if kind == "rollout.state" and data.get("to") != "Planned":
        return [f"{event['rollout']:<9}", str(data.get("to")), data.get("reason") or ""]
    if kind == "wave.state" and data.get("to") in _TOLD_WAVE:
        return [f"wave {event['wave']:<4}", data["to"]]
    if kind == "cluster.state" and data.get("to") in _TOLD_MEMBER:
        return [f"{event['cluster']:<9}", data["to"], data.get("reason") or ""]
    if kind == "gate.state" and data.get("to") in ("Waiting", "Passed", "Rejected", "Expired"):
        by = data.get("by") or (event["actor"] if event["actor"] != "system" else "")
        return [f"gate {data.get('gate', '')}", data["to"], f"by {by}" if by else ""]
    if kind in ("drift.detected", "drift.healed"):
        return [
            f"{event['cluster']:<9}",
            "drift" if kind == "drift.detected" else "healed",
            str(data.get("object", "")),
        ]
    return []
