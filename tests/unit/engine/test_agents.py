"""Agents with their sessions and a real store on a cluster of plain values: what must hold whatever happens there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fleet.engine.applier import ApplierSettings
from fleet.engine.deployer import DeployerSettings
from fleet.engine.ports import Store
from fleet.engine.reconcile import Keeper
from fleet.engine.workers import WorkerSettings
from fleet.errors import Rejected
from fleet.model.cluster import Baseline, Inventory, InventoryEntry, Sync
from fleet.model.objects import ObjectId
from fleet.settings import StoreSettings
from fleet.store import open_store
from tests.integration import agentry
from tests.integration.agentry import BUNDLE, CLUSTER, Rig, config_map, definition, manifests
from tests.unit.engine.member_cluster import MemberCluster
from tests.unit.store import values

pytestmark = pytest.mark.anyio

SETTINGS = msgspec.structs.replace(
    agentry.SETTINGS,
    workers=WorkerSettings(retry_base=0.01, retry_cap=0.05),
    applier=ApplierSettings(served=0.1, patience=0.02),
    deployer=DeployerSettings(retry_base=0.01, retry_cap=0.03, prune_again=0.02, wait_again=0.02),
)
NAMESPACE = "shop"


def running(tmp_path: Path, cluster: MemberCluster, **more: Any) -> AbstractAsyncContextManager[Rig]:
    return agentry.running(
        tmp_path / "data", {CLUSTER: Path("unused")}, **{"connector": cluster, "settings": SETTINGS, **more}
    )


def maps(*names: str, bundle: str = BUNDLE) -> Any:
    return manifests(*(config_map(NAMESPACE, name, of=name) for name in names), bundle=bundle)


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        await anyio.sleep(0.005)


def tracked(store: Store, bundle: str) -> Callable[[], Any]:
    async def names() -> list[str]:
        found = [i for i in await store.inventories(CLUSTER) if i.bundle == bundle]
        return [entry.id.name for i in found for entry in i.entries]

    return names


# --- moves between bundles ---


@pytest.mark.parametrize("known_by", ["plan", "assignment"])
@pytest.mark.parametrize("rest", [("y",), None], ids=["pruned", "removed"])
async def test_what_moves_to_another_bundle_is_kept_until_it_is_there(
    tmp_path: Path, known_by: str, rest: Sequence[str] | None
) -> None:
    cluster = MemberCluster()
    held_back = True

    def refuse(verb: str, object_id: ObjectId, body: str) -> None:
        if verb == "apply" and held_back and '"fleet/bundle":"heir"' in body:
            raise Rejected("transient", 503, "Unavailable", "later")

    cluster.refuse = refuse
    async with running(tmp_path, cluster) as rig:
        heir = {"x": "heir"} if known_by == "plan" else {}
        rig.shared = msgspec.structs.replace(rig.shared, claimed=lambda _, object_id: heir.get(object_id.name))
        rig.configure()
        await rig.assign(maps("x", "y"), 1, prune=True)
        await rig.healthy(1)
        before = cluster.get("x")
        if known_by == "assignment":
            await rig.assign(maps("x", bundle="heir"), 1, bundle="heir")
            await rig.wait(lambda r: r.phase == "errored", bundle="heir")
        await rig.assign(maps(*rest) if rest is not None else None, 2, prune=True)
        blocked = await rig.hears("prune.blocked")
        assert "heir" in blocked[0].data["reasons"][0]
        assert before is not None
        assert cluster.get("x") == before
        assert "x" in await tracked(rig.store, BUNDLE)()
        report = rig.last()
        assert report is not None
        assert report.phase == ("applied" if rest is not None else "applying")

        held_back = False
        if known_by == "plan":
            await rig.assign(maps("x", bundle="heir"), 1, bundle="heir")
        await rig.healthy(1, bundle="heir")
        names = tracked(rig.store, BUNDLE)
        deadline = time.monotonic() + 10
        while "x" in await names():
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)
        moved = cluster.get("x")
        assert moved is not None
        assert moved["metadata"]["uid"] == before["metadata"]["uid"]
        assert moved["metadata"]["labels"]["fleet/bundle"] == "heir"
        assert (cluster.get("y") is None) == (rest is None)


# --- clusters that are not what they were ---


async def test_a_cluster_made_anew_gets_everything_again(tmp_path: Path) -> None:
    cluster = MemberCluster()
    async with running(tmp_path, cluster) as rig:
        await rig.assign(maps("x", "y"), 1, drift_mode="off")
        await rig.healthy(1)
    assignments = rig.assignments[CLUSTER]
    cluster.objects.clear()
    async with running(tmp_path, cluster, assignments=assignments) as rig:
        report = await rig.healthy(1)
    assert report.outcome is not None
    assert report.outcome.changed == 2
    assert cluster.get("x") is not None


async def test_what_is_remembered_of_former_clusters_is_forgotten(tmp_path: Path) -> None:
    cluster = MemberCluster()
    async with await open_store(tmp_path / "data", StoreSettings()) as store:
        entry = InventoryEntry(values.baseline().id, "v1", "uid-1")
        await store.put_inventory("former", Inventory(BUNDLE, 1, "d", (entry,)))
        await store.put_baselines("former", [values.baseline()])
        await store.put_drift(values.drift(1, "open", cluster="former"))
    async with running(tmp_path, cluster) as rig:
        await rig.assign(maps("x"), 1)
        await rig.healthy(1)
        (told,) = await rig.hears("drift.healed")
        assert (told.cluster, told.data["how"]) == ("former", "withdrawn")
        assert (await rig.store.inventories("former"), await rig.store.baselines("former")) == ((), ())
        assert [d.state for d in await rig.store.drifts("former", None, False, None, 9)] == ["healed"]

        assert len(await rig.store.baselines(CLUSTER)) == 1
        rig.fleet = msgspec.structs.replace(
            rig.fleet, clusters=(msgspec.structs.replace(rig.fleet.clusters[0], name="other"),)
        )
        rig.assignments["other"] = {}
        rig.configure()
        deadline = time.monotonic() + 10
        while await rig.store.baselines(CLUSTER) or await rig.store.inventories(CLUSTER):
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)


# --- defects ---


async def test_a_defect_that_one_object_brings_to_light_stops_nothing_else(tmp_path: Path) -> None:
    cluster = MemberCluster()

    def refuse(verb: str, object_id: ObjectId, body: str) -> None:
        if verb == "dry-run" and object_id.name == "poison":
            raise RuntimeError("a defect")

    cluster.refuse = refuse
    async with running(tmp_path, cluster) as rig:
        await rig.assign(maps("poison", "x"), 1)
        await rig.healthy(1)
        cluster.edit("poison", data={"of": "somebody"})
        await until(lambda: cluster.asked("dry-run", "poison") > 2)
        cluster.edit("x", data={"of": "somebody"})
        (drift,) = await rig.drifts(1)
        assert (drift.object.name, drift.state) == ("x", "healed")
        assert rig.said("cluster.lost") == []
        assert len(rig.said("cluster.connected")) == 1


async def test_a_cluster_whose_agent_has_a_defect_is_unknown(tmp_path: Path) -> None:
    cluster = MemberCluster()

    class Broken:
        async def connect(self, *_: object) -> Any:
            raise RuntimeError("a defect")

    async with running(tmp_path, cluster, connector=Broken()) as rig:
        await until(lambda: any(not report.reachable for report in rig.reports))


# --- failures that nobody else acts upon ---


async def test_a_definite_failure_is_tried_again_where_no_rollout_decides(tmp_path: Path) -> None:
    cluster = MemberCluster()
    forbidden = True

    def refuse(verb: str, object_id: ObjectId, body: str) -> None:
        if verb == "apply" and forbidden:
            raise Rejected("forbidden", 403, "Forbidden", "exceeded quota")

    cluster.refuse = refuse
    async with running(tmp_path, cluster) as rig:
        await rig.assign(maps("release"), 1)
        await rig.wait(lambda r: r.phase == "failed")
        await rig.assign(maps("late", bundle="late"), 1, bundle="late")
        rig.assignments[CLUSTER]["late"] = msgspec.structs.replace(
            rig.assignments[CLUSTER]["late"], seq=2, purpose="catchup"
        )
        rig.agents.assigned(CLUSTER)
        failed = await rig.wait(lambda r: r.seq == 2 and r.phase == "failed", bundle="late")
        assert "exceeded quota" in failed.message
        assert "tried again every" in failed.message
        tries = cluster.asked("apply", "late")
        await until(lambda: cluster.asked("apply", "late") > tries + 2)
        assert cluster.asked("apply", "release") == 1  # its rollout decides
        forbidden = False
        await rig.healthy(2, bundle="late")
        last = rig.last()
        assert last is not None
        assert last.phase == "failed"


# --- waits ---


async def test_a_deploy_that_waits_lets_the_bundle_be_repaired(tmp_path: Path) -> None:
    cluster = MemberCluster()
    wanted = manifests(
        definition("acme.example", "widgets", "Widget"),
        config_map(NAMESPACE, "x", of="x"),
        config_map(NAMESPACE, "later", of="later"),
    )
    async with running(tmp_path, cluster) as rig:
        await rig.assign(maps("x"), 1)
        await rig.healthy(1)
        await rig.assign(wanted, 2)
        await rig.wait(lambda r: r.seq == 2 and r.phase == "applying" and "is not ready" in r.message)
        cluster.edit("x", data={"of": "somebody"})
        (drift,) = await rig.drifts(1)
        assert (drift.object.name, drift.state) == ("x", "healed")
        writes = cluster.asked("replace", f"inventory.{agentry.FLEET}.{BUNDLE}")
        looks = cluster.asked("get", "widgets.acme.example")
        await until(lambda: cluster.asked("get", "widgets.acme.example") > looks + 10)
        assert cluster.asked("replace", f"inventory.{agentry.FLEET}.{BUNDLE}") <= writes + 1
        assert cluster.get("later") is None
        conditions = [{"type": kind, "status": "True"} for kind in ("NamesAccepted", "Established")]
        cluster.edit("widgets.acme.example", "CustomResourceDefinition", status={"conditions": conditions})
        report = await rig.healthy(2)
        assert report.outcome is not None
        assert (report.outcome.total, report.outcome.changed, report.outcome.failed) == (3, 2, ())


async def test_a_stage_that_never_becomes_current_fails_the_deploy(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(
        SETTINGS, deployer=msgspec.structs.replace(SETTINGS.deployer, current=0.1, wait_again=0.02)
    )
    wanted = manifests(definition("acme.example", "widgets", "Widget"), config_map(NAMESPACE, "later", of="x"))
    async with running(tmp_path, MemberCluster(), settings=settings) as rig:
        await rig.assign(wanted, 1)
        report = await rig.wait(lambda r: r.phase == "failed")
        assert report.outcome is not None
        assert [(f.kind, "is not ready" in f.error) for f in report.outcome.failed] == [("definite", True)]


# --- what changes while something is made durable ---


class Interrupted:
    """A keeper that lets a test act right after something was stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stored: Callable[[Inventory], Any] | None = None
        self.forgot: Callable[[Sequence[ObjectId]], Any] | None = None

    async def put_inventory(self, cluster: str, inventory: Inventory) -> None:
        await self._store.put_inventory(cluster, inventory)
        if self.stored is not None:
            await self.stored(inventory)

    async def drop_inventory(self, cluster: str, bundle: str) -> None:
        await self._store.drop_inventory(cluster, bundle)

    async def put_baselines(self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()) -> None:
        await self._store.put_baselines(cluster, baselines, gone)
        if self.forgot is not None:
            await self.forgot(gone)


