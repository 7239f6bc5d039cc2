"""A confirmed drift for people: field by field what was wanted, what is there, who wrote it and when.

Values of Secrets never pass through here: they are masked before anything else sees them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import orjson

from fleet.core.canonical import canonical
from fleet.core.drift.compare import MISSING, Difference, Step, descend, differences
from fleet.errors import InvalidInput
from fleet.model.drift import FieldChange
from fleet.model.objects import LiveObject, ManagedFields, ObjectId

MASK = "(secret)"
MAX_FIELDS = 100
"""More changed fields than this are cut off: a record is for people and lies in a database."""
MAX_VALUE = 2048
"""Characters of canonical JSON of one value."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_PLAIN = re.compile(r"[A-Za-z0-9_-]+\Z")
_REPORTED_FIELDS = {
    ("apps", "Deployment"): "spec.paused",
    ("batch", "CronJob"): "spec.suspend",
    ("batch", "Job"): "spec.suspend",
}


class Explanation(msgspec.Struct, frozen=True):
    """What a drift consists of; manager, operation and time are those of the newest writer of any changed field.

    None where no field set names a writer: a field that was removed, or a change that field management cannot see.
    """

    fields: tuple[FieldChange, ...]
    manager: str | None = None
    operation: str | None = None
    changed_at: str | None = None


def explain(live: LiveObject, body: Mapping[str, Any], dry_run: Mapping[str, Any], *, manager: str) -> Explanation:
    """The changes between a live object (`body` is it, decoded) and the answer to a dry-run apply (`dry_run`)."""
    entries = list(live.meta.managed_fields or ())
    decoded = [(entry, _decode(entry)) for entry in entries]
    field_sets = tuple(fields for _, fields in decoded)
    changes: list[FieldChange] = []
    writers: list[ManagedFields] = []
    for difference in differences(dry_run, body, field_sets):
        if len(changes) == MAX_FIELDS:
            break
        writer = _writer(difference, decoded, manager)
        if writer is not None:
            writers.append(writer)
        changes.append(_change(live.id, difference, writer))
    newest = max(writers, key=_weight, default=None) or _other_version(live, entries, manager)
    if newest is None:
        return Explanation(tuple(changes))
    return Explanation(tuple(changes), newest.manager, newest.operation, newest.time)


def disposition(object_id: ObjectId, fields: tuple[FieldChange, ...]) -> Literal["none", "reported", "heal"]:
    """What a confirmed drift calls for: nothing (only the restart annotation), a report, or a heal.

    A paused Deployment or a suspended Job is somebody's decision to stop: it is shown rather than reverted, as long as
    nothing else changed.
    """
    if not fields:
        return "none"
    reported = _REPORTED_FIELDS.get((object_id.group, object_id.kind))
    return "reported" if all(field.path == reported for field in fields) else "heal"


def readable(path: tuple[Step, ...]) -> str:
    """A fieldsV1 path as people write it: `spec.template.spec.containers[name=app].image`."""
    parts: list[str] = []
    for step in path:
        name = step[2:]
        if step.startswith("f:"):
            if _PLAIN.match(name):
                parts.append(f".{name}" if parts else name)
            else:
                parts.append(f"[{name}]")
        elif step.startswith("k:"):
            key = orjson.loads(name)
            # A manifest may leave a key field to the server's default (protocol).
            parts.append("[" + ",".join(f"{k}={v}" for k, v in key.items() if v is not None) + "]")
        else:
            parts.append(f"[{name}]")
    return "".join(parts)


def _change(object_id: ObjectId, difference: Difference, writer: ManagedFields | None) -> FieldChange:
    return FieldChange(
        path=readable(difference.path),
        wanted=_value(object_id, difference.path, difference.wanted),
        live=_value(object_id, difference.path, difference.live),
        manager=None if writer is None else writer.manager,
    )


def _value(object_id: ObjectId, path: tuple[Step, ...], value: Any) -> Any:
    """A value as it may be shown and stored: masked, bounded; None for one that is missing."""
    if value is MISSING:
        return None
    if (object_id.group, object_id.kind) == ("", "Secret"):
        if path[0] in ("f:data", "f:stringData") or path[-1] == f"f:{LAST_APPLIED}":
            return MASK
        if path == ("f:metadata", "f:annotations") and isinstance(value, dict) and LAST_APPLIED in value:
            value = {**value, LAST_APPLIED: MASK}
        elif path == ("f:metadata",):
            return MASK
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = value if isinstance(value, str) else canonical(value).decode()
    return value if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def _writer(
    difference: Difference, decoded: list[tuple[ManagedFields, dict[str, Any]]], manager: str
) -> ManagedFields | None:
    """Who wrote a changed field: the newest entry that owns it; among equally new ones, one that is not ours.

    Times are whole seconds, and an entry of ours that still owns a changed field shares it or was written to under our
    name.
    """
    if difference.live is MISSING:
        return None
    owners = [entry for entry, fields in decoded if _owns(fields, difference.path)]
    return max(owners, key=lambda entry: (*_weight(entry), entry.manager != manager), default=None)


def _weight(entry: ManagedFields) -> tuple[bool, str]:
    """The newer the heavier; a write of the status, which can change annotations (1.3 row 22), is the lightest."""
    return entry.subresource != "status", entry.time or ""


def _owns(fields: Mapping[str, Any], path: tuple[Step, ...]) -> bool:
    """Whether a field set holds a path, something below it, or an atomic value around it."""
    nodes: tuple[Mapping[str, Any], ...] = (fields,)
    for step in path:
        nodes = descend(nodes, step)
        if not nodes:
            return False
        if not nodes[0]:
            return True
    return True


def _other_version(live: LiveObject, entries: list[ManagedFields], manager: str) -> ManagedFields | None:
    """The only foreign entry at another API version, whose paths cannot be compared with ours."""
    version = live.resource.api_version
    foreign = [entry for entry in entries if entry.manager != manager and entry.subresource != "status"]
    others = [entry for entry in foreign if entry.api_version != version]
    return others[0] if len(others) == 1 else None


def _decode(entry: ManagedFields) -> dict[str, Any]:
    try:
        fields = orjson.loads(bytes(entry.fields_v1))
    except ValueError as error:
        raise InvalidInput(f"the field set of {entry.manager} is no JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}
