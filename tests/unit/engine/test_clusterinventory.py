from __future__ import annotations

import secrets
from typing import Any

import msgspec
import pytest

from fleet.engine.clusterinventory import NAMESPACE, ClusterInventory, Fenced
from fleet.errors import InvalidInput, NotFound, Rejected
from fleet.model.cluster import Inventory, InventoryEntry
from fleet.model.objects import LiveObject, ObjectId, Resource
from tests.unit.core.live import as_live

pytestmark = pytest.mark.anyio


def entry(name: str) -> InventoryEntry:
    return InventoryEntry(ObjectId("", "ConfigMap", "shop", name), "v1", f"uid-{name}")


def inventory(seq: int, *names: str, digest: str = "d") -> Inventory:
    return Inventory("shop", seq, digest, tuple(entry(name) for name in names))


class Server:
    """ConfigMaps with compare-and-set, as an API server keeps them; the namespace is missing at first."""

    def __init__(self) -> None:
        self.namespaces: set[str] = set()
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.writes = 0

    async def get(self, resource: Resource, namespace: str, name: str) -> LiveObject:
        if name not in self.objects:
            raise NotFound(name)
        return as_live(self.objects[name])

    async def create(self, resource: Resource, namespace: str, body: bytes, *, manager: str) -> LiveObject:
        decoded = msgspec.json.decode(body)
        if resource.kind == "Namespace":
            self.namespaces.add(decoded["metadata"]["name"])
            return as_live(decoded)
        if namespace not in self.namespaces:
            raise NotFound(namespace)
        if decoded["metadata"]["name"] in self.objects:
            raise Rejected("conflict", 409, "AlreadyExists", "it is there")
        return self._store(decoded)

    async def replace(self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str) -> LiveObject:
        if name not in self.objects:
            raise NotFound(name)
        decoded = msgspec.json.decode(body)
        if decoded["metadata"]["resourceVersion"] != self.objects[name]["metadata"]["resourceVersion"]:
            raise Rejected("conflict", 409, "Conflict", "it moved on")
        return self._store(decoded)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str) -> None:
        del self.objects[name]

    def _store(self, decoded: dict[str, Any]) -> LiveObject:
        self.version += 1
        self.writes += 1
        decoded["metadata"] |= {"resourceVersion": str(self.version), "uid": "u"}
        self.objects[decoded["metadata"]["name"]] = decoded
        return as_live(decoded)


def there(server: Server) -> ClusterInventory:
    client: Any = server
    return ClusterInventory(client, "acme", "shop")


async def test_is_written_read_and_removed() -> None:
    server = Server()
    ours = there(server)
    assert await ours.read() is None
    written = inventory(1, "a", "b")
    assert await ours.write(written) == written
    assert await there(server).read() == written
    assert await ours.holds(written)
    assert server.namespaces == {NAMESPACE}
    await ours.remove(written)
    assert not await there(server).exists()


async def test_what_an_earlier_writer_tracked_is_kept() -> None:
    server = Server()
    await there(server).write(inventory(1, "a", "b"))
    merged = await there(server).write(inventory(2, "a", "c"))
    assert {e.id.name for e in merged.entries} == {"a", "b", "c"}


async def test_a_newer_one_is_respected_at_every_try_and_its_objects_are_not_lost() -> None:
    server = Server()
    await there(server).write(inventory(5, "a", "b"))
    late = there(server)
    for _ in range(3):
        with pytest.raises(Fenced) as caught:
            await late.write(inventory(3, "a"))
        assert caught.value.seq == 5
    with pytest.raises(Fenced):
        await late.write(inventory(5, "a", digest="other"))
    merged = await late.write(inventory(6, "a"))
    assert {e.id.name for e in merged.entries} == {"a", "b"}


async def test_a_rival_is_noticed_when_it_has_written_meanwhile() -> None:
    server = Server()
    ours = there(server)
    await ours.write(inventory(1, "a"))
    await there(server).write(inventory(2, "a", "theirs"))
    assert await ours.holds(inventory(1, "a")), "known from our own write"
    with pytest.raises(Fenced):
        await ours.write(inventory(1, "a"))
    ours.doubt()
    with pytest.raises(Fenced):
        await ours.holds(inventory(1, "a"))
    with pytest.raises(Fenced):
        await ours.remove(inventory(1, "a"))
    assert (await ours.write(inventory(3, "a"))).entries == (entry("a"), entry("theirs"))


async def test_one_that_is_gone_is_made_again() -> None:
    server = Server()
    ours = there(server)
    await ours.write(inventory(1, "a", "b"))
    server.objects.clear()
    server.namespaces.clear()
    ours.doubt()
    assert not await ours.holds(inventory(1, "a", "b"))
    assert await ours.write(inventory(1, "a")) == inventory(1, "a")
    server.objects.clear()
    assert await ours.write(inventory(2, "a")) == inventory(2, "a")


async def test_one_that_cannot_be_read_is_never_overwritten() -> None:
    server = Server()
    ours = there(server)
    await ours.write(inventory(1, "a"))
    (name,) = server.objects
    server.objects[name]["binaryData"]["objects"] = "bm8gemxpYg=="
    before = server.writes
    late = there(server)
    for _ in range(3):
        with pytest.raises(Fenced, match=r"is damaged.*kubectl -n fleet-system delete configmap"):
            await late.write(inventory(2, "a"))
    assert server.writes == before


async def test_one_that_is_too_large_is_refused_with_the_way_out() -> None:
    huge = inventory(1, *(secrets.token_hex(50) for _ in range(20_000)))
    with pytest.raises(InvalidInput, match=r"20000 objects takes .* bytes.*; split bundle shop into smaller ones"):
        there(Server()).check(huge)
    there(Server()).check(inventory(1, *(f"object-{number}" for number in range(5_000))))


def test_names_fit_and_differ() -> None:
    client: Any = Server()
    names = {ClusterInventory(client, "f" * 63, bundle + "b" * 62).name for bundle in "xyz"}
    assert len(names) == 3
    assert all(len(name) <= 253 for name in names)
