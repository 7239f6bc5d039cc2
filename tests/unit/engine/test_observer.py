"""What a complete list means for what is known."""

from __future__ import annotations

import pytest

from fleet.engine.observer import Observer
from fleet.engine.records import Records
from fleet.model.cluster import Health
from fleet.model.objects import ObjectId, Resource
from tests.unit.store import values

CONFIG_MAPS = Resource("", "v1", "ConfigMap", "configmaps", True)


class Watched:
    """The listener, and the account of kinds: what the bundle's health is when its kind is observed."""

    def __init__(self, records: Records) -> None:
        self.suspects: list[tuple[ObjectId, str]] = []
        self.changed: list[str] = []
        self.evidence: list[tuple[Health, str]] = []
        self._records = records

    def suspect(self, object_id: ObjectId, reason: str) -> None:
        self.suspects.append((object_id, reason))

    def health_changed(self, bundle: str) -> None:
        self.changed.append(bundle)

    def disowned(self, object_id: ObjectId) -> bool:
        return False

    def clean(self, object_id: ObjectId) -> None: ...

    def alive(self, resource: Resource) -> None: ...

    def listed(self, resource: Resource) -> None:
        self.evidence.append(self._records.health("shop"))

    def lost(self, resource: Resource, error: Exception) -> None: ...


class Counts:
    ignored = echo = unchanged = suspect = 0


@pytest.mark.parametrize("before", [Health.HEALTHY, Health.PROGRESSING, Health.MISSING])
def test_what_a_list_lacks_is_no_evidence_of_health(before: Health) -> None:
    records = Records()
    baseline = values.baseline()
    record = records.ensure(baseline.id, "shop", "v1")
    record.baseline = baseline
    records.set_health(record, before, "as seen in a former session")
    watched = Watched(records)
    observer = Observer(records, "fleet-test", b"k" * 32, watched, Counts(), lambda: None)
    observer.kinds = watched
    observer.listed(CONFIG_MAPS, frozenset())
    ((health, _),) = watched.evidence
    assert health is (Health.MISSING if before is Health.MISSING else Health.UNKNOWN)
    assert watched.suspects == [(baseline.id, "not listed")]
    observer.listed(CONFIG_MAPS, frozenset({baseline.id}))
    assert len(watched.suspects) == 1
