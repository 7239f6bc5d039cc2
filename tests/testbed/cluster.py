"""Kubernetes clusters on loopback: started in parallel, talked to, broken on purpose, ended.

A cluster is etcd and kube-apiserver; with `controllers` also kube-controller-manager, kube-scheduler and kwok with
simulated nodes, so that Deployments become Available (manifests/stages.yaml says how Pods behave). It is used from
synchronous code; everything it starts belongs to the reaper.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import yaml

from tests.testbed import access, build, components, ports, processes
from tests.testbed.access import Access
from tests.testbed.api import Api, Json
from tests.testbed.audit import AuditLog
from tests.testbed.build import Binaries
from tests.testbed.certs import Authority, signing_key
from tests.testbed.components import Argv, Layout, Ports
from tests.testbed.errors import ApiFailed, PortTaken, TestbedError
from tests.testbed.processes import Process

READY_SECONDS = 120  # generous: a machine may be busy with other clusters
_PORT_TRIES = 4
_MASTERS = ("system:masters",)
_COMPONENT_USERS = ("system:kube-controller-manager", "system:kube-scheduler", "testbed:kwok")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster is made of: with or without controllers and their nodes, further flags of kube-apiserver."""

    controllers: bool = True
    nodes: int = 2
    apiserver_flags: tuple[str, ...] = ()


