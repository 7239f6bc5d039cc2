"""What keeps tests of agents apart that share a cluster."""

from __future__ import annotations

import contextlib

import pytest

from tests.testbed.cluster import Clusters
from tests.testbed.errors import ApiFailed

_INVENTORIES = "/api/v1/namespaces/fleet-system/configmaps"


@pytest.fixture(autouse=True)
def no_inventories(request: pytest.FixtureRequest) -> None:
    """Takes away what agents of earlier tests wrote of their bundles: it would fence those of this test out."""
    if not request.node.path.name.startswith("test_agent") or "clusters" not in request.fixturenames:
        return
    clusters: Clusters = request.getfixturevalue("clusters")
    for cluster in clusters:
        cluster.ensure_running()
        with contextlib.suppress(ApiFailed):
            cluster.api.request("DELETE", _INVENTORIES, query={"labelSelector": "fleet/inventory-of"})