async def test_an_assignment_that_comes_while_the_last_one_is_pruned_is_pruned_as_well(tmp_path: Path) -> None:
    cluster = MemberCluster()
    keepers: list[Interrupted] = []

    def keeper(store: Store) -> Keeper:
        keepers.append(Interrupted(store))
        return keepers[0]

    async with running(tmp_path, cluster, keeper=keeper) as rig:

        async def stored(inventory: Inventory) -> None:
            if inventory.seq == 2 and [e.id.name for e in inventory.entries] == ["y", "z"]:
                keepers[0].stored = None
                await rig.assign(maps("z"), 3, prune=True)

        await rig.assign(maps("x", "y", "z"), 1, prune=True)
        await rig.healthy(1)
        keepers[0].stored = stored
        await rig.assign(maps("y", "z"), 2, prune=True)
        await rig.wait(lambda r: r.seq == 3 and r.outcome is not None and r.outcome.pruned == 1)
        assert [cluster.get(name) is None for name in ("x", "y", "z")] == [True, True, False]


@pytest.mark.parametrize("withdrawn", [False, True])
async def test_an_object_that_moves_while_its_baseline_is_forgotten_stays_watched(
    tmp_path: Path, withdrawn: bool
) -> None:
    cluster = MemberCluster()
    keepers: list[Interrupted] = []

    def keeper(store: Store) -> Keeper:
        keepers.append(Interrupted(store))
        return keepers[0]

    def is_moved() -> bool:
        found = cluster.get("x")
        return found is not None and found["metadata"]["labels"]["fleet/bundle"] == "heir"

    async with running(tmp_path, cluster, keeper=keeper) as rig:

        async def forgot(gone: Sequence[ObjectId]) -> None:
            if "x" in [object_id.name for object_id in gone]:
                keepers[0].forgot = None
                await rig.assign(maps("x", bundle="heir"), 1, bundle="heir")
                await until(is_moved)

        await rig.assign(maps("x", "y"), 1)
        await rig.healthy(1)
        keepers[0].forgot = forgot
        if withdrawn:
            rig.withdraw()
        else:
            await rig.assign(maps("y"), 2)
            await rig.healthy(2)
        await rig.healthy(1, bundle="heir")
        (held,) = rig.agents.objects(CLUSTER, "heir")
        assert held.sync is Sync.SYNCED
        cluster.edit("x", data={"of": "somebody"})
        await rig.drifts(1)
