"""Waiting times: bounded, growing, reset by quiet; and when two managers fight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import backoff
from fleet.core.backoff import Heat, Suspicion

_UNIT = st.floats(0, 1, exclude_max=True)


@given(st.integers(-1, 10**9), _UNIT, st.floats(0.001, 10), st.floats(10, 1000))
def test_a_delay_stays_under_its_ceiling(attempt: int, u: float, base: float, cap: float) -> None:
    assert 0 <= backoff.delay(attempt, u, base=base, cap=cap) <= backoff.ceiling(attempt, base=base, cap=cap) <= cap


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    assert [backoff.ceiling(n, base=1, cap=10) for n in (1, 2, 3, 4, 5, 99)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay(3, 0.5, base=1, cap=10) == 2


@given(st.floats(0, 1e6), _UNIT)
def test_decorrelated_jitter_stays_between_base_and_cap(previous: float, u: float) -> None:
    assert 0.5 <= backoff.decorrelated(previous, u, base=0.5, cap=30) <= 30
    assert backoff.decorrelated(previous, 0.0, base=0.5, cap=30) == 0.5


def test_a_first_suspicion_is_looked_into_at_once_and_then_ever_later() -> None:
    state, looks, now = Suspicion(), [], 0.0
    for _ in range(6):
        state, look = state.raised(now)
        looks.append(round(look, 3))
        now = look
    assert looks == [0.0, 0.05, 0.15, 0.35, 0.75, 1.55]


def test_suspicions_before_a_due_look_are_answered_by_it() -> None:
    state, _ = Suspicion().raised(0.0)
    state, due = state.raised(0.01)
    assert due == 0.05
    for moment in (0.02, 0.03, 0.049):
        state, again = state.raised(moment)
        assert again == due


def test_quiet_resets_and_noise_stops_growing_at_the_cap() -> None:
    state, now = Suspicion(), 0.0
    for _ in range(40):
        state, now = state.raised(now)
    assert state.interval == backoff.SUSPICION_CAP
    state, look = state.raised(now + backoff.QUIET)
    assert look == now + backoff.QUIET
    assert state.interval == backoff.SUSPICION_BASE


@given(st.lists(st.floats(0, 100), max_size=30))
def test_looks_never_lie_in_the_past_nor_closer_than_the_base(gaps: list[float]) -> None:
    state, now, looks = Suspicion(), 0.0, [float("-inf")]
    for gap in gaps:
        now += gap
        state, look = state.raised(now)
        assert look >= now
        if look != looks[-1]:
            assert look >= looks[-1] + backoff.SUSPICION_BASE * 0.99
            looks.append(look)


def test_five_heals_in_a_minute_are_a_fight_and_it_cools_down() -> None:
    heat, fights = Heat(), []
    for second in range(8):
        fights.append(heat.fighting(float(second)))
        heat = heat.healed(float(second))
    assert fights == [False] * 5 + [True] * 3
    assert not heat.fighting(120.0)


def test_a_heal_every_twenty_seconds_is_no_fight() -> None:
    heat = Heat()
    for n in range(100):
        assert not heat.fighting(n * 20.0)
        heat = heat.healed(n * 20.0)


@pytest.mark.parametrize(("last", "now", "expected"), [(None, 0, True), (0, 3599, False), (0, 3600, True)])
def test_restoring_a_lost_entry_happens_once_an_hour(last: float | None, now: float, expected: bool) -> None:
    assert backoff.may_reown(last, now) is expected
