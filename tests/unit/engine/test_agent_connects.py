"""What an agent says of a cluster that it has not reached yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import msgspec
import pytest

from fleet.errors import Unavailable
from fleet.model.cluster import ClusterState
from fleet.model.fleetfile import Cluster
from tests.integration import agentry
from tests.integration.agentry import CLUSTER, Rig, config_map, manifests
from tests.unit.engine.member_cluster import Client, MemberCluster

pytestmark = pytest.mark.anyio


class Starting(MemberCluster):
    """Refuses connections until it is `up`."""

    up = False
    attempts = 0

    async def connect(self, cluster: Cluster, secrets: Mapping[str, bytes]) -> Client:
        self.attempts += 1
        if not self.up:
            raise Unavailable("connection refused")
        return await super().connect(cluster, secrets)


async def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        await anyio.sleep(0.005)


def state(rig: Rig) -> ClusterState | None:
    view = rig.agents.view(CLUSTER)
    return view.state if view is not None else None


async def test_a_cluster_that_starts_beside_us_was_never_lost(tmp_path: Path) -> None:
    cluster = Starting()
    settings = msgspec.structs.replace(agentry.SETTINGS, lost_after=1000.0)
    async with agentry.running(
        tmp_path / "data", {CLUSTER: Path("unused")}, connector=cluster, settings=settings
    ) as rig:
        await rig.assign(manifests(config_map("shop", "a")), 1)
        await until(lambda: cluster.attempts >= 2)
        assert state(rig) is ClusterState.CONNECTING
        assert rig.reports == [], "nothing is known, which is not the same as unreachable"
        cluster.up = True
        await rig.healthy(1)
        assert all(report.reachable for report in rig.reports)


async def test_a_cluster_that_stays_away_is_lost(tmp_path: Path) -> None:
    cluster = Starting()
    settings = msgspec.structs.replace(agentry.SETTINGS, lost_after=0.05)
    async with agentry.running(
        tmp_path / "data", {CLUSTER: Path("unused")}, connector=cluster, settings=settings
    ) as rig:
        await rig.assign(manifests(config_map("shop", "a")), 1)
        await until(lambda: state(rig) is ClusterState.UNKNOWN)
        assert {report.reachable for report in rig.reports} == {False}
        cluster.up = True
        await rig.healthy(1)
