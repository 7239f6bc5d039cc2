"""What an agent remembers of its cluster: one small record per managed object, counters per bundle. No objects.

Written by the observer (what the watch says) and by reconcile and repair (what a server answered to a write).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from fleet.core import normalize
from fleet.engine.ports import Catalog
from fleet.errors import InvalidInput
from fleet.model.cluster import Baseline, Health
from fleet.model.objects import GroupKind, Manifest, ManifestSet, ObjectId

_WORST_FIRST = (
    Health.DEGRADED,
    Health.MISSING,
    Health.UNKNOWN,
    Health.PROGRESSING,
    Health.SUSPENDED,
    Health.HEALTHY,
)


class Record:
    """One managed object. `baseline` is None until an apply has been answered."""

    __slots__ = ("baseline", "bundle", "doubtful", "drifted", "health", "noted", "reason", "version")

    def __init__(self, bundle: str, version: str) -> None:
        self.bundle = bundle
        self.version = version
        """API version that we apply and watch."""
        self.baseline: Baseline | None = None
        self.doubtful = False
        """An apply of another manifest was sent and not answered: which of the two the server has is unknown."""
        self.health = Health.UNKNOWN
        self.reason = ""
        self.drifted = False
        self.noted = False
        """Whether a drift record is open on it, also one of a drift that is to be ignored."""


class Wanted:
    """What one bundle wants on this cluster."""

    def __init__(self, manifests: ManifestSet) -> None:
        self.digest = manifests.digest
        self._set = manifests  # kept alive: the content cache holds it weakly
        self.by_id: dict[ObjectId, Manifest] = {m.id: m for m in manifests.manifests}
        self.kinds = frozenset(GroupKind(i.group, i.kind) for i in self.by_id)

    def settle(self, catalog: Catalog, bundle: str, namespace: str, fleet: str) -> bool:
        """Puts objects where their kind belongs, which only discovery knows of custom resources; whether any moved.

        Into `namespace` without one, and out of any where the kind is cluster-scoped (kustomize's `namespace` gives one
        to every kind that it does not know). Raises InvalidInput when two objects become one by that.
        """
        moved = {}
        for manifest in self.by_id.values():
            resource = catalog.find(GroupKind(manifest.id.group, manifest.id.kind), manifest.version)
            if resource is None or resource.namespaced == bool(manifest.id.namespace):
                continue
            if resource.namespaced:
                moved[manifest.id] = normalize.place(manifest, namespace, fleet=fleet, bundle=bundle)
            else:
                moved[manifest.id] = _unplace(manifest, fleet, bundle)
        if moved:
            self.by_id = _by_id([moved.get(i, m) for i, m in self.by_id.items()])
        return bool(moved)


def _unplace(manifest: Manifest, fleet: str, bundle: str) -> Manifest:
    """The manifest without its namespace, tracked as what it is; the server drops the field by itself."""
    body: dict[str, Any] = msgspec.json.decode(manifest.body)
    del body["metadata"]["namespace"]
    return normalize.manifest(normalize.stamp(body, fleet=fleet, bundle=bundle))


def _by_id(manifests: Sequence[Manifest]) -> dict[ObjectId, Manifest]:
    found: dict[ObjectId, Manifest] = {}
    for manifest in manifests:
        if manifest.id in found:
            raise InvalidInput(f"{manifest.id} is defined twice, with and without its namespace")
        found[manifest.id] = manifest
    return found


class Records:
    """All records of one cluster; keeps a count of healths per bundle so that a flip costs O(1)."""

    def __init__(self) -> None:
        self._records: dict[ObjectId, Record] = {}
        self._bundles: dict[str, dict[ObjectId, Record]] = {}
        self._healths: dict[str, Counter[Health]] = {}
        self._drifted: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, object_id: ObjectId) -> Record | None:
        return self._records.get(object_id)

    def items(self) -> Iterator[tuple[ObjectId, Record]]:
        return iter(self._records.items())

    def of_bundle(self, bundle: str) -> list[tuple[ObjectId, Record]]:
        return list(self._bundles.get(bundle, {}).items())

    def bundles(self) -> frozenset[str]:
        """Every bundle that has a record."""
        return frozenset(self._bundles)

    def of_kind(self, kind: GroupKind) -> list[tuple[ObjectId, Record]]:
        return [(i, r) for i, r in self._records.items() if i.kind == kind.kind and i.group == kind.group]

    def kinds(self) -> set[tuple[GroupKind, str]]:
        """(kind, version) of everything recorded."""
        return {(GroupKind(i.group, i.kind), r.version) for i, r in self._records.items()}

    def ensure(self, object_id: ObjectId, bundle: str, version: str) -> Record:
        """The record of an object that `bundle` now manages; a record of another bundle moves over."""
        record = self._records.get(object_id)
        if record is None:
            record = self._records[object_id] = Record(bundle, version)
            self._enter(object_id, record)
        elif record.bundle != bundle:
            self._leave(object_id, record)
            record.bundle = bundle
            self._enter(object_id, record)
        record.version = version
        return record

    def drop(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            record = self._records.pop(object_id, None)
            if record is not None:
                self._leave(object_id, record)

    def set_health(self, record: Record, health: Health, reason: str) -> bool:
        """Returns whether the health is another one than before."""
        record.reason = reason
        if record.health is health:
            return False
        self._count(record.bundle, record.health, -1)
        self._count(record.bundle, health, 1)
        record.health = health
        return True

    def set_drifted(self, record: Record, drifted: bool, *, noted: bool = False) -> None:
        record.noted = drifted or noted
        if record.drifted is not drifted:
            record.drifted = drifted
            self._drifted[record.bundle] += 1 if drifted else -1

    def drifted(self, bundle: str) -> int:
        return self._drifted[bundle]

    def health(self, bundle: str) -> tuple[Health, str]:
        """The bundle's health: the worst of its objects, and which object that is."""
        counts = self._healths.get(bundle, Counter())
        worst = next((h for h in _WORST_FIRST if counts[h] > 0), None)
        if worst is None:
            return Health.UNKNOWN, "nothing seen yet"
        if worst in (Health.HEALTHY, Health.SUSPENDED):
            return worst, ""
        culprit = next(((i, r) for i, r in self._bundles[bundle].items() if r.health is worst), None)
        return worst, (culprit[1].reason or f"{culprit[0]} is {worst}") if culprit else ""

    def _enter(self, object_id: ObjectId, record: Record) -> None:
        self._bundles.setdefault(record.bundle, {})[object_id] = record
        self._count(record.bundle, record.health, 1)
        self._drifted[record.bundle] += record.drifted

    def _leave(self, object_id: ObjectId, record: Record) -> None:
        bundle = record.bundle
        self._count(bundle, record.health, -1)
        self._drifted[bundle] -= record.drifted
        del self._bundles[bundle][object_id]
        if not self._bundles[bundle]:
            del self._bundles[bundle], self._healths[bundle], self._drifted[bundle]

    def _count(self, bundle: str, health: Health, by: int) -> None:
        self._healths.setdefault(bundle, Counter())[health] += by
