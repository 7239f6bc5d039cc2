"""One agent against a real API server: deploy, health, drift, prune, restart."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest

from fleet.model.cluster import Health
from tests.integration import agentry
from tests.integration.agentry import config_map, deployment, manifests
from tests.testbed.cluster import Cluster
from tests.testbed.errors import KubectlFailed

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def test_deploys_heals_prunes_and_rests(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    wanted = manifests(
        config_map(namespace, "a", colour="red"), config_map(namespace, "b", x="1"), deployment(namespace, "web")
    )
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, prune=True)
        report = await rig.healthy(1)
        assert report.outcome is not None
        assert (report.outcome.total, report.outcome.applied, report.outcome.changed) == (3, 3, 3)

        await agentry.kubectl(
            kube_cluster, "-n", namespace, "patch", "configmap", "a", "-p", '{"data":{"colour":"blue"}}'
        )
        (drift,) = await rig.drifts(1)
        assert (drift.state, drift.verdict, drift.manager) == ("healed", "modified", "kubectl-patch")
        assert [(f.path, f.wanted, f.live) for f in drift.fields] == [("data.colour", "red", "blue")]
        assert "red" in await agentry.kubectl(kube_cluster, "-n", namespace, "get", "configmap", "a", "-o", "yaml")

        await agentry.kubectl(kube_cluster, "-n", namespace, "delete", "configmap", "b")
        found = await rig.drifts(2)
        assert {d.verdict for d in found} == {"modified", "missing"}
        await agentry.kubectl(kube_cluster, "-n", namespace, "get", "configmap", "b")

        await rig.assign(
            manifests(config_map(namespace, "a", colour="red"), deployment(namespace, "web")), 2, prune=True
        )
        await rig.wait(lambda r: r.seq == 2 and r.outcome is not None and r.outcome.pruned == 1)
        with pytest.raises(KubectlFailed, match="NotFound"):
            await agentry.kubectl(kube_cluster, "-n", namespace, "get", "configmap", "b")


async def test_a_restart_writes_nothing(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"), deployment(namespace, "web"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1)
        await rig.healthy(1)
    mark = await anyio.to_thread.run_sync(kube_cluster.audit.mark)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1)
        await rig.healthy(1)
        assert rig.counts.suspect == 0
    requests = await anyio.to_thread.run_sync(lambda: kube_cluster.audit.requests(since=mark, user_agent="fleet/"))
    assert [r for r in requests if r.writes or r.dry_run] == []


async def test_a_bad_image_never_becomes_healthy(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(deployment(namespace, "web", image="nginx:does-not-exist")), 1)
        report = await rig.wait(lambda r: r.phase == "applied" and r.health is not Health.UNKNOWN)
        assert report.health is Health.PROGRESSING
        assert "web" in report.health_reason
