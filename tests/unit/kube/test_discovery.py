"""The catalog of servers that aggregate and of those that do not; what could not be asked is unknown, not absent."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from fleet.errors import Unauthorized, Unavailable
from fleet.kube.discovery import Discovery
from fleet.model.objects import GroupKind, Resource
from tests.unit.kube.conftest import MakeTransport
from tests.unit.kube.server import Reply, Request, serving

pytestmark = pytest.mark.anyio

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def kind(name: str, plural: str, scope: str = "Namespaced") -> dict[str, Any]:
    return {
        "resource": plural,
        "responseKind": {"group": "", "version": "", "kind": name},
        "scope": scope,
        "verbs": ["get", "list", "watch"],
        "subresources": [{"subresource": "status"}],
    }


def group(name: str, *versions: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name} if name else {}, "versions": list(versions)}


def version(name: str, *resources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": name, "resources": list(resources), "freshness": "Current", **more}


CORE = [group("", version("v1", kind("ConfigMap", "configmaps"), kind("Namespace", "namespaces", "Cluster")))]
GROUPS = [
    group(
        "autoscaling",
        version("v2", kind("HorizontalPodAutoscaler", "horizontalpodautoscalers")),
        version("v1", kind("HorizontalPodAutoscaler", "horizontalpodautoscalers"), kind("Old", "olds")),
    ),
    group("metrics.k8s.io", version("v1beta1", freshness="Stale")),
    group("only.sub", version("v1", {"resource": "things", "scope": "Cluster", "verbs": []})),
]


class Aggregating:
    """A server that aggregates; `groups` may be changed, and an etag stands for each state."""

    def __init__(self) -> None:
        self.groups = list(GROUPS)
        self.fetched = 0

    async def __call__(self, request: Request, reply: Reply) -> None:
        assert "APIGroupDiscoveryList" in request.headers["accept"]
        items = CORE if request.path == "/api" else self.groups
        etag = f'"{request.path}{len(items)}"'
        if request.headers.get("if-none-match") == etag:
            await reply.body(b"", 304)
            return
        self.fetched += 1
        await reply.body(msgspec.json.encode({"items": items}), 200, AGGREGATED, ETag=etag)


async def test_kinds_are_found_at_their_versions(transport_to: MakeTransport) -> None:
    async with serving(Aggregating()) as server:
        catalog = await Discovery(transport_to(server.url)).catalog()
    verbs = ("get", "list", "watch")
    assert catalog.find(GroupKind("", "ConfigMap")) == Resource("", "v1", "ConfigMap", "configmaps", True, verbs)
    assert catalog.find(GroupKind("", "Namespace")) == Resource("", "v1", "Namespace", "namespaces", False, verbs)
    scaler = GroupKind("autoscaling", "HorizontalPodAutoscaler")
    preferred, older = catalog.find(scaler), catalog.find(scaler, "v1")
    assert preferred is not None
    assert older is not None
    assert (preferred.version, older.version) == ("v2", "v1")
    assert catalog.find(scaler, "v3") is None
    only_in_v1 = catalog.find(GroupKind("autoscaling", "Old"))
    assert only_in_v1 is not None
    assert only_in_v1.version == "v1"
    assert catalog.find(GroupKind("apps", "ConfigMap")) is None
    assert catalog.find(GroupKind("only.sub", "")) is None


async def test_a_group_whose_server_is_down_is_unknown(transport_to: MakeTransport) -> None:
    async with serving(Aggregating()) as server:
        catalog = await Discovery(transport_to(server.url)).catalog()
    assert catalog.find(GroupKind("metrics.k8s.io", "NodeMetrics")) is None
    assert catalog.unknown("metrics.k8s.io")
    assert not catalog.unknown("autoscaling")
    assert not catalog.unknown("never.heard.of")


async def test_the_catalog_is_cached_until_it_shall_be_fresh(transport_to: MakeTransport) -> None:
    handler = Aggregating()
    async with serving(handler) as server:
        discovery = Discovery(transport_to(server.url))
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(discovery.catalog)
        assert server.paths() == ["/api", "/apis"]
        handler.groups.append(group("new.io", version("v1", kind("New", "news"))))
        assert (await discovery.catalog()).find(GroupKind("new.io", "New")) is None
        assert (await discovery.catalog(refresh=True)).find(GroupKind("new.io", "New")) is not None
        assert (await discovery.catalog()).find(GroupKind("new.io", "New")) is not None
        assert handler.fetched == 3, "/api was answered with 304"
        await discovery.catalog(refresh=True)
        assert handler.fetched == 3


async def test_a_refresh_that_began_before_is_not_fresh_enough(transport_to: MakeTransport) -> None:
    reached, release = anyio.Event(), anyio.Event()
    handler = Aggregating()
    found: list[bool] = []

    async def slow(request: Request, reply: Reply) -> None:
        if request.path == "/apis" and len(server.paths()) == 2:
            before = list(handler.groups)
            reached.set()
            await release.wait()
            await reply.body(msgspec.json.encode({"items": before}), 200, AGGREGATED)
        else:
            await handler(request, reply)

    async def refresh(discovery: Discovery) -> None:
        catalog = await discovery.catalog(refresh=True)
        found.append(catalog.find(GroupKind("new.io", "New")) is not None)

    async with serving(slow) as server:
        discovery = Discovery(transport_to(server.url))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refresh, discovery)
            await reached.wait()
            handler.groups.append(group("new.io", version("v1", kind("New", "news"))))
            for _ in range(5):
                tasks.start_soon(refresh, discovery)
            await anyio.wait_all_tasks_blocked()
            release.set()
        assert found == [False, True, True, True, True, True]
        assert len(server.paths()) == 4, "five callers shared one fetch"


# --- servers that do not aggregate -----------------------------------------------------------------------------------


APPS: dict[str, Any] = {
    "name": "apps",
    "versions": [{"groupVersion": "apps/v1beta1", "version": "v1beta1"}, {"groupVersion": "", "version": "v1"}],
    "preferredVersion": {"version": "v1"},
}
METRICS: dict[str, Any] = {"name": "metrics.k8s.io", "versions": [{"version": "v1beta1"}]}
RESOURCES: dict[str, list[dict[str, Any]]] = {
    "/api/v1": [
        {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["get"]},
        {"name": "pods/eviction", "kind": "Eviction", "namespaced": True, "verbs": ["create"]},
    ],
    "/apis/apps/v1": [{"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": []}],
    "/apis/apps/v1beta1": [{"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": []}],
    "/apis/metrics.k8s.io/v1beta1": [{"name": "nodes", "kind": "NodeMetrics", "namespaced": False, "verbs": []}],
}


class Plain:
    """A server before 1.26; paths in `broken` answer 503, those in `refused` 401."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.gone: set[str] = set()
        self.refused: set[str] = set()

    async def __call__(self, request: Request, reply: Reply) -> None:
        if request.path in self.refused:
            await reply.json({"kind": "Status", "code": 401}, 401)
        elif request.path in self.broken:
            await reply.json({"kind": "Status", "code": 503, "message": "unable to handle the request"}, 503)
        elif request.path in self.gone:
            await reply.body(b"404 page not found\n", 404, "text/plain")
        elif request.path == "/api":
            await reply.json({"kind": "APIVersions", "versions": ["v1"]})
        elif request.path == "/apis":
            await reply.json({"kind": "APIGroupList", "groups": [APPS, METRICS]})
        else:
            await reply.json({"kind": "APIResourceList", "resources": RESOURCES[request.path]})


