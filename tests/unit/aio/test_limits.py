"""Rate and circuit breaker as pure state over a given time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.aio.limits import Breaker, TokenBucket

gaps = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60)


@given(gaps, st.floats(0.5, 100.0), st.integers(1, 20))
def test_no_window_holds_more_than_its_rate_and_the_burst(waits: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    now, admitted = 0.0, []
    for wait in waits:
        now += wait
        delay = bucket.reserve(now, 1e9)
        assert delay is not None
        admitted.append(now + delay)
    assert admitted == sorted(admitted)
    for i, start in enumerate(admitted):
        for j, end in enumerate(admitted[i:], i):
            assert j - i + 1 <= burst + rate * (end - start) + 1e-6


def test_a_full_bucket_admits_the_burst_at_once_and_then_the_rate() -> None:
    bucket = TokenBucket(10.0, 3)
    assert [bucket.reserve(5.0, 1.0) for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])


def test_who_would_wait_too_long_takes_no_place() -> None:
    bucket = TokenBucket(1.0, 1)
    assert bucket.reserve(0.0, 0.5) == 0.0
    assert bucket.reserve(0.0, 0.5) is None
    assert bucket.reserve(0.6, 0.5) == pytest.approx(0.4)


def test_a_bucket_needs_a_rate() -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(0.0, 1)


def test_a_breaker_opens_after_its_threshold_and_admits_one_probe() -> None:
    breaker = Breaker(threshold=2, base=1.0, cap=8.0)
    states = []
    for _ in range(2):
        breaker.failed(0.0, 0.0)
        states.append(breaker.state)
    assert breaker.wait(0.2) == pytest.approx(0.3)
    assert breaker.admit(0.2) == pytest.approx(0.3)
    assert breaker.wait(0.5) == 0.0
    assert breaker.admit(0.5) == 0.0
    states.append(breaker.state)
    assert breaker.wait(0.5) > 0
    assert breaker.admit(0.5) > 0
    breaker.succeeded()
    states.append(breaker.state)
    assert breaker.admit(0.5) == 0.0
    assert states == ["closed", "open", "half-open", "closed"]


def test_the_pauses_grow_to_the_cap() -> None:
    breaker = Breaker(threshold=1, base=1.0, cap=4.0)
    now, pauses = 0.0, []
    breaker.failed(now, 1.0)
    for _ in range(4):
        pauses.append(breaker.admit(now))
        now += pauses[-1]
        assert breaker.admit(now) == 0.0
        breaker.failed(now, 1.0)
    assert pauses == [1.0, 2.0, 4.0, 4.0]


def test_an_abandoned_probe_gives_its_place_to_the_next() -> None:
    breaker = Breaker(threshold=1, base=1.0, cap=1.0)
    breaker.failed(0.0, 0.0)
    assert breaker.admit(1.0) == 0.0
    breaker.abandoned()
    assert breaker.admit(1.0) == 0.0


def test_failures_from_before_the_opening_do_not_prolong_it() -> None:
    breaker = Breaker(threshold=1, base=1.0, cap=60.0)
    for _ in range(20):
        breaker.failed(0.0, 1.0)
    assert breaker.admit(0.0) == 1.0


@given(st.lists(st.sampled_from(["failed", "succeeded", "admit", "abandoned"]), max_size=40), st.floats(0.0, 3.0))
def test_whatever_happens_a_breaker_lets_somebody_through_within_the_cap(actions: list[str], step: float) -> None:
    breaker = Breaker(threshold=3, base=1.0, cap=10.0)
    now = 0.0
    for action in actions:
        now += step
        if action == "failed":
            breaker.failed(now, 0.5)
        elif action == "admit":
            breaker.admit(now)
        else:
            getattr(breaker, action)()
    breaker.abandoned()
    assert breaker.admit(now) <= 10.0
    breaker.abandoned()
    assert breaker.admit(now + 10.0) == 0.0