class Cluster:
    """One cluster. `start_clusters` makes them.

    `access` mints further kubeconfigs, `api` is an administrator's client, `audit` counts what the API server was
    asked.
    """

    def __init__(self, name: str, directory: Path, binaries: Binaries, shape: Shape) -> None:
        self.name = name
        self.directory = directory
        self.shape = shape
        self._binaries = binaries
        self._layout = Layout(directory)
        self._authority = Authority(f"{name} CA")
        self._processes: dict[str, Process] = {}
        self._ports = Ports(0, 0, 0)
        self.access = Access(name, self._layout, self._authority, 0)
        self.api: Api
        self.audit: AuditLog

    # what a client needs

    @property
    def url(self) -> str:
        return self.access.url

    @property
    def port(self) -> int:
        return self._ports.apiserver

    @property
    def ca(self) -> Path:
        """The PEM file of the only authority to trust for this cluster."""
        return self._layout.pki / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig with a client certificate; its context has the cluster's name."""
        return self._layout.kubeconfig(access.ADMIN)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate for a user who may do only what RBAC grants."""
        return self.access.certificate(user, groups)

    def service_account_token(self, namespace: str, name: str, *, seconds: int = 3600) -> str:
        """A bearer token of a ServiceAccount, which is created if it is missing."""
        return access.service_account_token(self.api, namespace, name, seconds=seconds)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 30) -> str:
        """kubectl as administrator; its stdout. Raises KubectlFailed, TestbedError after `timeout` seconds."""
        return access.kubectl(self._binaries["kubectl"], self.kubeconfig, *arguments, stdin=stdin, timeout=timeout)

    def create_namespace(self, name: str) -> None:
        """Creates it unless it exists."""
        with contextlib.suppress(ApiFailed):
            self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.api.get(f"/api/v1/namespaces/{name}")

    def processes(self) -> dict[str, Process]:
        """What runs for this cluster now, by program."""
        return dict(self._processes)

    # faults

    def pause_apiserver(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._processes["kube-apiserver"].pause()

    def resume_apiserver(self) -> None:
        self._processes["kube-apiserver"].resume()

    def kill_apiserver(self) -> None:
        """SIGKILL: connections are reset, new ones refused."""
        self._processes["kube-apiserver"].kill()

    def restart_apiserver(self, *, keep_data: bool = True) -> None:
        """Kills the API server if it runs and starts it on the same port; back when it is ready.

        Without `keep_data` the cluster comes back empty, as after a restore of nothing: same address and certificates,
        all objects gone, resource versions begin anew.
        """
        self.kill_apiserver()
        if not keep_data:
            for name in (*self._controllers(), "etcd"):
                self._processes[name].kill()
            shutil.rmtree(self._layout.data)
            self._start_etcd()
        self._start_apiserver()
        if not keep_data:
            self._start_controllers()

    def compact_etcd(self) -> int:
        """Discards the history of etcd up to now; returns the revision.

        A list that continues from before gets 410 at once. A watch from before is still served from the API server's
        cache: restart it, too, when a watch is to get 410.
        """
        revision = int(self._etcd("/v3/maintenance/status", {})["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def ensure_running(self) -> None:
        """Resumes or restarts whatever a test left paused or dead."""
        dead = {name for name, process in self._processes.items() if not process.alive()}
        for process in self._processes.values():
            process.resume()
        if "etcd" in dead:
            self._start_etcd()
        if "kube-apiserver" in dead:
            self._start_apiserver()
        for name, argv in self._controllers().items():
            if name in dead:
                self._spawn(name, argv)
        self._processes["kube-apiserver"].wait_ready(self.api.ready, READY_SECONDS)

    def close(self) -> None:
        """Kills everything that runs for this cluster."""
        for name in (*self._controllers(), "kube-apiserver", "etcd"):
            process = self._processes.pop(name, None)
            if process is not None:
                process.kill()

    # starting

    def start(self) -> None:
        """Starts everything; back when it is ready. Raises NotReady, TestbedError."""
        self._layout.pki.mkdir(parents=True)
        self._write_keys()
        for attempt in range(_PORT_TRIES):
            self._ports = Ports(*ports.free(3))
            try:
                self._start_control_plane()
                break
            except PortTaken:
                self.close()
                shutil.rmtree(self._layout.data, ignore_errors=True)
                if attempt == _PORT_TRIES - 1:
                    raise
        self._start_controllers()

    def _write_keys(self) -> None:
        pki = self._layout.pki
        self.ca.write_bytes(self._authority.certificate)
        self._authority.server(("localhost", "kubernetes.default.svc"), ("127.0.0.1", "10.0.0.1")).write(
            pki, "apiserver"
        )
        private, public = signing_key()
        (pki / "service-account.key").touch(mode=0o600)
        (pki / "service-account.key").write_bytes(private)
        (pki / "service-account.pub").write_bytes(public)

    def _start_control_plane(self) -> None:
        self.access = Access(self.name, self._layout, self._authority, self._ports.apiserver)
        self.access.certificate(access.ADMIN, _MASTERS)
        self.api = self.access.api(access.ADMIN, _MASTERS)
        self.audit = AuditLog(self._layout.audit, self._probe)
        self._start_etcd()
        self._start_apiserver()

    def _start_etcd(self) -> None:
        etcd = self._spawn("etcd", components.etcd(self._binaries, self._layout, self._ports))
        etcd.wait_ready(partial(ports.listening, self._ports.etcd), READY_SECONDS)

    def _start_apiserver(self) -> None:
        apiserver = self._spawn(
            "kube-apiserver",
            components.apiserver(self._binaries, self._layout, self._ports, self.shape.apiserver_flags),
        )
        apiserver.wait_ready(self.api.ready, READY_SECONDS)

    def _controllers(self) -> dict[str, Argv]:
        if not self.shape.controllers:
            return {}
        return {
            "kwok": components.kwok(self._binaries, self._layout),
            "kube-scheduler": components.scheduler(self._binaries, self._layout),
            "kube-controller-manager": components.controller_manager(self._binaries, self._layout),
        }

    def _start_controllers(self) -> None:
        if not self.shape.controllers:
            return
        for user in _COMPONENT_USERS:
            self.access.certificate(user, _MASTERS)
        storage = yaml.safe_load((components.MANIFESTS / "storage-class.yaml").read_text())
        self.api.create("/apis/storage.k8s.io/v1/storageclasses", storage)
        names = [f"node-{number}" for number in range(1, self.shape.nodes + 1)]
        for node in names:
            self.api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        for name, argv in self._controllers().items():
            self._spawn(name, argv)
        for node in names:
            self.api.wait(f"/api/v1/nodes/{node}", _schedulable, seconds=READY_SECONDS)

    def _spawn(self, name: str, argv: Argv) -> Process:
        process = processes.launcher().spawn(name, argv, self.directory)
        self._processes[name] = process
        record = {each.name: {"pid": each.pid, "started": each.started} for each in self._processes.values()}
        (self.directory / "processes.json").write_text(json.dumps(record, indent=2) + "\n")
        return process

    def _probe(self, user_agent: str) -> None:
        self.access.api(access.ADMIN, _MASTERS, user_agent=user_agent).get("/version")

    def _etcd(self, path: str, body: dict[str, Any]) -> Json:
        request = urllib.request.Request(f"http://127.0.0.1:{self._ports.etcd}{path}", json.dumps(body).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            decoded: Json = json.load(answer)
            return decoded


class Clusters(Sequence[Cluster]):
    """Running clusters, by position; grows on demand, ends as a context manager or with `close`."""

    def __init__(self, directory: Path, binaries: Binaries, shape: Shape) -> None:
        self._directory = directory
        self._binaries = binaries
        self._shape = shape
        self._running: list[Cluster] = []

    def named(self, name: str) -> Cluster:
        """Raises KeyError for a name that none has."""
        for cluster in self._running:
            if cluster.name == name:
                return cluster
        raise KeyError(name)

    def ensure(self, count: int) -> list[Cluster]:
        """The first `count` clusters, after starting those that are missing."""
        missing = [f"c{number}" for number in range(len(self._running) + 1, count + 1)]
        self.start(missing)
        return self._running[:count]

    def start(self, names: Sequence[str]) -> list[Cluster]:
        """Starts clusters of these names side by side; back when all are ready.

        When one fails, none of them is left.
        """
        taken = {cluster.name for cluster in self._running}.intersection(names)
        if taken:
            raise TestbedError(f"there is a cluster of that name: {', '.join(sorted(taken))}")
        fresh = [Cluster(name, self._directory / name, self._binaries, self._shape) for name in names]
        if not fresh:
            return []
        try:
            with ThreadPoolExecutor(len(fresh), "testbed-start") as pool:
                list(pool.map(Cluster.start, fresh))
        except BaseException:
            for cluster in fresh:
                cluster.close()
            raise
        self._running += fresh
        return fresh

    def close(self) -> None:
        """Ends all of them; the directory and the logs in it stay."""
        while self._running:
            self._running.pop().close()

    @overload
    def __getitem__(self, index: int) -> Cluster: ...

    @overload
    def __getitem__(self, index: slice) -> list[Cluster]: ...

    def __getitem__(self, index: int | slice) -> Cluster | list[Cluster]:
        return self._running[index]

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Cluster]:
        return iter(self._running)

    def __enter__(self) -> Clusters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start_clusters(
    count: int | Sequence[str],
    directory: Path,
    *,
    controllers: bool = True,
    nodes: int = 2,
    apiserver_flags: Sequence[str] = (),
    binaries: Binaries | None = None,
) -> Clusters:
    """Starts clusters side by side, `count` of them (named c1, c2 …) or one for each name given.

    About 3 s and 320 MiB each, 550 MiB with `controllers`. Their files, logs included, are below `directory`, one
    folder each. Builds the programs when they are not in the cache. Raises PartMissing, BuildFailed, NotReady.
    """
    shape = Shape(controllers, nodes, tuple(apiserver_flags))
    clusters = Clusters(directory.absolute(), binaries or build.binaries("core"), shape)
    if isinstance(count, int):
        clusters.ensure(count)
    else:
        clusters.start(count)
    return clusters


def _schedulable(node: Json) -> bool:
    conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")
