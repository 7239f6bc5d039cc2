from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec
import pytest

from fleet.engine.eventlog import EventLog
from fleet.errors import StoreError
from fleet.model.cluster import Baseline
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.objects import ObjectId

pytestmark = pytest.mark.anyio

OBJECT = ObjectId("", "ConfigMap", "shop", "a")


class Journal:
    """A store in memory that can be down."""

    def __init__(self) -> None:
        self.down = False
        self.events: list[Event] = []
        self.drifts: list[Drift] = []
        self.baselines: list[tuple[str, Baseline]] = []

    async def append(self, events: Sequence[Event]) -> Sequence[Event]:
        if self.down:
            raise StoreError("down")
        stored = [msgspec.structs.replace(e, seq=len(self.events) + n) for n, e in enumerate(events, 1)]
        self.events.extend(stored)
        return stored

    async def put_drift(self, drift: Drift) -> None:
        self.drifts.append(drift)

    async def put_baselines(self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()) -> None:
        self.baselines.extend((cluster, b) for b in baselines)


def a_drift(state: str) -> Drift:
    return msgspec.convert(
        {
            "id": "d1",
            "cluster": "qa",
            "bundle": "shop",
            "object": {"group": "", "kind": "ConfigMap", "namespace": "shop", "name": "a"},
            "version": "v1",
            "verdict": "modified",
            "state": state,
            "mode": "correct",
            "detected_at": 1.0,
        },
        Drift,
    )


async def test_what_was_said_is_stored_in_order_and_wakes_followers() -> None:
    journal = Journal()
    log = EventLog(journal)
    async with anyio.create_task_group() as group:
        group.start_soon(log.run)
        for number in range(3):
            log.emit(Event(type=f"e{number}", time=0.0))
        with anyio.fail_after(5):
            await log.wait_beyond(2)
        group.cancel_scope.cancel()
    assert [(e.seq, e.type) for e in journal.events] == [(1, "e0"), (2, "e1"), (3, "e2")]


async def test_events_wait_while_the_store_is_down() -> None:
    journal = Journal()
    journal.down = True
    log = EventLog(journal)
    log.emit(Event(type="e", time=0.0))
    with pytest.raises(StoreError):
        await log.flush()
    journal.down = False
    await log.flush()
    await log.flush()
    assert [e.type for e in journal.events] == ["e"]


async def test_too_many_events_are_counted_not_kept() -> None:
    log = EventLog(Journal(), bound=2)
    for _ in range(5):
        log.emit(Event(type="e", time=0.0))
    assert log.lost == 3


async def test_only_the_newest_state_of_a_record_is_stored() -> None:
    journal = Journal()
    log = EventLog(journal)
    log.keep("qa", a_drift("open"))
    log.keep("qa", a_drift("healed"))
    baseline = Baseline(OBJECT, "shop", b"m", "u1", 1, b"p", b"e", b"f")
    log.keep("qa", baseline)
    log.keep("prod", baseline)
    await log.flush()
    assert [d.state for d in journal.drifts] == ["healed"]
    assert sorted(cluster for cluster, _ in journal.baselines) == ["prod", "qa"]


@pytest.mark.parametrize("data", [{"error": "b\udcff.yaml"}, {"x": object()}, {"n": 1 << 70}])
async def test_an_event_that_no_store_takes_is_told_without_its_data(data: dict[str, object]) -> None:
    class Encoding(Journal):
        """Writes as the store does."""

        async def append(self, events: Sequence[Event]) -> Sequence[Event]:
            for event in events:
                msgspec.json.encode(event)
            return await super().append(events)

    journal = Encoding()
    log = EventLog(journal)
    log.emit(Event(type="before", time=0.0, data={"a": 1}))
    log.emit(Event(type="bad", time=0.0, bundle="s\udcff", data=data))
    log.emit(Event(type="after", time=0.0))
    await log.flush()
    assert [event.type for event in journal.events] == ["before", "bad", "after"]
    assert journal.events[0].data == {"a": 1}
    assert list(journal.events[1].data) == ["unstorable"]
    assert journal.events[1].bundle == "s\\udcff"
