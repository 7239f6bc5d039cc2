"""What of a bundle may exist on a cluster, what is to be added, and what may be pruned.

The inventory is written (old ∪ new) before an apply and shrunk after a prune, so that nothing is ever applied without
being tracked. A prune is judged object by object on what the cluster answered; whatever is not certain is kept
(drift.md 4). An object that is kept by its own wish leaves the inventory, one that could not be judged stays in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from fleet.core import normalize
from fleet.model.cluster import Inventory, InventoryEntry
from fleet.model.objects import LiveObject, Manifest, ObjectId

PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public", "kube-node-lease", "fleet-system"})

NAMESPACE = ("", "Namespace")
_CRD = ("apiextensions.k8s.io", "CustomResourceDefinition")

KeepReason = Literal[
    "protected-namespace",
    "namespace-in-use",
    "all-namespaces",
    "opted-out",
    "foreign-owner",
    "not-ours",
    "other-incarnation",
    "just-applied",
    "crd",
    "claimed",
    "brake",
]


class Plan(msgspec.Struct, frozen=True):
    """What changes between an inventory and a wanted set; `stale` entries are candidates for pruning, no more."""

    keep: tuple[InventoryEntry, ...]
    add: tuple[InventoryEntry, ...]
    stale: tuple[InventoryEntry, ...]


class Prune(msgspec.Struct, frozen=True):
    """Delete the object, with both as preconditions; drop its entry only after the cluster answers NotFound."""

    entry: InventoryEntry
    uid: str
    resource_version: str


class Keep(msgspec.Struct, frozen=True):
    """Leave the object as it is.

    `forget`: it is no longer ours to track and its entry goes; otherwise the entry stays and the prune is tried again.
    """

    entry: InventoryEntry
    reason: KeepReason
    message: str
    forget: bool


class PruneContext(msgspec.Struct, frozen=True):
    """What all prune decisions of one pass share."""

    fleet: str
    bundle: str
    wanted: frozenset[ObjectId] = frozenset()
    """Identities of the wanted set."""
    stale: frozenset[ObjectId] = frozenset()
    """Identities in the inventory that are no longer wanted: what the pass is about."""
    applied_uids: frozenset[str] = frozenset()
    """uids that this pass has just applied, under whatever kind."""
    occupied: frozenset[str] = frozenset()
    """Namespaces in which other bundles have objects on this cluster, or are to have them."""
    claimed: Mapping[ObjectId, str] = {}
    """Bundles that want one of the stale objects on this cluster from now on, be it not assigned there yet."""
    prune_crds: bool = False


def plan(inventory: Inventory, wanted: Iterable[Manifest]) -> Plan:
    """Compares by identity; a version that changed is kept with the wanted one and its known uid."""
    known = {entry.id: entry for entry in inventory.entries}
    keep, add = [], []
    for item in wanted:
        entry = known.pop(item.id, None)
        if entry is None:
            add.append(InventoryEntry(item.id, item.version))
        else:
            keep.append(InventoryEntry(item.id, item.version, entry.uid))
    return Plan(_ordered(keep), _ordered(add), _ordered(known.values()))


def union(inventory: Inventory, changes: Plan, *, seq: int, digest: str | None) -> Inventory:
    """The inventory to write before anything is applied: everything that exists or is about to."""
    return Inventory(inventory.bundle, seq, digest, _ordered((*changes.keep, *changes.add, *changes.stale)))


def shrink(inventory: Inventory, gone: Collection[ObjectId], uids: Mapping[ObjectId, str] | None = None) -> Inventory:
    """The inventory to write after a pass: without what the cluster confirmed gone, with the uids that it answered."""
    known = uids or {}
    entries = (
        InventoryEntry(entry.id, entry.version, known.get(entry.id, entry.uid))
        for entry in inventory.entries
        if entry.id not in gone
    )
    return Inventory(inventory.bundle, inventory.seq, inventory.digest, _ordered(entries))


def may_prune(entry: InventoryEntry, live: LiveObject, context: PruneContext) -> Prune | Keep:
    """Judges one stale entry on the object as just read from the cluster (never on what a watch remembered)."""
    for rule in (_identity_rule, _claim_rule, _wish_rule):
        kept = rule(entry, live, context)
        if kept is not None:
            return kept
    return Prune(entry, live.meta.uid, live.meta.resource_version)


def judge_all(
    inventory: Inventory,
    live: Mapping[ObjectId, LiveObject],
    context: PruneContext,
    *,
    max_objects: int | None,
) -> tuple[Prune | Keep, ...]:
    """The decisions of one pass over `context.stale`; `live` holds what GET answered for them.

    An entry that is not in `live` is not judged: NotFound is for the caller to drop, a failed read to keep. The brakes
    count what the bundle would lose, namespaces that wait for the next pass included, and when one holds nothing of the
    pass is deleted; `max_objects` None lifts them, for the removal of a whole bundle that was asked for by name.
    """
    entries = tuple(entry for entry in inventory.entries if entry.id in context.stale)
    decisions = tuple(may_prune(entry, live[entry.id], context) for entry in entries if entry.id in live)
    doomed = frozenset(decision.entry.id for decision in decisions if isinstance(decision, Prune))
    brake = None if max_objects is None else _brake(doomed, context, max_objects)
    if brake is not None:
        return tuple(d if isinstance(d, Keep) else Keep(d.entry, *brake, forget=False) for d in decisions)
    return tuple(_keep_used_namespace(decision, context) for decision in decisions)


def _brake(doomed: Collection[ObjectId], context: PruneContext, max_objects: int) -> tuple[KeepReason, str] | None:
    """Why a pass would delete too much; None when it may go on."""
    if len(doomed) > max_objects:
        count = len(doomed)
        return "brake", f"would delete {count} objects, more than the {max_objects} that prune.maxObjects allows"
    held = {object_id for object_id in context.wanted | context.stale if _kind(object_id) == NAMESPACE}
    if len(held) >= 2 and held <= set(doomed):
        return "all-namespaces", f"would delete all {len(held)} namespaces of the bundle"
    return None


def _keep_used_namespace(decision: Prune | Keep, context: PruneContext) -> Prune | Keep:
    """Keeps a namespace until everything in it that is ours has left the inventory, confirmed gone or given up."""
    entry = decision.entry
    if isinstance(decision, Keep) or _kind(entry.id) != NAMESPACE:
        return decision
    inside = sorted(i for i in context.wanted | context.stale if i.namespace == entry.id.name)
    if inside:
        tenants = f"{inside[0]}" if len(inside) == 1 else f"{inside[0]} and {len(inside) - 1} more"
    elif entry.id.name in context.occupied:
        tenants = "objects of another bundle"
    else:
        return decision
    return Keep(entry, "namespace-in-use", f"{entry.id} still holds {tenants}", forget=False)


def _identity_rule(entry: InventoryEntry, live: LiveObject, context: PruneContext) -> Keep | None:
    """Is it the object that we applied, and still this bundle's?"""
    uid = live.meta.uid
    if uid in context.applied_uids:
        return Keep(entry, "just-applied", f"{entry.id} is an object that was just applied under another kind", True)
    if entry.uid and uid != entry.uid:
        return Keep(entry, "other-incarnation", f"{entry.id} was deleted and made again by somebody else", True)
    mark = normalize.tracked(live)
    if mark is None:
        return Keep(entry, "not-ours", f"{entry.id} no longer carries our tracking annotation", True)
    if (mark.fleet, mark.bundle) != (context.fleet, context.bundle):
        return Keep(entry, "not-ours", f"{entry.id} now belongs to bundle {mark.bundle} of fleet {mark.fleet}", True)
    return None


