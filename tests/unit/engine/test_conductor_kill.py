"""kill -9 at every commit: before a decision is durable, and after it before anything is done (scenario 42)."""

from __future__ import annotations

import anyio

from tests.unit.engine.conductor_world import Plant, whole_run


def finished(plant: Plant) -> Plant:
    # A loop of its own, without the debug mode of other tests: there are many runs.
    anyio.run(whole_run, plant)
    return plant


def test_a_kill_at_any_commit_ends_in_the_same_state() -> None:
    expected = finished(Plant())
    assert expected.store.commits > 15
    for number in range(expected.store.commits):
        for side in ("before", "after"):
            plant = Plant()
            plant.store.kill = (number, side)
            finished(plant)
            assert plant.starts == 2, (number, side)
            assert plant.picture() == expected.picture(), (number, side)
