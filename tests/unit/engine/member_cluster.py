"""A member cluster that is plain values: it answers as an API server does, and refuses what a test tells it to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from fleet.engine.ports import WatchSink
from fleet.errors import NotFound, Rejected
from fleet.model.fleetfile import Cluster
from fleet.model.objects import GroupKind, LiveObject, ObjectId, ObjectMeta, Resource

BUILT_IN = (
    Resource("", "v1", "ConfigMap", "configmaps", True),
    Resource("", "v1", "Namespace", "namespaces", False),
    Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False),
)
WIDGETS = Resource("acme.example", "v1", "Widget", "widgets", True)


class _Envelope(msgspec.Struct):
    metadata: ObjectMeta


@dataclass(frozen=True)
class Catalog:
    served: Mapping[GroupKind, Resource]

    def find(self, kind: GroupKind, version: str | None = None) -> Resource | None:
        return self.served.get(kind)

    def unknown(self, group: str) -> bool:
        return False


def catalog(*served: Resource) -> Catalog:
    return Catalog({resource.group_kind: resource for resource in served})


@dataclass
class MemberCluster:
    """The objects outlive connections. `refuse` is asked before each request and raises what the server answers."""

    objects: dict[ObjectId, dict[str, Any]] = field(default_factory=dict)
    catalog: Catalog = field(default_factory=lambda: catalog(*BUILT_IN))
    refuse: Callable[[str, ObjectId, str], None] = lambda verb, object_id, body: None
    requests: list[tuple[str, ObjectId]] = field(default_factory=list)
    watches: list[tuple[GroupKind, WatchSink]] = field(default_factory=list)
    version: int = 0

    async def connect(self, cluster: Cluster, secrets: Mapping[str, bytes]) -> Client:
        return Client(self)

    def get(self, name: str, kind: str = "ConfigMap") -> dict[str, Any] | None:
        """A copy of the one object of that name."""
        found = [body for i, body in self.objects.items() if (i.kind, i.name) == (kind, name)]
        return copy.deepcopy(found[0]) if found else None

    def edit(self, name: str, kind: str = "ConfigMap", **content: Any) -> None:
        """Somebody else's write."""
        object_id = next(i for i in self.objects if (i.kind, i.name) == (kind, name))
        self.put(object_id, {**self.objects[object_id], **content})

    def put(self, object_id: ObjectId, body: dict[str, Any]) -> None:
        change = "MODIFIED" if object_id in self.objects else "ADDED"
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        metadata.setdefault("uid", f"uid-{self.version}")
        self.objects[object_id] = {**body, "metadata": metadata}
        self._tell(change, self.live(object_id))

    def drop(self, object_id: ObjectId) -> None:
        live = self.live(object_id)
        del self.objects[object_id]
        self._tell("DELETED", live)

    def live(self, object_id: ObjectId, body: dict[str, Any] | None = None) -> LiveObject:
        if body is None and object_id not in self.objects:
            raise NotFound(f"{object_id} not found")
        raw = msgspec.json.encode(body or self.objects[object_id])
        resource = self.catalog.served[GroupKind(object_id.group, object_id.kind)]
        return LiveObject(resource, msgspec.json.decode(raw, type=_Envelope).metadata, raw)

    def asked(self, verb: str, name: str) -> int:
        """How often something was asked of the objects of a name."""
        return len([1 for asked, i in self.requests if (asked, i.name) == (verb, name)])

    def _tell(self, change: Any, live: LiveObject) -> None:
        for kind, sink in list(self.watches):
            if kind == live.resource.group_kind:
                sink.seen(change, live)


