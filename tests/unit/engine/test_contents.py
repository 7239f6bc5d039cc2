"""Manifest sets in memory, with the store behind them."""

from __future__ import annotations

import pytest

from fleet.engine.contents import KEEP, Contents
from fleet.errors import NotFound
from fleet.model.objects import ManifestSet

pytestmark = pytest.mark.anyio


class Memory:
    def __init__(self) -> None:
        self.sets: dict[str, ManifestSet] = {}
        self.reads = 0

    async def put_manifests(self, manifests: ManifestSet) -> None:
        self.sets[manifests.digest] = manifests

    async def manifests(self, digest: str) -> ManifestSet:
        self.reads += 1
        if digest not in self.sets:
            raise NotFound(digest)
        return self.sets[digest]


async def test_what_the_store_dropped_while_it_was_in_memory_is_stored_again() -> None:
    store = Memory()
    contents = Contents(store)
    manifests = ManifestSet("sha256:a", ())
    await contents.put(manifests)
    store.sets.clear()
    await contents.put(manifests)
    assert store.sets == {"sha256:a": manifests}


async def test_the_last_few_are_read_once() -> None:
    store = Memory()
    contents = Contents(store)
    for number in range(KEEP):
        await contents.put(ManifestSet(f"sha256:{number}", ()))
    for number in range(KEEP):
        await contents.get(f"sha256:{number}")
    assert store.reads == 0
    with pytest.raises(NotFound):
        await contents.get("sha256:never")