async def test_older_servers_are_asked_version_by_version(transport_to: MakeTransport) -> None:
    async with serving(Plain()) as server:
        catalog = await Discovery(transport_to(server.url)).catalog()
    assert catalog.find(GroupKind("", "Pod")) == Resource("", "v1", "Pod", "pods", True, ("get",))
    deployment = catalog.find(GroupKind("apps", "Deployment"))
    assert deployment is not None
    assert deployment.version == "v1"
    assert catalog.find(GroupKind("apps", "Deployment"), "v1beta1") is not None
    assert catalog.find(GroupKind("", "Eviction")) is None
    assert not catalog.unknown_groups


async def test_a_group_that_fails_is_unknown_and_the_others_are_there(transport_to: MakeTransport) -> None:
    handler = Plain()
    handler.broken.add("/apis/metrics.k8s.io/v1beta1")
    handler.gone.add("/apis/apps/v1beta1")
    async with serving(handler) as server:
        catalog = await Discovery(transport_to(server.url)).catalog()
    assert catalog.find(GroupKind("metrics.k8s.io", "NodeMetrics")) is None
    assert catalog.unknown("metrics.k8s.io")
    assert catalog.find(GroupKind("apps", "Deployment")) is not None
    assert not catalog.unknown("apps"), "a version that is gone was answered"


async def test_refused_credentials_are_one_error(transport_to: MakeTransport) -> None:
    handler = Plain()
    handler.refused |= {"/apis/apps/v1", "/apis/metrics.k8s.io/v1beta1"}
    async with serving(handler) as server:
        with pytest.raises(Unauthorized):
            await Discovery(transport_to(server.url)).catalog()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"versions":7}', b""])
async def test_what_is_no_discovery_document_makes_no_catalog(transport_to: MakeTransport, body: bytes) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(body, content_type="application/json")

    async with serving(handler) as server:
        discovery = Discovery(transport_to(server.url))
        with pytest.raises(Unavailable):
            await discovery.catalog()


async def test_a_failed_refresh_keeps_what_is_known(transport_to: MakeTransport) -> None:
    handler = Aggregating()
    async with serving(handler) as server:
        discovery = Discovery(transport_to(server.url))
        known = await discovery.catalog()

        async def down(request: Request, reply: Reply) -> None:
            await reply.body(b"", 503)

        server.handler = down
        with pytest.raises(Unavailable):
            await discovery.catalog(refresh=True)
        assert await discovery.catalog() is known
