"""A reflector against real kube-apiservers that are killed, stopped, compacted and emptied under it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import msgspec
import pytest

from fleet.errors import Rejected, Unavailable
from fleet.kube.bounds import Bounds, Pace, Timeouts
from fleet.kube.client import KubeClient
from fleet.model.objects import LiveObject, ObjectId, Resource
from tests.integration.kube_parts import CONFIGMAPS, CRDS, MANAGER, body, connected, found, gateway, widgets
from tests.testbed.cluster import Cluster, Clusters

pytestmark = [pytest.mark.anyio, pytest.mark.real]

LABEL = "fleet.example/test"
QUICK = Bounds(pace=Pace(backoff=0.1, backoff_cap=1.0, spacing=0.1))


class Observed:
    """Holds what the reflector says there is; `log` counts what it was told of each word."""

    def __init__(self) -> None:
        self.objects: dict[ObjectId, tuple[str, str]] = {}
        self.log: list[str] = []
        self.deleted: list[str] = []
        self.errors: list[Exception] = []
        self._told = anyio.Event()

    def page(self, resource: Resource, objects: Sequence[LiveObject]) -> None:
        for live in objects:
            self.objects[live.id] = (live.meta.uid, live.meta.resource_version)
        self._tell("page")

    def listed(self, resource: Resource, present: frozenset[ObjectId]) -> None:
        for gone in self.objects.keys() - present:
            del self.objects[gone]
            self.deleted.append(gone.name)
        self._tell("listed")

    def seen(self, change: Literal["ADDED", "MODIFIED", "DELETED"], live: LiveObject) -> None:
        if change == "DELETED":
            del self.objects[live.id]
            self.deleted.append(live.meta.name)
        else:
            self.objects[live.id] = (live.meta.uid, live.meta.resource_version)
        self._tell(change)

    def alive(self, resource: Resource) -> None:
        self._tell("alive")

    def lost(self, resource: Resource, error: Exception) -> None:
        self.errors.append(error)
        self._tell("lost")

    @property
    def names(self) -> set[str]:
        return {one.name for one in self.objects}

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(60):
            while not condition():
                await self._told.wait()

    def _tell(self, word: str) -> None:
        self.log.append(word)
        self._told.set()
        self._told = anyio.Event()


@asynccontextmanager
async def following(client: KubeClient, namespace: str, resource: Resource = CONFIGMAPS) -> AsyncIterator[Observed]:
    """Follows what a test labelled with its namespace; other tests' objects never come."""
    sink = Observed()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.watch, resource, f"{LABEL}={namespace}", sink)
        await sink.until(lambda: "alive" in sink.log)
        yield sink
        tasks.cancel_scope.cancel()


async def write(client: KubeClient, namespace: str, name: str, value: str = "1") -> LiveObject:
    manifest = body(CONFIGMAPS, name, namespace, metadata={"labels": {LABEL: namespace}}, data={"k": value})
    return await client.apply(CONFIGMAPS, manifest, namespace=namespace, name=name, manager=MANAGER)


async def remove(client: KubeClient, namespace: str, name: str) -> None:
    live = await client.get(CONFIGMAPS, namespace, name)
    await client.delete(CONFIGMAPS, namespace, name, uid=live.meta.uid, resource_version=live.meta.resource_version)


async def answering(client: KubeClient) -> None:
    """Returns once the server answers again."""
    for _ in range(600):
        try:
            await client.version()
            return
        except Unavailable:
            await anyio.sleep(0.1)
    raise AssertionError("the server does not come back")


# --- a healthy server ------------------------------------------------------------------------------------------------


async def test_what_is_there_and_what_changes(kube_cluster: Cluster, namespace: str) -> None:
    async with connected(kube_cluster.kubeconfig) as client:
        await write(client, namespace, "a")
        async with following(client, namespace) as sink:
            assert sink.names == {"a"}
            made = await write(client, namespace, "b")
            await sink.until(lambda: "b" in sink.names)
            assert sink.objects[made.id] == (made.meta.uid, made.meta.resource_version)
            changed = await write(client, namespace, "b", "2")
            await sink.until(lambda: sink.objects[made.id][1] == changed.meta.resource_version)
            await remove(client, namespace, "a")
            await sink.until(lambda: sink.deleted == ["a"])
            assert "lost" not in sink.log
            assert client.statistics.streams == 1
        assert client.statistics.streams == 0


async def test_an_apply_that_changes_nothing_is_no_event(kube_cluster: Cluster, namespace: str) -> None:
    async with connected(kube_cluster.kubeconfig) as client:
        await write(client, namespace, "a")
        async with following(client, namespace) as sink:
            before = len(sink.log)
            await write(client, namespace, "a")
            await write(client, namespace, "marker")
            await sink.until(lambda: "marker" in sink.names)
            assert [word for word in sink.log[before:] if word != "alive"] == ["ADDED"]


async def test_a_long_list_comes_in_pages(kube_cluster: Cluster, namespace: str) -> None:
    sizes = msgspec.structs.replace(QUICK.sizes, page_objects=10)
    async with connected(kube_cluster.kubeconfig, msgspec.structs.replace(QUICK, sizes=sizes)) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(35):
                tasks.start_soon(write, client, namespace, f"m{number}")
        async with following(client, namespace) as sink:
            assert len(sink.objects) == 35
            assert sink.log[:5] == ["page"] * 4 + ["listed"]


async def test_a_label_that_goes_is_a_deletion_to_who_selects_by_it(kube_cluster: Cluster, namespace: str) -> None:
    async with connected(kube_cluster.kubeconfig) as client:
        await write(client, namespace, "a")
        async with following(client, namespace) as sink:
            patch = msgspec.json.encode({"metadata": {"labels": {LABEL: None}}})
            await client.merge_patch(CONFIGMAPS, namespace, "a", patch, manager="somebody")
            await sink.until(lambda: sink.deleted == ["a"])
            assert (await client.get(CONFIGMAPS, namespace, "a")).meta.name == "a"


