"""Kills, full disks and other control planes in the middle of a deploy: the next run ends where this one would have."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.engine.ports import ClusterClient
from fleet.engine.reconcile import Keeper
from fleet.errors import StoreError
from fleet.kube.connect import KubeConnector
from fleet.model.cluster import Health
from fleet.model.fleetfile import Cluster as ClusterSpec
from fleet.model.objects import ManifestSet
from tests.integration import agentry
from tests.integration.agentry import (
    BUNDLE,
    FLEET,
    Rig,
    config_map,
    definition,
    deployment,
    eventually,
    in_thread,
    manifests,
)
from tests.testbed.cluster import Cluster
from tests.testbed.errors import ApiFailed

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Json = dict[str, Any]
DEEP = bool(os.environ.get("FLEET_DEEP"))


class Steps:
    """Counts what a control plane does outside of itself, and holds it at a chosen step, to be killed there."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0
        self.reached = anyio.Event()

    def is_dead(self) -> bool:
        self.count += 1
        if self.at and self.count >= self.at:
            self.reached.set()
            return True
        return False

    async def step(self) -> None:
        if self.is_dead():
            await anyio.sleep_forever()


class SteppedClient:
    """A client that may die before a request is sent, or with its answer."""

    def __init__(self, client: ClusterClient, steps: Steps) -> None:
        self._client = client
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._client, name)
        if name in ("watch", "aclose"):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            await self._steps.step()
            result = await method(*args, **options)
            await self._steps.step()
            return result

        return call


class SteppedConnector:
    def __init__(self, steps: Steps) -> None:
        self._connector = KubeConnector(agentry.BOUNDS)
        self._steps = steps

    async def connect(self, cluster: ClusterSpec, secrets: Mapping[str, bytes]) -> Any:
        return SteppedClient(await self._connector.connect(cluster, secrets), self._steps)


class SteppedKeeper:
    """A store that a dead process cannot write to any more."""

    def __init__(self, keeper: Keeper, steps: Steps) -> None:
        self._keeper = keeper
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._keeper, name)

        async def call(*args: Any, **options: Any) -> Any:
            self._die()
            result = await method(*args, **options)
            self._die()
            return result

        return call

    def _die(self) -> None:
        if self._steps.is_dead():
            raise StoreError("the process is dead")


def cm_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


