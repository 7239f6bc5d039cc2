"""From a rendered object to a manifest: what is always dropped or rewritten, what is refused, our mark, the digest.

Runs once per rendered object, before the set is digested, so that spelling never becomes a difference and a manifest
that the API server answers with 500 is refused with the place that is wrong (drift.md 1.1 and 1.4).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b, sha256
from typing import Any

import msgspec

from fleet.core.canonical import canonical
from fleet.core.listkeys import reject_duplicates
from fleet.errors import InvalidInput
from fleet.model.objects import LiveObject, Manifest, ManifestSet, ObjectId

BUNDLE_LABEL = "fleet/bundle"
TRACKING_ANNOTATION = "fleet/tracking-id"
PRUNE_ANNOTATION = "fleet/prune"
DRIFT_ANNOTATION = "fleet/drift"

_SERVER_METADATA = ("managedFields", "creationTimestamp", "resourceVersion", "uid", "generation", "selfLink")
_WEBHOOK_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


class Tracking(msgspec.Struct, frozen=True):
    """What a tracking annotation says: which object of which bundle of which fleet carries it."""

    fleet: str
    bundle: str
    id: ObjectId


def normalize(body: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a rendered object as it is applied; `body` stays as it is.

    Raises InvalidInput, naming the object and the path, for what no API server accepts: no name, values of labels that
    are not text, two items with one key in a list that is merged by key.
    """
    object_id, _ = identity(body)
    result = {key: value for key, value in body.items() if key != "status"}
    try:
        metadata = {key: value for key, value in body["metadata"].items() if key not in _SERVER_METADATA}
        for field in ("labels", "annotations"):
            if field in metadata:
                metadata[field] = _texts(metadata[field], f"metadata.{field}")
        result["metadata"] = metadata
        _rewrite_kind(object_id, result)
        reject_duplicates(object_id, result)
    except InvalidInput as error:
        raise InvalidInput(f"{object_id}: {error}") from error
    return result


def identity(body: Mapping[str, Any]) -> tuple[ObjectId, str]:
    """Identity and version of an object; raises InvalidInput when apiVersion, kind or metadata.name is missing."""
    api_version, kind, metadata = body.get("apiVersion"), body.get("kind"), body.get("metadata")
    if not isinstance(api_version, str) or not api_version:
        raise InvalidInput("apiVersion is missing")
    if not isinstance(kind, str) or not kind:
        raise InvalidInput("kind is missing")
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"{kind}: metadata is missing")
    name, namespace = metadata.get("name"), metadata.get("namespace") or ""
    if not isinstance(name, str) or not name or "/" in name:
        raise InvalidInput(f"{kind}: metadata.name is missing or no name (generateName cannot be tracked)")
    if not isinstance(namespace, str) or "/" in namespace:
        raise InvalidInput(f"{kind} {name}: metadata.namespace is no name")
    group, _, version = api_version.rpartition("/")
    return ObjectId(group, kind, namespace, name), version


