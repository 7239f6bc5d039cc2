from __future__ import annotations

from typing import Any

import pytest

from fleet.core import normalize
from fleet.engine.observer import Observer
from fleet.engine.records import Records
from fleet.model.cluster import Health
from fleet.model.objects import GroupKind, LiveObject, Manifest, ObjectId
from tests.unit.core.live import as_live

MANAGER = "fleet-test"
KEY = b"k" * 16
ID = ObjectId("", "ConfigMap", "shop", "a")


class Told:
    """What the observer tells its listener and counters."""

    def __init__(self) -> None:
        self.suspects: list[str] = []
        self.changes: list[str] = []
        self.cleaned: list[ObjectId] = []
        self.reown = True
        self.touched = 0

    def suspect(self, object_id: ObjectId, reason: str) -> None:
        self.suspects.append(reason)

    def health_changed(self, bundle: str) -> None:
        self.changes.append(bundle)

    def clean(self, object_id: ObjectId) -> None:
        self.cleaned.append(object_id)

    def disowned(self, object_id: ObjectId) -> bool:
        return self.reown

    def touch(self) -> None:
        self.touched += 1


class Counts:
    ignored = echo = unchanged = suspect = 0


class Scene:
    def __init__(self) -> None:
        self.told = Told()
        self.records = Records()
        self.counts = Counts()
        self.observer = Observer(self.records, MANAGER, KEY, self.told, self.counts, self.told.touch)
        self.wanted = wanted()

    def applied(self, version: str = "10", **changes: Any) -> None:
        self.observer.answered(self.wanted, "shop", live(version, **changes))

    @property
    def record(self) -> Any:
        return self.records.get(ID)

    def health(self) -> Health:
        found: Health = self.record.health
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


def wanted(colour: str = "red") -> Manifest:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}}
    return normalize.manifest({**body, "data": {"colour": colour}})


def live(version: str, *, colour: str = "red", uid: str = "u1", owned: bool = True, **metadata: Any) -> LiveObject:
    fields = {"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:colour": {}}}}
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "shop", "uid": uid, "resourceVersion": version, **metadata},
        "data": {"colour": colour},
    }
    body["metadata"]["managedFields"] = [fields] if owned else []
    return as_live(body)


def test_what_is_not_ours_and_our_own_echo_cost_nothing(scene: Scene) -> None:
    scene.observer.seen("ADDED", live("9"))
    assert scene.counts.ignored == 1
    scene.applied("10")
    scene.observer.seen("MODIFIED", live("10"))
    scene.observer.seen("MODIFIED", live("9", colour="older"))
    assert (scene.counts.echo, scene.counts.suspect) == (2, 0)
    assert scene.told.suspects == []


def test_a_foreign_change_is_suspect_and_its_newest_state_is_kept(scene: Scene) -> None:
    scene.applied("10")
    scene.observer.seen("MODIFIED", live("11", colour="blue"))
    scene.observer.seen("MODIFIED", live("12", colour="green"))
    assert scene.told.suspects == ["fields", "fields"]
    taken = scene.observer.take_suspect(ID)
    assert taken is not None
    assert taken.meta.resource_version == "12"
    assert scene.observer.take_suspect(ID) is None


def test_a_suspicion_that_is_over_is_told_by_a_look(scene: Scene) -> None:
    scene.applied("10")
    assert scene.observer.is_suspect(live("11", colour="blue"))
    assert not scene.observer.is_suspect(live("12"))
    assert scene.record.baseline.resource_version == "12"
    # Older than what the server answered before: it lost data, and what it has is to be looked into.
    assert scene.observer.is_suspect(live("3"))


def test_events_wait_for_every_apply_in_flight_and_only_the_newest_counts(scene: Scene) -> None:
    scene.applied("10")
    with scene.observer.holding(ID):
        with scene.observer.holding(ID):
            scene.observer.seen("MODIFIED", live("11", colour="blue"))
        scene.observer.seen("MODIFIED", live("12", colour="green"))
        assert scene.told.suspects == []
        scene.applied("13")
    # The answer is newer than what came meanwhile.
    assert scene.told.suspects == []


