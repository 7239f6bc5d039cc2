"""What a cluster refuses and what we must not touch: each is told as the server says it, and nothing else is harmed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.model.cluster import Health
from tests.integration import agentry
from tests.integration.agentry import (
    BUNDLE,
    FLEET,
    config_map,
    deployment,
    eventually,
    in_thread,
    manifests,
    namespace_object,
    service,
)
from tests.testbed.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Json = dict[str, Any]


def cm_path(namespace: str, name: str = "a") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


# --- manifests and rights --------------------------------------------------------------------------------------------


def immutable(namespace: str) -> tuple[Json, Json]:
    after = deployment(namespace, "web", replicas=1)
    after["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    after["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    return deployment(namespace, "web", replicas=1), after


def unknown_field(namespace: str) -> tuple[Json, Json]:
    after = deployment(namespace, "web", replicas=1)
    after["spec"]["replica"] = 1
    return deployment(namespace, "web", replicas=1), after


def wrong_value(namespace: str) -> tuple[Json, Json]:
    return service(namespace, "web"), service(namespace, "web", port=99999)


def unserved(namespace: str) -> tuple[Json, Json]:
    thing = {"apiVersion": "nobody.example.com/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": namespace}}
    return config_map(namespace, "b"), thing


REFUSED = {
    "immutable": (immutable, "field is immutable"),
    "unknown field": (unknown_field, ".spec.replica: field not declared in schema"),
    "wrong value": (wrong_value, "must be between 1 and 65535"),
    "unserved": (unserved, "does not serve nobody.example.com/v1 Thing"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_manifest_that_the_server_refuses(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, case: str
) -> None:
    make, message = REFUSED[case]
    before, after = make(namespace)
    settings = agentry.with_applier(served=0.5)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, settings=settings) as rig:
        await rig.assign(manifests(before, config_map(namespace, "a", x="1")), 1)
        await rig.healthy(1)
        await rig.assign(manifests(after, config_map(namespace, "a", x="2")), 2)
        report = await rig.wait(lambda r: r.seq == 2 and r.phase == "failed")
        assert message in report.message
        assert report.outcome is not None
        assert [f.kind for f in report.outcome.failed] == ["definite"]
        # What is definitely refused is not tried again; another assignment is.
        start = await agentry.mark(kube_cluster)
        await anyio.sleep(1)
        assert await agentry.written(kube_cluster, start) == []
        await rig.assign(manifests(before, config_map(namespace, "a", x="3")), 3)
        await rig.healthy(3)


@pytest.fixture
def policy(kube_cluster: Cluster, namespace: str) -> Iterator[None]:
    api, base = kube_cluster.api, "/apis/admissionregistration.k8s.io/v1"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]
    where = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec: Json = {"matchConstraints": {"resourceRules": rules, "namespaceSelector": where}}
    spec["validations"] = [{"expression": "!has(object.data) || !('evil' in object.data)", "message": "no evil here"}]
    api.create(f"{base}/validatingadmissionpolicies", {"metadata": {"name": namespace}, "spec": spec})
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    api.create(f"{base}/validatingadmissionpolicybindings", {"metadata": {"name": namespace}, "spec": binding})
    yield
    for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        api.delete(f"{base}/{plural}/{namespace}")


async def test_admission_says_no(kube_cluster: Cluster, namespace: str, tmp_path: Path, policy: None) -> None:
    def denied() -> bool:
        probe = {"metadata": {"name": "probe"}, "data": {"evil": "1"}}
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        return kube_cluster.api.raw("POST", path, probe, query={"dryRun": "All"})[0] == 422

    await eventually(denied)  # policies take a moment to be in force
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", evil="1")), 1)
        report = await rig.wait(lambda r: r.phase == "failed")
        assert "no evil here" in report.message
        assert namespace in report.message


ROLE = [
    {"apiGroups": [""], "resources": ["configmaps", "namespaces"], "verbs": ["*"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
]


async def test_rights_that_are_missing_are_named(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    user = f"limited-{namespace}"
    kubeconfig = await in_thread(partial(kube_cluster.kubeconfig_for, user))
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    role = {"metadata": {"name": user}, "rules": ROLE}
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    async with agentry.running(tmp_path / "data", kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1"), deployment(namespace, "web", replicas=1)), 1)
        report = await rig.wait(lambda r: r.phase == "failed")
        assert 'cannot get resource "configmaps"' in report.message
        await in_thread(partial(kube_cluster.api.create, f"{rbac}/clusterroles", role))
        await in_thread(partial(kube_cluster.api.create, f"{rbac}/clusterrolebindings", binding))
        await anyio.sleep(0.5)
        await rig.assign(manifests(config_map(namespace, "a", x="1"), deployment(namespace, "web", replicas=1)), 2)
        report = await rig.wait(lambda r: r.seq == 2 and r.phase == "failed")
        assert 'cannot patch resource "deployments" in API group "apps"' in report.message
        assert report.outcome is not None
        assert [f.object for f in report.outcome.failed] == [f"apps/Deployment {namespace}/web"]
        assert report.outcome.applied == 1
    for plural in ("clusterrolebindings", "clusterroles"):
        await in_thread(partial(kube_cluster.api.delete, f"{rbac}/{plural}/{user}"))


async def test_a_kind_that_may_not_be_watched_is_never_healthy(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    user = f"blind-{namespace}"
    kubeconfig = await in_thread(partial(kube_cluster.kubeconfig_for, user))
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "patch", "create"]},
    ]
    role = {"metadata": {"name": user}, "rules": rules}
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    await in_thread(partial(kube_cluster.create_namespace, "fleet-system"))
    await in_thread(partial(kube_cluster.api.create, f"{rbac}/clusterroles", role))
    await in_thread(partial(kube_cluster.api.create, f"{rbac}/clusterrolebindings", binding))
    async with agentry.running(tmp_path / "data", kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1"), service(namespace, "s")), 1)
        report = await rig.wait(lambda r: r.phase == "applied" and "cannot list" in r.health_reason)
        assert report.health is Health.UNKNOWN
        assert 'resource "services"' in report.health_reason
        # The other kind is watched all the same.
        change = {"data": {"x": "2"}}
        await in_thread(partial(kube_cluster.api.patch, cm_path(namespace), change, fieldManager="kubectl-edit"))
        await rig.drifts(1)
    for plural in ("clusterrolebindings", "clusterroles"):
        await in_thread(partial(kube_cluster.api.delete, f"{rbac}/{plural}/{user}"))


# --- adoption --------------------------------------------------------------------------------------------------------

MARKS: dict[str, Json] = {
    "Argo CD": {"annotations": {"argocd.argoproj.io/tracking-id": "x:/ConfigMap:y/a"}},
    "Helm": {"annotations": {"meta.helm.sh/release-name": "shop"}},
    "Flux": {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}},
    "fleet other": {"annotations": {"fleet/tracking-id": "other:shop:/ConfigMap:NAMESPACE/a"}},
}


@pytest.mark.parametrize("adopt", ["never", "ifUnmanaged", "always"])
async def test_what_exists_already(kube_cluster: Cluster, namespace: str, tmp_path: Path, adopt: str) -> None:
    theirs = config_map(namespace, "a", colour="blue")
    await in_thread(partial(kube_cluster.api.create, f"/api/v1/namespaces/{namespace}/configmaps", theirs))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 1, adopt=adopt)
        if adopt == "never":
            report = await rig.wait(lambda r: r.phase == "failed")
            assert "exists already; delete it, or set adopt: ifUnmanaged" in report.message
        else:
            await rig.healthy(1)
    live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace)))
    assert live["data"]["colour"] == ("blue" if adopt == "never" else "red")


@pytest.mark.parametrize("tool", MARKS)
async def test_what_another_tool_manages(kube_cluster: Cluster, namespace: str, tmp_path: Path, tool: str) -> None:
    theirs = config_map(namespace, "a", colour="blue")
    for place, marks in MARKS[tool].items():
        theirs["metadata"][place] = {key: value.replace("NAMESPACE", namespace) for key, value in marks.items()}
    await in_thread(partial(kube_cluster.api.create, f"/api/v1/namespaces/{namespace}/configmaps", theirs))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 1)
        report = await rig.wait(lambda r: r.phase == "failed")
        assert f"is managed by {tool}" in report.message
        live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace)))
        assert live["data"]["colour"] == "blue"
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 2, adopt="always")
        await rig.healthy(2)


async def test_what_kubectl_applied_leaves_with_git(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """P-13: what an adopted object has from its earlier life goes when it leaves the manifest."""
    old = deployment(namespace, "web", replicas=1, env=[{"name": "OLD", "value": "1"}])
    await agentry.kubectl(kube_cluster, "apply", "-f", "-", stdin=agentry.as_json(old))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(deployment(namespace, "web", replicas=1)), 1)
        await rig.healthy(1)
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
        live = await in_thread(partial(kube_cluster.api.get, path))
        assert "env" not in live["spec"]["template"]["spec"]["containers"][0]
        assert "kubectl.kubernetes.io/last-applied-configuration" not in live["metadata"]["annotations"]
        assert await rig.stored_drifts() == ()


async def test_an_object_waits_for_its_bundle_and_moves_with_its_uid(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    shared, other = config_map(namespace, "a", colour="red"), config_map(namespace, "b", x="1")
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(shared, other), 1, prune=True)
        await rig.healthy(1)
        uid = (await in_thread(partial(kube_cluster.api.get, cm_path(namespace))))["metadata"]["uid"]
        theirs = manifests(config_map(namespace, "a", colour="white"), bundle="second")
        await rig.assign(theirs, 1, bundle="second", prune=True)
        waits = await rig.wait(lambda r: r.phase == "errored", bundle="second")
        assert f"belongs to bundle {BUNDLE}, which still wants it" in waits.message
        live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace)))
        assert live["data"]["colour"] == "red"
        # Its own bundle still watches over it.
        change = {"data": {"colour": "blue"}}
        await in_thread(partial(kube_cluster.api.patch, cm_path(namespace), change, fieldManager="kubectl-edit"))
        await rig.drifts(1)
        await rig.assign(manifests(other), 2, prune=True)
        await rig.healthy(1, bundle="second")
        await rig.healthy(2)
        live = await in_thread(partial(kube_cluster.api.get, cm_path(namespace)))
        assert (live["metadata"]["uid"], live["data"]["colour"]) == (uid, "white")
        await in_thread(partial(kube_cluster.api.patch, cm_path(namespace), change, fieldManager="kubectl-edit"))
        found = await rig.drifts(2)
        assert found[0].bundle == "second"


# --- pruning ---------------------------------------------------------------------------------------------------------


async def test_what_a_prune_leaves_alone(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    api, inner = kube_cluster.api, f"{namespace}-x"
    names = ("opted-out", "owned", "remade", "untracked", "goes", "stays")
    objects = [config_map(namespace, name, x="1") for name in names]
    objects += [namespace_object(inner), config_map(inner, "c", x="1")]
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(*objects), 1, prune=True, drift_mode="off")
        await rig.healthy(1)

        def arrange() -> None:
            note = {"metadata": {"annotations": {"fleet/prune": "disabled"}}}
            api.patch(cm_path(namespace, "opted-out"), note)
            owner = api.get(cm_path(namespace, "stays"))["metadata"]["uid"]
            reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "stays", "uid": owner}
            api.patch(cm_path(namespace, "owned"), {"metadata": {"ownerReferences": [reference]}})
            api.patch(cm_path(namespace, "untracked"), {"metadata": {"annotations": {"fleet/tracking-id": None}}})
            live = api.get(cm_path(namespace, "remade"))
            api.delete(cm_path(namespace, "remade"))
            kept = {key: live["metadata"][key] for key in ("name", "labels", "annotations")}
            api.create(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": kept, "data": live["data"]})
            api.create(f"/api/v1/namespaces/{inner}/configmaps", {"metadata": {"name": "foreign"}})

        await in_thread(arrange)
        await rig.assign(manifests(config_map(namespace, "stays", x="1")), 2, prune=True, drift_mode="off")
        await eventually(lambda: not api.exists(cm_path(namespace, "goes")))
        await eventually(lambda: not api.exists(cm_path(inner, "c")))
        await rig.wait(lambda r: r.outcome is not None and r.outcome.pruned >= 2)
        for name in ("opted-out", "owned", "remade", "untracked", "stays"):
            assert await in_thread(partial(api.exists, cm_path(namespace, name))), name


async def test_a_brake_holds_everything_and_is_told_once(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    objects = [config_map(namespace, f"c{number}", x="1") for number in range(5)]
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(*objects), 1, prune=True, prune_max_objects=3)
        await rig.healthy(1)
        await rig.assign(manifests(objects[0]), 2, prune=True, prune_max_objects=3)
        await rig.healthy(2)
        (blocked,) = await rig.hears("prune.blocked")
        assert "would delete 4 objects, more than the 3 that prune.maxObjects allows" in blocked.data["reasons"][0]
        await anyio.sleep(1)
        assert len(rig.said("prune.blocked")) == 1
        for number in range(5):
            assert await in_thread(partial(kube_cluster.api.exists, cm_path(namespace, f"c{number}")))
        await rig.assign(manifests(objects[0]), 3, prune=True, prune_max_objects=4)
        await rig.wait(lambda r: r.seq == 3 and r.outcome is not None and r.outcome.pruned == 4)


async def test_a_removal_counts_once_everything_is_gone(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = cm_path(namespace)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1"), config_map(namespace, "b", x="1")), 1)
        await rig.healthy(1)
        hold = {"metadata": {"finalizers": ["example.com/hold"]}}
        await in_thread(partial(kube_cluster.api.patch, path, hold))
        await rig.assign(None, 2)
        report = await rig.wait(lambda r: r.seq == 2 and "still terminating" in r.message)
        assert report.phase == "applying"
        await anyio.sleep(1)
        assert {r.phase for r in rig.reports if r.seq == 2} <= {"idle", "applying"}
        await in_thread(partial(kube_cluster.api.patch, path, {"metadata": {"finalizers": None}}))
        await rig.wait(lambda r: r.seq == 2 and r.phase == "applied")
        inventory = f"inventory.{FLEET}.{BUNDLE}"
        assert not await in_thread(partial(kube_cluster.api.exists, cm_path("fleet-system", inventory)))
        assert await rig.store.inventories(rig.cluster) == ()
        rig.withdraw()
        start = await agentry.mark(kube_cluster)
        await anyio.sleep(0.5)
        assert await agentry.written(kube_cluster, start) == []


async def test_a_bundle_that_is_withdrawn_is_left_to_itself(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1")), 1)
        await rig.healthy(1)
        rig.withdraw()
        start = await agentry.mark(kube_cluster)
        with anyio.fail_after(10):
            for _ in range(200):
                if not await rig.store.baselines(rig.cluster) and not await rig.store.inventories(rig.cluster):
                    break
                await anyio.sleep(0.05)
        await in_thread(partial(kube_cluster.api.delete, cm_path(namespace)))
        await anyio.sleep(0.7)
        assert await agentry.written(kube_cluster, start) == []
        assert rig.agents.views()[0].objects == 0
        assert await rig.store.baselines(rig.cluster) == ()
