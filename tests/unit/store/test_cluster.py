from __future__ import annotations

import msgspec
import pytest

from fleet.model.cluster import Inventory, InventoryEntry
from fleet.store import Store
from tests.unit.store import values

pytestmark = pytest.mark.anyio


async def test_inventories_by_cluster_and_bundle(store: Store) -> None:
    entry = InventoryEntry(values.baseline().id, "v1", "uid-1")
    shop, base = Inventory("shop", 3, "sha256:a", (entry,)), Inventory("base", 1, None)
    await store.put_inventory("qa-1", Inventory("shop", 2, "sha256:0"))
    await store.put_inventory("qa-1", shop)
    await store.put_inventory("qa-1", base)
    await store.put_inventory("qa-2", shop)
    assert await store.inventories("qa-1") == (base, shop)
    await store.drop_inventory("qa-1", "shop")
    await store.drop_inventory("qa-1", "never there")
    assert await store.inventories("qa-1") == (base,)
    assert await store.inventories("qa-2") == (shop,)


async def test_baselines_are_replaced_and_forgotten_one_by_one(store: Store) -> None:
    first = [values.baseline(name) for name in ("a", "b", "c")] + [values.baseline("s", "Secret")]
    await store.put_baselines("qa-1", first)
    await store.put_baselines("qa-2", first[:1])
    newer = msgspec.structs.replace(first[1], resource_version="78", generation=9)
    await store.put_baselines("qa-1", [newer], gone=[first[0].id, values.baseline("unknown").id])
    assert set(await store.baselines("qa-1")) == {newer, first[2], first[3]}
    assert await store.baselines("qa-2") == (first[0],)
    assert await store.baselines("qa-3") == ()


async def test_equal_field_sets_are_held_once(store: Store) -> None:
    await store.put_baselines("qa-1", [values.baseline(f"o{number}") for number in range(50)])
    assert len({id(value.fields) for value in await store.baselines("qa-1")}) == 1
