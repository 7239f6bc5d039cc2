"""The cache of renders: one render for equal input, failures remembered when they lie in the input, bounded."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from fleet.core import normalize
from fleet.errors import RenderError
from fleet.model.objects import ManifestSet
from fleet.render.cache import Cache
from fleet.render.kustomize import NotRun

pytestmark = pytest.mark.anyio


def manifests(name: str, size: int = 10) -> ManifestSet:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x": "x" * size}}
    return normalize.manifest_set([normalize.manifest(body)])


class Source:
    """Renders after a checkpoint, and counts."""

    def __init__(self, *outcomes: ManifestSet | Exception) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    async def __call__(self) -> ManifestSet:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_equal_input_is_rendered_once_also_at_once() -> None:
    cache, source, found = Cache(1 << 20), Source(manifests("a")), []

    async def ask() -> None:
        found.append(await cache.get("k", source))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
    assert source.calls == cache.rendered == 1
    assert all(item is found[0] for item in found)


async def test_a_failure_of_the_input_is_remembered() -> None:
    cache, source = Cache(1 << 20), Source(RenderError("bad"))
    for _ in range(3):
        with pytest.raises(RenderError, match="bad"):
            await cache.get("k", source)
    assert source.calls == 1


async def test_a_failure_to_run_is_not() -> None:
    cache, source = Cache(1 << 20), Source(NotRun("too slow"), manifests("a"))
    with pytest.raises(NotRun):
        await cache.get("k", source)
    assert await cache.get("k", source) == manifests("a")


async def test_who_is_cancelled_leaves_the_render_to_the_next() -> None:
    cache, source, blocked = Cache(1 << 20), Source(manifests("a")), anyio.Event()

    async def never() -> ManifestSet:
        blocked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def first() -> None:
        with scope:
            await cache.get("k", never)

    found = []

    async def second() -> None:
        found.append(await cache.get("k", source))

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await blocked.wait()
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert found == [manifests("a")]


async def test_the_longest_unused_goes_first() -> None:
    cache = Cache(3000)
    sources = {key: Source(manifests(key, 800)) for key in "abc"}
    for key in "ab":
        await cache.get(key, sources[key])
    await cache.get("a", sources["a"])
    await cache.get("c", sources["c"])
    await cache.get("a", sources["a"])
    await cache.get("b", sources["b"])
    assert {key: source.calls for key, source in sources.items()} == {"a": 1, "b": 2, "c": 1}


async def test_what_is_larger_than_the_cache_is_still_given() -> None:
    cache = Cache(10)
    assert await cache.get("a", Source(manifests("a", 5000))) == manifests("a", 5000)
