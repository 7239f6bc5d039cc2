"""What one manifest set changes against another: objects created, changed field by field, deleted.

Both sides are wanted states, so nothing here is a server's doing. Values of Secrets are masked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.core.canonical import canonical
from fleet.core.drift.compare import MISSING, differences
from fleet.core.drift.explain import LAST_APPLIED, MASK, readable
from fleet.model.objects import Manifest, ManifestSet, ObjectId

MAX_FIELDS = 200
"""Changed fields of one object that are listed."""
MAX_VALUE = 2048
"""Characters of a value that are shown."""


class FieldChange(msgspec.Struct, frozen=True):
    """One field; None where a side has no value."""

    path: str
    before: Any = msgspec.field(name="from")
    after: Any = msgspec.field(name="to")


class ObjectChange(msgspec.Struct, frozen=True):
    object: str
    """`apps/v1/Deployment shop/web`."""
    fields: tuple[FieldChange, ...]


class Difference(msgspec.Struct, frozen=True):
    """Objects are named as in `ObjectChange.object`, in the order of their identities."""

    create: tuple[str, ...] = ()
    change: tuple[ObjectChange, ...] = ()
    delete: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.create or self.change or self.delete)


def difference(before: ManifestSet | None, after: ManifestSet | None) -> Difference:
    """What has to be done to get from one set to the other; None is a bundle that is not there."""
    old = {item.id: item for item in before.manifests} if before else {}
    new = {item.id: item for item in after.manifests} if after else {}
    return Difference(
        create=tuple(named(new[key]) for key in sorted(new.keys() - old.keys())),
        change=tuple(
            ObjectChange(named(new[key]), _fields(old[key], new[key]))
            for key in sorted(new.keys() & old.keys())
            if old[key].digest != new[key].digest
        ),
        delete=tuple(named(old[key]) for key in sorted(old.keys() - new.keys())),
    )


def named(manifest: Manifest) -> str:
    """An object as people name it: `v1/ConfigMap shop/a`, `rbac.authorization.k8s.io/v1/ClusterRole admin`."""
    object_id = manifest.id
    place = f"{object_id.namespace}/{object_id.name}" if object_id.namespace else object_id.name
    return f"{manifest.api_version}/{object_id.kind} {place}"


def _fields(before: Manifest, after: Manifest) -> tuple[FieldChange, ...]:
    changes: list[FieldChange] = []
    if before.version != after.version:
        changes.append(FieldChange("apiVersion", before.api_version, after.api_version))
    old, new = msgspec.json.decode(before.body), msgspec.json.decode(after.body)
    for item in differences(new, old):
        if len(changes) == MAX_FIELDS:
            break
        path = readable(item.path)
        changes.append(
            FieldChange(path, _shown(after.id, item.path, item.live), _shown(after.id, item.path, item.wanted))
        )
    return tuple(changes)


def _shown(object_id: ObjectId, path: tuple[str, ...], value: Any) -> Any:
    """A value as it may be shown: masked, bounded; None for one that is missing."""
    if value is MISSING:
        return None
    # What a person once gave to kubectl apply is the whole Secret again.
    if (object_id.group, object_id.kind) == ("", "Secret") and (
        path[0] in ("f:data", "f:stringData") or LAST_APPLIED in str(path[-1]) or LAST_APPLIED in str(value)
    ):
        return MASK
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = value if isinstance(value, str) else canonical(value).decode()
    return value if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
