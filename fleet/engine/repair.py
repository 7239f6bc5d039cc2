"""A suspect object: one dry-run apply confirms, what differs is recorded with who and when, and one apply heals it.

The dry-run passes through defaulting and admission, so only what an apply would really change is drift (drift.md 1.1).
Healing goes to what the cluster is assigned, never to the target of a rollout that has not reached it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from fleet.core import backoff, ownership
from fleet.core.drift import compare, explain, takeover
from fleet.core.normalize import DRIFT_ANNOTATION
from fleet.engine.applier import Applier
from fleet.engine.member import Member, Standing
from fleet.engine.observer import Observer
from fleet.engine.records import Record
from fleet.errors import NotFound, Rejected
from fleet.model.cluster import Baseline
from fleet.model.drift import Drift, DriftState, Verdict
from fleet.model.objects import LiveObject, Manifest, ObjectId


class Metrics(Protocol):
    """Takes durations in seconds, from the event that told of a change."""

    def detected(self, seconds: float) -> None: ...
    def healed(self, seconds: float) -> None: ...


class Finding(msgspec.Struct, frozen=True):
    """What a confirmed difference is."""

    verdict: Verdict
    explanation: explain.Explanation
    live: LiveObject | None


class Repair:
    """Looks at suspects of one connected cluster, one object at a time each."""

    def __init__(
        self,
        member: Member,
        applier: Applier,
        observer: Observer,
        metrics: Metrics,
        *,
        keep: Callable[[Drift | Baseline], None],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`keep` takes what is to be stored, without waiting for it."""
        self._member = member
        self._applier = applier
        self._observer = observer
        self._heats: dict[ObjectId, backoff.Heat] = {}
        self._metrics = metrics
        self._keep = keep
        self._wall = wall
        self._monotonic = monotonic
        self._new_id = new_id
        self._open: dict[ObjectId, Drift] = {}
        self._reowned: dict[ObjectId, float] = {}

    async def work(self, object_id: ObjectId, seen: LiveObject | None, since: float) -> None:
        """Examines one object. `seen`: its newest state as the watch gave it; `since`: when that came (monotonic).

        Raises Rejected or Unavailable: the object stays suspect and is looked at again.
        """
        target = self._target(object_id)
        if target is None:
            return
        record, standing, manifest = target
        live = seen if seen is not None else await self._look(manifest)
        if live is None:
            finding: Finding | None = Finding("missing", explain.Explanation(()), None)
        elif live.meta.deletion_timestamp is not None:
            return
        else:
            finding = await self._examine(record, standing, manifest, live)
        if finding is not None:
            self._metrics.detected(self._monotonic() - since)
            await self._act(record, standing, manifest, finding, since)

    def resolved(self, object_id: ObjectId) -> None:
        """An object that was reported is as released again, by somebody else's doing."""
        drift = self._open.pop(object_id, None)
        if drift is not None and drift.state != "healed":
            self._close(drift, "resolved")

    def owner(self, object_id: ObjectId) -> str | None:
        """Who made the drift that is open on an object."""
        drift = self._open.get(object_id)
        return drift.manager if drift is not None else None

    def _target(self, object_id: ObjectId) -> tuple[Record, Standing, Manifest] | None:
        """What a suspect is held against; None when nothing is to be done about it (now)."""
        record = self._member.records.get(object_id)
        standing = self._member.standings.get(record.bundle) if record is not None else None
        if record is None or standing is None or standing.wanted is None:
            return None
        manifest = standing.wanted.by_id.get(object_id)
        if manifest is None or not self._applier.is_current(manifest):
            return None
        if standing.assignment.options.drift_mode == "off":
            return None
        return record, standing, manifest

    async def _look(self, manifest: Manifest) -> LiveObject | None:
        """The object as it is now; None only when the server says that it does not exist."""
        try:
            return await self._applier.get(manifest)
        except NotFound:
            return None

    async def _examine(
        self, record: Record, standing: Standing, manifest: Manifest, live: LiveObject
    ) -> Finding | None:
        """One dry-run; None when an apply would change nothing, and then the live object is the new baseline."""
        try:
            answer = await self._applier.dry_run(manifest, live.meta.uid)
        except Rejected as error:
            if error.kind == "conflict":  # recreated since
                answer = await self._applier.dry_run(manifest, "")
            elif error.kind in ("duplicate", "immutable", "definite"):
                return self._refused(manifest, live)
            else:
                raise
        if answer.meta.resource_version != live.meta.resource_version:
            newer = await self._look(manifest)
            if newer is None:
                return Finding("missing", explain.Explanation(()), None)
            live = newer
        body, wanted = ownership.decode(live), ownership.decode(answer)
        if not compare.confirm(body, wanted):
            await self._agree(record, standing, manifest, live)
            return None
        explanation = explain.explain(live, body, wanted, manager=self._applier.manager)
        return Finding("modified", explanation, live)

    def _refused(self, manifest: Manifest, live: LiveObject) -> Finding:
        """The server would not even take our manifest over what stands there: that is a difference by itself."""
        wanted: dict[str, Any] = msgspec.json.decode(manifest.body)
        explanation = explain.explain(live, ownership.decode(live), wanted, manager=self._applier.manager)
        return Finding("modified", explanation, live)

    async def _agree(self, record: Record, standing: Standing, manifest: Manifest, live: LiveObject) -> None:
        own = ownership.entry_of(live.meta.managed_fields, self._applier.manager)
        if own is None and self._may_reown(manifest.id, standing):
            record.baseline = None
            baseline, _ = await self._applier.apply(manifest, standing.assignment, admitted=True)
        else:
            baseline = self._observer.answered(manifest, standing.assignment.bundle, live)
        self._keep(baseline)

    def _may_reown(self, object_id: ObjectId, standing: Standing) -> bool:
        if not self._may_write(standing):
            return False
        now = self._monotonic()
        if not backoff.may_reown(self._reowned.get(object_id), now):
            return False
        self._reowned[object_id] = now
        return True

    async def _act(
        self, record: Record, standing: Standing, manifest: Manifest, finding: Finding, since: float
    ) -> None:
        disposition = "heal"
        if finding.verdict == "modified":
            disposition = explain.disposition(manifest.id, finding.explanation.fields)
        if disposition == "none":
            return
        self._member.records.set_drifted(record, True)
        drift = self._detected(standing, manifest, finding, disposition)
        if drift.state == "contested":
            self._member.say("drift.contested", standing.assignment.bundle, **_told(drift))
        if drift.state not in ("open", "contested"):
            return
        await self._heal(record, standing, manifest, finding)
        self._metrics.healed(self._monotonic() - since)
        now = self._monotonic()
        self._heats[manifest.id] = self._heats.get(manifest.id, backoff.Heat()).healed(now)
        standing.repairs += 1
        self._close(drift, "healed")
        self._open.pop(manifest.id, None)
        self._member.report(standing.assignment.bundle)

    def _detected(self, standing: Standing, manifest: Manifest, finding: Finding, disposition: str) -> Drift:
        """The record of a drift, told in the event log when it is another than the one already open."""
        options = standing.assignment.options
        fields = finding.explanation.fields
        known = self._open.get(manifest.id)
        if known is not None and known.fields == fields and known.verdict == finding.verdict:
            return known
        heat = self._heats.get(manifest.id, backoff.Heat())
        now = self._monotonic()
        drift = Drift(
            id=known.id if known is not None else self._new_id(),
            cluster=self._member.name,
            bundle=standing.assignment.bundle,
            object=manifest.id,
            version=manifest.version,
            verdict=finding.verdict,
            state=self._state(standing, manifest, disposition, heat.fighting(now)),
            mode="detect" if options.drift_mode == "detect" else "correct",
            detected_at=known.detected_at if known is not None else self._wall(),
            changed_at=finding.explanation.changed_at,
            manager=finding.explanation.manager,
            operation=finding.explanation.operation,
            count=round(heat.current(now)) + 1,
            fields=fields,
        )
        self._open[manifest.id] = drift
        self._keep(drift)
        self._member.say("drift.detected", drift.bundle, **_told(drift))
        return drift

    def _state(self, standing: Standing, manifest: Manifest, disposition: str, fighting: bool) -> DriftState:
        if _opted_out(manifest):
            return "ignored"
        if disposition == "reported" or standing.assignment.options.drift_mode == "detect":
            return "reported"
        if not self._may_write(standing):
            return "reported"
        return "contested" if fighting else "open"

    def _may_write(self, standing: Standing) -> bool:
        return not self._member.spec.paused and not standing.suspended

    async def _heal(self, record: Record, standing: Standing, manifest: Manifest, finding: Finding) -> None:
        live, baseline = finding.live, record.baseline
        if live is None:
            record.baseline = None
        elif baseline is not None:
            if live.meta.uid != baseline.uid:
                record.baseline = None
            owned = ownership.unpack(baseline.fields)
            takes = takeover.take_over(ownership.decode(live), manager=self._applier.manager, owned=owned)
            if takes is not None:
                await self._applier.take_over(manifest, takes.patch)
        try:
            healed, _ = await self._applier.apply(manifest, standing.assignment, admitted=live is None)
        except Rejected as error:
            if error.kind != "duplicate" or live is None or baseline is None:
                raise
            healed = await self._heal_duplicate(standing, manifest, baseline)
        self._keep(healed)

    async def _heal_duplicate(self, standing: Standing, manifest: Manifest, baseline: Baseline) -> Baseline:
        """422 Duplicate value after a foreign list item: take that item over, and apply once more (1.3 row 12)."""
        live = await self._applier.get(manifest)
        takes = takeover.take_over(
            ownership.decode(live),
            manager=self._applier.manager,
            owned=ownership.unpack(baseline.fields),
            after_duplicate=True,
        )
        if takes is not None:
            await self._applier.take_over(manifest, takes.patch)
        healed, _ = await self._applier.apply(manifest, standing.assignment)
        return healed

    def _close(self, drift: Drift, how: str) -> None:
        healed = msgspec.structs.replace(drift, state="healed", healed_at=self._wall())
        self._keep(healed)
        self._member.say("drift.healed", drift.bundle, **(_told(healed) | {"how": how}))


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
        "changedAt": drift.changed_at,
        "fields": [
            {"path": f.path, "wanted": f.wanted, "live": f.live, "manager": f.manager} for f in drift.fields[:20]
        ],
    }
