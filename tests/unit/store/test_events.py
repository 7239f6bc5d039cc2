from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fleet.errors import Conflict
from fleet.settings import StoreSettings
from fleet.store import Store, events, open_store
from tests.unit.store import values

pytestmark = pytest.mark.anyio


async def test_numbers_have_no_holes_whoever_writes(store: Store) -> None:
    async def write(bundle: str) -> None:
        for version in range(1, 6):
            await store.commit(values.commit(version, bundle=bundle))
            await store.append([values.event("health.changed", bundle=bundle)])

    async def refused() -> None:
        for _ in range(5):
            with pytest.raises(Conflict):
                await store.commit(values.commit(77, bundle="late"))

    async with anyio.create_task_group() as group:
        for bundle in ("a", "b", "c"):
            group.start_soon(write, bundle)
        group.start_soon(refused)
    read = await store.events(0, 1000)
    assert [e.seq for e in read] == list(range(1, 46))
    assert await store.last_seq() == 45


async def test_an_event_comes_back_whole(store: Store) -> None:
    (written,) = await store.append([values.event("gate.state", gate="go", by=["ada", "bob"], n=1.5, none=None)])
    assert (await store.events(0, 1)) == (written,)
    assert written.data == {"gate": "go", "by": ["ada", "bob"], "n": 1.5, "none": None}


async def test_reading_goes_on_after_a_number(store: Store) -> None:
    await store.append([values.event() for _ in range(10)])
    assert [e.seq for e in await store.events(7, 100)] == [8, 9, 10]
    assert await store.events(10, 100) == ()


async def test_events_of_a_rollout(store: Store) -> None:
    await store.append([values.event(bundle="shop"), values.event(bundle="base"), values.event(bundle="shop")])
    assert [e.seq for e in await store.events_of("shop-1")] == [1, 3]


async def test_appending_nothing_is_nothing(store: Store) -> None:
    assert await store.append([]) == ()
    assert await store.first_seq() == 1


async def test_the_log_is_bounded_and_numbers_go_on(data_dir: Path) -> None:
    keep = 100
    batch = events.TRIM_EVERY // 4
    async with await open_store(data_dir, StoreSettings(event_rows=keep)) as store:
        for _ in range(9):
            await store.append([values.event() for _ in range(batch)])
        last = 9 * batch
        first = await store.first_seq()
        assert await store.last_seq() == last
        assert last - keep - events.TRIM_EVERY < first <= last - keep + 1
        assert [e.seq for e in await store.events(0, 1)] == [first]
    async with await open_store(data_dir, StoreSettings(event_rows=keep)) as store:
        assert [e.seq for e in await store.append([values.event()])] == [last + 1]
