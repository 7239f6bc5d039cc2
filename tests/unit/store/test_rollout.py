from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleet.engine import ports
from fleet.errors import Conflict, NotFound
from fleet.model.rollout import Commit, RolloutState
from fleet.settings import StoreSettings
from fleet.store import Store, open_store
from tests.unit.store import values

pytestmark = pytest.mark.anyio


async def test_the_store_is_what_the_engine_asks_for(store: Store) -> None:
    port: ports.Store = store
    assert await port.last_seq() == 0


async def test_a_decision_comes_back_as_it_was_after_a_restart(data_dir: Path) -> None:
    decision = values.commit()
    async with await open_store(data_dir, StoreSettings()) as store:
        written = await store.commit(decision)
    assert [e.seq for e in written] == [1, 2]
    async with await open_store(data_dir, StoreSettings()) as store:
        assert await store.bundle_states() == (decision.state,)
        assert await store.assignments() == decision.assignments
        assert await store.release(decision.releases[0].id) == decision.releases[0]
        assert await store.rollout("shop-1") == decision.rollouts[0]
        assert await store.events(0, 10) == written


async def test_reports_are_not_kept(store: Store) -> None:
    decision = values.commit()
    full = msgspec.structs.replace(decision.state, reports={"qa-1": values.report()})
    await store.commit(msgspec.structs.replace(decision, state=full))
    assert await store.bundle_states() == (decision.state,)


async def test_a_decision_on_another_version_changes_nothing(store: Store) -> None:
    await store.commit(values.commit(1))
    stale = msgspec.structs.replace(values.commit(2, number=2), expected_version=0)
    with pytest.raises(Conflict, match="bundle shop is at version 1, not 0"):
        await store.commit(stale)
    assert [s.version for s in await store.bundle_states()] == [1]
    assert await store.rollout("shop-2") is None
    assert await store.last_seq() == 2


async def test_a_bundle_that_was_never_stored_has_version_zero(store: Store) -> None:
    with pytest.raises(Conflict, match="at version 0, not 4"):
        await store.commit(values.commit(5))


async def test_a_rollout_is_replaced_and_keeps_its_place(store: Store) -> None:
    await store.commit(values.commit(1, number=1))
    await store.commit(values.commit(2, number=2))
    done = msgspec.structs.replace(values.rollout(1), state=RolloutState.SUCCEEDED, ended_at=9.0, version=7)
    await store.commit(Commit(values.state(version=3), 2, rollouts=(done,)))
    assert await store.rollout("shop-1") == done
    assert [r.id for r in await store.rollouts(None, None, 10)] == ["shop-2", "shop-1"]


async def test_a_release_never_changes(store: Store) -> None:
    await store.commit(values.commit(1))
    other = msgspec.structs.replace(values.release(), message="rewritten")
    await store.commit(Commit(values.state(version=2), 1, releases=(other,)))
    assert await store.release(other.id) == values.release()


async def test_withdrawn_assignments_are_gone(store: Store) -> None:
    await store.commit(values.commit(1))
    await store.commit(values.commit(1, bundle="base"))
    await store.commit(Commit(values.state(version=2), 1, withdrawn=(("qa-1", "shop"), ("qa-9", "shop"))))
    assert [(a.cluster, a.bundle) for a in await store.assignments()] == [("qa-1", "base")]


async def test_rollouts_page_from_the_newest(store: Store) -> None:
    for number in range(1, 6):
        await store.commit(values.commit(number, number=number))
    await store.commit(values.commit(1, bundle="base"))
    first = await store.rollouts("shop", None, 2)
    second = await store.rollouts("shop", first[-1].id, 2)
    third = await store.rollouts("shop", second[-1].id, 2)
    assert [r.number for r in (*first, *second, *third)] == [5, 4, 3, 2, 1]
    assert [r.id for r in await store.rollouts(None, None, 1)] == ["base-1"]
    with pytest.raises(NotFound, match="first page"):
        await store.rollouts("shop", "shop-99", 2)


async def test_a_page_is_bounded_whatever_is_asked(data_dir: Path) -> None:
    async with await open_store(data_dir, StoreSettings(page_max=2)) as store:
        await store.append([values.event()] * 5)
        assert len(await store.events(0, 1_000_000)) == 2
        assert len(await store.events(0, 0)) == 1


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.release("x") is None
    assert await store.rollout("x") is None
    assert await store.document("fleet.yaml") is None
    assert await store.bundle_states() == ()


async def test_documents_are_replaced(store: Store) -> None:
    await store.put_document("fleet.yaml", "aaa", b"one")
    await store.put_document("fleet.yaml", "bbb", b"\xfftwo")
    assert await store.document("fleet.yaml") == ("bbb", b"\xfftwo")
