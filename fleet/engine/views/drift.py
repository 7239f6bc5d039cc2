"""What differed from what was released, and wanted against live on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from fleet.engine.service_ports import ObjectDifference
from fleet.engine.views.timestamps import rfc3339
from fleet.model.drift import Drift, DriftState, FieldChange, Verdict
from fleet.model.objects import ObjectId


class ObjectRef(msgspec.Struct, frozen=True, rename="camel"):
    group: str
    version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, id: ObjectId, version: str) -> ObjectRef:
        return cls(id.group, version, id.kind, id.namespace, id.name)


class DriftField(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    wanted: Any
    live: Any
    manager: str | None


class DriftView(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    cluster: str
    bundle: str
    object: ObjectRef
    verdict: Verdict
    state: DriftState
    mode: Literal["correct", "detect"]
    detected_at: str
    healed_at: str | None
    changed_at: str | None
    """The managedFields time of the change, whole seconds by the cluster's clock."""
    manager: str | None
    operation: str | None
    count: int
    fields: tuple[DriftField, ...]


class ObjectDiff(msgspec.Struct, frozen=True, rename="camel"):
    object: str
    change: Literal["create", "change", "delete", "none"]
    fields: tuple[DriftField, ...]


class DiffView(msgspec.Struct, frozen=True, rename="camel"):
    bundle: str
    cluster: str
    objects: tuple[ObjectDiff, ...]


def drift_view(drift: Drift) -> DriftView:
    return DriftView(
        id=drift.id,
        cluster=drift.cluster,
        bundle=drift.bundle,
        object=ObjectRef.of(drift.object, drift.version),
        verdict=drift.verdict,
        state=drift.state,
        mode=drift.mode,
        detected_at=rfc3339(drift.detected_at),
        healed_at=rfc3339(drift.healed_at),
        changed_at=drift.changed_at,
        manager=drift.manager,
        operation=drift.operation,
        count=drift.count,
        fields=_fields(drift.fields),
    )


def diff_view(bundle: str, cluster: str, differences: Sequence[ObjectDifference]) -> DiffView:
    return DiffView(
        bundle=bundle,
        cluster=cluster,
        objects=tuple(
            ObjectDiff(object=_named(each.id, each.version), change=each.change, fields=_fields(each.fields))
            for each in differences
        ),
    )


def _fields(changes: Sequence[FieldChange]) -> tuple[DriftField, ...]:
    return tuple(DriftField(change.path, change.wanted, change.live, change.manager) for change in changes)


def _named(id: ObjectId, version: str) -> str:
    """`apps/v1/Deployment shop/web`, `v1/Namespace shop`."""
    kind = f"{id.group}/{version}/{id.kind}" if id.group else f"{version}/{id.kind}"
    return f"{kind} {id.namespace}/{id.name}" if id.namespace else f"{kind} {id.name}"
