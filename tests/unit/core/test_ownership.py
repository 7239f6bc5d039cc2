"""The projection onto our fields: equal exactly when a plain reading of drift.md's table says that they are."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import ownership
from fleet.core.canonical import canonical, same
from fleet.errors import InvalidInput
from fleet.model.objects import ManagedFields
from tests.unit.core.live import as_live

KEY = b"k" * 16


def _print(fields: Any, body: dict[str, Any], presence: bytes = b"") -> bytes:
    trie = ownership.compile_fields(orjson.dumps(fields), presence)
    return ownership.fingerprint(ownership.project(trie, body), KEY)


# --- the table, read plainly -----------------------------------------------------------------------------------------

_ABSENT = object()


def _plain(node: dict[str, Any], value: Any) -> Any:
    """The projection as nested values, straight from the table of drift.md 1.1 (no presence-only leaves)."""
    if not node:
        return _ABSENT if value is _ABSENT else ("value", canonical(value))
    result: list[Any] = []
    for step in sorted(node):
        tag, name = step[0], step[2:]
        if step == ".":
            result.append((".", value is not _ABSENT))
        elif tag == "f":
            child = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
            result.append((step, _plain(node[step], child)))
        elif tag == "k":
            key, items = json.loads(name), value if isinstance(value, list) else []
            found = [item for item in items if _matches(key, item)]
            result.append((step, [_plain(node[step] or {".": {}}, item) for item in found]))
        else:
            items = value if isinstance(value, list) else []
            result.append((step, sum(same(item, json.loads(name)) for item in items)))
    order = [step for item in (value if isinstance(value, list) else []) for step in node if _is_item(step, item)]
    return result, order


def _matches(key: dict[str, Any], item: Any) -> bool:
    return isinstance(item, dict) and all(name in item and same(item[name], wanted) for name, wanted in key.items())


def _is_item(step: str, item: Any) -> bool:
    if step[0] == "k":
        return _matches(json.loads(step[2:]), item)
    return step[0] == "v" and same(json.loads(step[2:]), item)


_SCALARS: st.SearchStrategy[Any] = st.sampled_from([0, 1, True, False, "", "a", "b", 1.0, None])
_BODIES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "f:a"]), inner, max_size=3),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "f:a"]), _BODIES, max_size=3)
_STEPS = st.sampled_from(
    ["f:a", "f:b", "f:f:a", ".", 'k:{"a":1}', 'k:{"a":true}', 'k:{"a":"a","b":0}', "v:1", 'v:"a"', "v:true"]
)
_TRIES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.just({}), lambda inner: st.dictionaries(_STEPS, inner, max_size=3), max_leaves=8
).map(lambda node: {step: {} if step == "." else below for step, below in node.items()})


@given(_TRIES, _OBJECTS, _OBJECTS)
def test_projections_are_equal_exactly_when_the_table_says_so(
    fields: dict[str, Any], left: dict[str, Any], right: dict[str, Any]
) -> None:
    root = {step: below for step, below in _without_leaf_dots(fields).items() if step.startswith("f:")}
    if root:
        assert (_print(root, left) == _print(root, right)) == (_plain(root, left) == _plain(root, right))


def _without_leaf_dots(node: dict[str, Any]) -> dict[str, Any]:
    """A field set as servers write it: a dot stands for the node itself and has nothing below."""
    return {step: {} if step == "." else _without_leaf_dots(below) for step, below in node.items()}


# --- a manifest, its field set, and what others do to the object -----------------------------------------------------

_TEXTS = st.text("abc", max_size=3)
_NAMES = st.text("abcd", min_size=1, max_size=2)


def _maps(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(_NAMES, leaf, min_size=1, max_size=3)


_ITEMS = st.lists(_NAMES, min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.tuples(*(_TEXTS for _ in names)).map(
        lambda values: [{"name": n, "value": v} for n, v in zip(names, values, strict=True)]
    )
)
_DESIRED = st.fixed_dictionaries({"spec": _maps(st.recursive(_TEXTS | st.integers() | _ITEMS, _maps, max_leaves=6))})


def _fields_of(value: Any) -> dict[str, Any]:
    """The field set that a server writes for an applied value: maps granular, lists of named items keyed."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return {f"k:{canonical({'name': i['name']}).decode()}": {".": {}} | {f"f:{k}": {} for k in i} for i in value}
    return {}


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in _leaves(item, (*path, index))]
    return [path]


