"""The inventory of a bundle as it lies in its cluster: who applied what last, fenced by compare-and-set (I10).

One ConfigMap per fleet and bundle in `fleet-system`. It is read before the first write of a session and replaced with
the resourceVersion of our own last answer afterwards, so that in the normal case a deploy costs one write here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib

import msgspec

from fleet.core.canonical import canonical
from fleet.engine.ports import ClusterClient
from fleet.errors import Conflict, InvalidInput, NotFound, Rejected
from fleet.model.cluster import Inventory, InventoryEntry
from fleet.model.objects import LiveObject, ObjectId, Resource

NAMESPACE = "fleet-system"
CONFIG_MAPS = Resource("", "v1", "ConfigMap", "configmaps", True)
NAMESPACES = Resource("", "v1", "Namespace", "namespaces", False)
MAX_INFLATED = 64 << 20
MAX_DATA = 1 << 20
"""Bytes of data and binaryData that an API server takes in one ConfigMap."""
_NAME = re.compile(r"[^a-z0-9.-]+")


class Fenced(Conflict):
    """The cluster already holds a newer assignment, or the same one with other content, of this bundle.

    `seq` is the one found there; 0 when that could not be told.
    """

    def __init__(self, message: str, seq: int = 0) -> None:
        super().__init__(message)
        self.seq = seq


class _Data(msgspec.Struct):
    seq: str = "0"
    digest: str = ""


class _ConfigMap(msgspec.Struct, rename="camel"):
    data: _Data = msgspec.field(default_factory=_Data)
    binary_data: dict[str, str] = {}


class ClusterInventory:
    """One bundle's inventory object in one cluster."""

    def __init__(self, client: ClusterClient, fleet: str, bundle: str) -> None:
        self._client = client
        self._fleet = fleet
        self._bundle = bundle
        self._manager = f"fleet-{fleet}"
        self._version: str | None = None
        self._known = False
        self._there: Inventory | None = None
        """What lies there, as we last read or wrote it."""
        self._is_ours = True
        """Whether every object that it tracks is known to us."""
        self.name = _object_name(fleet, bundle)

    async def read(self) -> Inventory | None:
        """What lies in the cluster; None when it has none. Raises Unavailable, Unauthorized, Rejected or Fenced."""
        try:
            live = await self._client.get(CONFIG_MAPS, NAMESPACE, self.name)
        except NotFound:
            self._version, self._known, self._there = None, True, None
            return None
        self._known = False  # unless it can be read
        self._there = _decode(self._bundle, live)
        self._version, self._known, self._is_ours = live.meta.resource_version, True, False
        return self._there

    def doubt(self) -> None:
        """The cluster was out of sight: what lies there is read again before it is relied on."""
        self._known = False

    async def exists(self) -> bool:
        """Whether there is one, read once a session. Raises as `read`."""
        return (self._there if self._known else await self.read()) is not None

    async def holds(self, inventory: Inventory) -> bool:
        """Whether it is of the same assignment as `inventory`, read once a session.

        Raises as `read`, and Fenced when it is of a newer assignment, or of other content.
        """
        there = self._there if self._known else await self.read()
        if there is None:
            return False
        _fence(there, inventory)
        self._is_ours = self._is_ours or there.seq == inventory.seq
        return there.seq == inventory.seq

    def is_known_as(self, inventory: Inventory) -> bool:
        """Whether exactly this lies there, as far as we read or wrote since the cluster was last out of sight."""
        return self._known and self._there == inventory

    def check(self, inventory: Inventory) -> None:
        """Raises InvalidInput for an inventory that no ConfigMap can hold."""
        size = len(_pack(inventory))
        if size > MAX_DATA - 4096:
            raise InvalidInput(
                f"the inventory of {len(inventory.entries)} objects takes {size} bytes in the cluster, and Kubernetes "
                f"allows {MAX_DATA}; split bundle {inventory.bundle} into smaller ones"
            )

    async def write(self, inventory: Inventory) -> Inventory:
        """Compare-and-set; returns what lies there now: `inventory`, and what an unknown earlier writer had tracked.

        Raises Fenced when the cluster holds a newer `seq`, or the same with another digest.
        """
        if not self._known:
            await self.read()
        for _ in range(3):
            if self._there is not None:
                _fence(self._there, inventory)
                inventory = inventory if self._is_ours else _union(inventory, self._there)
            try:
                live = await self._put(inventory)
            except Rejected as error:
                if error.kind != "conflict":
                    raise
                await self.read()
            except NotFound:
                self._version, self._there = None, None
            else:
                self._version, self._there, self._is_ours = live.meta.resource_version, inventory, True
                return inventory
        raise Rejected(
            "conflict",
            409,
            "Conflict",
            f"the inventory {NAMESPACE}/{self.name} keeps changing; another writer is at work",
        )

    async def remove(self, inventory: Inventory) -> None:
        """Deletes the object once the bundle has left the cluster for good. Raises Fenced when it is no longer ours."""
        try:
            live = await self._client.get(CONFIG_MAPS, NAMESPACE, self.name)
            _fence(_decode(self._bundle, live), inventory)
            await self._client.delete(
                CONFIG_MAPS, NAMESPACE, self.name, uid=live.meta.uid, resource_version=live.meta.resource_version
            )
        except NotFound:
            pass
        self._version, self._known, self._there = None, True, None

    async def _put(self, inventory: Inventory) -> LiveObject:
        body = self._encode(inventory)
        if self._version is not None:
            return await self._client.replace(CONFIG_MAPS, NAMESPACE, self.name, body, manager=self._manager)
        try:
            return await self._client.create(CONFIG_MAPS, NAMESPACE, body, manager=self._manager)
        except NotFound:
            await self._create_namespace()
            return await self._client.create(CONFIG_MAPS, NAMESPACE, body, manager=self._manager)

    async def _create_namespace(self) -> None:
        body = canonical({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        try:
            await self._client.create(NAMESPACES, "", body, manager=self._manager)
        except Rejected as error:
            if error.kind != "conflict":
                raise

    def _encode(self, inventory: Inventory) -> bytes:
        packed = base64.b64encode(_pack(inventory)).decode()
        metadata: dict[str, object] = {
            "name": self.name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "fleet", "fleet/inventory-of": self._bundle},
        }
        if self._version is not None:
            metadata["resourceVersion"] = self._version
        return msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"fleet": self._fleet, "seq": str(inventory.seq), "digest": inventory.digest or ""},
                "binaryData": {"objects": packed},
            }
        )


