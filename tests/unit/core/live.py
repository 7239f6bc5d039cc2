"""Live objects for tests, decoded from plain values the way the Kubernetes adapter decodes a server's answer."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from fleet.model.objects import LiveObject, ObjectMeta, Resource


class _Envelope(msgspec.Struct):
    metadata: ObjectMeta


def as_live(body: dict[str, Any]) -> LiveObject:
    raw = orjson.dumps(body)
    group, _, version = body["apiVersion"].rpartition("/")
    kind = body["kind"]
    namespaced = bool(body["metadata"].get("namespace"))
    resource = Resource(group, version, kind, f"{kind.lower()}s", namespaced)
    return LiveObject(resource, msgspec.json.decode(raw, type=_Envelope).metadata, raw)