def stamp(body: Mapping[str, Any], *, fleet: str, bundle: str) -> dict[str, Any]:
    """A copy of a normalised object with our label and its tracking annotation."""
    object_id, _ = identity(body)
    metadata = dict(body["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), BUNDLE_LABEL: bundle}
    mark = tracking_id(fleet, bundle, object_id)
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TRACKING_ANNOTATION: mark}
    return {**body, "metadata": metadata}


def manifest(body: Mapping[str, Any]) -> Manifest:
    """The manifest of a normalised, stamped object; raises InvalidInput for values that JSON cannot say."""
    object_id, version = identity(body)
    try:
        data = canonical(body)
    except InvalidInput as error:
        raise InvalidInput(f"{object_id}: {error}") from error
    return Manifest(object_id, version, data, blake2b(data, digest_size=16).digest())


def place(wanted: Manifest, namespace: str, *, fleet: str, bundle: str) -> Manifest:
    """The manifest moved into `namespace` and stamped for it.

    For a kind of which only discovery knows that it is namespaced; a manifest that names a namespace stays as it is.
    """
    if wanted.id.namespace or not namespace:
        return wanted
    body: dict[str, Any] = msgspec.json.decode(wanted.body)
    body["metadata"]["namespace"] = namespace
    return manifest(stamp(body, fleet=fleet, bundle=bundle))


def manifest_set(manifests: Iterable[Manifest]) -> ManifestSet:
    """The manifests in the order of their identities; raises InvalidInput when two are the same object."""
    ordered = tuple(sorted(manifests, key=lambda item: item.id))
    digest = sha256()
    for before, item in zip((None, *ordered), ordered, strict=False):
        if before is not None and before.id == item.id:
            raise InvalidInput(f"{item.id} is defined twice")
        digest.update(item.digest)
    return ManifestSet(f"sha256:{digest.hexdigest()}", ordered)


def tracking_id(fleet: str, bundle: str, object_id: ObjectId) -> str:
    """`<fleet>:<bundle>:<group>/<kind>:<namespace>/<name>`; the group of core kinds is empty."""
    return f"{fleet}:{bundle}:{object_id.group}/{object_id.kind}:{object_id.namespace}/{object_id.name}"


def tracking(annotation: str | None) -> Tracking | None:
    """What a tracking annotation says; None for one that is absent or not of ours."""
    # Names of RBAC objects hold colons (system:node), fleets, bundles, groups and kinds do not.
    parts = (annotation or "").split(":", 3)
    if len(parts) != 4:
        return None
    fleet, bundle, kind, name = parts
    group, slash, kind = kind.rpartition("/")
    namespace, separator, name = name.partition("/")
    if not (fleet and bundle and slash and kind and separator and name):
        return None
    return Tracking(fleet, bundle, ObjectId(group, kind, namespace, name))


def tracked(live: LiveObject) -> Tracking | None:
    """The tracking annotation of a live object if it names that very object.

    Controllers copy annotations onto the objects they make; a copy names its origin and says nothing about its carrier.
    """
    mark = tracking((live.meta.annotations or {}).get(TRACKING_ANNOTATION))
    return mark if mark is not None and mark.id == live.id else None


def names_itself(live: LiveObject) -> bool:
    """Whether a live object carries a tracking annotation that names that very object."""
    return tracked(live) is not None


def _texts(values: Any, path: str) -> dict[str, str]:
    """Labels or annotations without null values."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{path} is not a mapping")
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{path}: the value of `{key}` must be text, write it in quotes")
    return {key: value for key, value in values.items() if value is not None}


def _rewrite_kind(object_id: ObjectId, body: dict[str, Any]) -> None:
    """What is particular to a kind: rewritten in `body`, whose own top level may be changed."""
    kind = (object_id.group, object_id.kind)
    if isinstance(body.get("data"), Mapping) and not object_id.group:
        body["data"] = {key: value for key, value in body["data"].items() if value is not None}
    if kind == ("", "Secret"):
        _encode_string_data(body)
    elif kind == ("rbac.authorization.k8s.io", "ClusterRole"):
        # The controller fills the rules of an aggregated role; owning an empty list would wipe them at every heal.
        if body.get("aggregationRule") and not body.get("rules"):
            body.pop("rules", None)
    elif kind == ("apiregistration.k8s.io", "APIService"):
        _replace(body, "spec", _without_blank_bundle)
    elif kind == ("apiextensions.k8s.io", "CustomResourceDefinition"):
        _rewrite_conversion(body)
    elif object_id.group == "admissionregistration.k8s.io" and object_id.kind in _WEBHOOK_KINDS:
        webhooks = body.get("webhooks")
        if isinstance(webhooks, list):
            body["webhooks"] = [_with_client_config(hook) for hook in webhooks]


def _encode_string_data(body: dict[str, Any]) -> None:
    """Moves stringData into data: the server never lets us own what stringData becomes (drift.md 1.3 row 13)."""
    if "stringData" not in body:
        return
    texts = body.pop("stringData") or {}
    if not isinstance(texts, Mapping):
        raise InvalidInput("stringData is not a mapping")
    encoded: dict[str, str] = {}
    for key, value in texts.items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidInput(f"stringData: the value of `{key}` must be text, write it in quotes")
        encoded[key] = base64.b64encode(value.encode()).decode()
    body["data"] = {**(body.get("data") or {}), **encoded}


def _rewrite_conversion(body: dict[str, Any]) -> None:
    def conversion(spec: dict[str, Any]) -> dict[str, Any]:
        _replace(spec, "conversion", lambda value: _nested(value, "webhook", _with_client_config))
        return spec

    _replace(body, "spec", conversion)


def _with_client_config(hook: Any) -> Any:
    return _nested(hook, "clientConfig", _without_blank_bundle)


def _nested(value: Any, field: str, change: Callable[[dict[str, Any]], Any]) -> Any:
    if not isinstance(value, Mapping):
        return value
    copy = dict(value)
    _replace(copy, field, change)
    return copy


def _replace(body: dict[str, Any], field: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Puts `change(copy)` in place of a mapping at `field`; anything else stays."""
    if isinstance(body.get(field), Mapping):
        body[field] = change(dict(body[field]))


def _without_blank_bundle(config: dict[str, Any]) -> dict[str, Any]:
    """Drops a caBundle that holds no certificate: a placeholder for what a controller injects."""
    if "caBundle" in config and not _is_pem(config["caBundle"]):
        del config["caBundle"]
    return config


def _is_pem(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return b"-----BEGIN CERTIFICATE-----" in base64.b64decode(value, validate=False)
    except (binascii.Error, ValueError):
        return False
