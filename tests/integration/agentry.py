"""Agents on real clusters with a real store, without Git or conductor: what the tests of agents share."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from fleet.aio.clock import RealClock
from fleet.core import normalize
from fleet.engine.agent import AgentSettings
from fleet.engine.agents import Agents, Parts
from fleet.engine.applier import ApplierSettings
from fleet.engine.contents import Contents
from fleet.engine.deployer import DeployerSettings
from fleet.engine.eventlog import EventLog
from fleet.engine.ports import Connector
from fleet.engine.reconcile import Keeper
from fleet.engine.session import SessionSettings, Shared
from fleet.engine.workers import WorkerSettings
from fleet.kube.bounds import Bounds, Pace, Rates, Timeouts
from fleet.kube.connect import KubeConnector
from fleet.model.cluster import Assignment, DeployOptions, Health, MemberReport
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.fleetfile import Bundle, Cluster, Fleet, KubeconfigRef
from fleet.model.objects import ManifestSet
from fleet.settings import StoreSettings
from fleet.store import Store, open_store
from tests.testbed.audit import Request
from tests.testbed.cluster import Cluster as TestCluster
from tests.testbed.errors import ApiFailed

FLEET = "test"
MANAGER = f"fleet-{FLEET}"
BUNDLE = "shop"
CLUSTER = "qa"

SETTINGS = SessionSettings(
    probe=1.0,
    probe_deadline=1.0,
    lost_after=3.0,
    tick=0.2,
    watch_retry=0.5,
    prune_confirm=1.0,
    sweep=1.0,
    workers=WorkerSettings(retry_cap=2.0),
    applier=ApplierSettings(served=10.0),
    deployer=DeployerSettings(retry_base=0.1, retry_cap=1.0, prune_again=0.3),
)


def with_applier(**seconds: float) -> SessionSettings:
    return msgspec.structs.replace(SETTINGS, applier=ApplierSettings(**seconds))


BOUNDS = Bounds(
    timeouts=Timeouts(connect=2.0, request=5.0),
    pace=Pace(shortest=30.0, longest=60.0, backoff=0.2, backoff_cap=1.0),
    rates=Rates(pause=0.2, pause_cap=0.5),
)
"""Deadlines short enough for a test to see what comes after them."""


async def kubectl(cluster: TestCluster, *arguments: str, stdin: str | None = None) -> str:
    """kubectl in a thread, so that the loop under test goes on."""
    return await anyio.to_thread.run_sync(lambda: cluster.kubectl(*arguments, stdin=stdin))


async def in_thread(do: Callable[[], Any]) -> Any:
    """What blocks, such as requests of the testbed's client, while the loop under test goes on."""
    return await anyio.to_thread.run_sync(do)


