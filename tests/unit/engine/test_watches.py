from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fleet.engine.watches import Watches
from fleet.errors import Rejected, Unauthorized
from fleet.model.objects import GroupKind, Resource

pytestmark = pytest.mark.anyio

MAPS = Resource("", "v1", "ConfigMap", "configmaps", True)
SETS = Resource("apps", "v1", "StatefulSet", "statefulsets", True)
OLD_SETS = Resource("apps", "v1beta1", "StatefulSet", "statefulsets", True)


class Catalog:
    def __init__(self, *resources: Resource) -> None:
        self.resources = resources

    def find(self, kind: GroupKind, version: str | None = None) -> Resource | None:
        served = [r for r in self.resources if r.group_kind == kind and version in (None, r.version)]
        return served[0] if served else None

    def unknown(self, group: str) -> bool:
        return False


class Client:
    """Watches that last until cancelled, or raise what they are told to."""

    def __init__(self) -> None:
        self.opened: list[Resource] = []
        self.open: set[Resource] = set()
        self.errors: dict[Resource, list[Exception]] = {}

    async def watch(self, resource: Resource, selector: str, sink: Any) -> None:
        self.opened.append(resource)
        if self.errors.get(resource):
            raise self.errors[resource].pop(0)
        self.open.add(resource)
        try:
            await anyio.sleep_forever()
        finally:
            self.open.discard(resource)


class Scene:
    """Watches whose sink passes what is lost on to them, as the observer does."""

    def __init__(self, retry: float = 60.0) -> None:
        self.client = Client()
        self.now = 100.0
        self.told: list[tuple[str, bool]] = []
        client: Any = self.client
        sink: Any = self
        self.watches = Watches(client, "fleet/bundle", sink, lambda: self.now, retry=retry, observed=self._observed)

    def _observed(self, kind: GroupKind, again: bool) -> None:
        self.told.append((kind.kind, again))

    def lost(self, resource: Resource, error: Exception) -> None:
        self.watches.lost(resource, error)

    def adjust(self, wanted: dict[Resource, str], *served: Resource) -> None:
        """Wants kinds at versions, of a server that serves some resources."""
        self.watches.adjust([(r.group_kind, version) for r, version in wanted.items()], Catalog(*served))

    def unobserved(self, *resources: Resource) -> str | None:
        return self.watches.unobserved([r.group_kind for r in resources], 30.0)


@asynccontextmanager
async def bound(scene: Scene) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        scene.watches.bind(group)
        yield
        group.cancel_scope.cancel()


async def turn() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_exactly_the_wanted_kinds_are_watched_at_their_versions() -> None:
    scene = Scene()
    async with bound(scene):
        scene.adjust({MAPS: "v1", SETS: "v1"}, MAPS, SETS)
        await turn()
        assert scene.client.open == {MAPS, SETS}
        scene.adjust({MAPS: "v1", SETS: "v1"}, MAPS, SETS)
        await turn()
        assert len(scene.client.opened) == 2
        scene.adjust({SETS: "v1beta1"}, MAPS, SETS, OLD_SETS)
        await turn()
        assert scene.client.open == {OLD_SETS}
        assert len(scene.watches) == 1


async def test_a_kind_is_observed_from_its_first_list_until_it_is_lost_for_too_long() -> None:
    scene = Scene()
    async with bound(scene):
        assert scene.unobserved(MAPS) == "ConfigMap is not watched yet"
        scene.adjust({MAPS: "v1", SETS: "v1"}, MAPS)
        assert scene.unobserved(SETS) == "apps/StatefulSet is not served"
        assert scene.watches.missing == {SETS.group_kind}
        assert scene.unobserved(MAPS) == "ConfigMap is not listed yet"
        scene.watches.listed(MAPS)
        assert scene.unobserved(MAPS) is None
        scene.watches.lost(MAPS, RuntimeError("cut"))
        scene.now += 20
        scene.watches.lost(MAPS, RuntimeError("cut again"))
        assert scene.unobserved(MAPS) is None
        scene.now += 11
        assert scene.unobserved(MAPS) == "the watch of ConfigMap is lost: cut"
        scene.watches.alive(MAPS)
        assert scene.unobserved(MAPS) is None


async def test_what_is_observed_is_told_once_and_again_after_a_loss() -> None:
    scene = Scene()
    async with bound(scene):
        scene.adjust({MAPS: "v1"}, MAPS)
        scene.watches.alive(MAPS)
        assert scene.told == []
        scene.watches.listed(MAPS)
        scene.watches.alive(MAPS)
        scene.watches.listed(MAPS)
        assert scene.told == [("ConfigMap", False)]
        scene.watches.lost(MAPS, RuntimeError("cut"))
        scene.watches.alive(MAPS)
        scene.watches.lost(MAPS, RuntimeError("cut"))
        scene.watches.listed(MAPS)
        assert scene.told == [("ConfigMap", False), ("ConfigMap", True), ("ConfigMap", True)]


async def test_a_kind_that_is_refused_taints_itself_alone_and_is_tried_again() -> None:
    scene = Scene()
    scene.client.errors[SETS] = [Rejected("forbidden", 403, "Forbidden", "you cannot list statefulsets")]
    async with bound(scene):
        scene.adjust({MAPS: "v1", SETS: "v1"}, MAPS, SETS)
        await turn()
        scene.watches.listed(MAPS)
        assert scene.unobserved(MAPS) is None
        assert scene.unobserved(SETS) == "apps/StatefulSet is not listed yet: you cannot list statefulsets"
        assert scene.client.open == {MAPS}
        scene.watches.retry(SETS.group_kind)
        await turn()
        assert scene.client.open == {MAPS, SETS}


async def test_refused_credentials_end_the_session() -> None:
    scene = Scene()
    scene.client.errors[MAPS] = [Unauthorized("no")]

    async def meet() -> None:
        async with bound(scene):
            scene.adjust({MAPS: "v1"}, MAPS)
            await anyio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        await meet()
    assert caught.group_contains(Unauthorized)