def test_what_came_during_an_apply_that_failed_is_judged(scene: Scene) -> None:
    scene.applied("10")

    def fail() -> None:
        with scene.observer.holding(ID):
            scene.observer.seen("MODIFIED", live("14", colour="blue"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert scene.told.suspects == ["fields"]


def test_what_a_list_does_not_hold_is_only_suspected(scene: Scene) -> None:
    scene.applied("10")
    kind = live("10").resource
    scene.observer.page(kind, [live("10")])
    scene.observer.listed(kind, frozenset({ID}))
    assert scene.told.suspects == []
    scene.observer.listed(kind, frozenset())
    assert scene.told.suspects == ["not listed"]
    assert scene.health() is Health.UNKNOWN
    scene.observer.looked(ID, None)
    assert scene.health() is Health.MISSING
    scene.observer.looked(ID, live("10"))
    assert scene.health() is Health.HEALTHY


def test_a_list_says_nothing_of_an_apply_in_flight(scene: Scene) -> None:
    scene.applied("10")
    with scene.observer.holding(ID):
        scene.observer.listed(live("10").resource, frozenset())
    assert scene.told.suspects == []


def test_a_list_older_than_our_answer_means_that_data_were_lost(scene: Scene) -> None:
    scene.applied("1000")
    scene.observer.page(live("5").resource, [live("5", uid="u0")])
    assert scene.told.suspects == ["older than what the server answered before"]


def test_deleted_and_terminating(scene: Scene) -> None:
    scene.applied("10")
    scene.observer.seen("MODIFIED", live("11", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert scene.told.suspects == []
    assert scene.health() is Health.PROGRESSING
    scene.observer.seen("DELETED", live("12"))
    assert scene.told.suspects == ["missing"]
    assert scene.health() is Health.MISSING
    scene.applied("13", uid="u2")
    assert scene.health() is Health.HEALTHY
    # The end of the former incarnation, told late.
    scene.observer.seen("DELETED", live("12"))
    assert scene.told.suspects == ["missing"]


def test_lost_ownership_is_looked_at_when_it_may_be_taken_back(scene: Scene) -> None:
    scene.applied("10")
    scene.told.reown = False
    scene.observer.seen("MODIFIED", live("11", owned=False))
    assert scene.told.suspects == []
    scene.told.reown = True
    scene.observer.seen("MODIFIED", live("12", owned=False))
    assert scene.told.suspects == ["disowned"]


def test_a_baseline_without_ownership_keeps_its_fields(scene: Scene) -> None:
    scene.applied("10")
    before = scene.record.baseline
    scene.applied("11", owned=False, labels={"foreign": "label"})
    assert scene.record.baseline.fields == before.fields
    scene.observer.seen("MODIFIED", live("12", owned=False, labels={"foreign": "other"}))
    assert scene.told.suspects == ["disowned"]


def test_a_drift_that_is_over_is_told_once(scene: Scene) -> None:
    scene.applied("10")
    scene.records.set_drifted(scene.record, True)
    scene.observer.seen("MODIFIED", live("11", colour="blue"))
    assert scene.told.cleaned == []
    scene.observer.seen("MODIFIED", live("12"))
    scene.observer.seen("MODIFIED", live("13"))
    assert scene.told.cleaned == [ID]
    assert scene.records.drifted("shop") == 0


def test_an_answer_takes_the_doubt_away(scene: Scene) -> None:
    scene.applied("10")
    scene.record.doubtful = True
    scene.applied("11")
    assert not scene.record.doubtful


def test_every_sign_of_life_counts(scene: Scene) -> None:
    kind = live("1").resource
    scene.observer.page(kind, [])
    scene.observer.listed(kind, frozenset())
    scene.observer.alive(kind)
    scene.observer.seen("ADDED", live("1"))
    scene.observer.lost(kind, RuntimeError("cut"))
    assert scene.told.touched == 4


def test_health_is_told_when_it_changes(scene: Scene) -> None:
    scene.applied("10")
    scene.applied("11")
    assert scene.told.changes == ["shop"]
    assert scene.records.kinds() == {(GroupKind("", "ConfigMap"), "v1")}
