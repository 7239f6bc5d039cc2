"""Health of recorded shapes of objects (tests/data/health), and of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import health, yaml
from fleet.model.cluster import Health
from fleet.model.objects import ObjectId
from tests.unit.core.test_canonical import VALUES

_DATA = Path(__file__).parents[2] / "data" / "health"


def _cases() -> list[Any]:
    result = []
    for path in sorted(_DATA.glob("*.yaml")):
        document = cast(dict[str, Any], yaml.load(path.read_bytes(), file=path.name).value)
        result += [
            pytest.param(document["object"], case, id=f"{path.stem}: {case['name']}") for case in document["cases"]
        ]
    return result


def _body(base: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    own = {field: case[field] for field in ("spec", "status") if field in case}
    body: dict[str, Any] = base | own
    body["metadata"] = {**base["metadata"], **case.get("metadata", {})}
    if "kind" in case:
        body["apiVersion"], _, body["kind"] = case["kind"].rpartition("/")
    return body


@pytest.mark.parametrize(("base", "case"), _cases())
def test_case(base: dict[str, Any], case: dict[str, Any]) -> None:
    body = _body(base, case)
    name = f"{body['kind']} {body['metadata'].get('namespace', '')}/{body['metadata']['name']}".replace(" /", " ")
    reason = f"{name} {case['reason']}" if "reason" in case else ""
    assert health.assess(body, now=case.get("now")) == (Health(case["health"]), reason)


def test_an_item_of_a_list_is_judged_by_the_kind_it_was_listed_as() -> None:
    body = {"metadata": {"name": "x"}, "status": {}}
    assert health.assess(body, kind="Deployment", group="apps")[0] is Health.PROGRESSING
    assert health.assess(body)[0] is Health.HEALTHY


@given(
    st.sampled_from(["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]).map(lambda kind: ("apps/v1", kind))
    | st.sampled_from([("batch/v1", "Job"), ("v1", "Pod"), ("v1", "Service"), ("v1", "PersistentVolumeClaim")]),
    VALUES,
    VALUES,
    st.lists(st.dictionaries(st.sampled_from(["type", "status", "reason", "message"]), VALUES, max_size=4), max_size=3),
)
def test_no_status_however_odd_breaks_the_rules(kind: tuple[str, str], spec: Any, status: Any, conditions: Any) -> None:
    if isinstance(status, dict):
        status = status | {"conditions": conditions}
    body = {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "x"}, "spec": spec, "status": status}
    assert isinstance(health.assess(body, now=0.0)[0], Health)


_IDS = {name: ObjectId("", "ConfigMap", "n", name) for name in "abcd"}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({}, (Health.HEALTHY, "")),
        ({"a": Health.HEALTHY}, (Health.HEALTHY, "")),
        ({"a": Health.HEALTHY, "b": Health.PROGRESSING}, (Health.PROGRESSING, "why b")),
        ({"a": Health.PROGRESSING, "b": Health.UNKNOWN}, (Health.UNKNOWN, "why b")),
        ({"a": Health.UNKNOWN, "b": Health.MISSING}, (Health.MISSING, "why b")),
        (
            {"a": Health.MISSING, "d": Health.DEGRADED, "c": Health.DEGRADED},
            (Health.DEGRADED, "why c (and 1 more degraded)"),
        ),
        ({"a": Health.HEALTHY, "b": Health.SUSPENDED}, (Health.HEALTHY, "why b")),
        ({"a": Health.SUSPENDED, "b": Health.PROGRESSING}, (Health.PROGRESSING, "why b")),
    ],
)
def test_a_bundle_is_as_healthy_as_its_worst_object(objects: dict[str, Health], expected: health.Assessment) -> None:
    assert health.aggregate((_IDS[name], state, f"why {name}") for name, state in objects.items()) == expected


def test_a_bad_object_without_a_reason_is_named() -> None:
    assert health.aggregate([(_IDS["a"], Health.MISSING, "")]) == (Health.MISSING, "ConfigMap n/a is missing")
    assert health.aggregate([(_IDS["a"], Health.HEALTHY, "all is well")]) == (Health.HEALTHY, "")
