"""One server-side apply of one wanted object, and what has to be true before and after it.

Used by the deploy pass and by the repair of drift, so that both keep the same protections: an existing object is
taken over only as `adopt` allows, a known one only while it is the same incarnation (uid), and the answer is the new
baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import anyio
import msgspec

from fleet.core import adoption, handover, health, normalize, ownership
from fleet.core.drift import takeover
from fleet.engine.observer import Observer
from fleet.engine.ports import Catalog, ClusterClient
from fleet.engine.records import Records
from fleet.errors import FleetError, NotFound, Rejected, Unavailable
from fleet.model.cluster import Assignment, Baseline, Health, ObjectFailure
from fleet.model.objects import GroupKind, LiveObject, Manifest, Resource


class Holders(Protocol):
    def holds(self, bundle: str, manifest: Manifest) -> bool:
        """Whether another bundle still wants this object here."""


class ApplierSettings(msgspec.Struct, frozen=True):
    """Seconds."""

    served: float = 30.0
    """How long a kind may take to be served after its CRD was applied."""
    patience: float = 2.0
    """How long a pass waits for a stage to become Current; then it ends, so that its worker and repairs go on."""
    poll_first: float = 0.02
    poll_most: float = 1.0


class Applier:
    """Applies objects to one connected cluster under our field manager."""

    def __init__(
        self,
        fleet: str,
        client: ClusterClient,
        records: Records,
        observer: Observer,
        holders: Holders,
        settings: ApplierSettings,
    ) -> None:
        self._fleet = fleet
        self.manager = f"fleet-{fleet}"
        self._client = client
        self._records = records
        self._observer = observer
        self._holders = holders
        self._settings = settings
        self.catalog: Catalog | None = None

    def resource(self, manifest: Manifest) -> Resource:
        """Raises Rejected(unserved) for a kind that the cluster does not serve."""
        kind = GroupKind(manifest.id.group, manifest.id.kind)
        found = self.catalog.find(kind, manifest.version) if self.catalog is not None else None
        if found is None:
            raise Rejected(
                "unserved", 404, "NotFound", f"the cluster does not serve {manifest.api_version} {kind.kind}"
            )
        return found

    def is_current(self, manifest: Manifest) -> bool:
        """Whether exactly this manifest was the last that we applied, and that was answered."""
        record = self._records.get(manifest.id)
        if record is None or record.baseline is None or record.doubtful:
            return False
        return record.baseline.manifest == manifest.digest

    async def apply(self, manifest: Manifest, assignment: Assignment, *, absent: bool = False) -> tuple[Baseline, bool]:
        """Applies one object; its new baseline, and whether the server had to write anything.

        `absent`: the caller has just seen that nothing stands in its place. Raises Rejected with a kind that says
        whether another try can help, NotFound for a namespace that does not exist, or Unavailable.
        """
        resource = self.resource(manifest)
        record = self._records.get(manifest.id)
        # What another bundle applied is not ours before it was admitted, whatever we remember of it.
        known = record.baseline if record is not None and record.bundle == assignment.bundle else None
        if absent:
            return await self._send(resource, manifest, assignment, "", "")
        if known is not None:
            try:
                await self._hand_over(resource, manifest, ownership.unpack(known.fields))
                return await self._send(resource, manifest, assignment, known.uid, known.resource_version)
            except Rejected as error:
                if error.kind != "conflict":
                    raise
        # Nothing known stands there, or another incarnation of it: what we knew of the old one does not count.
        live = await self._admit(resource, manifest, assignment)
        if live is None:
            return await self._send(resource, manifest, assignment, "", "")
        await self._inherit(manifest, live)
        own = ownership.entry_of(live.meta.managed_fields, self.manager)
        await self._hand_over(resource, manifest, bytes(own.fields_v1) if own is not None else b"")
        return await self._send(resource, manifest, assignment, live.meta.uid, live.meta.resource_version)

    async def dry_run(self, manifest: Manifest, uid: str) -> LiveObject:
        """What the server would make of our manifest now, without writing."""
        return await self._client.apply(
            self.resource(manifest),
            _with_uid(manifest.body, uid),
            namespace=manifest.id.namespace,
            name=manifest.id.name,
            manager=self.manager,
            dry_run=True,
        )

    async def take_over(self, manifest: Manifest, patch: bytes) -> None:
        """Makes us the owner of what others added to our lists; 409 when the object moved on meanwhile."""
        await self._client.merge_patch(
            self.resource(manifest),
            manifest.id.namespace,
            manifest.id.name,
            patch,
            manager=takeover.maintenance_manager(self.manager),
        )

    async def get(self, manifest: Manifest) -> LiveObject:
        return await self._client.get(self.resource(manifest), manifest.id.namespace, manifest.id.name)

    def known_catalog(self) -> Catalog:
        """Raises Unavailable before the first discovery."""
        if self.catalog is None:
            raise Unavailable("the cluster has not been discovered yet")
        return self.catalog

    async def discover(self, *, refresh: bool = False) -> Catalog:
        self.catalog = await self._client.discover(refresh=refresh)
        return self.catalog

    async def wait_until_served(self, manifests: Sequence[Manifest]) -> None:
        """Refreshes discovery until all kinds are served; when the time is up the apply itself says which is not."""
        pause = self._settings.poll_first
        with anyio.move_on_after(self._settings.served):
            while any(not self._is_served(m) for m in manifests):
                await self.discover(refresh=True)
                await anyio.sleep(pause)
                pause = min(pause * 2, self._settings.poll_most)

    def _is_served(self, manifest: Manifest) -> bool:
        try:
            self.resource(manifest)
        except Rejected:
            return False
        return True

    async def wait_until_current(self, manifests: Sequence[Manifest]) -> ObjectFailure | None:
        """Waits a little until every object is healthy, on what the server answers; the one that is not yet.

        That is `transient` while it may still come true, and `definite` when everything that is not healthy has failed.
        """
        waiting = {m.id: m for m in manifests}
        reason = ""
        failed = False
        pause = self._settings.poll_first
        with anyio.move_on_after(self._settings.patience):
            while True:
                for object_id, manifest in list(waiting.items()):
                    state, reason = await self._health(manifest)
                    if state in (Health.HEALTHY, Health.SUSPENDED):
                        del waiting[object_id]
                    elif state is not Health.DEGRADED:
                        break
                else:
                    failed = True
                    break
                await anyio.sleep(pause)
                pause = min(pause * 2, self._settings.poll_most)
        if not waiting:
            return None
        stuck = next(iter(waiting))
        why = f"is not ready, and what comes after it needs it: {reason}"
        return ObjectFailure(str(stuck), why, "definite" if failed else "transient")

    async def _health(self, manifest: Manifest) -> tuple[Health, str]:
        record = self._records.get(manifest.id)
        if record is not None and record.health in (Health.HEALTHY, Health.SUSPENDED):
            return record.health, record.reason
        try:
            return health.assess(ownership.decode(await self.get(manifest)))
        except FleetError as error:
            return Health.UNKNOWN, str(error)

    async def _admit(self, resource: Resource, manifest: Manifest, assignment: Assignment) -> LiveObject | None:
        """What stands in the object's place, if anything; refuses to apply over what is not ours to take."""
        try:
            live = await self._client.get(resource, manifest.id.namespace, manifest.id.name)
        except NotFound:
            return None
        bundle = assignment.bundle
        other = adoption.claimant(live, fleet=self._fleet, bundle=bundle)
        if other is not None and self._holders.holds(other, manifest):
            raise Rejected(
                "conflict", 409, "Claimed", f"{manifest.id} belongs to bundle {other}, which still wants it here"
            )
        reason = adoption.refusal(live, fleet=self._fleet, bundle=bundle, adopt=assignment.options.adopt)
        if reason is not None:
            raise Rejected("definite", 409, "NotOurs", reason)
        return live

    async def _hand_over(self, resource: Resource, manifest: Manifest, owned: bytes) -> None:
        """Keeps the replicas that a manifest states no longer; `owned` is our field set before it."""
        if not handover.is_due(owned, manifest):
            return
        try:
            live = await self.get(manifest)
        except NotFound:
            return
        kept = handover.body(manifest, live)
        if kept is not None:
            await self._client.apply(
                resource,
                kept,
                namespace=manifest.id.namespace,
                name=manifest.id.name,
                manager=handover.handover_manager(self.manager),
            )

    async def _inherit(self, manifest: Manifest, live: LiveObject) -> None:
        """Makes us the heir of kubectl on an adopted object, so that what leaves Git leaves the cluster (row 18)."""
        mark = normalize.tracked(live)
        if mark is not None and mark.fleet == self._fleet:
            return
        taken = takeover.absorb(ownership.decode(live), manager=self.manager)
        if taken is not None:
            await self.take_over(manifest, taken.patch)

    async def _send(
        self, resource: Resource, manifest: Manifest, assignment: Assignment, uid: str, version: str
    ) -> tuple[Baseline, bool]:
        """One apply over the incarnation `uid` (any when empty), which was last seen at `version`."""
        record = self._records.ensure(manifest.id, assignment.bundle, manifest.version)
        certain = record.doubtful or record.baseline is None or record.baseline.manifest == manifest.digest
        # The answer becomes the baseline before the events that came meanwhile are judged.
        with self._observer.holding(manifest.id):
            if not certain:
                record.doubtful = True
            try:
                live = await self._client.apply(
                    resource,
                    _with_uid(manifest.body, uid),
                    namespace=manifest.id.namespace,
                    name=manifest.id.name,
                    manager=self.manager,
                )
            except (Rejected, NotFound) as error:
                # A refusal leaves what was there; a server that gave up (5xx) may have written before.
                if not certain and getattr(error, "kind", "") != "transient":
                    record.doubtful = False
                raise
            if record.bundle != assignment.bundle:
                raise Rejected("conflict", 409, "Moved", f"{manifest.id} went to bundle {record.bundle} meanwhile")
            baseline = self._observer.answered(manifest, assignment.bundle, live)
        return baseline, live.meta.resource_version != version


def _with_uid(body: bytes, uid: str) -> bytes:
    """A known uid in the body makes the server refuse (409) when the object was recreated meanwhile (drift.md P-25)."""
    if not uid:
        return body
    decoded = msgspec.json.decode(body)
    decoded["metadata"]["uid"] = uid
    return msgspec.json.encode(decoded)
