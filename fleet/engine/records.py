"""What an agent remembers of its cluster: one small record per managed object, counters per bundle. No objects.

Written by the observer (what the watch says) and by reconcile and repair (what a server answered to a write).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fleet.core import normalize
from fleet.engine.ports import Catalog
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

    __slots__ = ("baseline", "bundle", "drifted", "health", "reason", "seen_version", "version")

    def __init__(self, bundle: str, version: str) -> None:
        self.bundle = bundle
        self.version = version
        """API version that we apply and watch."""
        self.baseline: Baseline | None = None
        self.seen_version = ""
        """resourceVersion of the newest state that we have judged; empty until seen in this process."""
        self.health = Health.UNKNOWN
        self.reason = ""
        self.drifted = False


class Wanted:
    """What one bundle wants on this cluster."""

    def __init__(self, manifests: ManifestSet) -> None:
        self.digest = manifests.digest
        self._set = manifests  # kept alive: the content cache holds it weakly
        self.by_id: dict[ObjectId, Manifest] = {m.id: m for m in manifests.manifests}

    @property
    def kinds(self) -> frozenset[GroupKind]:
        return frozenset(GroupKind(i.group, i.kind) for i in self.by_id)

    def settle(self, catalog: Catalog, bundle: str, namespace: str, fleet: str) -> bool:
        """Moves objects into `namespace` whose kind only discovery knows to be namespaced; whether any moved."""
        moved = {}
        for manifest in self.by_id.values():
            if not manifest.id.namespace:
                resource = catalog.find(GroupKind(manifest.id.group, manifest.id.kind), manifest.version)
                if resource is not None and resource.namespaced:
                    moved[manifest.id] = normalize.place(manifest, namespace, fleet=fleet, bundle=bundle)
        if moved:
            self.by_id = {m.id: m for m in (moved.get(i, m) for i, m in self.by_id.items())}
        return bool(moved)


class Records:
    """All records of one cluster; keeps a count of healths per bundle so that a flip costs O(1)."""

    def __init__(self) -> None:
        self._records: dict[ObjectId, Record] = {}
        self._healths: dict[str, Counter[Health]] = {}
        self._drifted: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, object_id: ObjectId) -> Record | None:
        return self._records.get(object_id)

    def items(self) -> Iterator[tuple[ObjectId, Record]]:
        return iter(self._records.items())

    def of_bundle(self, bundle: str) -> list[tuple[ObjectId, Record]]:
        return [(i, r) for i, r in self._records.items() if r.bundle == bundle]

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
            self._count(bundle, record.health, 1)
        elif record.bundle != bundle:
            self._count(record.bundle, record.health, -1)
            self._count(bundle, record.health, 1)
            if record.drifted:
                self._drifted[record.bundle] -= 1
                self._drifted[bundle] += 1
            record.bundle = bundle
        record.version = version
        return record

    def drop(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            record = self._records.pop(object_id, None)
            if record is not None:
                self._count(record.bundle, record.health, -1)
                self._drifted[record.bundle] -= record.drifted

    def set_health(self, record: Record, health: Health, reason: str) -> bool:
        """Returns whether the health is another one than before."""
        record.reason = reason
        if record.health is health:
            return False
        self._count(record.bundle, record.health, -1)
        self._count(record.bundle, health, 1)
        record.health = health
        return True

    def set_drifted(self, record: Record, drifted: bool) -> None:
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
        culprit = next(((i, r) for i, r in self.of_bundle(bundle) if r.health is worst), None)
        return worst, f"{culprit[0]}: {culprit[1].reason or worst}" if culprit else ""

    def _count(self, bundle: str, health: Health, by: int) -> None:
        self._healths.setdefault(bundle, Counter())[health] += by
