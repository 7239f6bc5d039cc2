"""The records of drift: what was found on an object, told once, and how it ended.

One record is open per object until the object is as released again, or nobody wants it to be any more. Records outlive
sessions and restarts (`Member.repairs`), so that what is resolved while nobody looks is closed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from fleet.core import backoff
from fleet.core.drift import explain
from fleet.core.normalize import DRIFT_ANNOTATION
from fleet.engine.member import Member, Standing
from fleet.model.drift import Drift, DriftState, FieldChange, Verdict
from fleet.model.objects import LiveObject, Manifest, ObjectId

TOLD = 20
"""Fields that an event names."""


class Finding(msgspec.Struct, frozen=True):
    """What a confirmed difference is."""

    verdict: Verdict
    fields: tuple[FieldChange, ...]
    live: LiveObject | None
    manager: str | None = None
    operation: str | None = None
    changed_at: str | None = None

    @classmethod
    def of(cls, verdict: Verdict, explanation: explain.Explanation, live: LiveObject) -> Finding:
        by = (explanation.manager, explanation.operation, explanation.changed_at)
        return cls(verdict, explanation.fields, live, *by)


class Findings:
    """The drift records of one cluster."""

    def __init__(
        self,
        member: Member,
        *,
        keep: Callable[[Drift], None],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`keep` takes what is to be stored, without waiting for it."""
        self._member = member
        self._memory = member.repairs
        self._keep = keep
        self._wall = wall
        self._monotonic = monotonic
        self._new_id = new_id
        self._healing: set[ObjectId] = set()

    def of(self, object_id: ObjectId) -> Drift | None:
        """The record that is open on an object."""
        return self._memory.open.get(object_id)

    def open_of(self, bundle: str) -> list[ObjectId]:
        return [object_id for object_id, drift in self._memory.open.items() if drift.bundle == bundle]

    def detected(self, standing: Standing, manifest: Manifest, finding: Finding, *, report_only: bool) -> Drift:
        """The record of what was found; told in the event log when it is another than the one already open."""
        known = self._memory.open.get(manifest.id)
        heat = self._memory.heats.get(manifest.id, backoff.Heat())
        now = self._monotonic()
        state = self._state(standing, manifest, report_only, heat.fighting(now))
        told = (finding.fields, finding.verdict, state)
        if known is not None and (known.fields, known.verdict, known.state) == told:
            return known
        drift = Drift(
            id=known.id if known is not None else self._new_id(),
            cluster=self._member.name,
            bundle=standing.assignment.bundle,
            object=manifest.id,
            version=manifest.version,
            verdict=finding.verdict,
            state=state,
            mode="detect" if standing.assignment.options.drift_mode == "detect" else "correct",
            detected_at=known.detected_at if known is not None else self._wall(),
            changed_at=finding.changed_at,
            manager=finding.manager,
            operation=finding.operation,
            count=round(heat.current(now)) + 1,
            fields=finding.fields,
        )
        self._memory.open[manifest.id] = drift
        self._keep(drift)
        self._member.say("drift.detected", drift.bundle, **_told(drift))
        if state == "contested" and manifest.id not in self._memory.contested:
            self._memory.contested.add(manifest.id)
            self._member.say("drift.contested", drift.bundle, **_told(drift))
        return drift

    @contextmanager
    def healing(self, object_id: ObjectId) -> Iterator[None]:
        """While we apply: that the object is clean then is our doing, and told by `healed`."""
        self._healing.add(object_id)
        try:
            yield
        finally:
            self._healing.discard(object_id)

    def healed(self, object_id: ObjectId) -> None:
        """Our apply brought the object back."""
        now = self._monotonic()
        heat = self._memory.heats.get(object_id, backoff.Heat())
        if heat.current(now) < 1.0:
            self._memory.contested.discard(object_id)  # the last fight is long over
        self._memory.heats[object_id] = heat.healed(now)
        self._close(object_id, "healed")

    def unhealed(self, object_id: ObjectId, reason: str) -> None:
        """Our apply failed; the record says why, and stays open."""
        drift = self._memory.open.get(object_id)
        if drift is None or drift.message == reason:
            return
        drift = self._memory.open[object_id] = msgspec.structs.replace(drift, message=reason)
        self._keep(drift)

    def resolved(self, object_id: ObjectId) -> None:
        """The object is as released again, by somebody else's doing."""
        if object_id not in self._healing:
            self._close(object_id, "resolved")

    def withdraw(self) -> None:
        """Closes the records of objects that no assignment wants any more, and forgets what is known of them."""
        standings = self._member.standings
        for object_id, drift in list(self._memory.open.items()):
            standing = standings.get(drift.bundle)
            gone = standing is None or (standing.wanted is not None and object_id not in standing.wanted.by_id)
            if gone or (standing is not None and standing.assignment.options.drift_mode == "off"):
                self._close(object_id, "withdrawn")
        memory, records, now = self._memory, self._member.records, self._monotonic()
        for object_id, heat in list(memory.heats.items()):
            if records.get(object_id) is None or heat.current(now) < 0.01:
                del memory.heats[object_id]
                memory.contested.discard(object_id)
        for object_id in [i for i in memory.reowned if records.get(i) is None]:
            del memory.reowned[object_id]

    def _state(self, standing: Standing, manifest: Manifest, report_only: bool, fighting: bool) -> DriftState:
        if _opted_out(manifest):
            return "ignored"
        if report_only or standing.assignment.options.drift_mode == "detect" or not self._member.may_write(standing):
            return "reported"
        return "contested" if fighting else "open"

    def _close(self, object_id: ObjectId, how: str) -> None:
        drift = self._memory.open.pop(object_id, None)
        if drift is None:
            return
        closed = msgspec.structs.replace(drift, state="healed", healed_at=self._wall(), message="")
        self._keep(closed)
        self._member.say("drift.healed", drift.bundle, **(_told(closed) | {"how": how}))


def _opted_out(manifest: Manifest) -> bool:
    metadata = msgspec.json.decode(manifest.body)["metadata"]
    return bool((metadata.get("annotations") or {}).get(DRIFT_ANNOTATION) == "ignore")


def _told(drift: Drift) -> dict[str, Any]:
    """What the event log says of a drift."""
    return {
        "id": drift.id,
        "object": str(drift.object),
        "verdict": drift.verdict,
        "state": drift.state,
        "manager": drift.manager,
        "operation": drift.operation,
        "detectedAt": drift.detected_at,
        "changedAt": drift.changed_at,
        "fields": [
            {"path": f.path, "wanted": f.wanted, "live": f.live, "manager": f.manager} for f in drift.fields[:TOLD]
        ],
    }
