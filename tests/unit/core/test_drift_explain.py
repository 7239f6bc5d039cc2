"""The confirmation by dry-run, and what people are told: fields, writers, and never the value of a Secret."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.canonical import same
from fleet.core.drift import compare, explain
from fleet.model.drift import FieldChange
from fleet.model.objects import ObjectId
from tests import drift_cases
from tests.unit.core.live import as_live
from tests.unit.core.test_canonical import VALUES

MANAGER = "fleet-applier"
CASES = {case.id: case for _, case in drift_cases.read(drift_cases.RECORDED) if isinstance(case, drift_cases.Case)}


def _explained(live: dict[str, Any], dry_run: dict[str, Any]) -> explain.Explanation:
    return explain.explain(as_live(live), live, dry_run, manager=MANAGER)


def _recorded(case: str) -> explain.Explanation:
    """The explanation of a recorded case, where the state after our apply stands in for the answer to the dry-run."""
    after = CASES[case].after
    assert after is not None
    return _explained(after, CASES[case].applied)


# --- confirmation ----------------------------------------------------------------------------------------------------


def test_what_servers_write_by_themselves_is_no_difference() -> None:
    live = {
        "metadata": {"name": "x", "resourceVersion": "2", "generation": 2, "managedFields": [1]},
        "status": {"a": 1},
    }
    answer = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "resourceVersion": "1", "generation": 3}}
    assert not compare.confirm(live, answer)
    assert compare.confirm(live, {**answer, "data": {}})
    assert compare.confirm({**live, "n": True}, {**answer, "n": 1})


@pytest.mark.parametrize("annotations", [None, {}, {"a": "b"}])
def test_a_restart_by_hand_is_no_difference(annotations: dict[str, str] | None) -> None:
    def body(extra: dict[str, str], base: dict[str, str] | None = annotations) -> dict[str, Any]:
        metadata: dict[str, Any] = {} if base is None and not extra else {"annotations": {**(base or {}), **extra}}
        return {"spec": {"template": {"metadata": metadata}}}

    assert not compare.confirm(body({compare.RESTARTED_AT: "2"}), body({compare.RESTARTED_AT: "1"}))
    assert not compare.confirm(body({compare.RESTARTED_AT: "2"}), body({}))
    assert compare.confirm(body({"c": "2"}), body({}))


@given(
    st.dictionaries(st.text(max_size=3), VALUES, max_size=3), st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
)
def test_a_difference_is_found_exactly_where_there_is_one(left: dict[str, Any], right: dict[str, Any]) -> None:
    left, right = {"spec": left}, {"spec": right}
    assert compare.confirm(left, right) == (not same(left, right))


# --- explanation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "path", "wanted", "live", "manager"),
    [
        ("S6", "spec.replicas", 2, 5, "kubectl"),
        ("S7", "spec.template.spec.containers[name=app].image", "nginx:1.25", "nginx:1.26", "kubectl-set"),
        ("S10", "spec.template.spec.containers[name=app].env[name=A]", {"name": "A", "value": "1"}, None, None),
        ("C1", "data.a", "1", "9", "kubectl-edit"),
    ],
)
def test_recorded_changes_name_field_and_writer(
    case: str, path: str, wanted: Any, live: Any, manager: str | None
) -> None:
    found = _recorded(case)
    change = next(field for field in found.fields if field.path == path)
    assert (change.wanted, change.live, change.manager) == (wanted, live, manager)
    assert found.manager == manager
    # Servers give an entry that comes through /scale no time.
    assert (found.changed_at is not None) == (case in ("S7", "C1"))


def test_every_recorded_drift_can_be_explained() -> None:
    for case in CASES.values():
        if case.after is not None and case.expect.owned == "drift":
            assert _recorded(case.id).fields, case.id


def test_a_write_at_another_version_is_the_only_one_that_can_have_changed_it() -> None:
    found = _recorded("HV1")
    assert (found.manager, found.operation) == ("kubectl-patch", "Update")
    assert [field.path for field in found.fields] == ["spec.metrics"]


def test_a_reordered_list_shows_both_orders() -> None:
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z"}
    fields: dict[str, Any] = {"f:env": {'k:{"name":"a"}': {".": {}}, 'k:{"name":"b"}': {".": {}}}}
    live: dict[str, Any] = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}}
    live["metadata"]["managedFields"] = [entry | {"fieldsV1": fields}]
    a, b, c = {"name": "a"}, {"name": "b"}, {"name": "c"}
    found = _explained(live | {"env": [b, c, a]}, live | {"env": [a, b, c]})
    assert found.fields == (FieldChange("env", ["a", "b", "c"], ["b", "c", "a"], "m"),)


def test_the_newest_owner_is_blamed_and_not_us_in_the_same_second() -> None:
    def entry(manager: str, second: int, subresource: str = "") -> dict[str, Any]:
        return {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": f"2026-01-01T00:00:0{second}Z",
            "subresource": subresource,
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }

    live: dict[str, Any] = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"replicas": 2}}
    wanted = {**live, "spec": {"replicas": 1}}
    live["metadata"]["managedFields"] = [
        entry("old", 1),
        entry("status", 9, "status"),
        entry(MANAGER, 3),
        entry("new", 3),
    ]
    assert _explained(live, wanted).manager == "new"
    live["metadata"]["managedFields"] = [entry("hpa", 5, "scale"), entry(MANAGER, 3)]
    assert _explained(live, wanted).manager == "hpa"


def test_an_atomic_value_is_blamed_on_its_owner() -> None:
    found = _recorded("V3")
    assert all(field.path.startswith("spec.selector") for field in found.fields)
    assert {field.manager for field in found.fields if field.live is not None} == {"kubectl-patch"}


def test_values_of_secrets_are_masked_everywhere() -> None:
    last = explain.LAST_APPLIED
    live: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque"}
    live |= {"data": {"p": "bGl2ZQ==", "q": "bGl2ZQ=="}, "stringData": {"r": "live"}}
    live["metadata"]["annotations"] = {last: '{"data":"live"}', "a": "shown"}
    wanted = copy.deepcopy(live)
    wanted |= {"data": {"p": "d2FudGVk"}, "stringData": {"r": "wanted"}}
    wanted["metadata"]["annotations"] = {last: '{"data":"wanted"}', "a": "other"}
    found = _explained(live, wanted)
    assert {field.path: (field.wanted, field.live) for field in found.fields} == {
        "data.p": (explain.MASK, explain.MASK),
        "data.q": (None, explain.MASK),
        "metadata.annotations.a": ("other", "shown"),
        f"metadata.annotations[{last}]": (explain.MASK, explain.MASK),
        "stringData.r": (explain.MASK, explain.MASK),
    }


@pytest.mark.parametrize("lost", ["data", "annotations", "metadata"])
def test_whole_maps_of_secrets_are_masked_too(lost: str) -> None:
    wanted: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "data": {"p": "d2FudGVk"}}
    wanted["metadata"] = {"name": "s", "annotations": {explain.LAST_APPLIED: "d2FudGVk", "a": "shown"}}
    live = copy.deepcopy(wanted)
    (live if lost == "data" else live["metadata"]).pop("annotations" if lost == "metadata" else lost, None)
    answer = explain.explain(as_live(live), {} if lost == "metadata" else live, wanted, manager=MANAGER)
    assert answer.fields
    assert "d2FudGVk" not in str(answer)


def test_records_stay_small() -> None:
    live: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}}
    wanted = {**live, "data": {f"k{i:04}": "x" * 5000 for i in range(500)}}
    found = _explained({**live, "data": dict.fromkeys(wanted["data"], "y")}, wanted)
    assert len(found.fields) == explain.MAX_FIELDS
    assert len(found.fields[0].wanted) == explain.MAX_VALUE + 1


# --- what follows ----------------------------------------------------------------------------------------------------

_JOB = ObjectId("batch", "Job", "n", "x")
_DEPLOYMENT = ObjectId("apps", "Deployment", "n", "x")


@pytest.mark.parametrize(
    ("object_id", "paths", "expected"),
    [
        (_DEPLOYMENT, [], "none"),
        (_DEPLOYMENT, ["spec.paused"], "reported"),
        (_DEPLOYMENT, ["spec.paused", "spec.replicas"], "heal"),
        (_DEPLOYMENT, ["spec.suspend"], "heal"),
        (_JOB, ["spec.suspend"], "reported"),
        (ObjectId("a.example", "Job", "n", "x"), ["spec.suspend"], "heal"),
    ],
)
def test_a_stop_by_hand_is_reported_and_all_else_healed(object_id: ObjectId, paths: list[str], expected: str) -> None:
    assert explain.disposition(object_id, tuple(FieldChange(path, 1, 2) for path in paths)) == expected


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (("f:spec", "f:replicas"), "spec.replicas"),
        (("f:metadata", "f:labels", "f:app.kubernetes.io/name"), "metadata.labels[app.kubernetes.io/name]"),
        (("f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name"), "ports[port=80,protocol=TCP].name"),
        (("f:finalizers", 'v:"a"'), 'finalizers["a"]'),
    ],
)
def test_paths_are_written_for_people(path: tuple[str, ...], written: str) -> None:
    assert explain.readable(path) == written
