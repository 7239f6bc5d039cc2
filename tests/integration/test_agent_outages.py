"""API servers that die, hang, forget or lose their history: the others go on, this one is Unknown, then caught up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fleet.model.cluster import ClusterState, Health, MemberReport
from tests.integration import agentry
from tests.integration.agentry import (
    Rig,
    config_map,
    definition,
    eventually,
    in_thread,
    manifests,
    namespace_object,
)
from tests.testbed.cluster import Cluster, Clusters

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CM = "/api/v1/namespaces/{}/configmaps/{}"


def unknown(report: MemberReport) -> bool:
    return not report.reachable and report.health is Health.UNKNOWN


async def heals(rig: Rig, cluster: Cluster, name: str) -> None:
    """A value changed on a cluster is put back."""
    path = CM.format("default", "a")
    await in_thread(partial(cluster.api.patch, path, {"data": {"colour": "blue"}}, fieldManager="kubectl-edit"))
    await eventually(lambda: cluster.api.get(path)["data"]["colour"] == "red")
    await rig.healthy(rig.assignments[name][agentry.BUNDLE].seq, cluster=name)


FAULTS = {
    "killed": (Cluster.kill_apiserver, Cluster.restart_apiserver),
    "stopped": (Cluster.pause_apiserver, Cluster.resume_apiserver),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_cluster_out_of_reach(own_clusters: Callable[..., Clusters], tmp_path: Path, fault: str) -> None:
    begin, end = FAULTS[fault]
    first, second = await in_thread(lambda: own_clusters(2))
    wanted = manifests(config_map("default", "a", colour="red"))
    async with agentry.running(tmp_path / "data", {"c1": first.kubeconfig, "c2": second.kubeconfig}) as rig:
        for name in ("c1", "c2"):
            await rig.assign(wanted, 1, cluster=name)
            await rig.healthy(1, cluster=name)
        await in_thread(partial(begin, first))
        lost = await rig.wait(unknown, 15, cluster="c1")
        assert lost.health_reason
        view = rig.agents.view("c1")
        assert view is not None
        assert view.state is ClusterState.UNKNOWN
        await heals(rig, second, "c2")
        changed = manifests(config_map("default", "a", colour="red"), config_map("default", "b", x="1"))
        for name in ("c1", "c2"):
            await rig.assign(changed, 2, cluster=name)
        await rig.healthy(2, cluster="c2")
        await in_thread(partial(end, first))
        await rig.healthy(2, 30, cluster="c1")
        await heals(rig, first, "c1")
        # The cluster was lost once and told so once, whatever was tried meanwhile.
        assert [e.cluster for e in rig.said("cluster.lost")] == ["c1"]
        assert len([e for e in rig.said("cluster.connected") if e.cluster == "c1"]) == 2


async def test_a_cluster_that_lost_its_data_gets_everything_again(
    own_clusters: Callable[..., Clusters], tmp_path: Path
) -> None:
    (cluster,) = await in_thread(lambda: own_clusters(1))
    things = definition("example.com", "things", "Thing")
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "shop"}}
    objects = [config_map("shop", f"c{number}", x="1") for number in range(20)]
    wanted = manifests(namespace_object("shop"), things, thing, *objects, config_map("default", "a", colour="red"))
    async with agentry.running(tmp_path / "data", cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1)
        await rig.healthy(1)
        # Versions begin anew, far below what the watches stood at.
        for number in range(300):
            await in_thread(
                partial(cluster.api.patch, CM.format("shop", "c0"), {"data": {"more": str(number)}}, fieldManager="x")
            )
        await in_thread(partial(cluster.restart_apiserver, keep_data=False))
        for number in range(20):
            await eventually(partial(cluster.api.exists, CM.format("shop", f"c{number}")), 60)
        await eventually(partial(cluster.api.get, "/apis/example.com/v1/namespaces/shop/things/t"), 60)
        await rig.healthy(1, 30)
        inventory = CM.format("fleet-system", f"inventory.{agentry.FLEET}.{agentry.BUNDLE}")
        await eventually(partial(cluster.api.exists, inventory))
        await heals(rig, cluster, agentry.CLUSTER)


async def test_history_is_gone_and_so_is_an_object(own_clusters: Callable[..., Clusters], tmp_path: Path) -> None:
    (cluster,) = await in_thread(lambda: own_clusters(1))
    objects = [config_map("default", name, colour="red") for name in ("a", "b", "c")]
    async with agentry.running(tmp_path / "data", cluster.kubeconfig) as rig:
        await rig.assign(manifests(*objects), 1)
        await rig.healthy(1)

        def lose() -> None:
            cluster.restart_apiserver()
            cluster.api.delete(CM.format("default", "b"))
            cluster.api.patch(CM.format("default", "c"), {"data": {"colour": "blue"}}, fieldManager="kubectl-edit")
            cluster.compact_etcd()
            cluster.restart_apiserver()

        await in_thread(lose)
        found = await rig.drifts(2, 30)
        assert {(d.object.name, d.verdict) for d in found} == {("b", "missing"), ("c", "modified")}
        await rig.healthy(1, 30)
        for name in ("a", "b", "c"):
            live = await in_thread(partial(cluster.api.get, CM.format("default", name)))
            assert live["data"] == {"colour": "red"}


async def test_credentials_that_are_refused_and_then_renewed(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    kubeconfig = kube_cluster.access.user(f"robot-{namespace}", {"tokenFile": str(token)})
    async with agentry.running(tmp_path / "data", kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", x="1")), 1)
        report = await rig.wait(lambda r: not r.reachable)
        assert "refuses our credentials" in report.health_reason
        view = rig.agents.view(agentry.CLUSTER)
        assert view is not None
        assert view.state is ClusterState.UNAUTHORIZED
        fresh = await in_thread(partial(kube_cluster.service_account_token, namespace, "robot"))
        binding = {
            "metadata": {"name": f"robot-{namespace}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": namespace}],
        }
        path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        await in_thread(partial(kube_cluster.api.create, path, binding))
        token.write_text(fresh)
        await rig.healthy(1)
    await in_thread(partial(kube_cluster.api.delete, f"{path}/robot-{namespace}"))
