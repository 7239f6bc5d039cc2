"""A suspect object: one dry-run apply confirms, what differs is recorded with who and when, and one apply heals it.

The dry-run passes through defaulting and admission, so only what an apply would really change is drift (drift.md 1.1).
Healing goes to what the cluster is assigned, never to the target of a rollout that has not reached it. The records of
what was found are kept in `engine.findings`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from fleet.core import backoff, ownership
from fleet.core.drift import compare, explain, takeover
from fleet.engine.applier import Applier
from fleet.engine.findings import Finding, Findings
from fleet.engine.member import Member, Standing
from fleet.engine.observer import Observer
from fleet.engine.records import Record
from fleet.errors import FleetError, NotFound, Rejected
from fleet.model.cluster import Baseline
from fleet.model.objects import LiveObject, Manifest, ObjectId


class Metrics(Protocol):
    """Takes durations in seconds, from the event that told of a change."""

    def detected(self, seconds: float) -> None: ...
    def healed(self, seconds: float) -> None: ...


class Target(msgspec.Struct, frozen=True):
    """What a suspect is held against."""

    record: Record
    standing: Standing
    manifest: Manifest


class Repair:
    """Looks at suspects of one connected cluster, one object at a time each."""

    def __init__(
        self,
        member: Member,
        applier: Applier,
        observer: Observer,
        findings: Findings,
        metrics: Metrics,
        *,
        save: Callable[[Baseline], Awaitable[None]],
        verify: Callable[[Standing], Awaitable[bool]],
        monotonic: Callable[[], float],
    ) -> None:
        """`save` stores a baseline; it does not raise, since a restart can do without (it looks once more).

        `verify` asks the cluster whether we are still in charge of a bundle.
        """
        self._member = member
        self._applier = applier
        self._observer = observer
        self._findings = findings
        self._metrics = metrics
        self._save = save
        self._verify = verify
        self._monotonic = monotonic

    async def work(self, object_id: ObjectId, seen: LiveObject | None, since: float) -> None:
        """Examines one object. `seen`: its newest state as the watch gave it; `since`: when that came (monotonic).

        Raises Rejected, NotFound or Unavailable: the object stays suspect and is looked at again.
        """
        target = self._target(object_id)
        if target is None:
            return
        live = seen
        if live is None:
            live = await self._look(target.manifest)
            if live is not None and not self._observer.is_suspect(live):
                return
        if live is not None and live.meta.deletion_timestamp is not None:
            return
        if target.standing.assignment.options.drift_mode == "off" or target.standing.fence:
            return
        finding = Finding("missing", (), None) if live is None else await self._examine(target, live)
        if finding is not None:
            self._metrics.detected(self._monotonic() - since)
            await self._act(target, finding, since)

    def _target(self, object_id: ObjectId) -> Target | None:
        """None when nothing is to be done about a suspect: not wanted any more, or about to be written by a pass."""
        record = self._member.records.get(object_id)
        standing = self._member.standings.get(record.bundle) if record is not None else None
        if record is None or standing is None or standing.wanted is None:
            return None
        manifest = standing.wanted.by_id.get(object_id)
        if manifest is None or not self._applier.is_current(manifest):
            return None
        return Target(record, standing, manifest)

    async def _look(self, manifest: Manifest) -> LiveObject | None:
        """The object as it is now; None only when the server says that it does not exist."""
        try:
            live = await self._applier.get(manifest)
        except NotFound:
            live = None
        self._observer.looked(manifest.id, live)
        return live

    # --- what is it? -----------------------------------------------------------------------------------------------

    async def _examine(self, target: Target, live: LiveObject) -> Finding | None:
        """One dry-run; None when an apply would change nothing, and then the live object is the new baseline."""
        manifest = target.manifest
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
                return Finding("missing", (), None)
            live = newer
        body, wanted = ownership.decode(live), ownership.decode(answer)
        if not compare.confirm(body, wanted):
            await self._agree(target, live)
            return None
        explanation = explain.explain(live, body, wanted, manager=self._applier.manager)
        return Finding.of("modified", explanation, live)

    def _refused(self, manifest: Manifest, live: LiveObject) -> Finding:
        """The server would not even take our manifest over what stands there: that is a difference by itself.

        Without its answer nobody knows the defaults: compared are what the manifest names, and the items beside that.
        """
        wanted: dict[str, Any] = msgspec.json.decode(manifest.body)
        explanation = explain.explain(live, ownership.decode(live), wanted, manager=self._applier.manager)
        named = [change for change in explanation.fields if change.wanted is not None]
        lists = {change.path.rpartition("[")[0] for change in named if change.path.endswith("]")}
        beside = [c for c in explanation.fields if c.wanted is None and c.path.rpartition("[")[0] in lists]
        writer = next((change.manager for change in (*beside, *named) if change.manager), None)
        times = [e.time for e in live.meta.managed_fields or () if e.manager == writer and e.time]
        return Finding("modified", (*named, *beside), live, writer, None, max(times, default=None))

    async def _agree(self, target: Target, live: LiveObject) -> None:
        own = ownership.entry_of(live.meta.managed_fields, self._applier.manager)
        manifest, assignment = target.manifest, target.standing.assignment
        if own is None and self.may_reown(manifest.id):
            self._member.repairs.reowned[manifest.id] = self._monotonic()
            baseline, _ = await self._applier.apply(manifest, assignment)
        else:
            baseline = self._observer.answered(manifest, assignment.bundle, live)
        await self._save(baseline)

    def may_reown(self, object_id: ObjectId) -> bool:
        """Whether an object without drift may be applied only to own its fields again."""
        target = self._target(object_id)
        if target is None or not self._member.may_write(target.standing):
            return False
        if target.standing.assignment.options.drift_mode != "correct":
            return False
        return backoff.may_reown(self._member.repairs.reowned.get(object_id), self._monotonic())

    # --- what is to be done? ---------------------------------------------------------------------------------------

    async def _act(self, target: Target, finding: Finding, since: float) -> None:
        record, standing, manifest = target.record, target.standing, target.manifest
        disposition = "heal"
        if finding.verdict == "modified":
            disposition = explain.disposition(manifest.id, finding.fields)
        if disposition == "none":
            return
        if finding.manager in (None, self._applier.manager) and not await self._verify(standing):
            return  # nobody else writes under our name but a control plane that has replaced this one
        drift = self._findings.detected(standing, manifest, finding, report_only=disposition == "reported")
        self._member.records.set_drifted(record, drift.state != "ignored", noted=True)
        if drift.state not in ("open", "contested"):
            return
        before = record.baseline
        try:
            with self._findings.healing(manifest.id):
                healed = await self._heal(target, finding)
        except FleetError as error:
            self._findings.unhealed(manifest.id, str(error))
            raise
        self._metrics.healed(self._monotonic() - since)
        standing.repairs += 1
        self._findings.healed(manifest.id)
        if _differs(healed, before):
            await self._save(healed)
        self._member.report(standing.assignment.bundle)

    async def _heal(self, target: Target, finding: Finding) -> Baseline:
        manifest, assignment, live = target.manifest, target.standing.assignment, finding.live
        baseline = target.record.baseline
        if live is None:
            return (await self._applier.apply(manifest, assignment, absent=True))[0]
        if baseline is not None:
            await self._take_over(manifest, live, baseline)
        try:
            return (await self._applier.apply(manifest, assignment))[0]
        except Rejected as error:
            if error.kind != "duplicate" or baseline is None:
                raise
        # 422 Duplicate value: a foreign list item stands in the way; it is taken over, and applied once more (row 12).
        await self._take_over(manifest, await self._applier.get(manifest), baseline, after_duplicate=True)
        return (await self._applier.apply(manifest, assignment))[0]

    async def _take_over(
        self, manifest: Manifest, live: LiveObject, baseline: Baseline, *, after_duplicate: bool = False
    ) -> None:
        taken = takeover.take_over(
            ownership.decode(live),
            manager=self._applier.manager,
            owned=ownership.unpack(baseline.fields),
            after_duplicate=after_duplicate,
        )
        if taken is not None:
            await self._applier.take_over(manifest, taken.patch)


def _differs(after: Baseline, before: Baseline | None) -> bool:
    """Whether a baseline says anything that a restart could not do without."""
    if before is None:
        return True
    return (after.uid, after.projection, after.fields) != (before.uid, before.projection, before.fields)
