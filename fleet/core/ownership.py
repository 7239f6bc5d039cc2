"""What of a live object is ours: the projection onto the field set that our field manager owns, and its fingerprint.

This is the hot path of every watch event. A field set (`fieldsV1`, the schema of server-side apply's ownership tries)
is compiled once into nested closures and kept by its raw bytes; an event then costs one walk over our own fields, whose
result is one flat list. The list is read by nobody: two projections are equal exactly when their lists are, because the
first item names the compiled field set and every further one has its place in it (drift.md 1.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

from fleet.core.canonical import canonical, exact
from fleet.errors import InvalidInput
from fleet.model.objects import LiveObject, ManagedFields

Projection = list[Any]
_Visit = Callable[[Any, Projection], None]

_ABSENT: Any = orjson.Fragment(b"~")
"""An owned path without a value: no JSON value is written like this."""

_PRESENCE = "presence"
"""Stands in the digested shape for a leaf whose value is not ours."""

_EMPTY: Mapping[str, Any] = {}
_MAX_FIELDS = 4 << 20
"""Bytes of an unpacked field set; objects end at 1.5 MiB, and so do their field sets."""

_RESTARTED_AT = ("f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt")
"""`kubectl rollout restart` writes here; undoing it would roll the pods a second time (drift.md 1.3 row 17)."""


class Trie:
    """A compiled field set; made by `compile_fields` and compared by identity."""

    __slots__ = ("shape", "visit")

    def __init__(self, shape: str, visit: _Visit) -> None:
        self.shape = shape
        self.visit = visit


@lru_cache(maxsize=2048)
def compile_fields(fields_v1: bytes, presence_only: bytes = b"") -> Trie:
    """The compiled form of a raw field set; `presence_only` is what the function of that name found in the manifest.

    Equal field sets compile to the same object while they are in use. Raises InvalidInput for what is no field set.
    """
    try:
        fields = orjson.loads(fields_v1)
        hollow = orjson.loads(presence_only) if presence_only else None
    except ValueError as error:
        raise InvalidInput(f"a field set is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidInput("a field set is not a mapping")
    _drop_restarted_at(fields)
    visit, shape = _compile(fields, hollow, root=True)
    return Trie(blake2b(canonical(shape), digest_size=16).hexdigest(), visit)


def project(trie: Trie, body: Mapping[str, Any]) -> Projection:
    """What `body` (a decoded live object, which stays as it is) holds at the paths of the field set."""
    taken: Projection = [trie.shape]
    trie.visit(body, taken)
    for place, value in enumerate(taken):
        kind = type(value)
        if kind is float or kind is dict or kind is list:
            taken[place] = exact(value)
    return taken


def project_whole(body: Mapping[str, Any]) -> Projection:
    """Everything of `body` but status and what every write changes: for an object whose field set is not known."""
    kept = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    metadata = body.get("metadata") or {}
    named = {key: metadata[key] for key in ("labels", "annotations", "finalizers") if key in metadata}
    return ["whole", exact(kept), exact(named)]


def fingerprint(projection: Projection, key: bytes) -> bytes:
    """Blake2b-128 of a projection, keyed per installation so that a stored print of a short secret tells nothing."""
    try:
        data = orjson.dumps(projection, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        data = orjson.dumps(_wide(projection), option=orjson.OPT_SORT_KEYS)
    return blake2b(data, digest_size=16, key=key).digest()


def _wide(value: Any) -> Any:
    """A copy with integers beyond 64 bits written out: orjson stops there, values of custom resources need not."""
    if isinstance(value, dict):
        return {key: _wide(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_wide(item) for item in value]
    wide = type(value) is int and not -(2**63) <= value < 2**64
    return orjson.Fragment(str(value).encode()) if wide else value


def presence_only(desired: Mapping[str, Any]) -> bytes:
    """The places of a manifest whose wanted value is `{}` or null, as a skeleton; empty when there are none.

    There we own the path, not what stands below: other managers may fill it without it being drift. Items of lists are
    kept with their scalar fields, by which `compile_fields` finds them again.
    """
    skeleton = _hollow(desired)
    return b"" if skeleton is None else canonical(skeleton)


def entry_of(entries: Iterable[ManagedFields] | None, manager: str) -> ManagedFields | None:
    """Our own entry of metadata.managedFields: applied under our name, on the main resource."""
    for entry in entries or ():
        if entry.manager == manager and entry.operation == "Apply" and not entry.subresource:
            return entry
    return None


def entry_hash(fields_v1: bytes) -> bytes:
    """Blake2b-64 of a raw field set; leaves out the entry's time and apiVersion, which others rewrite."""
    return blake2b(fields_v1, digest_size=8).digest()


