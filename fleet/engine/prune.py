"""Removes from a cluster what a bundle no longer contains, with every protection of drift.md 4.

Everything stale is read first and judged as a whole by `core.inventory` (brakes count what would really be deleted); a
failure to read is never "gone". What could not be deleted, or still terminates, stays in the inventory and is tried
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

from fleet.core import inventory as rules
from fleet.core import ordering
from fleet.engine.ports import Catalog, ClusterClient
from fleet.errors import FleetError, NotFound, Rejected, Unavailable
from fleet.model.cluster import Inventory, InventoryEntry, ObjectFailure
from fleet.model.objects import GroupKind, LiveObject, ObjectId, Resource


class Pruned(msgspec.Struct, frozen=True):
    """What one pass came to."""

    gone: frozenset[ObjectId] = frozenset()
    """May leave the inventory: confirmed not to exist, or no longer ours to track."""
    deleted: int = 0
    kept: tuple[rules.Keep, ...] = ()
    failed: tuple[ObjectFailure, ...] = ()
    """To be tried again."""


class Pruner:
    """Deletes stale objects in one cluster."""

    def __init__(
        self,
        client: ClusterClient,
        catalog: Callable[[], Catalog],
        *,
        refresh: Callable[[], Awaitable[object]],
        concurrency: int,
        confirm: float,
    ) -> None:
        """`refresh`: asks the cluster anew what it serves, for `catalog`.

        `confirm`: seconds to wait for a deleted object to be gone before it is left to the next pass.
        """
        self._client = client
        self._catalog = catalog
        self._refresh = refresh
        self._limit = anyio.CapacityLimiter(concurrency)
        self._confirm = confirm

    async def prune(self, inventory: Inventory, context: rules.PruneContext, *, max_objects: int | None) -> Pruned:
        """One pass over `context.stale`. Never raises for a single object: its failure is data.

        Raises Unavailable or Rejected when it cannot be told which kinds the cluster serves.
        """
        work = _Pass()
        stale = [entry for entry in inventory.entries if entry.id in context.stale]
        if not all(self._is_served(entry) for entry in stale):
            # A catalog that is only old proves nothing: what it lacks would be left behind, and forgotten.
            await self._refresh()
        await self._each(stale, lambda entry: self._read(entry, work), work)
        context = msgspec.structs.replace(context, stale=context.stale - work.gone)
        decisions = rules.judge_all(inventory, work.live, context, max_objects=max_objects)
        doomed = {d.entry.id: d for d in decisions if isinstance(d, rules.Prune)}
        for stage in ordering.prune_stages(doomed):
            await self._each([doomed[i].entry for i in stage], lambda e: self._delete(doomed[e.id], work), work)
        kept = tuple(d for d in decisions if isinstance(d, rules.Keep))
        work.gone.update(k.entry.id for k in kept if k.forget)
        return Pruned(frozenset(work.gone), work.deleted, kept, tuple(work.failed))

    async def _each(
        self, entries: Sequence[InventoryEntry], action: Callable[[InventoryEntry], Awaitable[None]], work: _Pass
    ) -> None:
        async def one(entry: InventoryEntry) -> None:
            async with self._limit:
                try:
                    await action(entry)
                except NotFound:
                    work.gone.add(entry.id)
                except FleetError as error:
                    work.failed.append(_failure(entry, error))

        async with anyio.create_task_group() as group:
            for entry in entries:
                group.start_soon(one, entry, name=f"prune {entry.id}")

    async def _read(self, entry: InventoryEntry, work: _Pass) -> None:
        work.live[entry.id] = await self._get(entry)

    async def _delete(self, decision: rules.Prune, work: _Pass) -> None:
        entry = decision.entry
        resource = self._resource(entry)
        if work.live[entry.id].meta.deletion_timestamp is None:
            await self._client.delete(
                resource,
                entry.id.namespace,
                entry.id.name,
                uid=decision.uid,
                resource_version=decision.resource_version,
            )
            work.deleted += 1
        pause = 0.02
        with anyio.move_on_after(self._confirm):
            while True:
                await self._get(entry)
                await anyio.sleep(pause)
                pause = min(pause * 2, 1.0)
        raise Unavailable("still terminating; its finalizers have not run")

    async def _get(self, entry: InventoryEntry) -> LiveObject:
        """Raises NotFound only when the cluster says so."""
        return await self._client.get(self._resource(entry), entry.id.namespace, entry.id.name)

    def _is_served(self, entry: InventoryEntry) -> bool:
        resource = self._catalog().find(GroupKind(entry.id.group, entry.id.kind))
        return resource is not None and resource.namespaced == bool(entry.id.namespace)

    def _resource(self, entry: InventoryEntry) -> Resource:
        catalog = self._catalog()
        resource = catalog.find(GroupKind(entry.id.group, entry.id.kind))
        if resource is not None and resource.namespaced == bool(entry.id.namespace):
            return resource
        if resource is not None:
            # Noted before its kind was served, when only the namespace it was written with was known.
            raise NotFound(f"{entry.id}: no object of this kind can be there")
        if catalog.unknown(entry.id.group):
            raise Unavailable(f"discovery of the API group {entry.id.group} fails, so its objects are unknown")
        # A kind that is not served has no objects: its CRD is gone, and took them along.
        raise NotFound(f"{entry.id}: its kind is not served any more")


class _Pass:
    def __init__(self) -> None:
        self.live: dict[ObjectId, LiveObject] = {}
        self.gone: set[ObjectId] = set()
        self.failed: list[ObjectFailure] = []
        self.deleted = 0


def _failure(entry: InventoryEntry, error: FleetError) -> ObjectFailure:
    definite = isinstance(error, Rejected) and error.kind in ("definite", "forbidden", "immutable")
    return ObjectFailure(str(entry.id), str(error), "definite" if definite else "transient")