class Client:
    """One connection."""

    def __init__(self, cluster: MemberCluster) -> None:
        self._cluster = cluster

    async def version(self) -> str:
        return "v1.36.0"

    async def discover(self, *, refresh: bool = False) -> Catalog:
        return self._cluster.catalog

    async def apply(
        self,
        resource: Resource,
        body: bytes,
        *,
        namespace: str,
        name: str,
        manager: str,
        force: bool = True,
        dry_run: bool = False,
    ) -> LiveObject:
        object_id = self._begin("dry-run" if dry_run else "apply", resource, namespace, name, body)
        wanted = msgspec.json.decode(body)
        there = self._cluster.objects.get(object_id)
        uid = wanted["metadata"].pop("uid", None)
        if uid is not None and (there is None or there["metadata"]["uid"] != uid):
            raise Rejected("conflict", 409, "Conflict", "uid mismatch")
        own = {
            "manager": manager,
            "operation": "Apply",
            "apiVersion": resource.api_version,
            "fieldsV1": _fields(wanted),
        }
        metadata = {**wanted["metadata"], "managedFields": [own]}
        if there is not None:
            metadata |= {k: there["metadata"][k] for k in ("uid", "resourceVersion")}
        status = {"status": there["status"]} if there is not None and "status" in there else {}
        answer = {**wanted, **status, "metadata": metadata}
        if dry_run:
            return self._cluster.live(object_id, answer)
        if answer != there:
            self._cluster.put(object_id, answer)
        return self._cluster.live(object_id)

    async def get(self, resource: Resource, namespace: str, name: str) -> LiveObject:
        return self._cluster.live(self._begin("get", resource, namespace, name))

    async def create(self, resource: Resource, namespace: str, body: bytes, *, manager: str) -> LiveObject:
        decoded = msgspec.json.decode(body)
        object_id = self._begin("create", resource, namespace, decoded["metadata"]["name"])
        if object_id in self._cluster.objects:
            raise Rejected("conflict", 409, "AlreadyExists", f"{object_id} exists")
        self._cluster.put(object_id, decoded)
        return self._cluster.live(object_id)

    async def replace(self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str) -> LiveObject:
        object_id = self._begin("replace", resource, namespace, name)
        there, decoded = self._cluster.live(object_id), msgspec.json.decode(body)
        if decoded["metadata"].pop("resourceVersion") != there.meta.resource_version:
            raise Rejected("conflict", 409, "Conflict", "modified meanwhile")
        decoded["metadata"]["uid"] = there.meta.uid
        self._cluster.put(object_id, decoded)
        return self._cluster.live(object_id)

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str
    ) -> LiveObject:
        raise AssertionError("no test lets somebody add to a list")

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str) -> None:
        object_id = self._begin("delete", resource, namespace, name)
        meta = self._cluster.live(object_id).meta
        if (meta.uid, meta.resource_version) != (uid, resource_version):
            raise Rejected("conflict", 409, "Conflict", "precondition failed")
        self._cluster.drop(object_id)

    async def allowed(self, verb: str, resource: Resource, namespace: str = "") -> bool:
        return True

    async def watch(self, resource: Resource, selector: str, sink: WatchSink) -> None:
        kind = resource.group_kind
        present = [i for i in self._cluster.objects if (i.group, i.kind) == (kind.group, kind.kind)]
        sink.page(resource, [self._cluster.live(i) for i in present])
        sink.listed(resource, frozenset(present))
        self._cluster.watches.append((kind, sink))
        try:
            await anyio.sleep_forever()
        finally:
            self._cluster.watches.remove((kind, sink))

    async def aclose(self) -> None:
        pass

    def _begin(self, verb: str, resource: Resource, namespace: str, name: str, body: bytes = b"") -> ObjectId:
        object_id = ObjectId(resource.group, resource.kind, namespace, name)
        self._cluster.requests.append((verb, object_id))
        self._cluster.refuse(verb, object_id, body.decode())
        return object_id


def _fields(value: Any) -> Any:
    """The fieldsV1 of an object whose lists are atomic."""
    if not isinstance(value, dict):
        return {}
    named = {"apiVersion", "kind", "name", "namespace", "managedFields"}
    return {f"f:{key}": _fields(inner) for key, inner in value.items() if key not in named}
