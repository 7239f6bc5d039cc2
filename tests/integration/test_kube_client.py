"""The verbs against a real kube-apiserver: what it answers, what it refuses, and as which kind of error that comes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fleet.errors import NotFound, Rejected, Unauthorized
from fleet.kube.client import KubeClient
from fleet.model.objects import GroupKind, LiveObject, Resource
from tests.integration.kube_parts import (
    CONFIGMAPS,
    CRDS,
    DEPLOYMENTS,
    JOBS,
    MANAGER,
    NAMESPACES,
    SECRETS,
    SERVICES,
    body,
    connected,
    deployment,
    found,
    pods,
    widgets,
)
from tests.testbed.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture
async def client(kube_cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with connected(kube_cluster.kubeconfig) as connection:
        yield connection


async def apply(
    client: KubeClient, resource: Resource, name: str, namespace: str, manifest: bytes, **options: Any
) -> LiveObject:
    return await client.apply(
        resource, manifest, namespace=namespace, name=name, manager=options.pop("manager", MANAGER), **options
    )


async def refusal(
    client: KubeClient, resource: Resource, name: str, namespace: str, manifest: bytes, **options: Any
) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await apply(client, resource, name, namespace, manifest, **options)
    return caught.value


# --- writing ---------------------------------------------------------------------------------------------------------


async def test_apply_creates_then_changes_then_does_nothing(client: KubeClient, namespace: str) -> None:
    first = await apply(client, DEPLOYMENTS, "a", namespace, body(DEPLOYMENTS, "a", namespace, spec=deployment()))
    second = await apply(
        client, DEPLOYMENTS, "a", namespace, body(DEPLOYMENTS, "a", namespace, spec=deployment(replicas=0))
    )
    assert first.meta.uid == second.meta.uid
    assert (first.meta.generation, second.meta.generation) == (1, 2)
    assert second.id.name == "a"
    assert msgspec.json.decode(second.raw)["spec"]["replicas"] == 0
    third = await apply(
        client, DEPLOYMENTS, "a", namespace, body(DEPLOYMENTS, "a", namespace, spec=deployment(replicas=0))
    )
    assert third.meta.generation == 2
    managers = {entry.manager: entry for entry in third.meta.managed_fields or ()}
    assert managers[MANAGER].operation == "Apply"
    assert b"f:replicas" in bytes(managers[MANAGER].fields_v1)


async def test_an_apply_of_the_same_is_no_write(client: KubeClient, namespace: str) -> None:
    manifest = body(CONFIGMAPS, "a", namespace, data={"k": "1"})
    first, second = [await apply(client, CONFIGMAPS, "a", namespace, manifest) for _ in range(2)]
    assert first.raw == second.raw


async def test_a_dry_run_answers_and_writes_nothing(client: KubeClient, kube_cluster: Cluster, namespace: str) -> None:
    live = await apply(client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace, data={"k": "1"}))
    answer = await apply(
        client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace, data={"k": "2"}), dry_run=True
    )
    assert msgspec.json.decode(answer.raw)["data"] == {"k": "2"}
    after = await client.get(CONFIGMAPS, namespace, "a")
    assert after.meta.resource_version == live.meta.resource_version
    kube_cluster.audit.sync()
    assert kube_cluster.audit.count(namespace=namespace, resource="configmaps", verb="patch", dry_run=True) == 1


async def test_the_user_agent_is_ours(client: KubeClient, kube_cluster: Cluster, namespace: str) -> None:
    await apply(client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace))
    kube_cluster.audit.sync()
    requests = kube_cluster.audit.requests(namespace=namespace, resource="configmaps", verb="patch")
    assert [request.user_agent.partition("/")[0] for request in requests] == ["fleet"]


async def test_create_replace_patch_delete(client: KubeClient, namespace: str) -> None:
    manifest = body(CONFIGMAPS, "a", namespace, data={"k": "1"})
    made = await client.create(CONFIGMAPS, namespace, manifest, manager=MANAGER)
    with pytest.raises(Rejected) as exists:
        await client.create(CONFIGMAPS, namespace, manifest, manager=MANAGER)
    assert (exists.value.kind, exists.value.reason) == ("conflict", "AlreadyExists")

    versioned = {"resourceVersion": made.meta.resource_version}
    replaced = await client.replace(
        CONFIGMAPS, namespace, "a", body(CONFIGMAPS, "a", namespace, metadata=versioned), manager=MANAGER
    )
    with pytest.raises(Rejected) as stale:
        await client.replace(
            CONFIGMAPS, namespace, "a", body(CONFIGMAPS, "a", namespace, metadata=versioned), manager=MANAGER
        )
    assert stale.value.kind == "conflict"

    patched = await client.merge_patch(CONFIGMAPS, namespace, "a", b'{"data":{"k":"2"}}', manager="other")
    assert msgspec.json.decode(patched.raw)["data"] == {"k": "2"}
    for uid, version in (
        ("00000000-0000-0000-0000-000000000000", patched.meta.resource_version),
        (made.meta.uid, replaced.meta.resource_version),
    ):
        with pytest.raises(Rejected) as precondition:
            await client.delete(CONFIGMAPS, namespace, "a", uid=uid, resource_version=version)
        assert precondition.value.kind == "conflict"
    await client.delete(CONFIGMAPS, namespace, "a", uid=made.meta.uid, resource_version=patched.meta.resource_version)
    with pytest.raises(NotFound, match='"a" not found'):
        await client.get(CONFIGMAPS, namespace, "a")
    with pytest.raises(NotFound):
        await client.delete(CONFIGMAPS, namespace, "a", uid=made.meta.uid, resource_version="1")


# --- refusals of an apply --------------------------------------------------------------------------------------------


async def test_a_field_of_another_manager_is_a_conflict_unless_forced(client: KubeClient, namespace: str) -> None:
    theirs, ours = (body(CONFIGMAPS, "a", namespace, data={"k": value}) for value in ("theirs", "ours"))
    await apply(client, CONFIGMAPS, "a", namespace, theirs, manager="somebody")
    error = await refusal(client, CONFIGMAPS, "a", namespace, ours, force=False)
    assert error.kind == "conflict"
    assert "somebody" in str(error)
    live = await apply(client, CONFIGMAPS, "a", namespace, ours)
    assert msgspec.json.decode(live.raw)["data"] == {"k": "ours"}


async def test_the_uid_of_another_object_is_a_conflict(client: KubeClient, namespace: str) -> None:
    other = {"uid": str(uuid.uuid4())}
    manifest = body(CONFIGMAPS, "a", namespace, metadata=other)
    absent = await refusal(client, CONFIGMAPS, "a", namespace, manifest)
    await apply(client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace))
    recreated = await refusal(client, CONFIGMAPS, "a", namespace, manifest)
    assert (absent.kind, recreated.kind) == ("conflict", "conflict")


PORT = {"name": "http", "port": 80}
HEADLESS = {"ports": [PORT], "clusterIP": "None", "ipFamilyPolicy": "SingleStack"}
DUPLICATED = {"selector": {"app": "a"}, "ports": [PORT, {"name": "http", "port": 81}]}
OTHER_PODS = {**pods(), "metadata": {"labels": {"app": "b"}}}


def job(image: str) -> dict[str, Any]:
    template = pods(image)
    return {"template": {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}}


@pytest.mark.parametrize(
    ("resource", "spec", "kind"),
    [
        pytest.param(DEPLOYMENTS, {"spec": deployment(replicas=-1)}, "definite", id="invalid value"),
        pytest.param(DEPLOYMENTS, {"spec": deployment(replcias=1)}, "definite", id="unknown field"),
        pytest.param(DEPLOYMENTS, {"spec": deployment(replicas="three")}, "definite", id="wrong type"),
        pytest.param(CONFIGMAPS, {"metadata": {"labels": {"a": 7}}}, "definite", id="numeric label"),
        pytest.param(
            SERVICES, {"spec": {"ports": [{"port": 53, "protocol": "UDP"}] * 2}}, "definite", id="duplicate key"
        ),
        pytest.param(SERVICES, {"spec": DUPLICATED}, "duplicate", id="duplicate name"),
        pytest.param(CONFIGMAPS, {"data": {"k": "x" * 1_100_000}}, "definite", id="too large"),
    ],
)
async def test_a_manifest_that_is_wrong(
    client: KubeClient, namespace: str, resource: Resource, spec: dict[str, Any], kind: str
) -> None:
    error = await refusal(client, resource, "a", namespace, body(resource, "a", namespace, **spec))
    assert error.kind == kind, error.message
    assert len(error.message) <= 2001


@pytest.mark.parametrize(
    ("resource", "before", "after"),
    [
        pytest.param(JOBS, {"spec": job("app:1")}, {"spec": job("app:2")}, id="template"),
        pytest.param(SERVICES, {"spec": HEADLESS}, {"spec": {**HEADLESS, "clusterIP": "10.0.0.77"}}, id="address"),
        pytest.param(CONFIGMAPS, {"immutable": True}, {"immutable": True, "data": {"k": "2"}}, id="immutable"),
        pytest.param(
            DEPLOYMENTS,
            {"spec": deployment()},
            {"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": OTHER_PODS}},
            id="selector",
        ),
    ],
)
async def test_a_field_that_cannot_change(
    client: KubeClient, namespace: str, resource: Resource, before: dict[str, Any], after: dict[str, Any]
) -> None:
    await apply(client, resource, "a", namespace, body(resource, "a", namespace, **before))
    error = await refusal(client, resource, "a", namespace, body(resource, "a", namespace, **after))
    assert (error.kind, error.status) == ("immutable", 422), error.message


async def test_a_kind_that_is_not_served(client: KubeClient, namespace: str) -> None:
    for resource in (
        Resource("nowhere.example", "v1", "Thing", "things", True),
        Resource("apps", "v7", "Deployment", "deployments", True),
        Resource("apps", "v1", "Thing", "things", True),
    ):
        error = await refusal(client, resource, "a", namespace, body(resource, "a", namespace))
        assert error.kind == "unserved", resource
        with pytest.raises(Rejected) as caught:
            await client.get(resource, namespace, "a")
        assert caught.value.kind == "unserved"


async def test_a_namespace_that_is_missing_or_goes_away(
    client: KubeClient, kube_cluster: Cluster, namespace: str
) -> None:
    with pytest.raises(NotFound, match="absent"):
        await apply(client, CONFIGMAPS, "a", "absent", body(CONFIGMAPS, "a", "absent"))
    doomed = f"{namespace}-2"
    finalizer = {"finalizers": ["fleet.example/hold"]}
    await apply(client, NAMESPACES, doomed, "", body(NAMESPACES, doomed))
    held = await apply(client, CONFIGMAPS, "held", doomed, body(CONFIGMAPS, "held", doomed, metadata=finalizer))
    live = await client.get(NAMESPACES, "", doomed)
    await client.delete(NAMESPACES, "", doomed, uid=live.meta.uid, resource_version=live.meta.resource_version)
    error = await refusal(client, CONFIGMAPS, "a", doomed, body(CONFIGMAPS, "a", doomed))
    assert error.kind == "terminating"
    await client.merge_patch(CONFIGMAPS, doomed, "held", b'{"metadata":{"finalizers":null}}', manager="test")
    assert held.meta.uid


async def test_the_value_of_a_secret_is_in_no_error(client: KubeClient, namespace: str) -> None:
    canary = "canary-in-a-secret"
    for parts in ({"data": {"k": canary}}, {"data": {"k": [canary]}}, {"data": {canary: "eA=="}, "type": 7}):
        error = await refusal(client, SECRETS, "a", namespace, body(SECRETS, "a", namespace, **parts))
        assert canary not in str(error)
        assert canary not in repr(vars(error))


# --- rights ----------------------------------------------------------------------------------------------------------


async def test_rights_that_are_missing_are_named(kube_cluster: Cluster, namespace: str) -> None:
    async with connected(kube_cluster.kubeconfig_for("nobody")) as client:
        error = await refusal(client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace))
        assert error.kind == "forbidden"
        assert 'cannot patch resource "configmaps"' in str(error)
        assert not await client.allowed("patch", CONFIGMAPS, namespace)
        with pytest.raises(Rejected) as caught:
            await client.get(DEPLOYMENTS, namespace, "a")
        assert caught.value.kind == "forbidden"


async def test_an_administrator_may(client: KubeClient, namespace: str) -> None:
    assert await client.allowed("patch", CONFIGMAPS, namespace)
    assert await client.allowed("list", CRDS)


# --- credentials -----------------------------------------------------------------------------------------------------


async def test_a_token_a_token_file_and_a_plugin(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    token = kube_cluster.service_account_token(namespace, "fleet")
    file = tmp_path / "token"
    file.write_text(token + "\n")
    plugin = tmp_path / "plugin"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    plugin.write_text(f"#!/bin/sh\ncat <<'EOF'\n{msgspec.json.encode(credential).decode()}\nEOF\n")
    plugin.chmod(0o700)
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    for kubeconfig in (
        kube_cluster.access.token("by-token", token),
        kube_cluster.access.user("by-file", {"tokenFile": str(file)}),
        kube_cluster.access.user("by-plugin", {"exec": run}),
    ):
        async with connected(kubeconfig) as client:
            error = await refusal(client, CONFIGMAPS, "a", namespace, body(CONFIGMAPS, "a", namespace))
            assert f"system:serviceaccount:{namespace}:fleet" in str(error)


async def test_credentials_that_are_refused(kube_cluster: Cluster) -> None:
    async with connected(kube_cluster.access.token("stranger", "not-a-token")) as client:
        with pytest.raises(Unauthorized):
            await client.version()


# --- discovery -------------------------------------------------------------------------------------------------------


async def test_the_catalog_of_a_real_server(client: KubeClient) -> None:
    assert (await client.version()).startswith("v1.")
    catalog = await client.discover()
    kind = catalog.find(GroupKind("apps", "Deployment"))
    assert kind is not None
    assert (kind.version, kind.plural, kind.namespaced) == ("v1", "deployments", True)
    assert "watch" in kind.verbs
    scaler = catalog.find(GroupKind("autoscaling", "HorizontalPodAutoscaler"))
    assert scaler is not None
    assert scaler.version == "v2"
    namespaces = catalog.find(GroupKind("", "Namespace"))
    assert namespaces is not None
    assert not namespaces.namespaced
    assert catalog.find(GroupKind("", "Pod"), "v2") is None


async def served(client: KubeClient, resource: Resource, namespace: str, manifest: bytes) -> LiveObject:
    """Applies once the server has begun to serve what it announced."""
    for _ in range(300):
        try:
            return await apply(client, resource, "w", namespace, manifest)
        except Rejected as error:
            if error.kind != "unserved":
                raise
        await anyio.sleep(0.1)
    raise AssertionError(f"{resource.kind} is not served")


async def test_a_kind_of_a_new_crd_is_found_after_a_refresh(client: KubeClient, namespace: str) -> None:
    group = f"{uuid.uuid4().hex[:8]}.example"
    kind = GroupKind(group, "Widget")
    assert (await client.discover()).find(kind) is None
    crd = await apply(client, CRDS, f"widgets.{group}", "", widgets(group))
    resource = await found(client, kind)
    assert resource == (await client.discover()).find(kind)
    live = await served(client, resource, namespace, body(resource, "w", namespace, spec={"size": 3}))
    assert live.id.group == group
    error = await refusal(client, resource, "w", namespace, body(resource, "w", namespace, spec={"sze": 3}))
    assert error.kind == "definite"
    crd = await client.get(CRDS, "", f"widgets.{group}")
    await client.delete(CRDS, "", f"widgets.{group}", uid=crd.meta.uid, resource_version=crd.meta.resource_version)


async def test_a_group_whose_api_service_is_down_is_unknown(client: KubeClient) -> None:
    group = f"{uuid.uuid4().hex[:8]}.example"
    services = Resource("apiregistration.k8s.io", "v1", "APIService", "apiservices", False)
    name = f"v1.{group}"
    spec = {
        "group": group,
        "version": "v1",
        "groupPriorityMinimum": 100,
        "versionPriority": 1,
        "service": {"name": "nobody", "namespace": "default"},
        "insecureSkipTLSVerify": True,
    }
    await apply(client, services, name, "", body(services, name, spec=spec))
    for _ in range(300):
        catalog = await client.discover(refresh=True)
        if catalog.unknown(group):
            break
        await anyio.sleep(0.1)
    assert catalog.unknown(group)
    assert catalog.find(GroupKind(group, "Thing")) is None
    assert not catalog.unknown("apps")
    live = await client.get(services, "", name)
    await client.delete(services, "", name, uid=live.meta.uid, resource_version=live.meta.resource_version)