async def test_a_kind_that_is_withdrawn_ends_its_watch(kube_cluster: Cluster, namespace: str) -> None:
    group = f"{uuid.uuid4().hex[:8]}.example"
    name, resource = f"widgets.{group}", Resource(group, "v1", "Widget", "widgets", True)
    sink = Observed()
    async with connected(kube_cluster.kubeconfig, QUICK) as client:
        await client.apply(CRDS, widgets(group), namespace="", name=name, manager=MANAGER)
        await found(client, resource.group_kind)
        ended: list[Rejected] = []

        async def follow() -> None:
            try:
                await client.watch(resource, "", sink)
            except Rejected as error:
                ended.append(error)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await sink.until(lambda: "alive" in sink.log)
                crd = await client.get(CRDS, "", name)
                await client.delete(CRDS, "", name, uid=crd.meta.uid, resource_version=crd.meta.resource_version)
    assert [error.kind for error in ended] == ["unserved"]
    assert sink.log[-1] == "lost"


async def test_a_kind_that_may_not_be_listed_ends_its_watch(kube_cluster: Cluster) -> None:
    sink = Observed()
    async with connected(kube_cluster.kubeconfig_for("nobody")) as client:
        with anyio.fail_after(60), pytest.raises(Rejected, match='cannot list resource "configmaps"') as caught:
            await client.watch(CONFIGMAPS, "", sink)
    assert caught.value.kind == "forbidden"
    assert sink.log == ["lost"]


async def test_what_happened_behind_a_broken_connection_is_caught_up_with(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with (
        gateway(kube_cluster, tmp_path) as (way, kubeconfig),
        connected(kube_cluster.kubeconfig, QUICK) as direct,
        connected(kubeconfig, QUICK) as client,
    ):
        await write(client, namespace, "gone")
        async with following(client, namespace) as sink:
            await way.cut()
            await sink.until(lambda: "lost" in sink.log)
            await remove(direct, namespace, "gone")
            await write(direct, namespace, "new")
            way.restore()
            await sink.until(lambda: sink.names == {"new"})
    assert sink.deleted == ["gone"]
    assert sink.log.count("listed") == 1


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(own_clusters: Callable[..., Clusters]) -> Cluster:
    """A cluster that belongs to the test, since it is going to be broken."""
    return own_clusters(1)[0]


async def test_it_carries_on_across_a_restart_of_the_server(broken: Cluster) -> None:
    namespace = "default"
    async with connected(broken.kubeconfig, QUICK) as client:
        await write(client, namespace, "a")
        async with following(client, namespace) as sink:
            await anyio.to_thread.run_sync(broken.kill_apiserver)
            await sink.until(lambda: "lost" in sink.log)
            alive = sink.log.count("alive")
            await anyio.to_thread.run_sync(broken.restart_apiserver)
            await answering(client)
            await write(client, namespace, "b")
            await sink.until(lambda: "b" in sink.names and sink.log.count("alive") > alive)
    # Resumed, or listed when the new server's cache began after where we stood; in no case lost.
    assert sink.deleted == []


async def test_what_was_compacted_away_is_listed_and_its_deletions_are_told(broken: Cluster, tmp_path: Path) -> None:
    namespace = "default"
    async with (
        gateway(broken, tmp_path) as (way, kubeconfig),
        connected(broken.kubeconfig, QUICK) as direct,
        connected(kubeconfig, QUICK) as client,
    ):
        await write(client, namespace, "kept")
        await write(client, namespace, "gone")
        async with following(client, namespace) as sink:
            await way.cut()
            await sink.until(lambda: "lost" in sink.log)
            await remove(direct, namespace, "gone")
            await write(direct, namespace, "new")
            # The server's own cache still reaches back: only one that starts after the compaction has forgotten.
            await anyio.to_thread.run_sync(broken.compact_etcd)
            await anyio.to_thread.run_sync(broken.restart_apiserver)
            way.restore()
            await sink.until(lambda: sink.names == {"kept", "new"} and sink.log.count("listed") == 2)
    assert sink.deleted == ["gone"]


async def test_a_server_that_stops_answering_is_lost_and_then_caught_up_with(broken: Cluster) -> None:
    namespace = "default"
    bounds = msgspec.structs.replace(QUICK, timeouts=Timeouts(dead_stream=1.0, request=2.0, connect=2.0))
    async with connected(broken.kubeconfig, bounds) as client:
        await write(client, namespace, "a")
        async with following(client, namespace) as sink:
            broken.pause_apiserver()
            await sink.until(lambda: "lost" in sink.log)
            with pytest.raises(Unavailable):
                await client.version()
            broken.resume_apiserver()
            await answering(client)
            await write(client, namespace, "b")
            await sink.until(lambda: sink.names == {"a", "b"})
    assert sink.deleted == []


async def test_a_server_that_comes_back_empty_has_lost_everything(broken: Cluster) -> None:
    namespace = "default"
    async with connected(broken.kubeconfig, QUICK) as client:
        for name in ("a", "b"):
            await write(client, namespace, name)
        async with following(client, namespace) as sink:
            await anyio.to_thread.run_sync(partial(broken.restart_apiserver, keep_data=False))
            await answering(client)
            await sink.until(lambda: sink.names == set())
            assert sorted(sink.deleted) == ["a", "b"]
            fresh = await write(client, namespace, "a")
            await sink.until(lambda: sink.objects.get(fresh.id) == (fresh.meta.uid, fresh.meta.resource_version))
