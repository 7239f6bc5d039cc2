"""Replicas that leave Git: kept as they are for an autoscaler, instead of falling back to the default of one.

A field that its only manager no longer applies is removed, and the server puts its default in place (drift.md 1.3 row
10). Another manager that owns it first keeps its value; whoever scales the object later takes it from that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from fleet.core.canonical import canonical
from fleet.model.objects import LiveObject, Manifest


def handover_manager(manager: str) -> str:
    return f"{manager}-handover"


def is_due(owned: bytes, wanted: Manifest) -> bool:
    """Whether `spec.replicas` is in our raw field set and no longer in the manifest."""
    if b'"f:replicas"' not in owned:
        return False
    fields: dict[str, Any] = orjson.loads(owned)
    spec = orjson.loads(wanted.body).get("spec")
    return "f:replicas" in (fields.get("f:spec") or {}) and isinstance(spec, Mapping) and "replicas" not in spec


def body(wanted: Manifest, live: LiveObject) -> bytes | None:
    """What the other manager applies, to this incarnation only; None when the object has no number of replicas."""
    spec = orjson.loads(live.raw).get("spec") or {}
    replicas = spec.get("replicas")
    if not isinstance(replicas, int):
        return None
    metadata = {"name": wanted.id.name, "uid": live.meta.uid}
    if wanted.id.namespace:
        metadata["namespace"] = wanted.id.namespace
    kept = {"apiVersion": wanted.api_version, "kind": wanted.id.kind, "metadata": metadata}
    return canonical({**kept, "spec": {"replicas": replicas}})
