"""The decision on one watch event: every branch of drift.md 1.1 "On an event", and in which order they are asked."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import normalize, ownership
from fleet.core.drift import verdict
from fleet.errors import InvalidInput
from fleet.model.cluster import Baseline
from tests.unit.core.live import as_live

MANAGER = "fleet-acme"
KEY = b"k" * 16

DESIRED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"replicas": 2, "strategy": {}},
}


def _applied() -> dict[str, Any]:
    body = copy.deepcopy(DESIRED)
    body["metadata"] |= {"uid": "u1", "resourceVersion": "100", "generation": 1}
    body["metadata"]["managedFields"] = [_entry({"f:spec": {"f:replicas": {}, "f:strategy": {}}})]
    body["spec"]["strategy"] = {"type": "RollingUpdate"}
    return body


def _entry(fields: dict[str, Any], **more: str) -> dict[str, Any]:
    entry = {"manager": MANAGER, "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z"}
    return entry | {"fieldsType": "FieldsV1", "fieldsV1": fields} | more


def _baseline(applied: dict[str, Any] | None = None) -> Baseline:
    return verdict.remember(
        normalize.manifest(DESIRED),
        "shop",
        as_live(applied or _applied()),
        manager=MANAGER,
        key=KEY,
        presence_only=ownership.presence_only(DESIRED),
    )


def _event(version: str = "101", **metadata: Any) -> dict[str, Any]:
    body = _applied()
    body["metadata"] |= {"resourceVersion": version} | metadata
    return body


def _judge(
    body: dict[str, Any], change: verdict.Change = "MODIFIED", baseline: Baseline | None = None
) -> verdict.Verdict:
    return verdict.judge(baseline or _baseline(), as_live(body), change, manager=MANAGER, key=KEY)


def test_an_object_without_baseline_is_not_ours() -> None:
    assert verdict.judge(None, as_live(_event()), "ADDED", manager=MANAGER, key=KEY) == verdict.NotOurs()


def test_our_own_write_comes_back_as_an_echo() -> None:
    assert _judge(_event("100")) == verdict.Echo()


@pytest.mark.parametrize("version", ["99", "9"])
def test_a_state_from_before_our_write_is_a_stale_echo_whatever_it_holds(version: str) -> None:
    body = _event(version, uid="u0", deletionTimestamp="2026-01-01T00:00:00Z")
    body["spec"]["replicas"] = 9
    assert _judge(body) == verdict.Echo(stale=True)


def test_status_and_foreign_fields_change_nothing_and_are_followed() -> None:
    body = _event("1000", generation=2)
    body["status"] = {"replicas": 1}
    body["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": 1}
    body["metadata"]["managedFields"].append(_entry({"f:spec": {"f:x": {}}}, manager="other"))
    seen = _judge(body)
    assert isinstance(seen, verdict.Unchanged)
    assert not seen.ownership_lost
    followed = verdict.follow(_baseline(), seen)
    assert (followed.resource_version, followed.generation) == ("1000", 2)
    assert _judge(body, baseline=followed) == verdict.Echo()


def test_the_time_and_other_entries_of_managed_fields_do_not_count() -> None:
    body = _event()
    body["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z"
    assert isinstance(_judge(body), verdict.Unchanged)


def test_a_changed_field_of_ours_is_suspect() -> None:
    body = _event()
    body["spec"]["replicas"] = 3
    assert _judge(body) == verdict.Suspect("fields")


def test_a_field_taken_from_us_is_suspect_even_with_its_value() -> None:
    body = _event()
    body["metadata"]["managedFields"] = [_entry({"f:spec": {"f:strategy": {}}})]
    assert _judge(body) == verdict.Suspect("fields")


def test_an_entry_that_vanished_is_lost_ownership_and_no_drift() -> None:
    for entries in ([], [_entry({"f:spec": {"f:replicas": {}}}, operation="Update")]):
        assert _judge(_event(managedFields=entries)) == verdict.Unchanged(
            "101", 1, _baseline().entry, ownership_lost=True
        )
    body = _event(managedFields=[])
    body["spec"]["replicas"] = 3
    assert _judge(body) == verdict.Suspect("fields", ownership_lost=True)


def test_an_entry_at_another_version_is_not_projected() -> None:
    body = _event()
    body["metadata"]["managedFields"][0]["apiVersion"] = "apps/v1beta1"
    assert _judge(body) == verdict.Suspect("version")


def test_a_recreated_object_is_suspect_even_when_it_is_equal() -> None:
    assert _judge(_event(uid="u2")) == verdict.Suspect("recreated")


@pytest.mark.parametrize("uid", ["u1", "u2"])
def test_an_object_being_deleted_is_left_alone(uid: str) -> None:
    body = _event(uid=uid, deletionTimestamp="2026-01-02T00:00:00Z")
    body["spec"]["replicas"] = 0
    assert _judge(body) == verdict.Terminating("2026-01-02T00:00:00Z")


@pytest.mark.parametrize(
    ("version", "uid", "expected"),
    [
        ("101", "u1", verdict.Gone()),
        ("99", "u1", verdict.Gone()),
        ("101", "u0", verdict.Gone()),
        ("99", "u0", verdict.Echo(stale=True)),
    ],
)
def test_a_deletion_counts_unless_it_is_that_of_an_older_incarnation(
    version: str, uid: str, expected: verdict.Verdict
) -> None:
    assert _judge(_event(version, uid=uid), "DELETED") == expected


def test_without_an_entry_in_the_response_the_whole_object_is_compared() -> None:
    applied = _applied()
    applied["metadata"]["managedFields"] = []
    baseline = _baseline(applied)
    quiet = _event(managedFields=[], generation=5)
    quiet["status"] = {"x": 1}
    assert isinstance(_judge(quiet, baseline=baseline), verdict.Unchanged)
    quiet["spec"]["foreign"] = 1
    assert _judge(quiet, baseline=baseline) == verdict.Suspect("fields", ownership_lost=True)


def test_a_lost_entry_keeps_the_field_set_of_the_previous_baseline() -> None:
    wiped = _event(managedFields=[])
    wanted, before = normalize.manifest(DESIRED), _baseline()
    after = verdict.remember(
        wanted, "shop", as_live(wiped), manager=MANAGER, key=KEY, presence_only=before.presence, previous=before
    )
    assert (after.fields, after.projection, after.resource_version) == (before.fields, before.projection, "101")
    other = msgspec.structs.replace(before, manifest=b"another")
    fresh = verdict.remember(wanted, "shop", as_live(wiped), manager=MANAGER, key=KEY, previous=other)
    assert ownership.unpack(fresh.fields) == b""


def test_a_body_that_was_decoded_before_gives_the_same_verdict() -> None:
    body = _event()
    live = as_live(body)
    given_body = verdict.judge(_baseline(), live, "MODIFIED", manager=MANAGER, key=KEY, body=ownership.decode(live))
    assert given_body == _judge(body)


def test_an_answer_that_is_no_object_is_an_error_and_no_verdict() -> None:
    live = msgspec.structs.replace(as_live(_event()), raw=b"<html>")
    with pytest.raises(InvalidInput):
        verdict.judge(_baseline(), live, "MODIFIED", manager=MANAGER, key=KEY)


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_resource_versions_are_ordered_as_numbers(left: int, right: int) -> None:
    assert verdict.older(str(left), str(right)) == (left < right)


@pytest.mark.parametrize(("left", "right"), [("", "1"), ("a", "bb"), ("1", "b"), ("a1", "11"), ("", "")])
def test_what_is_no_number_is_never_older(left: str, right: str) -> None:
    assert not verdict.older(left, right)
