"""Brings one bundle on one cluster to its assignment: inventory first, then what differs, stage by stage.

Level-triggered and idempotent: a pass compares the assignment with what is recorded and writes only the difference, so
a crash at any point, or a second run, repeats nothing. A pass in which nothing differs sends nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import anyio
import msgspec

from fleet.core import inventory as inventories
from fleet.core import ordering
from fleet.engine.applier import Applier
from fleet.engine.clusterinventory import ClusterInventory, Fenced
from fleet.engine.ports import Catalog, ClusterClient
from fleet.engine.records import Records, Wanted
from fleet.errors import FleetError, Rejected
from fleet.model.cluster import ApplyOutcome, Assignment, Baseline, Inventory, ObjectFailure
from fleet.model.objects import Manifest, ObjectId

Phase = Literal["applied", "failed", "errored"]


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


class Reconciler:
    """The deploy passes of one connected cluster; one pass per bundle at a time (the agent sees to that)."""

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
        self.inventories = inventories_there

    async def deploy(
        self, assignment: Assignment, wanted: Wanted, *, started: Callable[[], None], watch: Callable[[], None]
    ) -> Result:
        """One pass; raises StoreError before anything was done.

        `started` is called before the first write of a pass that has any, `watch` when new kinds are to be watched.
        """
        self._settle(wanted, assignment)
        todo = self._differing(wanted)
        inventory = self.inventories.get(assignment.bundle)
        if not todo and _stands(inventory, assignment):
            return Result("applied", self._outcome(wanted, 0, ()))
        started()
        try:
            await self._claim(assignment, wanted)
        except Fenced as error:
            return self._fenced(assignment, error)
        except Rejected as error:
            return _ended(wanted, ObjectFailure("inventory", error.message, _kind(error)), error.retry_after)
        except FleetError as error:
            return _ended(wanted, ObjectFailure("inventory", str(error), "transient"), None)
        work = _Pass(assignment, wanted)
        try:
            await self._stages(work, watch)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._record(work)
        return self._judge(work)

    async def shrink(self, assignment: Assignment, gone: frozenset[ObjectId]) -> None:
        """Takes what is confirmed gone out of the inventory, in the cluster and in the store."""
        bundle = assignment.bundle
        if not gone:
            return
        smaller = inventories.shrink(self.inventories[bundle], gone)
        await self._in_cluster_of(bundle).write(smaller)
        await self._keeper.put_baselines(self._cluster, (), tuple(gone))
        await self._keeper.put_inventory(self._cluster, smaller)
        self.inventories[bundle] = smaller

    async def retire(self, bundle: str) -> None:
        """The bundle has left this cluster for good."""
        await self._in_cluster_of(bundle).remove()
        await self._keeper.drop_inventory(self._cluster, bundle)
        self.inventories.pop(bundle, None)

    def _in_cluster_of(self, bundle: str) -> ClusterInventory:
        found = self._in_cluster.get(bundle)
        if found is None:
            found = self._in_cluster[bundle] = ClusterInventory(self._client, self._fleet, bundle)
        return found

    def _settle(self, wanted: Wanted, assignment: Assignment) -> bool:
        return wanted.settle(self._catalog(), assignment.bundle, assignment.options.namespace, self._fleet)

    def _differing(self, wanted: Wanted) -> list[Manifest]:
        return [m for m in wanted.by_id.values() if not self._applier.is_current(m)]

    async def _claim(self, assignment: Assignment, wanted: Wanted) -> None:
        """Writes the inventory, to the store and then to the cluster, before anything is applied."""
        bundle = assignment.bundle
        known = self.inventories.get(bundle) or Inventory(bundle, 0, None)
        # What a heal made anew has another uid than the inventory tells, and would count as somebody else's.
        uids = {i: r.baseline.uid for i, r in self._records.of_bundle(bundle) if r.baseline is not None}
        known = inventories.shrink(known, (), uids)
        changes = inventories.plan(known, wanted.by_id.values())
        claimed = inventories.union(known, changes, seq=assignment.seq, digest=assignment.digest)
        await self._keeper.put_inventory(self._cluster, claimed)
        self.inventories[bundle] = claimed
        merged = await self._in_cluster_of(bundle).write(claimed)
        if merged != claimed:
            await self._keeper.put_inventory(self._cluster, merged)
            self.inventories[bundle] = merged

    def _fenced(self, assignment: Assignment, error: Fenced) -> Result:
        failure = ObjectFailure("inventory", str(error), "conflict")
        return Result("errored", ApplyOutcome(failed=(failure,)), str(error), fence=error.seq)

    async def _stages(self, work: _Pass, watch: Callable[[], None]) -> None:
        for stage in ordering.stages(work.wanted.by_id.values()):
            todo = [m for m in stage.manifests if not self._applier.is_current(m)]
            if not todo:
                continue
            await self._applier.wait_until_served(todo)
            for manifest in todo:
                self._records.ensure(manifest.id, work.assignment.bundle, manifest.version)
            watch()
            async with anyio.create_task_group() as group:
                for manifest in todo:
                    group.start_soon(self._one, manifest, work, name=f"apply {manifest.id}")
            if work.failures:
                return
            if stage.wait:
                waited = await self._applier.wait_until_current(todo)
                if waited is not None:
                    work.failures.append(waited)
                    return
                if self._settle(work.wanted, work.assignment):
                    await self._claim(work.assignment, work.wanted)

    async def _one(self, manifest: Manifest, work: _Pass) -> None:
        async with self._limit:
            try:
                baseline, written = await self._applier.apply(manifest, work.assignment)
            except Rejected as error:
                work.failures.append(ObjectFailure(str(manifest.id), error.message, _kind(error)))
                work.retry_after = max(work.retry_after or 0.0, error.retry_after or 0.0) or None
            except FleetError as error:
                work.failures.append(ObjectFailure(str(manifest.id), str(error), "transient"))
            else:
                work.baselines.append(baseline)
                work.changed += written

    async def _record(self, work: _Pass) -> None:
        """Keeps what was answered, also of a pass that was cut short."""
        if not work.baselines:
            return
        bundle = work.assignment.bundle
        await self._keeper.put_baselines(self._cluster, work.baselines)
        uids = {b.id: b.uid for b in work.baselines}
        updated = inventories.shrink(self.inventories[bundle], (), uids)
        if updated != self.inventories[bundle]:
            await self._keeper.put_inventory(self._cluster, updated)
            self.inventories[bundle] = updated

    def _judge(self, work: _Pass) -> Result:
        outcome = self._outcome(work.wanted, work.changed, tuple(work.failures))
        if not work.failures:
            return Result("applied", outcome)
        worst = next((f for f in work.failures if f.kind == "definite"), work.failures[0])
        phase: Phase = "failed" if worst.kind == "definite" else "errored"
        return Result(phase, outcome, f"{worst.object}: {worst.error}", retry_after=work.retry_after)

    def _outcome(self, wanted: Wanted, changed: int, failures: tuple[ObjectFailure, ...]) -> ApplyOutcome:
        current = sum(self._applier.is_current(m) for m in wanted.by_id.values())
        return ApplyOutcome(len(wanted.by_id), current, changed, 0, failures)


class _Pass:
    """What one pass has done so far."""

    def __init__(self, assignment: Assignment, wanted: Wanted) -> None:
        self.assignment = assignment
        self.wanted = wanted
        self.baselines: list[Baseline] = []
        self.failures: list[ObjectFailure] = []
        self.changed = 0
        self.retry_after: float | None = None


def _stands(inventory: Inventory | None, assignment: Assignment) -> bool:
    return inventory is not None and (inventory.seq, inventory.digest) == (assignment.seq, assignment.digest)


def _ended(wanted: Wanted, failure: ObjectFailure, retry_after: float | None) -> Result:
    outcome = ApplyOutcome(len(wanted.by_id), 0, 0, 0, (failure,))
    phase: Phase = "failed" if failure.kind == "definite" else "errored"
    return Result(phase, outcome, failure.error, retry_after=retry_after)


def _kind(error: Rejected) -> Literal["definite", "conflict", "transient"]:
    """How a refusal counts: what the manifest or the rights are to blame for is the release's failure (lesson 7)."""
    if error.kind in ("definite", "immutable", "duplicate", "forbidden", "unserved"):
        return "definite"
    return "conflict" if error.kind == "conflict" else "transient"
