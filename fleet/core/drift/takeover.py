"""Entries of metadata.managedFields moved into ours, where a plain apply cannot restore what was released.

Server-side apply removes only what its manager owns. A container renamed out of band leaves the old name missing and
the new one owned by somebody else: a plain apply adds the old one beside it, or is refused with "Duplicate value"
(drift.md 1.3 rows 11, 12). Objects that kubectl made keep fields that left Git for the same reason (row 18). The
rewritten list is sent as a merge patch under the manager name `<M>-maintenance`, with the resourceVersion that it was
made from, before the apply; the API server refuses it with 409 when the object has moved on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from fleet.core.canonical import canonical
from fleet.core.drift.compare import Step, key_step
from fleet.core.drift.explain import LAST_APPLIED

PREDECESSORS = ("kubectl-client-side-apply", "before-first-apply")

Fields = dict[str, Any]
Entry = dict[str, Any]
Place = tuple[tuple[Step, ...], Step]
"""The path of a list and the step to one of its items."""


class TakeOver(msgspec.Struct, frozen=True):
    """A merge patch for metadata that makes us the owner of what others added, and whose entries it takes from."""

    managers: tuple[str, ...]
    patch: bytes


def maintenance_manager(manager: str) -> str:
    """The name that a take-over is sent under: our own would leave a second entry of ours that co-owns the fields."""
    return f"{manager}-maintenance"


def take_over(body: Mapping[str, Any], *, manager: str, owned: bytes, after_duplicate: bool = False) -> TakeOver | None:
    """What must be taken over before a heal of a decoded live object; None when a plain apply suffices.

    `owned` is the raw field set of our last apply. A list that we own items of is concerned when one of them vanished
    and a foreign one stands in it, or, `after_duplicate` (the apply was refused with 422 Duplicate value), when any
    foreign one does. Items that another tool applies are never taken: two declared states must not eat each other.
    """
    ours = _plain(orjson.loads(owned)) if owned else {}
    places: list[Place] = []
    for path, node, items in _keyed_lists(ours, body, ()):
        present = _present(node, items)
        vanished = any(step.startswith("k:") and step not in present for step in node)
        if vanished or after_duplicate:
            places.extend((path, step) for step in present if step not in node)
    return _move(body, _entries(body), manager, places) if places else None


def absorb(body: Mapping[str, Any], *, manager: str, predecessors: Sequence[str] = PREDECESSORS) -> TakeOver | None:
    """What makes us the heir of the tools that applied an object before us; None when none of them left an entry.

    Their entries are merged into ours and the record of client-side apply is removed, so that fields which leave Git
    leave the cluster too.
    """
    entries = _entries(body)
    # Paths of another version may not be paths of ours.
    same = [entry for entry in entries if entry.get("apiVersion") == body.get("apiVersion")]
    found = [entry for entry in same if entry.get("manager") in predecessors and not entry.get("subresource")]
    if not found:
        return None
    own = _own_entry(entries, body, manager, found)
    for entry in found:
        own["fieldsV1"] = _merged(own["fieldsV1"], entry["fieldsV1"])
        entries.remove(entry)
    _remove(own["fieldsV1"], ("f:metadata", "f:annotations"), f"f:{LAST_APPLIED}")
    annotations = (body.get("metadata") or {}).get("annotations") or {}
    extra = {"annotations": {LAST_APPLIED: None}} if LAST_APPLIED in annotations else {}
    return TakeOver(_names(found), _patch(body, entries, extra))


def _move(body: Mapping[str, Any], entries: list[Entry], manager: str, places: Sequence[Place]) -> TakeOver | None:
    """Moves list items from the entries of others into ours."""
    givers = [entry for entry in entries if _may_take(entry, manager, body.get("apiVersion"))]
    taken: list[tuple[Entry, Place, Fields]] = []
    for place in places:
        for entry in givers:
            fields = _remove(entry["fieldsV1"], *place)
            if fields is not None:
                taken.append((entry, place, fields))
    if not taken:
        return None
    own = _own_entry(entries, body, manager, [entry for entry, _, _ in taken])
    for _, (path, step), fields in taken:
        branch: Fields = {step: fields}
        for outer in reversed(path):
            branch = {outer: branch}
        own["fieldsV1"] = _merged(own["fieldsV1"], branch)
    kept = [entry for entry in entries if entry["fieldsV1"]]
    return TakeOver(_names([entry for entry, _, _ in taken]), _patch(body, kept, {}))


def _may_take(entry: Entry, manager: str, api_version: Any) -> bool:
    """Whether items may be taken from an entry: an imperative write at our version, by whatever name."""
    if entry.get("subresource") or entry.get("apiVersion") != api_version:
        return False
    name = str(entry.get("manager", ""))
    if entry.get("operation") == "Apply":
        return name != manager and name.startswith("kubectl")
    return True


def _keyed_lists(
    ours: Mapping[str, Any], value: Any, path: tuple[Step, ...]
) -> Iterator[tuple[tuple[Step, ...], Mapping[str, Any], list[Any]]]:
    """Every list of `value` that we own items of, by key: its path, our field set there, its items."""
    if any(step.startswith("k:") for step in ours):
        items = value if isinstance(value, list) else []
        yield path, ours, items
        for step, item in _present(ours, items).items():
            if ours.get(step):
                yield from _keyed_lists(ours[step], item, (*path, step))
    elif isinstance(value, Mapping):
        for step, below in ours.items():
            if step.startswith("f:") and below:
                yield from _keyed_lists(below, value.get(step[2:]), (*path, step))


def _present(node: Mapping[str, Any], items: Sequence[Any]) -> dict[Step, Any]:
    """The items of a list by their step, for the key fields that our field set uses there."""
    first = next(step for step in node if step.startswith("k:"))
    names = tuple(sorted(orjson.loads(first[2:])))
    return {key_step(names, item): item for item in items if isinstance(item, Mapping)}


def _entries(body: Mapping[str, Any]) -> list[Entry]:
    """The managedFields of an object as copies that may be changed."""
    entries = (body.get("metadata") or {}).get("managedFields") or ()
    return [{**entry, "fieldsV1": _plain(entry.get("fieldsV1") or {})} for entry in entries]


def _plain(fields: Fields) -> Fields:
    """A copy of a field set with every item's key written canonically, so that equal steps are equal text."""
    result: Fields = {}
    for step, below in fields.items():
        name = "k:" + canonical(orjson.loads(step[2:])).decode() if step.startswith("k:") else step
        result[name] = _plain(below)
    return result


