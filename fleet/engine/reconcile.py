"""Brings one bundle on one cluster to its assignment: inventory first, then what differs, stage by stage.

Level-triggered and idempotent: a pass compares the assignment with what is recorded and writes only the difference, so
a crash at any point, or a second run, repeats nothing. A pass in which nothing differs writes nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import anyio
import msgspec

from fleet.core import inventory as inventories
from fleet.core import ordering
from fleet.core.ordering import StageName
from fleet.engine.applier import Applier
from fleet.engine.clusterinventory import ClusterInventory, Fenced
from fleet.engine.halt import Halt
from fleet.engine.ports import Catalog, ClusterClient
from fleet.engine.records import Records, Wanted
from fleet.errors import FleetError, InvalidInput, Rejected, StoreError, Unauthorized
from fleet.model.cluster import ApplyOutcome, Assignment, Baseline, Inventory, ObjectFailure
from fleet.model.objects import Manifest, ObjectId

Phase = Literal["applied", "failed", "errored"]

SAVE_DEADLINE = 5.0
"""Seconds in which a pass that is cut short keeps what was answered."""


class Keeper(Protocol):
    """Where inventories and baselines are kept durably."""

    async def put_inventory(self, cluster: str, inventory: Inventory) -> None: ...
    async def drop_inventory(self, cluster: str, bundle: str) -> None: ...
    async def put_baselines(
        self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()
    ) -> None: ...


class Result(msgspec.Struct, frozen=True):
    """What one pass came to; `failed` cannot be helped by trying again, `errored` is tried again."""

    phase: Phase
    outcome: ApplyOutcome
    message: str = ""
    fence: int = 0
    """The seq found in the cluster when it is ahead of ours, else 0."""
    retry_after: float | None = None
    begun: bool = True
    """Whether there was anything to do."""
    waits: StageName | None = None
    """The stage that has to become Current before the pass can go on; another pass looks again."""


class Reconciler:
    """The deploy passes of one connected cluster; one pass per bundle at a time (the session sees to that)."""

    def __init__(
        self,
        cluster: str,
        fleet: str,
        client: ClusterClient,
        applier: Applier,
        records: Records,
        keeper: Keeper,
        inventories_there: dict[str, Inventory],
        catalog: Callable[[], Catalog],
        *,
        concurrency: int,
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._client = client
        self._applier = applier
        self._records = records
        self._keeper = keeper
        self._catalog = catalog
        self._limit = anyio.CapacityLimiter(concurrency)
        self._in_cluster: dict[str, ClusterInventory] = {}
        self._unsaved: dict[str, dict[ObjectId, Baseline]] = {}
        """Baselines that the store does not have yet, by bundle."""
        self.inventories = inventories_there

    async def standing(self, assignment: Assignment, wanted: Wanted) -> Result | None:
        """The result of a pass that would have nothing to do; None when there is something. Writes nothing.

        Raises Fenced, InvalidInput, or what reading the inventory in the cluster raises.
        """
        wanted.settle(self._catalog(), assignment.bundle, assignment.options.namespace, self._fleet)
        if not await self._stands(assignment, wanted):
            return None
        return Result("applied", self._outcome(wanted, 0, ()), begun=False)

    async def deploy(
        self, assignment: Assignment, wanted: Wanted, halt: Halt, *, watch: Callable[[], None]
    ) -> Result | None:
        """One pass; None when it was halted before its end. Raises StoreError when what was done could not be kept.

        `watch` is called when new kinds are to be watched.
        """
        await self._save(assignment.bundle)
        work = _Pass(assignment, wanted, halt)
        try:
            standing = await self.standing(assignment, wanted)
            if standing is not None:
                return standing
            await self._doubt_lost(assignment.bundle)
            await self._claim(assignment, wanted)
            await self._doubt(work)
        except FleetError as error:
            return _not_begun(wanted, error)
        try:
            await self._stages(work, watch)
        except (StoreError, Unauthorized):
            raise
        except FleetError as error:
            work.blame(_failure(f"bundle {assignment.bundle}", error))
            work.fence = error.seq if isinstance(error, Fenced) else 0
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(SAVE_DEADLINE):
                await self._record(work)
        return None if halt.called else self._judge(work)

    async def verify(self, assignment: Assignment) -> None:
        """Reads the inventory in the cluster anew; raises Fenced when another control plane has taken over."""
        inventory = self.inventories.get(assignment.bundle)
        if inventory is not None and inventory.seq == assignment.seq:
            there = self._in_cluster_of(assignment.bundle)
            there.doubt()
            await there.holds(inventory)

    def doubt_inventories(self) -> None:
        """The cluster was out of sight: it may have lost its data, or another control plane may have taken over."""
        for there in self._in_cluster.values():
            there.doubt()

    async def shrink(self, assignment: Assignment, gone: frozenset[ObjectId]) -> None:
        """Takes what is confirmed gone out of the inventory, in the cluster and in the store."""
        bundle = assignment.bundle
        if not gone:
            return
        smaller = inventories.shrink(self.inventories[bundle], gone)
        await self._in_cluster_of(bundle).write(smaller)
        known = {object_id: self._records.get(object_id) for object_id in gone}
        # What went over to another bundle is that one's to know.
        forgotten = [i for i, record in known.items() if record is None or record.bundle == bundle]
        await self._keeper.put_baselines(self._cluster, (), forgotten)
        await self._keeper.put_inventory(self._cluster, smaller)
        self.inventories[bundle] = smaller

    async def retire(self, bundle: str) -> None:
        """The bundle has left this cluster for good."""
        await self._in_cluster_of(bundle).remove(self.inventories[bundle])
        await self._keeper.drop_inventory(self._cluster, bundle)
        self.inventories.pop(bundle, None)

    # --- inventory -------------------------------------------------------------------------------------------------

    def _in_cluster_of(self, bundle: str) -> ClusterInventory:
        found = self._in_cluster.get(bundle)
        if found is None:
            found = self._in_cluster[bundle] = ClusterInventory(self._client, self._fleet, bundle)
        return found

    async def _stands(self, assignment: Assignment, wanted: Wanted) -> bool:
        """Whether everything is applied, and the cluster knows for which assignment.

        The inventory there is read once a session: it is gone when the cluster was made anew, and ahead of ours when
        another control plane took over.
        """
        if self._todo(wanted.by_id.values()):
            return False
        there = self._in_cluster_of(assignment.bundle)
        inventory = self.inventories.get(assignment.bundle)
        if inventory is None:
            return assignment.digest is None and not await there.exists()
        if (inventory.seq, inventory.digest) != (assignment.seq, assignment.digest):
            return False
        return await there.holds(inventory)

    async def _claim(self, assignment: Assignment, wanted: Wanted) -> None:
        """Writes the inventory, to the store and then to the cluster, before anything is applied."""
        bundle = assignment.bundle
        known = self.inventories.get(bundle) or Inventory(bundle, 0, None)
        # What a heal made anew has another uid than the inventory tells, and would count as somebody else's.
        uids = {i: r.baseline.uid for i, r in self._records.of_bundle(bundle) if r.baseline is not None}
        known = inventories.shrink(known, (), uids)
        changes = inventories.plan(known, wanted.by_id.values())
        claimed = inventories.union(known, changes, seq=assignment.seq, digest=assignment.digest)
        there = self._in_cluster_of(bundle)
        if claimed == self.inventories.get(bundle) and there.is_known_as(claimed):
            return  # a pass that goes on where the last one had to wait
        there.check(claimed)
        await self._keeper.put_inventory(self._cluster, claimed)
        self.inventories[bundle] = claimed
        merged = await there.write(claimed)
        if merged != claimed:
            await self._keeper.put_inventory(self._cluster, merged)
            self.inventories[bundle] = merged

    # --- applying --------------------------------------------------------------------------------------------------

    def _todo(self, manifests: Iterable[Manifest]) -> list[Manifest]:
        return [m for m in manifests if not self._applier.is_current(m)]

    async def _doubt_lost(self, bundle: str) -> None:
        """A cluster without the inventory that we wrote there was made anew, or lost its data: nothing known counts.

        Everything is applied again then, whether or not drift would be repaired.
        """
        if bundle not in self.inventories or await self._in_cluster_of(bundle).exists():
            return
        for _, record in self._records.of_bundle(bundle):
            record.doubtful = record.baseline is not None

    async def _doubt(self, work: _Pass) -> None:
        """Forgets in the store what is known of objects that are about to get another manifest.

        After a crash in the middle nobody could tell which of the two manifests the cluster has: it is applied again.
        """
        for manifest in self._todo(work.wanted.by_id.values()):
            record = self._records.get(manifest.id)
            if record is not None and record.baseline is not None:
                work.doubted.append(manifest.id)
        if work.doubted:
            await self._keeper.put_baselines(self._cluster, (), work.doubted)

    async def _stages(self, work: _Pass, watch: Callable[[], None]) -> None:
        number = 0
        # Counted anew for each stage: objects move to their namespaces as soon as their kinds are served.
        while number < len(stages := ordering.stages(work.wanted.by_id.values())):
            await self._stage(work, stages[number].name, watch)
            if work.is_over():
                return
            # What follows needs all of this stage, also what an earlier pass applied; where nothing follows, no wait.
            following = [m for later in stages[number + 1 :] for m in later.manifests]
            if stages[number].wait and self._todo(following):
                with work.halt.interruptible():
                    stuck = await self._applier.wait_until_current(stages[number].manifests)
                    work.blame(stuck)
                    if stuck is not None and stuck.kind == "transient":
                        work.waits = stages[number].name
                if work.is_over():
                    return
            number += 1

    async def _stage(self, work: _Pass, name: ordering.StageName, watch: Callable[[], None]) -> None:
        todo = self._todo_of_stage(work.wanted, name)
        if not todo:
            return
        with work.halt.interruptible():
            await self._applier.wait_until_served(todo)
        assignment = work.assignment
        if work.wanted.settle(self._catalog(), assignment.bundle, assignment.options.namespace, self._fleet):
            await self._claim(assignment, work.wanted)
            todo = self._todo_of_stage(work.wanted, name)
        for manifest in todo:
            if self._records.get(manifest.id) is None:
                self._records.ensure(manifest.id, assignment.bundle, manifest.version)
        watch()
        async with anyio.create_task_group() as group:
            for manifest in todo:
                group.start_soon(self._one, manifest, work, name=f"apply {manifest.id}")
        await self._save(assignment.bundle)

    def _todo_of_stage(self, wanted: Wanted, name: ordering.StageName) -> list[Manifest]:
        return self._todo(m for m in wanted.by_id.values() if ordering.stage_of(m.id) == name)

    async def _one(self, manifest: Manifest, work: _Pass) -> None:
        async with self._limit:
            if work.halt.called:
                return
            try:
                baseline, written = await self._applier.apply(manifest, work.assignment)
            except FleetError as error:
                work.blame(_failure(str(manifest.id), error))
                work.retry_after = max(work.retry_after or 0.0, getattr(error, "retry_after", None) or 0.0) or None
            else:
                self._unsaved.setdefault(work.assignment.bundle, {})[manifest.id] = baseline
                work.uids[manifest.id] = baseline.uid
                work.changed += written

    # --- keeping ---------------------------------------------------------------------------------------------------

    async def _save(self, bundle: str) -> None:
        """Stores the baselines that are not stored yet; what cannot be stored is tried again by the next pass."""
        unsaved = self._unsaved.get(bundle)
        if unsaved:
            await self._keeper.put_baselines(self._cluster, tuple(unsaved.values()))
            del self._unsaved[bundle]

    async def _record(self, work: _Pass) -> None:
        """Keeps what was answered, also of a pass that was cut short."""
        bundle = work.assignment.bundle
        for object_id in work.doubted:
            record = self._records.get(object_id)
            # What was not reached after all is still as it was known.
            if record is not None and record.baseline is not None and not record.doubtful:
                self._unsaved.setdefault(bundle, {})[object_id] = record.baseline
        await self._save(bundle)
        updated = inventories.shrink(self.inventories[bundle], (), work.uids)
        if updated != self.inventories[bundle]:
            await self._keeper.put_inventory(self._cluster, updated)
            self.inventories[bundle] = updated

    def _judge(self, work: _Pass) -> Result:
        outcome = self._outcome(work.wanted, work.changed, tuple(work.failures))
        if not work.failures:
            return Result("applied", outcome)
        worst = next((f for f in work.failures if f.kind == "definite"), work.failures[0])
        phase: Phase = "failed" if worst.kind == "definite" else "errored"
        message = f"{worst.object}: {worst.error}"
        return Result(phase, outcome, message, work.fence, work.retry_after, waits=work.waits)

    def _outcome(self, wanted: Wanted, changed: int, failures: tuple[ObjectFailure, ...]) -> ApplyOutcome:
        current = len(wanted.by_id) - len(self._todo(wanted.by_id.values()))
        return ApplyOutcome(len(wanted.by_id), current, changed, 0, failures)


class _Pass:
    """What one pass has done so far."""

    def __init__(self, assignment: Assignment, wanted: Wanted, halt: Halt) -> None:
        self.assignment = assignment
        self.wanted = wanted
        self.halt = halt
        self.doubted: list[ObjectId] = []
        """Objects whose stored baseline was forgotten before they were to be applied."""
        self.uids: dict[ObjectId, str] = {}
        self.failures: list[ObjectFailure] = []
        self.changed = 0
        self.fence = 0
        self.retry_after: float | None = None
        self.waits: StageName | None = None

    def is_over(self) -> bool:
        """Whether the next stage is not to be begun."""
        return bool(self.failures) or self.halt.called

    def blame(self, failure: ObjectFailure | None) -> None:
        if failure is not None:
            self.failures.append(failure)


def _not_begun(wanted: Wanted, error: FleetError) -> Result:
    """The result of a pass that could not begin: nothing was applied."""
    failure = _failure("inventory", error)
    outcome = ApplyOutcome(len(wanted.by_id), 0, 0, 0, (failure,))
    phase: Phase = "failed" if failure.kind == "definite" else "errored"
    fence = error.seq if isinstance(error, Fenced) else 0
    return Result(phase, outcome, failure.error, fence, getattr(error, "retry_after", None))


def _failure(name: str, error: FleetError) -> ObjectFailure:
    """How an error counts: what the manifest or the rights are to blame for is the release's failure (lesson 7)."""
    if isinstance(error, InvalidInput):
        return ObjectFailure(name, str(error), "definite")
    if isinstance(error, Fenced):
        return ObjectFailure(name, str(error), "conflict")
    if not isinstance(error, Rejected):
        return ObjectFailure(name, str(error), "transient")
    kind: Literal["definite", "conflict", "transient"] = "transient"
    if error.kind in ("definite", "immutable", "duplicate", "forbidden", "unserved"):
        kind = "definite"
    elif error.kind == "conflict":
        kind = "conflict"
    return ObjectFailure(name, error.message, kind)
