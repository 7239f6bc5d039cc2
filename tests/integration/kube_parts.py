"""What the tests of `fleet.kube` against real API servers share: a client of a cluster, manifests, kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute

from fleet.kube.bounds import Bounds
from fleet.kube.client import KubeClient
from fleet.kube.connect import KubeConnector
from fleet.model import fleetfile
from fleet.model.objects import GroupKind, Resource
from tests.testbed.cluster import Cluster

MANAGER = "fleet-test"
CONFIGMAPS = Resource("", "v1", "ConfigMap", "configmaps", True)
SECRETS = Resource("", "v1", "Secret", "secrets", True)
SERVICES = Resource("", "v1", "Service", "services", True)
DEPLOYMENTS = Resource("apps", "v1", "Deployment", "deployments", True)
JOBS = Resource("batch", "v1", "Job", "jobs", True)
NAMESPACES = Resource("", "v1", "Namespace", "namespaces", False)
CRDS = Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False)


@asynccontextmanager
async def connected(kubeconfig: Path, bounds: Bounds | None = None) -> AsyncIterator[KubeClient]:
    """A client for the current context of a kubeconfig, closed at the end."""
    reference = fleetfile.KubeconfigRef(path=str(kubeconfig))
    client = await KubeConnector(bounds).connect(fleetfile.Cluster("real", kubeconfig=reference), {})
    try:
        yield client
    finally:
        await client.aclose()


async def found(client: KubeClient, kind: GroupKind) -> Resource:
    """The resource of a kind once its CRD is established."""
    for _ in range(300):
        resource = (await client.discover(refresh=True)).find(kind)
        if resource is not None:
            return resource
        await anyio.sleep(0.1)
    raise AssertionError(f"{kind} is not discovered")


class Gateway:
    """A TCP forwarder in front of an API server, which can cut off those who come through it."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._open = True
        self._streams: set[ByteStream] = set()

    async def cut(self) -> None:
        """Ends every connection, and each further one at once."""
        self._open = False
        for stream in list(self._streams):
            await anyio.aclose_forcefully(stream)

    def restore(self) -> None:
        self._open = True

    async def forward(self, near: ByteStream) -> None:
        async with near:
            if not self._open:
                return
            async with await anyio.connect_tcp("127.0.0.1", self._target) as far:
                self._streams |= {near, far}
                try:
                    async with anyio.create_task_group() as both:
                        both.start_soon(_pump, near, far)
                        both.start_soon(_pump, far, near)
                finally:
                    self._streams -= {near, far}


async def _pump(source: ByteStream, sink: ByteStream) -> None:
    try:
        async for data in source:
            await sink.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    finally:
        await anyio.aclose_forcefully(sink)


@asynccontextmanager
async def gateway(cluster: Cluster, directory: Path) -> AsyncIterator[tuple[Gateway, Path]]:
    """A gateway, and an administrator's kubeconfig that leads through it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    made = Gateway(listener.extra(SocketAttribute.local_port), cluster.port)
    kubeconfig = directory / "through-the-gateway"
    kubeconfig.write_text(cluster.kubeconfig.read_text().replace(f":{cluster.port}", f":{made.port}"))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, made.forward)
        yield made, kubeconfig
        tasks.cancel_scope.cancel()


def body(resource: Resource, name: str, namespace: str = "", **parts: Any) -> bytes:
    """A manifest as JSON; `metadata` in `parts` is merged into name and namespace."""
    metadata: dict[str, Any] = {"name": name, **parts.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    return msgspec.json.encode({"apiVersion": version, "kind": resource.kind, "metadata": metadata, **parts})


def pods(image: str = "app:1") -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "app", "image": image, "resources": {"requests": {"cpu": "1000m"}}}]},
    }


def deployment(**spec: Any) -> Mapping[str, Any]:
    return {"selector": {"matchLabels": {"app": "a"}}, "template": pods(), **spec}


def widgets(group: str, *, scope: str = "Namespaced") -> bytes:
    """A CustomResourceDefinition of Widgets in a group of the test's own."""
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    return body(
        CRDS,
        f"widgets.{group}",
        spec={
            "group": group,
            "scope": scope,
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    )