def _own_entry(entries: list[Entry], body: Mapping[str, Any], manager: str, givers: Sequence[Entry]) -> Entry:
    """Our entry in the list, made when there is none (somebody reset managedFields), with the newest of their times."""
    for entry in entries:
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource"):
            return entry
    own: Entry = {"manager": manager, "operation": "Apply", "apiVersion": body.get("apiVersion")}
    own |= {"fieldsType": "FieldsV1", "fieldsV1": {}}
    times = [entry["time"] for entry in givers if entry.get("time")]
    if times:
        own["time"] = max(times)
    entries.append(own)
    return own


def _merged(left: Fields, right: Fields) -> Fields:
    """The union of two field sets."""
    result = dict(left)
    for step, below in right.items():
        result[step] = _joined(result[step], below) if step in result else below
    return result


def _joined(left: Fields, right: Fields) -> Fields:
    """The union of two nodes; a path that one side owns itself and the other owns below is written with a dot."""
    return _merged(left, right) if bool(left) == bool(right) else {**(left or right), ".": {}}


def _remove(fields: Fields, path: tuple[Step, ...], step: Step) -> Fields | None:
    """Takes one step out of a field set, with the branches that it leaves empty; None when it is not there."""
    nodes = [fields]
    for outer in path:
        node = nodes[-1].get(outer)
        if not isinstance(node, dict):
            return None
        nodes.append(node)
    if step not in nodes[-1]:
        return None
    found: Fields = nodes[-1].pop(step)
    # An empty node would read as "owns everything below": it has to go with its last child.
    for parent, outer in zip(reversed(nodes[:-1]), reversed(path), strict=True):
        if not parent[outer]:
            del parent[outer]
    return found


def _patch(body: Mapping[str, Any], entries: Sequence[Entry], extra: Mapping[str, Any]) -> bytes:
    version = (body.get("metadata") or {}).get("resourceVersion")
    return canonical({"metadata": {"resourceVersion": version, "managedFields": list(entries), **extra}})


def _names(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(entry.get("manager", "")) for entry in entries))
