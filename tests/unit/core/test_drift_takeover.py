"""Take-overs of managedFields entries, on recorded objects and on single rules."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from fleet.core.drift import takeover
from tests.unit.core.test_drift_explain import CASES

MANAGER = "fleet-applier"


def _owned(case: str) -> bytes:
    entries = CASES[case].applied["metadata"]["managedFields"]
    return msgspec.json.encode(next(e["fieldsV1"] for e in entries if e["manager"] == MANAGER))


def _after(case: str) -> dict[str, Any]:
    after = CASES[case].after
    assert after is not None
    return copy.deepcopy(after)


def _entries(taken: takeover.TakeOver | None) -> dict[str, Any]:
    assert taken is not None
    return {e["manager"]: e["fieldsV1"] for e in json.loads(taken.patch)["metadata"]["managedFields"]}


def _ours(taken: takeover.TakeOver | None, *path: str) -> set[str]:
    node = _entries(taken)[MANAGER]
    for step in path:
        node = node[step]
    return set(node)


def test_a_renamed_container_is_taken_from_who_renamed_it() -> None:
    body = _after("S18")
    before = copy.deepcopy(body)
    taken = takeover.take_over(body, manager=MANAGER, owned=_owned("S18"))
    assert taken is not None
    assert taken.managers == ("kubectl-patch",)
    assert _ours(taken, "f:spec", "f:template", "f:spec", "f:containers") == {'k:{"name":"app2"}'}
    assert "kubectl-patch" not in _entries(taken)
    assert json.loads(taken.patch)["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"]
    assert body == before


def test_a_changed_merge_key_of_a_port_is_taken() -> None:
    taken = takeover.take_over(_after("V4"), manager=MANAGER, owned=_owned("V4"))
    assert _ours(taken, "f:spec", "f:ports") == {'k:{"port":81,"protocol":"TCP"}'}


@pytest.mark.parametrize("case", ["S16", "S9", "S7", "S10", "W6", "C1", "S1"])
def test_a_plain_apply_suffices_where_nothing_of_ours_was_replaced(case: str) -> None:
    assert takeover.take_over(_after(case), manager=MANAGER, owned=_owned(case)) is None


def test_after_a_duplicate_every_foreign_item_of_our_lists_is_taken() -> None:
    """S16 adds a container beside ours: without the server's refusal it stays."""
    taken = takeover.take_over(_after("S16"), manager=MANAGER, owned=_owned("S16"), after_duplicate=True)
    containers = _ours(taken, "f:spec", "f:template", "f:spec", "f:containers")
    assert len(containers) == 2
    assert 'k:{"name":"app"}' in containers


def test_what_another_tool_applies_or_a_subresource_holds_is_never_taken() -> None:
    for change in ({"operation": "Apply", "manager": "helm"}, {"subresource": "scale"}, {"apiVersion": "apps/v1beta1"}):
        body = _after("S18")
        body["metadata"]["managedFields"][1] |= change
        assert takeover.take_over(body, manager=MANAGER, owned=_owned("S18")) is None


def test_other_fields_of_the_giver_stay_with_it() -> None:
    body = _after("S18")
    body["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"] = {"f:labels": {"f:theirs": {}}}
    taken = takeover.take_over(body, manager=MANAGER, owned=_owned("S18"))
    assert _entries(taken)["kubectl-patch"] == {"f:metadata": {"f:labels": {"f:theirs": {}}}}


def test_without_an_entry_of_ours_one_is_made() -> None:
    body = _after("S18")
    del body["metadata"]["managedFields"][0]
    taken = takeover.take_over(body, manager=MANAGER, owned=_owned("S18"))
    assert taken is not None
    (entry,) = json.loads(taken.patch)["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == (MANAGER, "Apply", "apps/v1")
    assert entry["time"] == body["metadata"]["managedFields"][0]["time"]
    assert set(entry["fieldsV1"]) == {"f:spec"}


def test_an_inner_list_of_an_item_is_looked_at_too() -> None:
    body = _after("S18")
    spec = body["spec"]["template"]["spec"]
    spec["containers"][0] |= {"name": "app", "ports": [{"name": "http", "containerPort": 81, "protocol": "TCP"}]}
    port = 'k:{"containerPort":81,"protocol":"TCP"}'
    branch: dict[str, Any] = {"f:ports": {port: {".": {}, "f:containerPort": {}}}}
    for step in reversed(("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"app"}')):
        branch = {step: branch}
    body["metadata"]["managedFields"][1]["fieldsV1"] = branch
    taken = takeover.take_over(body, manager=MANAGER, owned=_owned("S18"))
    path = ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"app"}', "f:ports")
    assert _ours(taken, *path) == {port}


def test_predecessors_are_absorbed_with_their_record() -> None:
    last = "kubectl.kubernetes.io/last-applied-configuration"
    base = {"apiVersion": "v1", "operation": "Update", "fieldsType": "FieldsV1"}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap"}
    body["metadata"] = {"name": "x", "resourceVersion": "7", "annotations": {last: "{}"}}
    body["metadata"]["managedFields"] = [
        base | {"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}, "f:m": {}}}},
        base
        | {
            "manager": "kubectl-client-side-apply",
            "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{last}": {}}}, "f:data": {".": {}, "f:m": {"f:x": {}}}},
        },
        base | {"manager": "kubectl-edit", "fieldsV1": {"f:data": {"f:c": {}}}},
    ]
    taken = takeover.absorb(body, manager=MANAGER)
    assert taken is not None
    assert taken.managers == ("kubectl-client-side-apply",)
    assert json.loads(taken.patch)["metadata"]["annotations"] == {last: None}
    assert _entries(taken) == {
        MANAGER: {"f:data": {".": {}, "f:a": {}, "f:m": {".": {}, "f:x": {}}}},
        "kubectl-edit": {"f:data": {"f:c": {}}},
    }
    body["metadata"]["managedFields"].pop(1)
    assert takeover.absorb(body, manager=MANAGER) is None


def test_maintenance_goes_under_another_name() -> None:
    assert takeover.maintenance_manager("fleet-acme") == "fleet-acme-maintenance"