def _pack(inventory: Inventory) -> bytes:
    rows = [[e.id.group, e.version, e.id.kind, e.id.namespace, e.id.name, e.uid] for e in inventory.entries]
    return zlib.compress(msgspec.json.encode(rows), 6)


def _object_name(fleet: str, bundle: str) -> str:
    """At most 253 characters; fleets and bundles are DNS labels, so the two cannot run into each other unhashed."""
    plain = _NAME.sub("-", f"inventory.{fleet}.{bundle}".lower())
    return plain if len(plain) <= 200 else f"{plain[:180]}.{hashlib.sha256(plain.encode()).hexdigest()[:16]}"


def _fence(there: Inventory, ours: Inventory) -> None:
    if there.seq < ours.seq or (there.seq == ours.seq and there.digest == ours.digest):
        return
    raise Fenced(
        f"bundle {ours.bundle}: the cluster's inventory holds seq {there.seq} ({there.digest or 'removed'}), "
        f"ours is seq {ours.seq} ({ours.digest or 'removed'}); another control plane has taken over",
        there.seq,
    )


def _union(ours: Inventory, there: Inventory) -> Inventory:
    known = {e.id for e in ours.entries}
    return msgspec.structs.replace(ours, entries=ours.entries + tuple(e for e in there.entries if e.id not in known))


def _decode(bundle: str, live: LiveObject) -> Inventory:
    try:
        body = msgspec.json.decode(live.raw, type=_ConfigMap)
        inflater = zlib.decompressobj()
        packed = inflater.decompress(base64.b64decode(body.binary_data.get("objects", "")), MAX_INFLATED)
        rows = msgspec.json.decode(packed or b"[]", type=list[tuple[str, str, str, str, str, str]])
        seq = int(body.data.seq)
    except (msgspec.DecodeError, ValueError, zlib.error) as error:
        raise Fenced(
            f"the inventory {NAMESPACE}/{live.meta.name} is damaged ({error}); nothing is applied or pruned over it. "
            f"Look at it, then delete it: kubectl -n {NAMESPACE} delete configmap {live.meta.name}"
        ) from error
    entries = tuple(InventoryEntry(ObjectId(g, k, ns, n), v, uid) for g, v, k, ns, n, uid in rows)
    return Inventory(bundle, seq, body.data.digest or None, entries)
