"""Lists of built-in kinds that the API server merges by key, and the refusal of two items with one key in them.

Server-side apply answers duplicates with 500, which reads like a fault of the server (drift.md 1.4); found here they
are a user error with a path. The keys are those of the `x-kubernetes-list-map-keys` of the published OpenAPI schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fleet.core.canonical import number
from fleet.errors import InvalidInput
from fleet.model.objects import ObjectId

_POD_SPEC_PATHS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): ("spec",),
    ("", "ReplicationController"): ("spec", "template", "spec"),
    ("", "PodTemplate"): ("template", "spec"),
    ("apps", "Deployment"): ("spec", "template", "spec"),
    ("apps", "StatefulSet"): ("spec", "template", "spec"),
    ("apps", "DaemonSet"): ("spec", "template", "spec"),
    ("apps", "ReplicaSet"): ("spec", "template", "spec"),
    ("batch", "Job"): ("spec", "template", "spec"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template", "spec"),
}

_POD_LISTS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
}

_CONTAINER_LISTS: Mapping[str, tuple[str, ...]] = {
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
}

_KIND_LISTS: Mapping[tuple[str, str], Mapping[tuple[str, ...], tuple[str, ...]]] = {
    ("", "Service"): {("spec", "ports"): ("port", "protocol")},
    ("", "ServiceAccount"): {("secrets",): ("name",)},
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): {("webhooks",): ("name",)},
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): {("webhooks",): ("name",)},
}

_KEY_DEFAULTS: Mapping[str, str] = {"protocol": "TCP"}


def reject_duplicates(object_id: ObjectId, body: Mapping[str, Any]) -> None:
    """Raises InvalidInput naming the path and the key when two items of a keyed list of `body` have the same key."""
    for path, items, keys in _keyed_lists(object_id, body):
        seen: set[tuple[tuple[str, Any], ...]] = set()
        for item in items:
            if not isinstance(item, Mapping):
                raise InvalidInput(f"{path}: every item must be a mapping")
            key = tuple((field, _scalar(item.get(field, _KEY_DEFAULTS.get(field)))) for field in keys)
            if key in seen:
                shown = ", ".join(f"{field} {value[1]}" for field, value in key)
                raise InvalidInput(f"{path}: two items with {shown}")
            seen.add(key)
    finalizers = _at(body, ("metadata", "finalizers"))
    if isinstance(finalizers, list) and len(set(map(str, finalizers))) < len(finalizers):
        raise InvalidInput("metadata.finalizers: the same finalizer twice")


def _keyed_lists(object_id: ObjectId, body: Mapping[str, Any]) -> Iterator[tuple[str, list[Any], tuple[str, ...]]]:
    """Every list of `body` that the server merges by key, with its path and its key fields."""
    kind = (object_id.group, object_id.kind)
    owners = _at(body, ("metadata", "ownerReferences"))
    if isinstance(owners, list):
        yield "metadata.ownerReferences", owners, ("uid",)
    for steps, keys in _KIND_LISTS.get(kind, {}).items():
        items = _at(body, steps)
        if isinstance(items, list):
            yield ".".join(steps), items, keys
    if kind in _POD_SPEC_PATHS:
        steps = _POD_SPEC_PATHS[kind]
        spec = _at(body, steps)
        if isinstance(spec, Mapping):
            yield from _pod_lists(".".join(steps), spec)


def _pod_lists(path: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, list[Any], tuple[str, ...]]]:
    for field, keys in _POD_LISTS.items():
        items = spec.get(field)
        if not isinstance(items, list):
            continue
        yield f"{path}.{field}", items, keys
        if not field.lower().endswith("containers"):
            continue
        for container in items:
            if not isinstance(container, Mapping):
                continue
            for inner, inner_keys in _CONTAINER_LISTS.items():
                if isinstance(container.get(inner), list):
                    yield f"{path}.{field}[{container.get('name')}].{inner}", container[inner], inner_keys


def _at(body: Mapping[str, Any], steps: tuple[str, ...]) -> Any:
    value: Any = body
    for step in steps:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def _scalar(value: Any) -> tuple[str, Any]:
    """A key value that compares as JSON does: 1 and 1.0 are one key, 1 and true are two, containers by their text."""
    if isinstance(value, float):
        return "plain", number(value)
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | str) or value is None:
        return "plain", value
    return "other", str(value)
