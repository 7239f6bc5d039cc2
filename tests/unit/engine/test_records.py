from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.records import Records
from fleet.model.cluster import Health
from fleet.model.objects import GroupKind, ObjectId


def an_id(name: str, kind: str = "ConfigMap") -> ObjectId:
    return ObjectId("", kind, "shop", name)


def test_a_bundle_is_as_healthy_as_its_worst_object() -> None:
    records = Records()
    first, second = (records.ensure(an_id(n), "shop", "v1") for n in ("a", "b"))
    assert records.health("shop")[0] is Health.UNKNOWN
    records.set_health(first, Health.HEALTHY, "")
    records.set_health(second, Health.PROGRESSING, "b has 1 of 2")
    assert records.health("shop") == (Health.PROGRESSING, "b has 1 of 2")
    records.set_health(second, Health.SUSPENDED, "paused")
    assert records.health("shop")[0] is Health.SUSPENDED
    assert records.health("other") == (Health.UNKNOWN, "nothing seen yet")


def test_an_object_moves_between_bundles_with_its_counts() -> None:
    records = Records()
    record = records.ensure(an_id("a"), "old", "v1")
    records.set_health(record, Health.HEALTHY, "")
    records.set_drifted(record, True)
    assert records.ensure(an_id("a"), "new", "v1") is record
    assert (records.drifted("old"), records.drifted("new")) == (0, 1)
    assert records.health("new")[0] is Health.HEALTHY
    records.drop([an_id("a"), an_id("never there")])
    assert (len(records), records.drifted("new")) == (0, 0)


def test_kinds_carry_the_version_that_is_watched() -> None:
    records = Records()
    records.ensure(an_id("a"), "shop", "v1")
    records.ensure(ObjectId("apps", "Deployment", "shop", "web"), "shop", "v1")
    assert records.kinds() == {(GroupKind("", "ConfigMap"), "v1"), (GroupKind("apps", "Deployment"), "v1")}
    assert [i.name for i, _ in records.of_kind(GroupKind("apps", "Deployment"))] == ["web"]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["x", "y"]), st.sampled_from(list(Health)))))
def test_counts_agree_with_the_records(steps: list[tuple[int, str, Health]]) -> None:
    records = Records()
    for number, bundle, health in steps:
        record = records.ensure(an_id(str(number)), bundle, "v1")
        records.set_health(record, health, "because")
        records.set_drifted(record, health is Health.MISSING)
    for bundle in ("x", "y"):
        mine = [record for _, record in records.of_bundle(bundle)]
        assert records.drifted(bundle) == sum(record.drifted for record in mine)
        if mine:
            assert records.health(bundle)[0] in {record.health for record in mine}
        else:
            assert records.health(bundle)[0] is Health.UNKNOWN
