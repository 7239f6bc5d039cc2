from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from fleet.errors import NotFound
from fleet.model.drift import DriftState
from fleet.store import Store
from tests.unit.store import values

pytestmark = pytest.mark.anyio


async def test_a_record_is_replaced_by_id_and_keeps_its_place(store: Store) -> None:
    for number in (1, 2, 3):
        await store.put_drift(values.drift(number))
    healed = msgspec.structs.replace(values.drift(1), state="healed", healed_at=200.0, count=2)
    await store.put_drift(healed)
    assert await store.drifts(None, None, False, None, 10) == (values.drift(3), values.drift(2), healed)


async def test_open_means_that_the_object_still_differs(store: Store) -> None:
    for number, state in enumerate(get_args(DriftState), start=1):
        await store.put_drift(values.drift(number, state))
    assert [d.state for d in await store.drifts(None, None, True, None, 10)] == ["contested", "reported", "open"]


async def test_filters_and_pages(store: Store) -> None:
    for number in range(1, 9):
        cluster, bundle = ("prod-1", "prod-2")[number % 2], ("shop", "base")[number % 4 == 0]
        await store.put_drift(values.drift(number, cluster=cluster, bundle=bundle))
    assert [d.id for d in await store.drifts("prod-1", None, False, None, 10)] == ["d8", "d6", "d4", "d2"]
    assert [d.id for d in await store.drifts("prod-1", "base", False, None, 10)] == ["d8", "d4"]
    assert [d.id for d in await store.drifts(None, None, False, "d3", 10)] == ["d2", "d1"]
    with pytest.raises(NotFound, match="first page"):
        await store.drifts(None, None, False, "d77", 10)
