from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleet.errors import NotFound
from fleet.model.cluster import Inventory
from fleet.model.objects import ManifestSet
from fleet.model.rollout import BundleState, ClusterRecord, Commit, HistoryEntry, RolloutState
from fleet.settings import StoreSettings
from fleet.store import Store, open_store
from fleet.store.retention import Collected
from tests.unit.store import values

pytestmark = pytest.mark.anyio

SMALL = StoreSettings(rollout_rows=3, release_rows=2, drift_rows=2, manifest_grace=100.0)


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def content(number: int) -> ManifestSet:
    return values.manifests(values.manifest("common"), values.manifest(f"own-{number}"))


async def roll_out(store: Store, number: int, state: BundleState) -> None:
    """Stores a finished rollout of content `number`; `state` becomes version `number`."""
    await store.put_manifests(content(number))
    release = values.release(number, digest=content(number).digest)
    rollout = msgspec.structs.replace(values.rollout(number, state=RolloutState.SUCCEEDED), release=release)
    changed = msgspec.structs.replace(state, version=number)
    await store.commit(Commit(changed, number - 1, releases=(release,), rollouts=(rollout,)))


async def kept(store: Store, numbers: range) -> set[int]:
    found = set()
    for number in numbers:
        try:
            assert await store.manifests(content(number).digest) == content(number)
        except NotFound:
            continue
        found.add(number)
    return found


async def test_what_nothing_refers_to_is_forgotten(data_dir: Path) -> None:
    wall = Wall()
    async with await open_store(data_dir, SMALL, wall=wall) as store:
        for number in range(1, 9):
            await roll_out(store, number, BundleState("shop"))
        wall.now += 101
        assert await store.collect() == Collected(rollouts=5, releases=5, manifest_sets=6, manifests=6)
        assert [r.number for r in await store.rollouts("shop", None, 100)] == [8, 7, 6]
        assert await kept(store, range(1, 9)) == {7, 8}
        assert await store.collect() == Collected()


async def test_what_something_needs_is_kept_however_old(data_dir: Path) -> None:
    wall = Wall()

    def entry(number: int) -> HistoryEntry:
        release = values.release(number, digest=content(number).digest)
        return HistoryEntry(release.id, release.content, content(number).digest, 1.0)

    active = msgspec.structs.replace(values.rollout(2), release=values.release(2, digest=content(2).digest))
    state = BundleState(
        "shop",
        active=active,
        quarantined={"": 'said "no" \\ and more'},
        records={
            "qa-1": ClusterRecord(recorded=entry(3), last_good=entry(4), owed=values.release(5).id, earlier=(entry(9),))
        },
        proven={"qa": values.release(6).id},
    )
    async with await open_store(data_dir, SMALL, wall=wall) as store:
        for number in range(1, 13):
            await roll_out(store, number, state)
        assigned = msgspec.structs.replace(values.commit().assignments[0], release=None, digest=content(7).digest)
        await store.commit(Commit(msgspec.structs.replace(state, version=13), 12, assignments=(assigned,)))
        await store.put_inventory("gone-cluster", Inventory("shop", 1, content(8).digest))
        wall.now += 101
        await store.collect()
        assert await kept(store, range(1, 13)) == {2, 3, 4, 5, 6, 7, 8, 9, 11, 12}
        assert await store.rollout("shop-2") is not None
        assert await store.release(values.release(6).id) is not None
        assert await store.release(values.release(7).id) is None


async def test_manifests_wait_for_the_decision_that_needs_them(data_dir: Path) -> None:
    wall = Wall()
    async with await open_store(data_dir, SMALL, wall=wall) as store:
        await store.put_manifests(content(1))
        await store.put_manifests(content(2))
        wall.now += 99
        assert await store.collect() == Collected()
        await store.put_manifests(content(2))
        wall.now += 50
        assert (await store.collect()).manifest_sets == 1
        assert await kept(store, range(1, 3)) == {2}


async def test_closed_drift_is_bounded_and_open_drift_is_not(data_dir: Path) -> None:
    async with await open_store(data_dir, SMALL) as store:
        for number in range(1, 6):
            await store.put_drift(values.drift(number, "open"))
        for number in range(6, 11):
            await store.put_drift(values.drift(number, "healed"))
        assert (await store.collect()).drifts == 3
        assert [d.id for d in await store.drifts(None, None, False, None, 100)] == [
            "d10",
            "d9",
            "d5",
            "d4",
            "d3",
            "d2",
            "d1",
        ]
        assert (await store.collect()).drifts == 0