class World:
    """Two contents of a bundle, and what of them is in the cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.api = cluster.api
        self.namespace = namespace
        self.group = f"{namespace}.example.com"
        self.crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{self.group}"
        same = config_map(namespace, "same", x="1")
        self.before = manifests(
            same, *(config_map(namespace, name, x="1") for name in ("a", "b", "c")), config_map(namespace, "old", x="1")
        )
        thing = {"apiVersion": f"{self.group}/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"x": "2"}}
        self.after = manifests(
            same,
            *(config_map(namespace, name, x="2") for name in ("a", "b", "c", "new")),
            definition(self.group, "things", "Thing"),
            thing,
        )

    def versions(self, content: str) -> dict[str, str]:
        """The resourceVersions of the objects that have this content."""
        found = {}
        things = f"/apis/{self.group}/v1/namespaces/{self.namespace}/things/t"
        for path in (*(cm_path(self.namespace, name) for name in ("a", "b", "c", "new")), things):
            try:
                live = self.api.get(path)
            except ApiFailed:
                continue
            if content in (live.get("data", {}).get("x"), live.get("spec", {}).get("x")):
                found[path] = live["metadata"]["resourceVersion"]
        return found

    def remove(self) -> None:
        if self.api.exists(self.crd):
            self.api.delete(self.crd)

    async def assign(self, rig: Rig, content: ManifestSet, seq: int) -> None:
        await rig.assign(content, seq, namespace=self.namespace, prune=True)


async def the_end(rig: Rig, steps: Steps) -> None:
    """The step at which it dies, or the end of all work."""
    for _ in range(1000):
        report = rig.last()
        pruned = report is not None and report.outcome is not None and report.outcome.pruned == 1
        if steps.reached.is_set() or (pruned and steps.count < steps.at):
            return
        await anyio.sleep(0.02)
    raise AssertionError(rig.last())


LAST_STEP = 46
"""No run takes fewer."""

STEPS = range(1, 75) if DEEP else (6, 11, 17, 23, 29, 38, 46)


@pytest.mark.parametrize("at", STEPS)
async def test_a_kill_at_any_step(kube_cluster: Cluster, namespace: str, tmp_path: Path, at: int) -> None:
    world = World(kube_cluster, namespace)
    data, kubeconfig = tmp_path / "data", kube_cluster.kubeconfig
    async with agentry.running(data, kubeconfig) as rig:
        await world.assign(rig, world.before, 1)
        await rig.healthy(1)
        held = dict(rig.assignments[rig.cluster])
    steps = Steps(at)
    connector = SteppedConnector(steps)
    async with agentry.running(
        data, kubeconfig, connector=connector, keeper=lambda store: SteppedKeeper(store, steps), assignments=held
    ) as rig:
        await world.assign(rig, world.after, 2)
        held = dict(rig.assignments[rig.cluster])
        await the_end(rig, steps)
    assert steps.reached.is_set() or at > LAST_STEP, steps.count
    written = await in_thread(lambda: world.versions("2"))
    async with agentry.running(data, kubeconfig, assignments=held) as rig:
        report = await rig.healthy(2)
        assert report.digest == world.after.digest
        await eventually(lambda: not kube_cluster.api.exists(cm_path(namespace, "old")))
        await rig.wait(lambda r: r.phase == "applied")
        final = await in_thread(lambda: world.versions("2"))
        assert len(final) == 5
        assert written.items() <= final.items(), "what was finished is not written again"
        assert await rig.stored_drifts() == ()
        (inventory,) = await rig.store.inventories(rig.cluster)
        assert (inventory.seq, inventory.digest) == (2, world.after.digest)
        assert {e.id.name for e in inventory.entries if e.id.namespace or e.id.kind != "Thing"} >= {"a", "new", "t"}
    mark = await agentry.mark(kube_cluster)
    async with agentry.running(data, kubeconfig, assignments=held) as rig:
        await rig.healthy(2)
        assert await agentry.written(kube_cluster, mark) == []
    await in_thread(world.remove)


async def test_a_rollback_after_a_kill_is_complete_even_where_drift_is_only_reported(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """An apply whose answer was lost may have happened: going back must not trust what was known before it."""
    data, kubeconfig = tmp_path / "data", kube_cluster.kubeconfig
    before, after = (manifests(*(config_map(namespace, n, x=x) for n in "abcdef")) for x in ("1", "2"))
    for at in (9, 12, 15, 18, 21):
        async with agentry.running(data, kubeconfig) as rig:
            await rig.assign(before, 10 * at, drift_mode="detect")
            await rig.healthy(10 * at)
        steps = Steps(at)
        async with agentry.running(
            data, kubeconfig, connector=SteppedConnector(steps), keeper=partial(SteppedKeeper, steps=steps)
        ) as rig:
            await rig.assign(after, 10 * at + 1, drift_mode="detect")
            with anyio.move_on_after(20):
                await steps.reached.wait()
            await anyio.sleep(0.2)
        async with agentry.running(data, kubeconfig) as rig:
            await rig.assign(before, 10 * at + 2, drift_mode="detect")
            await rig.healthy(10 * at + 2)
            for name in "abcdef":
                live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace, name)))
                assert live["data"] == {"x": "1"}, (at, name)
            assert await rig.stored_drifts() == ()


class FullDisk:
    """A store whose writes fail for a while, from a chosen one on; keeps the order of writes and applies."""

    def __init__(self, keeper: Keeper, fail_from: int, times: int, told: list[str]) -> None:
        self._keeper = keeper
        self._failing = range(fail_from, fail_from + times)
        self._told = told
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._keeper, name)

        async def call(*args: Any, **options: Any) -> Any:
            self._count += 1
            if self._count in self._failing:
                raise StoreError("the disk is full: free some space")
            result = await method(*args, **options)
            self._told.append(f"{name} {args[1].seq}" if name == "put_inventory" else name)
            return result

        return call


@pytest.mark.parametrize("fail_from", range(1, 9) if DEEP else (1, 3, 5))
async def test_a_full_disk(kube_cluster: Cluster, namespace: str, tmp_path: Path, fail_from: int) -> None:
    world = World(kube_cluster, namespace)
    data, kubeconfig = tmp_path / "data", kube_cluster.kubeconfig
    async with agentry.running(data, kubeconfig) as rig:
        await world.assign(rig, world.before, 1)
        await rig.healthy(1)
        held = dict(rig.assignments[rig.cluster])
    told: list[str] = []
    async with agentry.running(
        data, kubeconfig, keeper=lambda s: FullDisk(s, fail_from, 3, told), assignments=held
    ) as rig:
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        await world.assign(rig, world.after, 2)
        if fail_from == 1:
            report = await rig.wait(lambda r: r.seq == 2 and r.phase == "errored")
            assert "the disk is full" in report.message
            applied = [r for r in await agentry.asked(kube_cluster, start, writes=True) if r.verb == "patch"]
            assert applied == [], "nothing may be applied that is not tracked"
        await rig.healthy(2)
        await rig.wait(lambda r: r.outcome is not None and r.outcome.pruned == 1)
        held = dict(rig.assignments[rig.cluster])
    mark = await agentry.mark(kube_cluster)
    async with agentry.running(data, kubeconfig, assignments=held) as rig:
        await rig.healthy(2)
        assert await agentry.written(kube_cluster, mark) == []
        assert await rig.stored_drifts() == ()
    await in_thread(world.remove)


# --- other control planes --------------------------------------------------------------------------------------------


async def test_a_newer_inventory_in_the_cluster_is_respected(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = kube_cluster.kubeconfig
    newer, older = (manifests(config_map(namespace, "a", x=value)) for value in ("new", "old"))
    async with agentry.running(tmp_path / "one", kubeconfig) as rig:
        await rig.assign(newer, 5)
        await rig.healthy(5)
        stale = dict(rig.assignments[rig.cluster])
    # A data directory that was lost, or restored from a backup, counts from below.
    async with agentry.running(tmp_path / "two", kubeconfig) as rig:
        start = await agentry.mark(kube_cluster)
        await rig.assign(older, 3)
        report = await rig.wait(lambda r: r.phase == "errored")
        assert report.fence == 5
        assert "another control plane has taken over" in report.message
        await rig.assign(older, 5)
        report = await rig.wait(lambda r: r.seq == 5 and r.phase == "errored")
        assert report.fence == 5
        await anyio.sleep(0.5)
        assert await agentry.written(kube_cluster, start) == []
        await rig.assign(older, 6)
        await rig.healthy(6)
    # The first one comes back and finds that it is not in charge any more: it neither applies nor heals.
    start = await agentry.mark(kube_cluster)
    async with agentry.running(tmp_path / "one", kubeconfig, assignments=stale) as rig:
        report = await rig.wait(lambda r: r.phase == "errored")
        assert report.fence == 6
        await anyio.sleep(1)
        assert [r for r in await agentry.written(kube_cluster, start) if r.writes] == []
        assert await rig.stored_drifts() == ()


async def test_a_control_plane_that_was_replaced_does_not_heal_what_the_other_applied(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = kube_cluster.kubeconfig
    objects = [config_map(namespace, "a", x="1"), config_map(namespace, "b", x="1")]
    async with agentry.running(tmp_path / "one", kubeconfig) as first:
        await first.assign(manifests(*objects), 1, prune=True)
        await first.healthy(1)
        async with agentry.running(tmp_path / "two", kubeconfig) as second:
            await second.assign(manifests(config_map(namespace, "a", x="2")), 2, prune=True)
            report = await first.wait(lambda r: r.phase == "errored")
            assert report.fence == 2
            await second.healthy(2)
            await second.wait(lambda r: r.outcome is not None and r.outcome.pruned == 1)
            await anyio.sleep(1)
            live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace, "a")))
            assert live["data"] == {"x": "2"}
            assert not await in_thread(partial(kube_cluster.api.exists, cm_path(namespace, "b")))
            assert await second.stored_drifts() == ()


async def test_a_lost_data_directory(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """What the old one applied is still tracked: the inventory lies in the cluster."""
    kubeconfig = kube_cluster.kubeconfig
    async with agentry.running(tmp_path / "one", kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1"), config_map(namespace, "b", x="1")), 4, prune=True)
        await rig.healthy(4)
    async with agentry.running(tmp_path / "two", kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1")), 1, prune=True)
        report = await rig.wait(lambda r: r.fence == 4)
        await rig.assign(manifests(config_map(namespace, "a", x="1")), report.fence + 1, prune=True)
        await rig.wait(lambda r: r.seq == 5 and r.outcome is not None and r.outcome.pruned == 1)
        assert not await in_thread(partial(kube_cluster.api.exists, cm_path(namespace, "b")))


async def test_an_inventory_that_cannot_be_read_stops_everything(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = cm_path("fleet-system", f"inventory.{FLEET}.{BUNDLE}")
    async with agentry.running(tmp_path / "one", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1")), 1)
        await rig.healthy(1)
    await in_thread(partial(kube_cluster.api.patch, path, {"binaryData": {"objects": "bm8gemxpYg=="}}))
    async with agentry.running(tmp_path / "two", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="2")), 2)
        report = await rig.wait(lambda r: r.phase == "errored")
        assert "is damaged" in report.message
        assert "delete configmap" in report.message
        live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace, "a")))
        assert live["data"] == {"x": "1"}
        await in_thread(partial(kube_cluster.api.delete, path))
        await rig.healthy(2)


# --- newer assignments -----------------------------------------------------------------------------------------------


def webhook(namespace: str) -> Json:
    hook = {
        "name": f"x.{namespace}.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "clientConfig": {"url": "https://nowhere.example.com/"},
        "namespaceSelector": {"matchLabels": {f"{namespace}.example.com/never": "true"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [hook],
    }


async def test_a_fix_does_not_wait_for_what_it_fixes(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """Webhook configurations wait for the workloads, which never come up with that image."""
    bad, good = (
        manifests(deployment(namespace, "web", image=image, replicas=1), webhook(namespace))
        for image in ("nginx:does-not-exist", "nginx:1.25")
    )
    hook = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{namespace}"
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(bad, 1)
        await eventually(lambda: kube_cluster.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web"))
        await anyio.sleep(1)
        report = rig.last()
        assert report is not None
        assert (report.phase, report.health) == ("applying", Health.UNKNOWN)
        assert not await in_thread(partial(kube_cluster.api.exists, hook))
        for seq in range(2, 10):  # the last one wins
            await rig.assign(bad if seq % 2 else good, seq)
        await rig.assign(good, 10)
        await rig.healthy(10, 15)
        assert await in_thread(partial(kube_cluster.api.exists, hook))
        await rig.assign(None, 11)
        await rig.wait(lambda r: r.seq == 11 and r.phase == "applied")
