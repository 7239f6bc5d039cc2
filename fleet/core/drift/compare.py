"""Whether an apply would change anything, and which fields: the live object against the answer to a dry-run apply.

The dry-run passes through defaulting and admission, so what is left is a real difference. Lists are aligned by the keys
that the managers' field sets name, as the server merges them; everything else is compared as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from fleet.core.canonical import MAX_DEPTH, canonical, same
from fleet.errors import InvalidInput

Step = str
"""One step of a fieldsV1 path: `f:name`, `k:{…}` or `v:…`."""

MISSING: Any = msgspec.UNSET
"""A side of a difference that has no value; not the same as null."""

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"

_SERVER_METADATA = frozenset({"managedFields", "resourceVersion", "generation", "selfLink"})
_FALLBACK_KEY = ("name",)
_ANNOTATIONS = ("f:spec", "f:template", "f:metadata", "f:annotations")


class Difference(msgspec.Struct, frozen=True):
    """One place where two versions of an object differ; sides without a value are MISSING."""

    path: tuple[Step, ...]
    wanted: Any
    live: Any


def confirm(live: Mapping[str, Any], dry_run: Mapping[str, Any]) -> bool:
    """Whether the answer to a dry-run apply differs from the live object: True is drift.

    Leaves out what the server writes by itself (managedFields, status, resourceVersion, generation) and the restart
    annotation of pod templates. Raises as `differences`.
    """
    return next(differences(dry_run, live), None) is not None


def differences(
    wanted: Mapping[str, Any], live: Mapping[str, Any], field_sets: tuple[Mapping[str, Any], ...] = ()
) -> Iterator[Difference]:
    """The differences in the order of the paths; `field_sets` are decoded fieldsV1 that name the keys of lists.

    Raises InvalidInput for an object that is nested deeper than what may be released at all.
    """
    for body in (wanted, live):
        _bound(body)
    yield from _walk(_comparable(wanted), _comparable(live), (), field_sets)


def descend(field_sets: tuple[Mapping[str, Any], ...], step: Step) -> tuple[Mapping[str, Any], ...]:
    """The parts of field sets below one step."""
    return tuple(child for fields in field_sets if isinstance(child := fields.get(step), Mapping))


def key_step(names: tuple[str, ...], item: Mapping[str, Any]) -> Step:
    """The step to an item of a list that is merged by these key fields."""
    return "k:" + canonical({name: item.get(name) for name in names}).decode()


def _bound(body: Mapping[str, Any]) -> None:
    """Level by level and without recursion, since what others put into an object may be of any depth."""
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for node in level:
            children = node.values() if isinstance(node, Mapping) else node
            inner.extend(child for child in children if isinstance(child, Mapping | list))
        if not inner:
            return
        level = inner
    raise InvalidInput(f"nested deeper than {MAX_DEPTH} levels: it cannot be compared")


def _comparable(body: Mapping[str, Any]) -> dict[str, Any]:
    # Items of a list carry no apiVersion and kind of their own.
    result = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "status")}
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping):
        result["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    return result


def _walk(
    wanted: Any, live: Any, path: tuple[Step, ...], field_sets: tuple[Mapping[str, Any], ...]
) -> Iterator[Difference]:
    if same(wanted, live) or _is_restart(path):
        return
    if isinstance(wanted, dict) and isinstance(live, dict):
        for name in sorted(wanted.keys() | live.keys()):
            step = f"f:{name}"
            below = descend(field_sets, step)
            yield from _walk(wanted.get(name, MISSING), live.get(name, MISSING), (*path, step), below)
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _walk_list(wanted, live, path, field_sets)
    elif path == _ANNOTATIONS and _only_restart(wanted) and _only_restart(live):
        return
    else:
        yield Difference(path, wanted, live)


def _walk_list(
    wanted: list[Any], live: list[Any], path: tuple[Step, ...], field_sets: tuple[Mapping[str, Any], ...]
) -> Iterator[Difference]:
    names = _key_names(field_sets) or _FALLBACK_KEY
    left, right = _by_key(wanted, names), _by_key(live, names)
    if left is None or right is None:
        yield Difference(path, wanted, live)
        return
    for step in (*left, *(step for step in right if step not in left)):
        below = descend(field_sets, step)
        yield from _walk(left.get(step, MISSING), right.get(step, MISSING), (*path, step), below)
    kept_left = [step for step in left if step in right]
    kept_right = [step for step in right if step in left]
    if kept_left != kept_right:
        yield Difference(path, [_shown(step) for step in kept_left], [_shown(step) for step in kept_right])


def _key_names(field_sets: tuple[Mapping[str, Any], ...]) -> tuple[str, ...] | None:
    """The key fields of a list, as any manager's field set names them."""
    for fields in field_sets:
        for step in fields:
            if step.startswith("k:"):
                return tuple(sorted(orjson.loads(step[2:])))
    return None


def _by_key(items: list[Any], names: tuple[str, ...]) -> dict[Step, Any] | None:
    """The items by their step; None when the list is not one of items with unique keys."""
    result: dict[Step, Any] = {}
    for item in items:
        if not isinstance(item, dict) or not any(name in item for name in names):
            return None
        result[key_step(names, item)] = item
    return result if len(result) == len(items) else None


def _shown(step: Step) -> str:
    """A list item as people name it: the value of its key."""
    return ", ".join(str(value) for value in orjson.loads(step[2:]).values())


def _is_restart(path: tuple[Step, ...]) -> bool:
    return path == (*_ANNOTATIONS, f"f:{RESTARTED_AT}")


def _only_restart(annotations: Any) -> bool:
    return annotations is MISSING or (isinstance(annotations, dict) and annotations.keys() <= {RESTARTED_AT})
