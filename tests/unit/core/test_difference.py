"""Differences of manifest sets: objects, fields, masked values, bounds."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from fleet.core import normalize
from fleet.core.difference import MAX_FIELDS, Difference, FieldChange, ObjectChange, difference
from fleet.model.objects import ManifestSet


def body(api_version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **content}


def manifests(*bodies: dict[str, Any]) -> ManifestSet:
    return normalize.manifest_set(normalize.manifest(item) for item in bodies)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return body("v1", "ConfigMap", name, data=data)


def fields(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    [change] = difference(manifests(before), manifests(after)).change
    return [(field.path, field.before, field.after) for field in change.fields]


def test_created_changed_deleted_in_order() -> None:
    before = manifests(config_map("gone"), config_map("same"), config_map("other", a="1"))
    after = manifests(config_map("same"), config_map("other", a="2", b="3"), config_map("new"))
    assert difference(before, after) == Difference(
        create=("v1/ConfigMap shop/new",),
        change=(
            ObjectChange(
                "v1/ConfigMap shop/other", (FieldChange("data.a", "1", "2"), FieldChange("data.b", None, "3"))
            ),
        ),
        delete=("v1/ConfigMap shop/gone",),
    )


def test_nothing_against_nothing() -> None:
    assert difference(None, None).empty
    assert difference(None, manifests(config_map("a"))).create == ("v1/ConfigMap shop/a",)
    assert difference(manifests(config_map("a")), None).delete == ("v1/ConfigMap shop/a",)
    assert difference(manifests(config_map("a")), manifests(config_map("a"))).empty


def test_list_items_are_matched_by_name() -> None:
    def deployment(image: str, *more: str) -> dict[str, Any]:
        containers = [{"name": "side", "image": name} for name in more] + [{"name": "web", "image": image}]
        return body("apps/v1", "Deployment", "web", spec={"template": {"spec": {"containers": containers}}})

    path = "spec.template.spec.containers"
    assert fields(deployment("a"), deployment("b")) == [(f"{path}[name=web].image", "a", "b")]
    assert (f"{path}[name=side]", None, {"name": "side", "image": "s"}) in fields(deployment("a"), deployment("a", "s"))


def test_a_new_api_version_is_a_change_of_the_object() -> None:
    before, after = (body(version, "HorizontalPodAutoscaler", "x") for version in ("autoscaling/v1", "autoscaling/v2"))
    assert fields(before, after) == [("apiVersion", "autoscaling/v1", "autoscaling/v2")]


def test_values_of_secrets_are_masked() -> None:
    def secret(value: str, **annotations: str) -> dict[str, Any]:
        made = body("v1", "Secret", "s", data={"k": value}, type="Opaque")
        made["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": value, **annotations}
        return made

    told = difference(manifests(secret("Q0FOQVJZ")), manifests(secret("TkVXQ0FO", x="plain")))
    assert "Q0FOQVJZ" not in msgspec.json.encode(told).decode()
    assert "TkVXQ0FO" not in msgspec.json.encode(told).decode()
    assert FieldChange("data.k", "(secret)", "(secret)") in told.change[0].fields
    assert any(field.after == "plain" for field in told.change[0].fields)
    bare = body("v1", "Secret", "s")
    whole = difference(manifests(bare), manifests(secret("Q0FOQVJZ")))
    assert "Q0FOQVJZ" not in msgspec.json.encode(whole).decode()


def test_many_fields_and_long_values_are_cut_off() -> None:
    before = config_map("a", **{f"k{n}": "1" for n in range(MAX_FIELDS + 50)})
    after = config_map("a", **{f"k{n}": "2" for n in range(MAX_FIELDS + 50)})
    assert len(fields(before, after)) == MAX_FIELDS
    [(_, _, value)] = fields(config_map("a", k="1"), config_map("a", k="x" * 100_000))
    assert len(value) < 3000


def test_the_json_is_that_of_the_interface() -> None:
    told = difference(manifests(config_map("a", k="1")), manifests(config_map("a", k="2")))
    assert json.loads(msgspec.json.encode(told)) == {
        "create": [],
        "change": [{"object": "v1/ConfigMap shop/a", "fields": [{"path": "data.k", "from": "1", "to": "2"}]}],
        "delete": [],
    }
