"""A whole application, 128 objects of 35 kinds (tests/data/application), on a cluster with its controllers running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fleet.model.objects import ManifestSet
from fleet.render import documents
from tests.integration import agentry
from tests.testbed.audit import Request
from tests.testbed.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]

FILES = Path(__file__).parents[1] / "data" / "application"
SAMPLE = 12.0
"""Seconds in which nothing may be drift."""


def application(namespace: str) -> ManifestSet:
    bodies: list[dict[str, Any]] = []
    for file in sorted(FILES.glob("*.yaml")):
        text = file.read_text().replace("NAMESPACE", namespace)
        bodies += [placed.body for placed in documents.parse(text, file.name)]
    return agentry.manifests(*bodies)


@pytest.fixture
async def removed(kube_cluster: Cluster, namespace: str) -> AsyncIterator[None]:
    """Deletes afterwards what lies outside of the test's namespace and is kept by the product."""
    yield
    for plural in ("widgets", "regions"):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{namespace}.example.com"
        await anyio.to_thread.run_sync(kube_cluster.api.delete, path)


async def test_applies_in_order_rests_and_goes(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, removed: None
) -> None:
    wanted = application(namespace)
    assert len(wanted.manifests) > 100
    assert len({m.id.kind for m in wanted.manifests}) >= 20
    start = await agentry.mark(kube_cluster)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, namespace=namespace)
        report = await rig.healthy(1, 180)
        assert report.outcome is not None
        assert (report.outcome.total, report.outcome.applied) == (len(wanted.manifests), len(wanted.manifests))
        assert_order(await agentry.asked(kube_cluster, start, writes=True))

        # The controllers have finished with it; now nothing may look like drift, and nothing be asked but watches.
        rested = await agentry.mark(kube_cluster)
        await anyio.sleep(SAMPLE)
        assert await agentry.written(kube_cluster, rested) == []
        assert await rig.stored_drifts() == ()

        await rig.assign(wanted, 2, namespace=namespace)
        await rig.healthy(2)
        (claim,) = await agentry.written(kube_cluster, rested)
        assert (claim.namespace, claim.resource) == ("fleet-system", "configmaps")
        held = dict(rig.assignments[rig.cluster])

    again = await agentry.mark(kube_cluster)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held) as rig:
        await rig.healthy(2)
        await anyio.sleep(2)
        assert await agentry.written(kube_cluster, again) == []
        assert await rig.stored_drifts() == ()

        await rig.assign(None, 3, namespace=namespace)
        await rig.wait(lambda r: r.seq == 3 and r.phase == "applied", 60)
    left = await agentry.kubectl(
        kube_cluster,
        "get",
        "namespaces,clusterroles,regions,ingressclasses,pv",
        "-l",
        "fleet/bundle=shop",
        "-o",
        "name",
    )
    assert [line for line in left.splitlines() if namespace in line] == []


def assert_order(writes: list[Request]) -> None:
    """The inventory is written first, foundations before what stands on them, webhook configurations last."""
    applied = [r.resource for r in writes if r.verb == "patch" and r.code < 300]
    assert (writes[0].namespace, writes[0].verb) in {("fleet-system", "create"), ("fleet-system", "update")}
    foundations = {"namespaces", "customresourcedefinitions", "clusterroles"}
    webhooks = {"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}
    assert set(applied[:6]) == foundations
    assert set(applied[-2:]) == webhooks
    first_custom = min(i for i, plural in enumerate(applied) if plural in ("widgets", "regions"))
    workloads = {"deployments", "statefulsets", "daemonsets", "jobs", "cronjobs", "replicasets", "pods"}
    assert all(i < first_custom for i, plural in enumerate(applied) if plural in workloads)


@pytest.mark.deep
async def test_shows_no_false_drift_for_ten_minutes(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, removed: None
) -> None:
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(application(namespace), 1, namespace=namespace)
        await rig.healthy(1, 180)
        rested = await agentry.mark(kube_cluster)
        await anyio.sleep(600)
        assert await agentry.written(kube_cluster, rested) == []
        assert await rig.stored_drifts() == ()
        await rig.assign(None, 2, namespace=namespace)
        await rig.wait(lambda r: r.seq == 2 and r.phase == "applied", 60)