def _crowded(value: Any) -> Any:
    """The value after defaulting and other managers: more keys in every map, more items in every list."""
    if isinstance(value, dict):
        return {"foreign": {"x": 1}} | {key: _crowded(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return [{"name": "foreign"}, *(_crowded(item) for item in value), {"name": "another"}]
    return value


@given(_DESIRED)
def test_what_others_add_is_no_change(desired: dict[str, Any]) -> None:
    crowded = _crowded(desired) | {"status": {"x": 1}, "metadata": {"resourceVersion": "9", "generation": 4}}
    assert _print(_fields_of(desired), crowded) == _print(_fields_of(desired), desired)


@given(_DESIRED, st.data())
def test_every_change_and_removal_of_an_owned_leaf_shows(desired: dict[str, Any], data: st.DataObject) -> None:
    fields, path = _fields_of(desired), data.draw(st.sampled_from(_leaves(desired)))
    changed = copy.deepcopy(desired)
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    if data.draw(st.booleans()):
        del parent[path[-1]]
    else:
        parent[path[-1]] = "something else"
    assert _print(fields, changed) != _print(fields, desired)


@given(_DESIRED)
def test_the_object_that_is_read_is_left_alone(desired: dict[str, Any]) -> None:
    before = copy.deepcopy(desired)
    _print(_fields_of(desired), desired)
    assert desired == before


# --- single rules ----------------------------------------------------------------------------------------------------

_ENV: dict[str, Any] = {
    "f:env": {'k:{"name":"A"}': {".": {}, "f:value": {}}, 'k:{"name":"B"}': {".": {}, "f:value": {}}}
}


def test_the_order_of_our_items_shows_and_that_of_foreign_ones_does_not() -> None:
    a, b, c = {"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C"}
    base = _print(_ENV, {"env": [a, b]})
    assert _print(_ENV, {"env": [b, a]}) != base
    assert _print(_ENV, {"env": [c, a, c, b]}) == base


@pytest.mark.parametrize("env", [[], None, [{"name": "A", "value": "1"}], "text"])
def test_vanished_items_show(env: Any) -> None:
    both = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert _print(_ENV, {"env": env}) != _print(_ENV, {"env": both})


def test_an_item_that_stands_there_twice_shows() -> None:
    both = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert _print(_ENV, {"env": [*both, both[0]]}) != _print(_ENV, {"env": both})


def test_keys_of_items_are_compared_by_type() -> None:
    fields: dict[str, Any] = {"f:ports": {'k:{"port":1,"protocol":"TCP"}': {".": {}, "f:name": {}}}}

    def seen(port: Any) -> bytes:
        return _print(fields, {"ports": [{"port": port, "protocol": "TCP", "name": "x"}]})

    assert seen(1) == seen(1.0)
    assert seen(1) != seen(True)
    assert seen(True) == seen("1") == _print(fields, {"ports": []})


def test_an_owned_path_without_a_value_is_a_value() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:nodePort": {}, "f:other": {}}}
    assert _print(fields, {"spec": {"other": 1}}) != _print(fields, {"spec": {"nodePort": None, "other": 1}})
    assert _print(fields, {"spec": {"other": 1}}) == _print(fields, {"spec": {"other": 1}, "x": 2})
    assert _print(fields, {}) == _print(fields, {"spec": None})


def test_the_node_itself_is_owned_by_a_dot() -> None:
    fields: dict[str, Any] = {"f:a": {"f:b": {".": {}, "f:c": {}}}}
    assert _print(fields, {"a": {"b": {}}}) != _print(fields, {"a": {}})


def test_an_atomic_value_counts_whole_and_keys_of_it_in_any_order() -> None:
    fields: dict[str, Any] = {"f:selector": {}}
    assert _print(fields, {"selector": {"a": 1, "b": 2.0}}) == _print(fields, {"selector": {"b": 2, "a": 1}})
    assert _print(fields, {"selector": {"a": 1}}) != _print(fields, {"selector": {"a": 1, "b": 2}})


def test_items_by_index_are_ours_by_their_place() -> None:
    fields: dict[str, Any] = {"f:a": {"i:0": {}, "i:2": {"f:b": {}}}}
    base = _print(fields, {"a": [1, 2, {"b": 3}]})
    assert _print(fields, {"a": [1, 9, {"b": 3}]}) == base
    assert _print(fields, {"a": [1, 2, {"b": 4}]}) != base
    assert _print(fields, {"a": [1]}) != base


def test_another_field_set_is_another_projection() -> None:
    body = {"a": 1, "b": 1}
    assert _print({"f:a": {}}, body) != _print({"f:b": {}}, body)
    assert _print({"f:a": {}, "f:b": {}}, body) == _print({"f:b": {}, "f:a": {}}, body)


def test_what_others_put_into_our_empty_struct_is_theirs() -> None:
    desired: dict[str, Any] = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "nothing": None, "other": {"x": 1}}}
    presence = ownership.presence_only(desired)
    item: dict[str, Any] = {".": {}, "f:name": {}, "f:emptyDir": {}}
    fields: dict[str, Any] = {
        "f:spec": {"f:volumes": {'k:{"name":"v"}': item}, "f:nothing": {}, "f:other": {"f:x": {}}}
    }

    def seen(empty_dir: Any, known: bytes) -> bytes:
        body = {"spec": {"volumes": [{"name": "v", "emptyDir": empty_dir}], "nothing": 5, "other": {"x": 1}}}
        return _print(fields, body, known)

    assert seen({}, presence) == seen({"sizeLimit": "1Gi"}, presence)
    assert seen({}, b"") != seen({"sizeLimit": "1Gi"}, b"")