async def eventually(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true answer of `what`, asked in a thread; a server that refuses or is away gave none."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(ApiFailed, OSError):
            if answer := await in_thread(what):
                return answer
        assert time.monotonic() < deadline, f"never: {what}"
        await anyio.sleep(0.05)


async def mark(cluster: TestCluster) -> int:
    """A position in the cluster's audit log."""
    return await anyio.to_thread.run_sync(cluster.audit.mark)


async def asked(cluster: TestCluster, since: int, **match: Any) -> list[Request]:
    """What the product asked of a cluster since a mark."""

    def read() -> list[Request]:
        cluster.audit.sync()
        return cluster.audit.requests(since=since, user_agent="fleet/", **match)

    return await anyio.to_thread.run_sync(read)


async def written(cluster: TestCluster, since: int) -> list[Request]:
    """The writes and dry-runs of the product since a mark."""
    return [request for request in await asked(cluster, since) if request.writes or request.dry_run]


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
    """The agents of some clusters, what is assigned to them, and what they reported and said."""

    def __init__(
        self,
        store: Store,
        clusters: Mapping[str, Path],
        *,
        keeper: Keeper | None = None,
        connector: Connector | None = None,
        settings: SessionSettings = SETTINGS,
    ) -> None:
        self.store = store
        self.cluster = next(iter(clusters))
        self.assignments: dict[str, dict[str, Assignment]] = {name: {} for name in clusters}
        self.reports: list[MemberReport] = []
        self.events: list[Event] = []
        self.counts = Counts()
        self.contents = Contents(store)
        self.log = EventLog(store)
        self.fleet = Fleet(
            name=FLEET,
            clusters=tuple(Cluster(name=n, kubeconfig=KubeconfigRef(path=str(p))) for n, p in clusters.items()),
        )
        self.shared = Shared(
            fleet=FLEET,
            fingerprint_key=store.fingerprint_key,
            contents=self.contents,
            keeper=keeper or store,
            keep=self.log.keep,
            counters=self.counts,
            metrics=self.counts,
            applied=lambda result, seconds: None,
            clock=RealClock(),
            jitter=random.random,
            new_id=lambda: secrets.token_hex(8),
            settings=settings,
        )
        self.agents = Agents(
            Parts(
                connector=connector or KubeConnector(BOUNDS),
                secrets=NoSecrets(),
                store=store,
                settings=AgentSettings(reconnect_base=0.2, reconnect_cap=1.0),
                report=self.reports.append,
                emit=self._emit,
                assignments=lambda name: self.assignments[name],
            )
        )

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.log.emit(event)

    # --- what is wanted ---

    def configure(self, *, paused: bool = False, suspended: bool = False) -> None:
        """Another fleet.yaml: all clusters paused, the bundle suspended."""
        clusters = tuple(msgspec.structs.replace(c, paused=paused) for c in self.fleet.clusters)
        bundles = (Bundle(name=BUNDLE, sources=(), strategy="default", suspend=suspended),)
        self.fleet = msgspec.structs.replace(self.fleet, clusters=clusters, bundles=bundles)
        self.agents.configure(self.fleet, self.shared)

    async def assign(
        self,
        manifests: ManifestSet | None,
        seq: int,
        *,
        bundle: str = BUNDLE,
        cluster: str | None = None,
        **options: Any,
    ) -> None:
        """Assigns content to the cluster (None: the first); without manifests the bundle is removed."""
        if manifests is not None:
            await self.contents.put(manifests)
        name = cluster or self.cluster
        self.assignments[name][bundle] = Assignment(
            cluster=name,
            bundle=bundle,
            release=f"{bundle}-{seq}",
            digest=manifests.digest if manifests is not None else None,
            seq=seq,
            options=DeployOptions(**options),
        )
        self.agents.assigned(name)

    def withdraw(self, bundle: str = BUNDLE) -> None:
        """The bundle is left to itself."""
        del self.assignments[self.cluster][bundle]
        self.agents.assigned(self.cluster)

    # --- what came of it ---

    def last(self, bundle: str = BUNDLE, cluster: str | None = None) -> MemberReport | None:
        """The latest report of a bundle on a cluster."""
        place = (cluster or self.cluster, bundle)
        return next((r for r in reversed(self.reports) if (r.cluster, r.bundle) == place), None)

    async def wait(
        self,
        what: Callable[[MemberReport], bool],
        seconds: float = 30.0,
        *,
        bundle: str = BUNDLE,
        cluster: str | None = None,
    ) -> MemberReport:
        """The latest report once it satisfies `what`; fails with the last one seen."""
        deadline = time.monotonic() + seconds
        while True:
            report = self.last(bundle, cluster)
            if report is not None and what(report):
                return report
            assert time.monotonic() < deadline, f"last report: {report}"
            await anyio.sleep(0.02)

    async def healthy(
        self, seq: int, seconds: float = 30.0, *, bundle: str = BUNDLE, cluster: str | None = None
    ) -> MemberReport:
        """Once everything is as wanted, be it suspended, too."""
        good = (Health.HEALTHY, Health.SUSPENDED)
        return await self.wait(
            lambda r: r.reachable and r.seq == seq and r.phase == "applied" and r.health in good,
            seconds,
            bundle=bundle,
            cluster=cluster,
        )

    async def stored_drifts(self) -> tuple[Drift, ...]:
        """Newest first."""
        return await self.store.drifts(self.cluster, None, False, None, 500)

    async def drifts(self, least: int, seconds: float = 60.0, *, states: str = "healed reported") -> tuple[Drift, ...]:
        """The stored drift records once at least so many of them are in one of these states."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.stored_drifts()
            if len([d for d in found if d.state in states.split()]) >= least:
                return found
            assert time.monotonic() < deadline, f"drifts: {found}"
            await anyio.sleep(0.02)

    def said(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]

    async def hears(self, kind: str, times: int = 1, seconds: float = 60.0) -> list[Event]:
        """The events of a kind once there are so many."""
        deadline = time.monotonic() + seconds
        while len(found := self.said(kind)) < times:
            assert time.monotonic() < deadline, f"{kind}: {found}"
            await anyio.sleep(0.02)
        return found


@asynccontextmanager
async def running(
    data_dir: Path,
    clusters: Mapping[str, Path] | Path,
    *,
    keeper: Callable[[Store], Keeper] | None = None,
    connector: Connector | None = None,
    settings: SessionSettings = SETTINGS,
    assignments: Mapping[str, Assignment] | None = None,
    paused: bool = False,
) -> AsyncIterator[Rig]:
    """A control plane's agents; leaving it cancels them wherever they are, as a kill would.

    `clusters`: kubeconfigs by name, or that of one cluster. `assignments` of the first cluster stand from the start, as
    after a restart.
    """
    kubeconfigs = {CLUSTER: clusters} if isinstance(clusters, Path) else clusters
    async with await open_store(data_dir, StoreSettings()) as store:
        rig = Rig(store, kubeconfigs, keeper=keeper(store) if keeper else None, connector=connector, settings=settings)
        rig.assignments[rig.cluster].update(assignments or {})
        rig.configure(paused=paused)
        async with anyio.create_task_group() as group:
            group.start_soon(rig.log.run)
            group.start_soon(rig.agents.run)
            yield rig
            group.cancel_scope.cancel()


def manifests(*bodies: dict[str, Any], bundle: str = BUNDLE) -> ManifestSet:
    made = [
        normalize.manifest(normalize.stamp(normalize.normalize(body), fleet=FLEET, bundle=bundle)) for body in bodies
    ]
    return normalize.manifest_set(made)


def as_json(body: dict[str, Any]) -> str:
    return json.dumps(body)


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": dict(data),
    }


def namespace_object(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def secret(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": dict(data),
    }


def service(namespace: str, name: str, port: int = 80) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port}]},
    }


def deployment(
    namespace: str, name: str, image: str = "nginx:1.25", replicas: int = 2, **container: Any
) -> dict[str, Any]:
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
                "spec": {"containers": [{"name": "app", "image": image} | container]},
            },
        },
    }


def definition(group: str, plural: str, kind: str, *, scope: str = "Namespaced", **versions: Any) -> dict[str, Any]:
    """A CRD whose versions have these schemas below `spec` (properties); the first is stored, all are served."""
    listed = versions or {"v1": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": name,
                    "served": True,
                    "storage": number == 0,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": _schema(properties)},
                }
                for number, (name, properties) in enumerate(listed.items())
            ],
        },
    }


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    open_object: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    spec = {"type": "object", "properties": properties} if properties else open_object
    return {"type": "object", "properties": {"spec": spec, "status": open_object}}
