"""Everything at once, at random: edits, deletions, assignments, pauses, kills; in the end all is as assigned."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.model.cluster import Assignment
from tests.integration import agentry
from tests.integration.agentry import FLEET, Rig, config_map, eventually, in_thread, manifests
from tests.testbed.cluster import Cluster
from tests.testbed.errors import ApiFailed

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Json = dict[str, Any]
NAMES = [f"c{number}" for number in range(10)]
BUNDLES = ("shop", "second")
SEEDS = range(40) if os.environ.get("FLEET_DEEP") else range(3)


class Chaos:
    """One run: what is assigned to two bundles, and the random hands that disturb it."""

    def __init__(self, cluster: Cluster, namespace: str, seed: int) -> None:
        self.api = cluster.api
        self.namespace = namespace
        self.random = random.Random(seed)
        self.seq = 0
        self.wanted: dict[str, dict[str, Json]] = {bundle: {} for bundle in BUNDLES}
        self.paused = False
        self.log: list[str] = []

    def path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{name}"

    async def assign(self, rig: Rig) -> None:
        """Other content for one bundle; objects may go over to it from the other, which gives them up first."""
        bundle, other = self.random.sample(BUNDLES, 2)
        taken = set(self.wanted[other])
        names = [name for name in NAMES if name not in taken and self.random.random() < 0.6]
        self.wanted[bundle] = {
            name: config_map(self.namespace, name, x=str(self.random.randrange(3)), by=bundle) for name in names
        }
        self.seq += 1
        self.log.append(f"assign {self.seq} to {bundle}: {names}")
        content = manifests(*self.wanted[bundle].values(), bundle=bundle) if names else None
        await rig.assign(content, self.seq, bundle=bundle, prune=True, prune_max_objects=100)

    def disturb(self) -> None:
        """One foreign change to one object, if it is there."""
        name = self.random.choice(NAMES)
        change: Callable[[], Any] = self.random.choice(
            [
                partial(self.api.patch, self.path(name), {"data": {"x": "evil"}}, fieldManager="kubectl-edit"),
                partial(self.api.patch, self.path(name), {"data": {"x": None}}, fieldManager="kubectl-edit"),
                partial(self.api.patch, self.path(name), {"metadata": {"labels": None}}, fieldManager="kubectl-label"),
                partial(self.api.patch, self.path(name), {"metadata": {"managedFields": [{}]}}),
                partial(self.api.delete, self.path(name)),
            ]
        )
        self.log.append(f"{name}: {change}")
        with suppress(ApiFailed):
            change()

    def toggle(self, rig: Rig) -> None:
        self.paused = not self.paused
        self.log.append(f"paused: {self.paused}")
        rig.configure(paused=self.paused)

    async def one_step(self, rig: Rig) -> None:
        kind = self.random.random()
        if kind < 0.25:
            await self.assign(rig)
        elif kind < 0.9:
            await in_thread(self.disturb)
        else:
            self.toggle(rig)
        await anyio.sleep(self.random.choice([0.0, 0.0, 0.01, 0.05]))

    async def wait_until_tidy(self, rig: Rig) -> None:
        left: str | None = ""
        for _ in range(100):
            left = await self.untidy(rig)
            if left is None:
                return
            await anyio.sleep(0.2)
        pytest.fail("\n".join([*self.log, str(left)]))

    async def untidy(self, rig: Rig) -> str | None:
        """What is still tracked or told although it is over."""
        if left := await rig.store.drifts(rig.cluster, None, True, None, 100):
            return f"open: {left}"
        inventories = {i.bundle: {e.id.name for e in i.entries} for i in await rig.store.inventories(rig.cluster)}
        wanted = {bundle: set(objects) for bundle, objects in self.wanted.items() if objects}
        return f"tracked: {inventories}, wanted: {wanted}" if inventories != wanted else None

    def is_as_wanted(self) -> bool:
        live = self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps")["items"]
        found = {item["metadata"]["name"]: item["data"] for item in live if item["metadata"]["name"] in NAMES}
        both = {name: body["data"] for wanted in self.wanted.values() for name, body in wanted.items()}
        return found == both


@pytest.mark.parametrize("seed", SEEDS)
async def test_all_at_once(kube_cluster: Cluster, namespace: str, tmp_path: Path, seed: int) -> None:
    chaos = Chaos(kube_cluster, namespace, seed)
    held: dict[str, Assignment] = {}
    for _ in range(4):
        # Leaving the block kills the control plane wherever it is.
        async with agentry.running(
            tmp_path / "data", kube_cluster.kubeconfig, assignments=held, paused=chaos.paused
        ) as rig:
            for _ in range(chaos.random.randrange(5, 40)):
                await chaos.one_step(rig)
            held = dict(rig.assignments[rig.cluster])
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held) as rig:
        for bundle in held:
            await rig.wait(lambda r: r.phase == "applied", bundle=bundle)
        try:
            await eventually(chaos.is_as_wanted)
        except AssertionError:
            pytest.fail("\n".join(chaos.log))
        await chaos.wait_until_tidy(rig)
        before = await agentry.mark(kube_cluster)
        await anyio.sleep(1)
        assert await agentry.written(kube_cluster, before) == [], chaos.log
    before = await agentry.mark(kube_cluster)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held) as rig:
        for bundle in held:
            await rig.wait(lambda r: r.phase == "applied", bundle=bundle)
        await anyio.sleep(0.7)
        mine = [r for r in await agentry.written(kube_cluster, before) if r.namespace == namespace]
        assert mine == [], chaos.log
    for bundle in held:
        path = f"/api/v1/namespaces/fleet-system/configmaps/inventory.{FLEET}.{bundle}"
        with suppress(ApiFailed):
            await in_thread(partial(kube_cluster.api.delete, path))
