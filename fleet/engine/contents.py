"""Manifest sets by digest, shared by all clusters that want the same ones; the store is behind it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Protocol

from fleet.model.objects import ManifestSet

KEEP = 16


class ManifestStore(Protocol):
    async def put_manifests(self, manifests: ManifestSet) -> None: ...
    async def manifests(self, digest: str) -> ManifestSet: ...


class Contents:
    """A set stays in memory while an agent holds it, and the last few used ones besides."""

    def __init__(self, store: ManifestStore) -> None:
        self._store = store
        self._live: weakref.WeakValueDictionary[str, ManifestSet] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, ManifestSet] = OrderedDict()

    async def get(self, digest: str) -> ManifestSet:
        """Raises NotFound when the content was never stored, StoreError when it cannot be read."""
        found = self._live.get(digest)
        if found is None:
            found = await self._store.manifests(digest)
        self._remember(found)
        return found

    async def put(self, manifests: ManifestSet) -> None:
        """Stores it, also when it is in memory: the store may have dropped meanwhile what nothing referred to."""
        await self._store.put_manifests(manifests)
        self._remember(manifests)

    def _remember(self, manifests: ManifestSet) -> None:
        self._live[manifests.digest] = manifests
        self._recent[manifests.digest] = manifests
        self._recent.move_to_end(manifests.digest)
        while len(self._recent) > KEEP:
            self._recent.popitem(last=False)