def pack(fields_v1: bytes) -> bytes:
    """A raw field set as a baseline keeps it (zlib)."""
    return zlib.compress(fields_v1)


def unpack(packed: bytes) -> bytes:
    """The raw field set of a baseline; raises InvalidInput when it is damaged or implausibly large."""
    reader = zlib.decompressobj()
    try:
        fields = reader.decompress(packed, _MAX_FIELDS)
    except zlib.error as error:
        raise InvalidInput(f"a stored field set is damaged: {error}") from error
    if reader.unconsumed_tail or not reader.eof:
        raise InvalidInput("a stored field set is damaged or too large")
    return fields


def decode(live: LiveObject) -> dict[str, Any]:
    """The whole live object as plain values, with the apiVersion and kind that items of a list leave out.

    Raises InvalidInput when the bytes are no JSON object.
    """
    try:
        body = orjson.loads(live.raw)
    except ValueError as error:
        raise InvalidInput(f"{live.id}: the server answered no JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInput(f"{live.id}: the server answered no object")
    body.setdefault("apiVersion", live.resource.api_version)
    body.setdefault("kind", live.resource.kind)
    return body


# --- compiling -------------------------------------------------------------------------------------------------------


def _compile(node: dict[str, Any], hollow: Any, *, root: bool = False) -> tuple[_Visit, Any]:
    """The visit of an inner node and its shape for the digest; `hollow` is the skeleton below the same path."""
    fields = {key[2:]: child for key, child in node.items() if key.startswith("f:")}
    items = {key: child for key, child in node.items() if key.startswith(("k:", "v:", "i:"))}
    parts: list[_Visit] = []
    shape: dict[str, Any] = {".": 0} if "." in node and not root else {}
    if fields:
        visit, inner = _compile_map(fields, hollow)
        parts.append(visit)
        shape["f"] = inner
    if items:
        visit, inner = _compile_list(items, hollow)
        parts.append(visit)
        shape["i"] = inner
    if len(parts) == 1:
        return parts[0], shape

    def both(value: Any, taken: Projection) -> None:
        for part in parts:
            part(value, taken)

    return both, shape


def _compile_map(fields: Mapping[str, dict[str, Any]], hollow: Any) -> tuple[_Visit, Any]:
    """Children of a mapping: leaves are taken whole, inner nodes visited, a missing child is ABSENT throughout."""
    leaves: list[str] = []
    marked: list[str] = []
    inner: list[tuple[str, _Visit]] = []
    shape: dict[str, Any] = {}
    for name in sorted(fields):
        child = fields[name]
        below = hollow.get(name, 0) if isinstance(hollow, dict) else 0
        if not child:
            if below == {}:
                shape[name] = _PRESENCE
            else:
                shape[name] = 0
                leaves.append(name)
            continue
        visit, shape[name] = _compile(child, below)
        inner.append((name, visit))
        if "." in child:
            marked.append(name)
    whole, owned, nested = tuple(leaves), tuple(marked), tuple(inner)

    def visit_map(value: Any, taken: Projection) -> None:
        if type(value) is not dict:
            value = _EMPTY
        get = value.get
        for name in whole:
            taken.append(get(name, _ABSENT))
        for name in owned:
            taken.append(name in value)
        for name, visit in nested:
            visit(get(name), taken)

    return visit_map, shape


def _compile_list(items: Mapping[str, dict[str, Any]], hollow: Any) -> tuple[_Visit, Any]:
    """Items of a list that are ours: the sequence of them in live order, then what each of them holds.

    The sequence says at once which are missing, which stand there twice, and in which order; order is meaning in env
    and initContainers and shows in no field set.
    """
    slots: list[_Visit | None] = []
    shape: dict[str, Any] = {}
    values: dict[Any, int] = {}
    keyed: dict[tuple[str, ...], dict[Any, int]] = {}
    places: list[tuple[int, int]] = []
    for path in sorted(items):
        child, slot = items[path], len(slots)
        visit: _Visit | None = None
        shape[path] = 0
        tag, address = path[0], _address(path)
        if tag == "k":
            keyed.setdefault(tuple(address), {})[_key(address.values())] = slot
        elif tag == "v":
            values[_scalar(address)] = slot
        else:
            places.append((address, slot))
        if child and child.keys() != {"."}:
            visit, shape[path] = _compile(child, _hollow_item(hollow, address) if tag == "k" else None)
        slots.append(visit)
    visits = tuple(slots)
    find = _finder(keyed, values)

    def visit_list(value: Any, taken: Projection) -> None:
        if type(value) is not list:
            value = ()
        order: list[int] = []
        taken.append(order)
        for item in value:
            slot = find(item)
            if slot is not None:
                order.append(slot)
                visit = visits[slot]
                if visit is not None:
                    visit(item, taken)
        for place, slot in places:
            visit = visits[slot]
            item = value[place] if place < len(value) else _ABSENT
            if visit is None:
                taken.append(item)
            else:
                visit(item, taken)

    return visit_list, shape


def _finder(
    keyed: Mapping[tuple[str, ...], Mapping[Any, int]], values: Mapping[Any, int]
) -> Callable[[Any], int | None]:
    """Which of our items a live item is."""
    tables = tuple(keyed.items())
    if len(tables) == 1 and len(tables[0][0]) == 1 and not values:
        (name,), table = tables[0]

        def by_name(item: Any) -> int | None:
            if type(item) is not dict:
                return None
            key = item.get(name, _ABSENT)
            return table.get(key if type(key) is str else _scalar(key))

        return by_name

    def by_any(item: Any) -> int | None:
        if type(item) is not dict:
            return values.get(_scalar(item))
        for names, table in tables:
            slot = table.get(_key([item.get(name, _ABSENT) for name in names]))
            if slot is not None:
                return slot
        return None

    return by_any


def _address(path: str) -> Any:
    """What follows the two letters of an item's path: a mapping of key fields, a scalar, or an index."""
    try:
        address = orjson.loads(path[2:])
    except ValueError as error:
        raise InvalidInput(f"a field set names the item {path!r}") from error
    if (path[0] == "k" and not isinstance(address, dict)) or (path[0] == "i" and type(address) is not int):
        raise InvalidInput(f"a field set names the item {path!r}")
    return dict(sorted(address.items())) if isinstance(address, dict) else address


def _key(values: Iterable[Any]) -> Any:
    """One lookup key of the values of the key fields."""
    keys = tuple([value if type(value) is str else _scalar(value) for value in values])
    return keys[0] if len(keys) == 1 else keys


def _scalar(value: Any) -> Any:
    """A lookup key that is equal exactly for equal JSON values: 1 and 1.0 are one, 1 and true are two."""
    if type(value) is str or type(value) is int or type(value) is float:
        return value
    if type(value) is bool:
        return ("bool", value)
    if type(value) is dict or type(value) is list:
        return ("json", canonical(value))
    return ("none", value is None)


# --- the wanted side -------------------------------------------------------------------------------------------------


def _hollow(value: Any) -> Any:
    """The part of a wanted value that leads to `{}` and null; None when nothing does.

    A null is written as `{}` too: both say that the path is ours and its content is not.
    """
    if isinstance(value, Mapping):
        found = {key: {} if item is None or item == {} else _hollow(item) for key, item in value.items()}
        kept = {key: item for key, item in found.items() if item is not None}
        return kept or None
    if isinstance(value, list):
        items = []
        for item in value:
            below = _hollow(item)
            if below is not None and isinstance(item, Mapping):
                items.append({**{key: field for key, field in item.items() if _names_item(field)}, **below})
        return items or None
    return None


def _names_item(value: Any) -> bool:
    """Whether a field may be part of the key of its item."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 253)


def _hollow_item(hollow: Any, key: Mapping[str, Any]) -> Any:
    """The skeleton of the item with these key fields; a key field that the manifest left to its default matches."""
    for item in hollow if isinstance(hollow, list) else ():
        if all(name not in item or _scalar(item[name]) == _scalar(value) for name, value in key.items()):
            return item
    return None


def _drop_restarted_at(fields: dict[str, Any]) -> None:
    """Takes the restart annotation out of a field set, with the maps that hold nothing else of ours."""
    nodes = [fields]
    for step in _RESTARTED_AT[:-1]:
        node = nodes[-1].get(step)
        if not isinstance(node, dict):
            return
        nodes.append(node)
    nodes[-1].pop(_RESTARTED_AT[-1], None)
    for parent, step in zip(reversed(nodes[:-1]), reversed(_RESTARTED_AT[:-1]), strict=True):
        if step in ("f:annotations", "f:metadata") and parent[step].keys() <= {"."}:
            del parent[step]
