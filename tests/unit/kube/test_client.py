"""Each verb as it goes over the wire, and how a cluster of fleet.yaml becomes a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fleet.errors import FleetError, InvalidInput, NotFound, Rejected, Unavailable
from fleet.kube.client import KubeClient
from fleet.kube.connect import KubeConnector
from fleet.model.fleetfile import Cluster, KubeconfigRef
from fleet.model.objects import ObjectId, Resource
from tests.unit.kube.conftest import QUICK, MakeTransport
from tests.unit.kube.server import Reply, Request, serving

pytestmark = pytest.mark.anyio

DEPLOYMENTS = Resource("apps", "v1", "Deployment", "deployments", True)
NODES = Resource("", "v1", "Node", "nodes", False)
OBJECT: dict[str, Any] = {"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5"}}
PATH = "/apis/apps/v1/namespaces/n/deployments"

Verb = Callable[[KubeClient], Awaitable[object]]


async def echo(request: Request, reply: Reply) -> None:
    await reply.json(OBJECT)


@pytest.fixture
def client_of(transport_to: MakeTransport) -> Callable[[str], KubeClient]:
    return lambda url: KubeClient(transport_to(url), anyio.CapacityLimiter(1))


VERBS: list[Any] = [
    pytest.param(
        lambda client: client.apply(DEPLOYMENTS, b"{}", namespace="n", name="a", manager="m"),
        ("PATCH", f"{PATH}/a", {"fieldManager": "m", "force": "true"}, "application/apply-patch+yaml"),
        id="apply",
    ),
    pytest.param(
        lambda client: client.apply(
            DEPLOYMENTS, b"{}", namespace="n", name="a", manager="m", force=False, dry_run=True
        ),
        (
            "PATCH",
            f"{PATH}/a",
            {"fieldManager": "m", "force": "false", "dryRun": "All"},
            "application/apply-patch+yaml",
        ),
        id="dry-run",
    ),
    pytest.param(
        lambda client: client.merge_patch(DEPLOYMENTS, "n", "a", b"{}", manager="m"),
        ("PATCH", f"{PATH}/a", {"fieldManager": "m"}, "application/merge-patch+json"),
        id="merge patch",
    ),
    pytest.param(lambda client: client.get(DEPLOYMENTS, "n", "a"), ("GET", f"{PATH}/a", {}, None), id="get"),
    pytest.param(
        lambda client: client.create(DEPLOYMENTS, "n", b"{}", manager="m"),
        ("POST", PATH, {"fieldManager": "m"}, "application/json"),
        id="create",
    ),
    pytest.param(
        lambda client: client.replace(DEPLOYMENTS, "n", "a", b"{}", manager="m"),
        ("PUT", f"{PATH}/a", {"fieldManager": "m"}, "application/json"),
        id="replace",
    ),
    pytest.param(lambda client: client.get(NODES, "", "a:b"), ("GET", "/api/v1/nodes/a:b", {}, None), id="cluster"),
]


@pytest.mark.parametrize(("verb", "wire"), VERBS)
async def test_verbs(
    client_of: Callable[[str], KubeClient], verb: Verb, wire: tuple[str, str, dict[str, str], str | None]
) -> None:
    async with serving(echo) as server:
        live = await verb(client_of(server.url))
    request = server.requests[0]
    assert (request.method, request.path, request.query, request.headers.get("content-type")) == wire
    assert getattr(live, "raw", None) == msgspec.json.encode(OBJECT)
    id_ = getattr(live, "id", None)
    assert isinstance(id_, ObjectId)
    assert (id_.namespace, id_.name) == ("n", "a")


async def test_delete_names_exactly_one_state_of_one_object(client_of: Callable[[str], KubeClient]) -> None:
    async with serving(echo) as server:
        await client_of(server.url).delete(DEPLOYMENTS, "n", "a", uid="u", resource_version="5")
    request = server.requests[0]
    assert (request.method, request.path) == ("DELETE", f"{PATH}/a")
    assert request.json()["preconditions"] == {"uid": "u", "resourceVersion": "5"}
    assert request.json()["propagationPolicy"] == "Background"


async def test_version_and_access(client_of: Callable[[str], KubeClient]) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if request.path == "/version":
            await reply.json({"major": "1", "gitVersion": "v1.36.3"})
        else:
            attributes = request.json()["spec"]["resourceAttributes"]
            await reply.json({"status": {"allowed": attributes["verb"] == "list" and attributes["namespace"] == "n"}})

    async with serving(handler) as server:
        client = client_of(server.url)
        assert await client.version() == "v1.36.3"
        assert await client.allowed("list", DEPLOYMENTS, "n")
        assert not await client.allowed("patch", DEPLOYMENTS, "n")
    assert server.requests[1].json()["spec"]["resourceAttributes"] == {
        "verb": "list",
        "group": "apps",
        "version": "v1",
        "resource": "deployments",
        "namespace": "n",
    }


@pytest.mark.parametrize(
    "verb",
    [
        lambda client: client.version(),
        lambda client: client.allowed("get", NODES),
        lambda client: client.get(NODES, "", "a"),
        lambda client: client.discover(),
    ],
)
@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b""])
async def test_a_success_that_is_no_answer_of_an_api_server(
    client_of: Callable[[str], KubeClient], verb: Verb, body: bytes
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(body, 200, "application/json")

    async with serving(handler) as server:
        with pytest.raises(Unavailable):
            await verb(client_of(server.url))


@pytest.mark.parametrize(("namespace", "name"), [("..", "a"), ("n", ".."), ("n", "a/b"), ("n/x", "a"), ("n", "%2e")])
async def test_a_name_leads_nowhere_else(client_of: Callable[[str], KubeClient], namespace: str, name: str) -> None:
    async with serving(echo) as server:
        with pytest.raises(Rejected, match="cannot be a name") as caught:
            await client_of(server.url).get(DEPLOYMENTS, namespace, name)
    assert caught.value.kind == "definite"
    assert server.requests == []


# --- connecting ------------------------------------------------------------------------------------------------------


def kubeconfig(url: str, token: str = "t") -> bytes:
    return msgspec.json.encode(
        {
            "current-context": "a",
            "contexts": [
                {"name": "a", "context": {"cluster": "a", "user": "a"}},
                {"name": "b", "context": {"cluster": "a", "user": "b"}},
            ],
            "clusters": [{"name": "a", "cluster": {"server": url}}],
            "users": [{"name": "a", "user": {"token": token}}, {"name": "b", "user": {"token": "other"}}],
        }
    )


async def test_by_path_and_context_and_by_secret(tmp_path: Path) -> None:
    connector = KubeConnector(QUICK)
    file = tmp_path / "config"
    async with serving(echo) as server:
        file.write_bytes(kubeconfig(server.url))
        by_path = Cluster("qa", kubeconfig=KubeconfigRef(path=str(file), context="b"))
        by_secret = Cluster("prod", secret_ref="s")
        for cluster in (by_path, by_secret):
            client = await connector.connect(cluster, {"s": kubeconfig(server.url)})
            await client.get(NODES, "", "a")
            await client.aclose()
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer other", "Bearer t"]


async def test_a_kubeconfig_from_git_runs_no_program(tmp_path: Path) -> None:
    file = tmp_path / "exports" / "config"
    file.parent.mkdir()
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "evil"}}
    plain = msgspec.json.decode(kubeconfig("http://127.0.0.1:1"))
    file.write_bytes(msgspec.json.encode({**plain, "users": [{"name": "a", "user": user}]}))
    cluster = Cluster("qa", kubeconfig=KubeconfigRef(path=str(file), context="a"))
    with pytest.raises(InvalidInput, match="exec plugin is refused"):
        await KubeConnector(QUICK, tmp_path).connect(cluster, {})
    await (await KubeConnector(QUICK, tmp_path / "elsewhere").connect(cluster, {})).aclose()


async def test_a_kubeconfig_that_is_rewritten_is_read_again_when_it_is_refused(tmp_path: Path) -> None:
    valid = "old"

    async def handler(request: Request, reply: Reply) -> None:
        if request.headers["authorization"] == f"Bearer {valid}":
            await reply.json(OBJECT)
        else:
            await reply.json({"kind": "Status", "code": 401}, 401)

    file = tmp_path / "config"
    async with serving(handler) as server:
        file.write_bytes(kubeconfig(server.url, "old"))
        client = await KubeConnector(QUICK).connect(Cluster("qa", kubeconfig=KubeconfigRef(path=str(file))), {})
        await client.get(NODES, "", "a")
        file.write_bytes(kubeconfig(server.url, "new"))
        valid = "new"
        await client.get(NODES, "", "a")
        await client.aclose()
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer old",
        "Bearer old",
        "Bearer new",
    ]


@pytest.mark.parametrize(
    ("cluster", "error", "message"),
    [
        (Cluster("qa", secret_ref="s"), NotFound, "no secret s"),
        (Cluster("qa"), InvalidInput, "no kubeconfig"),
        (Cluster("qa", kubeconfig=KubeconfigRef(path="/nowhere/config")), InvalidInput, "cannot read"),
        (Cluster("qa", in_cluster=True), InvalidInput, "not running in a Pod"),
    ],
)
async def test_what_cannot_be_connected(
    cluster: Cluster, error: type[FleetError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(error, match=message):
        await KubeConnector(QUICK).connect(cluster, {})