def _claim_rule(entry: InventoryEntry, live: LiveObject, context: PruneContext) -> Keep | None:
    """Does another bundle take it over? Its apply keeps the object, and what lies in it, and moves the tracking."""
    heir = context.claimed.get(entry.id)
    if heir is None:
        return None
    return Keep(entry, "claimed", f"{entry.id} is to go to bundle {heir}, which has not applied it yet", False)


def _wish_rule(entry: InventoryEntry, live: LiveObject, context: PruneContext) -> Keep | None:
    """Does the object, its kind or its owner ask to be left alone?"""
    if _kind(entry.id) == NAMESPACE and entry.id.name in PROTECTED_NAMESPACES:
        return Keep(entry, "protected-namespace", f"{entry.id} is never deleted", True)
    annotations = live.meta.annotations or {}
    if annotations.get(normalize.PRUNE_ANNOTATION) == "disabled":
        return Keep(entry, "opted-out", f"{entry.id} has the annotation fleet/prune: disabled", True)
    owner = next(iter(live.meta.owner_references or ()), None)
    if owner is not None:
        return Keep(entry, "foreign-owner", f"{entry.id} is owned by {owner.kind} {owner.name}", True)
    if _kind(entry.id) == _CRD and not context.prune_crds:
        return Keep(entry, "crd", f"{entry.id} is kept: deleting a CRD deletes all of its custom resources", True)
    return None


def _kind(object_id: ObjectId) -> tuple[str, str]:
    return object_id.group, object_id.kind


def _ordered(entries: Iterable[InventoryEntry]) -> tuple[InventoryEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.id))
