"""Overlays of plain files: which folders are overlays, merging by identity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import normalize
from fleet.errors import RenderError
from fleet.model.objects import ObjectId
from fleet.render import overlay
from fleet.render.documents import Placed
from fleet.render.namespaces import Scopes


def config_map(name: str, data: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    return body | ({"data": data} if data is not None else {})


def merged(base: list[dict[str, Any]], patches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scopes = Scopes([*base, *patches])

    def settle(body: dict[str, Any]) -> ObjectId:
        return scopes.settle(body, "shop")

    def placed(bodies: list[dict[str, Any]], file: str) -> list[Placed]:
        return [Placed(body, f"{file}{number}.yaml") for number, body in enumerate(bodies)]

    return [item.body for item in overlay.merge(placed(base, "base"), placed(patches, "over"), settle)]


def test_an_object_of_the_base_is_merged_and_another_added() -> None:
    base = [config_map("a", {"x": "1", "y": "2"})]
    over = [config_map("a", {"x": "3", "y": None}, namespace="shop"), config_map("b", {})]
    assert merged(base, over) == [config_map("a", {"x": "3"}, namespace="shop"), config_map("b", {})]
    assert base == [config_map("a", {"x": "1", "y": "2"})]


def test_objects_of_other_namespaces_are_others() -> None:
    over = [config_map("a", {"x": "3"}, namespace="other")]
    assert merged([config_map("a", {"x": "1"})], over) == [config_map("a", {"x": "1"}), over[0]]


def test_lists_are_replaced() -> None:
    base = [config_map("a") | {"items": [1, 2]}]
    assert merged(base, [config_map("a") | {"items": [3]}]) == [config_map("a") | {"items": [3]}]


def test_an_object_can_be_deleted() -> None:
    assert merged([config_map("a"), config_map("b")], [config_map("a") | {"$patch": "delete"}]) == [config_map("b")]


def test_what_is_not_there_cannot_be_deleted() -> None:
    with pytest.raises(RenderError, match=r"over0\.yaml: there is no ConfigMap shop/a to delete"):
        merged([config_map("b")], [config_map("a") | {"$patch": "delete"}])
    with pytest.raises(RenderError, match="only `"):
        merged([config_map("a")], [config_map("a") | {"$patch": "replace"}])


def test_two_definitions_of_one_object_name_both_files() -> None:
    with pytest.raises(RenderError, match=r"base1\.yaml: ConfigMap shop/a is defined in base0\.yaml, too"):
        merged([config_map("a"), config_map("a", namespace="shop")], [])


@pytest.mark.parametrize(
    ("pattern", "out", "stays"),
    [
        ("clusters/{{ cluster.name }}", ["clusters/qa", "clusters/prod-eu1"], ["clusters", "clusters/qa/deep", "a"]),
        ("{{cluster.labels.env}}", ["qa", "prod"], ["a/b"]),
        ("./overlays/qa/", ["overlays/qa"], ["overlays", "overlays/prod"]),
        ("{{ cluster.labels.env }}-{{ cluster.labels.region }}/o.x", ["qa-eu/o.x"], ["qa-eu/oxx", "qa-eu"]),
        (None, [], ["a", "clusters/qa"]),
    ],
)
def test_overlays_of_all_clusters_are_left_out_of_the_base(
    pattern: str | None, out: list[str], stays: list[str]
) -> None:
    excluded = overlay.excludes(pattern)
    assert [folder for folder in out if not excluded(folder)] == []
    assert [folder for folder in stays if excluded(folder)] == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(objects, objects)
def test_merging_is_rfc_7386(base: dict[str, Any], patch: dict[str, Any]) -> None:
    [result] = merged([config_map("a") | {"spec": base}], [config_map("a") | {"spec": patch}])
    for key, wanted in patch.items():
        if wanted is None:
            assert key not in result["spec"]
        elif not isinstance(wanted, dict):
            assert result["spec"][key] == wanted
        elif not isinstance(base.get(key), dict):
            assert result["spec"][key] == without_nulls(wanted)
    for key in base.keys() - patch.keys():
        assert result["spec"][key] == base[key]
    [again] = merged([result], [config_map("a") | {"spec": patch}])
    assert again == result
    assert normalize.identity(result) == normalize.identity(config_map("a"))
