"""Kubernetes objects as the control plane sees them: identities, wanted manifests, live objects."""

from __future__ import annotations

import msgspec


class ObjectId(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Identity of an object in a cluster; the version is not part of it."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        kind = f"{self.group}/{self.kind}" if self.group else self.kind
        return f"{kind} {self.namespace}/{self.name}" if self.namespace else f"{kind} {self.name}"


class GroupKind(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A kind without its version."""

    group: str
    kind: str

    def __str__(self) -> str:
        return f"{self.group}/{self.kind}" if self.group else self.kind


class Manifest(msgspec.Struct, frozen=True):
    """One wanted object: `body` is canonical JSON (sorted keys), complete with our label and tracking annotation."""

    id: ObjectId
    version: str
    body: bytes
    digest: bytes
    """blake2b-128 of `body`."""

    @property
    def api_version(self) -> str:
        return f"{self.id.group}/{self.version}" if self.id.group else self.version


class ManifestSet(msgspec.Struct, frozen=True, weakref=True):
    """What one bundle wants on one cluster; equal content has an equal digest and is shared by clusters."""

    digest: str
    """`sha256:…` over the manifests in order."""
    manifests: tuple[Manifest, ...]


class Resource(msgspec.Struct, frozen=True):
    """Discovery's answer for a kind at one served version."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...] = ()

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def base_path(self) -> str:
        """`/api/v1` or `/apis/GROUP/VERSION`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "") -> str:
        """URL path of the collection, or of one object when `name` is given."""
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = f"/{name}" if name else ""
        return f"{self.base_path}{middle}/{self.plural}{tail}"


class ManagedFields(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One entry of metadata.managedFields; `fields_v1` stays raw JSON until somebody needs it."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: str | None = None
    fields_v1: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="fieldsV1")
    subresource: str = ""


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", gc=False):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """The part of metadata that decisions need."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    managed_fields: tuple[ManagedFields, ...] | None = None


class LiveObject(msgspec.Struct, frozen=True):
    """An object as a server answered it: typed metadata, and the whole as the bytes that came."""

    resource: Resource
    meta: ObjectMeta
    raw: bytes

    @property
    def id(self) -> ObjectId:
        return ObjectId(self.resource.group, self.resource.kind, self.meta.namespace, self.meta.name)
