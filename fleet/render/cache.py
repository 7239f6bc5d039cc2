"""What was rendered, by what it was rendered from: equal input is rendered once, also when it is asked for at once.

Failures that lie in the input are remembered like results. The cache is bounded by the bytes of the manifests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio

from fleet.errors import RenderError
from fleet.model.objects import ManifestSet
from fleet.render.kustomize import NotRun

_OVERHEAD = 400
"""Bytes of a manifest beside its body."""
_FAILURE_COST = 1000


class Cache:
    """Least recently used first out; `limit` in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[ManifestSet | str, int]] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, anyio.Lock] = {}
        self.rendered = 0
        """How often something really was rendered."""

    async def get(self, key: str, render: Callable[[], Awaitable[ManifestSet]]) -> ManifestSet:
        """The manifests for `key`; raises RenderError as `render` did."""
        flight = self._flights.setdefault(key, anyio.Lock())
        try:
            async with flight:
                known = self._kept.get(key)
                if known is None:
                    known = await self._render(key, render)
                self._kept.move_to_end(key)
                self._shrink()
        finally:
            if not flight.locked() and self._flights.get(key) is flight:
                del self._flights[key]
        if isinstance(known[0], str):
            raise RenderError(known[0])
        return known[0]

    async def _render(self, key: str, render: Callable[[], Awaitable[ManifestSet]]) -> tuple[ManifestSet | str, int]:
        self.rendered += 1
        try:
            manifests = await render()
        except NotRun:
            raise
        except RenderError as error:
            known: tuple[ManifestSet | str, int] = (str(error), _FAILURE_COST)
        else:
            known = (manifests, sum(len(item.body) + _OVERHEAD for item in manifests.manifests))
        self._kept[key] = known
        self._bytes += known[1]
        return known

    def _shrink(self) -> None:
        # The newest stays, however large: it was asked for just now.
        while self._bytes > self._limit and len(self._kept) > 1:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size