def test_losing_an_empty_struct_of_ours_shows() -> None:
    desired: dict[str, Any] = {"spec": {"emptyDir": {}}}
    presence = ownership.presence_only(desired)
    held: dict[str, Any] = {"f:spec": {"f:emptyDir": {}}}
    lost: dict[str, Any] = {"f:spec": {}}
    assert _print(held, desired, presence) != _print(lost, {"spec": {}}, presence)


def test_defaulted_key_fields_do_not_hide_an_empty_struct() -> None:
    desired: dict[str, Any] = {"ports": [{"containerPort": 80, "extra": {}}, {"containerPort": 81, "extra": {"a": 1}}]}
    presence = ownership.presence_only(desired)
    node: dict[str, Any] = {".": {}, "f:extra": {}}
    fields: dict[str, Any] = {"f:ports": {f'k:{{"containerPort":{port},"protocol":"TCP"}}': node for port in (80, 81)}}

    def seen(first: Any, second: Any) -> bytes:
        ports = [
            {"containerPort": 80, "protocol": "TCP", "extra": first},
            {"containerPort": 81, "protocol": "TCP", "extra": second},
        ]
        return _print(fields, {"ports": ports}, presence)

    assert seen({}, {"a": 1}) == seen({"b": 2}, {"a": 1})
    assert seen({}, {"a": 1}) != seen({}, {"a": 1, "b": 2})


@pytest.mark.parametrize("desired", [{}, {"a": 1}, {"a": {"b": [1, 2]}, "c": [], "d": [{"name": "x"}], "e": ""}])
def test_most_manifests_have_nothing_presence_only(desired: dict[str, Any]) -> None:
    assert ownership.presence_only(desired) == b""


def _template(annotations: dict[str, Any]) -> dict[str, Any]:
    return {"f:spec": {"f:template": {"f:metadata": {"f:annotations": annotations, "f:labels": {"f:app": {}}}}}}


def test_a_restart_by_hand_is_none_of_our_fields() -> None:
    restarted = "kubectl.kubernetes.io/restartedAt"
    labels = {"labels": {"app": "x"}}
    before = {"spec": {"template": {"metadata": {"annotations": {restarted: "1"}} | labels}}}
    after = {"spec": {"template": {"metadata": {"annotations": {restarted: "2"}} | labels}}}
    owned = _template({f"f:{restarted}": {}})
    assert _print(owned, before) == _print(owned, after)
    assert _print(owned, before) == _print(_template({".": {}}), after)
    elsewhere: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{restarted}": {}}}}
    assert _print(elsewhere, {"metadata": before["spec"]["template"]["metadata"]}) != _print(
        elsewhere, {"metadata": after["spec"]["template"]["metadata"]}
    )


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"f:a":{"k:x":{}}}', b'{"f:a":{"k:1":{}}}', b'{"f:a":{"i:x":{}}}'])
def test_what_is_no_field_set_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        ownership.compile_fields(raw)


def test_equal_field_sets_are_compiled_once() -> None:
    fields = b'{"f:only":{"f:here":{}}}'
    assert ownership.compile_fields(fields) is ownership.compile_fields(bytes(bytearray(fields)))


def test_a_fingerprint_depends_on_the_key_of_the_installation() -> None:
    projection = ownership.project(ownership.compile_fields(b'{"f:a":{}}'), {"a": "short secret"})
    assert len(ownership.fingerprint(projection, KEY)) == 16
    assert ownership.fingerprint(projection, KEY) != ownership.fingerprint(projection, b"other")


# --- our entry -------------------------------------------------------------------------------------------------------


def test_our_entry_is_the_one_applied_under_our_name_on_the_main_resource() -> None:
    ours = ManagedFields(manager="m", operation="Apply")
    others = (
        ManagedFields(manager="m", operation="Update"),
        ManagedFields(manager="m", operation="Apply", subresource="status"),
        ManagedFields(manager="n", operation="Apply"),
    )
    assert ownership.entry_of((*others, ours), "m") is ours
    assert ownership.entry_of(others, "m") is None
    assert ownership.entry_of(None, "m") is None


@given(_TRIES)
def test_a_packed_field_set_comes_back(fields: dict[str, Any]) -> None:
    raw = msgspec.json.encode(fields)
    assert ownership.unpack(ownership.pack(raw)) == raw


def test_a_damaged_field_set_is_refused() -> None:
    packed = ownership.pack(b'{"f:a":{}}' * 50)
    for damaged in (packed[:-3], b"x" + packed, b""):
        with pytest.raises(InvalidInput):
            ownership.unpack(damaged)


def test_an_item_of_a_list_gets_the_kind_it_was_listed_as() -> None:
    live = as_live({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}})
    bare = msgspec.structs.replace(live, raw=b'{"metadata":{"name":"x"}}')
    assert ownership.decode(bare) == ownership.decode(live)
    for raw in (b"", b"[]", b"<html>"):
        with pytest.raises(InvalidInput):
            ownership.decode(msgspec.structs.replace(live, raw=raw))
