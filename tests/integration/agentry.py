"""An agent on a real cluster with a real store, without Git or conductor: what the tests of agents share."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fleet.aio.clock import RealClock
from fleet.core import normalize
from fleet.engine.agent import AgentSettings
from fleet.engine.agents import Agents, Parts
from fleet.engine.contents import Contents
from fleet.engine.eventlog import EventLog
from fleet.engine.session import SessionSettings, Shared
from fleet.kube.connect import KubeConnector
from fleet.model.cluster import Assignment, DeployOptions, Health, MemberReport
from fleet.model.drift import Drift
from fleet.model.fleetfile import Cluster, Fleet, KubeconfigRef
from fleet.model.objects import ManifestSet
from fleet.settings import StoreSettings
from fleet.store import Store, open_store
from tests.testbed.cluster import Cluster as TestCluster

FLEET = "test"
BUNDLE = "shop"


async def kubectl(cluster: TestCluster, *arguments: str, stdin: str | None = None) -> str:
    """kubectl in a thread, so that the loop under test goes on."""
    return await anyio.to_thread.run_sync(lambda: cluster.kubectl(*arguments, stdin=stdin))


class NoSecrets:
    async def read(self, name: str) -> bytes:
        raise AssertionError(name)


class Counts:
    """Counters and metrics of one run."""

    def __init__(self) -> None:
        self.ignored = self.echo = self.unchanged = self.suspect = 0
        self.detections: list[float] = []
        self.heals: list[float] = []

    def detected(self, seconds: float) -> None:
        self.detections.append(seconds)

    def healed(self, seconds: float) -> None:
        self.heals.append(seconds)


class Rig:
    """One agent, its assignment, and what it reported."""

    def __init__(self, store: Store, cluster: str, kubeconfig: Path) -> None:
        self.store = store
        self.cluster = cluster
        self.assignment: Assignment | None = None
        self.reports: list[MemberReport] = []
        self.counts = Counts()
        self.contents = Contents(store)
        self.log = EventLog(store)
        clock = RealClock()
        self.fleet = Fleet(
            name=FLEET, clusters=(Cluster(name=cluster, kubeconfig=KubeconfigRef(path=str(kubeconfig))),)
        )
        self.shared = Shared(
            fleet=FLEET,
            fingerprint_key=store.fingerprint_key,
            contents=self.contents,
            keeper=store,
            keep=self.log.keep,
            counters=self.counts,
            metrics=self.counts,
            applied=lambda result, seconds: None,
            clock=clock,
            jitter=random.random,
            new_id=lambda: secrets.token_hex(8),
            settings=SessionSettings(probe=1.0, lost_after=3.0, tick=0.2, watch_retry=0.5),
        )
        self.agents = Agents(
            Parts(
                connector=KubeConnector(),
                secrets=NoSecrets(),
                store=store,
                settings=AgentSettings(reconnect_base=0.2, reconnect_cap=1.0),
                report=self.reports.append,
                emit=self.log.emit,
                assignments=lambda name: {} if self.assignment is None else {BUNDLE: self.assignment},
            )
        )

    async def assign(self, manifests: ManifestSet | None, seq: int, **options: Any) -> None:
        if manifests is not None:
            await self.contents.put(manifests)
        self.assignment = Assignment(
            cluster=self.cluster,
            bundle=BUNDLE,
            release=f"{BUNDLE}-{seq}",
            digest=manifests.digest if manifests is not None else None,
            seq=seq,
            options=DeployOptions(**options),
        )
        self.agents.assigned(self.cluster)

    async def wait(self, what: Callable[[MemberReport], bool], seconds: float = 30.0) -> MemberReport:
        """The first latest report that satisfies `what`; fails with the last one seen."""
        deadline = time.monotonic() + seconds
        while not self.reports or not what(self.reports[-1]):
            assert time.monotonic() < deadline, f"last report: {self.reports[-1:]}"
            await anyio.sleep(0.02)
        return self.reports[-1]

    async def healthy(self, seq: int) -> MemberReport:
        return await self.wait(lambda r: r.seq == seq and r.phase == "applied" and r.health is Health.HEALTHY)

    async def drifts(self, least: int, seconds: float = 10.0) -> tuple[Drift, ...]:
        """The stored drift records once there are at least so many healed or reported ones."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.store.drifts(self.cluster, BUNDLE, False, None, 100)
            if len([d for d in found if d.state in ("healed", "reported")]) >= least:
                return found
            assert time.monotonic() < deadline, f"drifts: {found}"
            await anyio.sleep(0.02)


@asynccontextmanager
async def running(data_dir: Path, cluster: str, kubeconfig: Path) -> AsyncIterator[Rig]:
    async with await open_store(data_dir, StoreSettings()) as store:
        rig = Rig(store, cluster, kubeconfig)
        rig.agents.configure(rig.fleet, rig.shared)
        async with anyio.create_task_group() as group:
            group.start_soon(rig.log.run)
            group.start_soon(rig.agents.run)
            yield rig
            group.cancel_scope.cancel()


def manifests(*bodies: dict[str, Any]) -> ManifestSet:
    made = [
        normalize.manifest(normalize.stamp(normalize.normalize(body), fleet=FLEET, bundle=BUNDLE)) for body in bodies
    ]
    return normalize.manifest_set(made)


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": dict(data),
    }


def deployment(namespace: str, name: str, image: str = "nginx:1.25", replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": image}]},
            },
        },
    }
