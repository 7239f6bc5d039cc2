"""The verbs of one cluster, as `engine.ports.ClusterClient` asks for them. Thin: requests in, typed values out.

Every method has the deadline of `Timeouts.request` and raises Unavailable, Unauthorized, NotFound or Rejected. A write
that raises Unavailable may or may not have happened.
"""

from __future__ import annotations

from typing import TypeVar

import anyio
import msgspec

from fleet.errors import Rejected
from fleet.kube import decode
from fleet.kube.discovery import Discovery, ServedKinds
from fleet.kube.transport import Call, Statistics, Transport
from fleet.kube.watch import Reflector, Sink
from fleet.model.objects import LiveObject, Resource

T = TypeVar("T")

APPLY_PATCH = "application/apply-patch+yaml"
"""JSON is YAML; servers before 1.34 know no media type of server-side apply for plain JSON."""

MERGE_PATCH = "application/merge-patch+json"


class KubeClient:
    """One member cluster; made by `connect.KubeConnector`, ended by `aclose`."""

    def __init__(self, transport: Transport, lists: anyio.CapacityLimiter) -> None:
        """`lists` is entered for each list of a watch, beside the cluster's own limit."""
        self._transport = transport
        self._discovery = Discovery(transport)
        self._fleet_lists = lists
        self._lists = anyio.CapacityLimiter(transport.bounds.rates.lists)

    @property
    def statistics(self) -> Statistics:
        return self._transport.statistics

    async def version(self) -> str:
        """The server's gitVersion."""
        sizes = self._transport.bounds.sizes
        answer = await self._transport.request(Call("GET", "/version"), sizes.error)
        return _read(answer.body, _Version, "a version").git_version

    async def discover(self, *, refresh: bool = False) -> ServedKinds:
        """The catalog, from the cache unless `refresh`."""
        return await self._discovery.catalog(refresh=refresh)

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
        """One server-side apply; the object as the server answers it.

        A namespace that does not exist is NotFound; a metadata.uid in the body that is not the live object's, Rejected
        (conflict).
        """
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        call = Call("PATCH", _path(resource, namespace, name), query, body, content_type=APPLY_PATCH)
        return await self._object(resource, call)

    async def get(self, resource: Resource, namespace: str, name: str) -> LiveObject:
        return await self._object(resource, Call("GET", _path(resource, namespace, name)))

    async def create(self, resource: Resource, namespace: str, body: bytes, *, manager: str) -> LiveObject:
        """POST; Rejected (conflict, reason AlreadyExists) when it is there."""
        path = _path(resource, namespace)
        return await self._object(resource, Call("POST", path, {"fieldManager": manager}, body, repeatable=False))

    async def replace(self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str) -> LiveObject:
        """PUT; a metadata.resourceVersion in the body makes it a compare-and-set (Rejected, conflict)."""
        return await self._object(
            resource, Call("PUT", _path(resource, namespace, name), {"fieldManager": manager}, body)
        )

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str
    ) -> LiveObject:
        """PATCH application/merge-patch+json; a metadata.resourceVersion in the body makes it a compare-and-set."""
        path = _path(resource, namespace, name)
        return await self._object(resource, Call("PATCH", path, {"fieldManager": manager}, body, MERGE_PATCH))

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str) -> None:
        """DELETE of exactly this state of the object (else Rejected, conflict); dependents follow in the background."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
            "propagationPolicy": "Background",
        }
        call = Call("DELETE", _path(resource, namespace, name), body=msgspec.json.encode(options))
        await self._transport.request(call, self._transport.bounds.sizes.object)

    async def allowed(self, verb: str, resource: Resource, namespace: str = "") -> bool:
        """Whether we may, as the cluster's authorizer answers (SelfSubjectAccessReview)."""
        attributes = {"verb": verb, "group": resource.group, "version": resource.version, "resource": resource.plural}
        if namespace:
            attributes["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._transport.request(
            Call("POST", path, body=msgspec.json.encode(review)), self._transport.bounds.sizes.error
        )
        return _read(answer.body, _Review, "an access review").status.allowed

    async def watch(self, resource: Resource, selector: str, sink: Sink) -> None:
        """Lists and watches one kind until cancelled; raises only Unauthorized or Rejected (forbidden, unserved)."""
        await Reflector(self._transport, resource, selector, sink, (self._lists, self._fleet_lists)).run()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _object(self, resource: Resource, call: Call) -> LiveObject:
        answer = await self._transport.request(call, self._transport.bounds.sizes.object)
        return decode.live(resource, answer.body)


def _path(resource: Resource, namespace: str, name: str = "") -> str:
    """The path of an object or a collection; refuses what would lead to another one."""
    for part in (namespace, name):
        if part in (".", "..") or "/" in part or "%" in part:
            raise Rejected("definite", 0, "Invalid", f"{part!r} cannot be a name in Kubernetes")
    return resource.path(namespace, name)


class _Version(msgspec.Struct, rename="camel"):
    git_version: str


class _ReviewStatus(msgspec.Struct):
    allowed: bool


class _Review(msgspec.Struct):
    status: _ReviewStatus


def _read(body: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decode.Unreadable(f"not {name}") from error
