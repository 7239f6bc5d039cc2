"""How much may be sent to one peer, and when to stop trying: a token bucket and a circuit breaker.

Both are plain state over a `now` that the caller takes from one monotonic clock; neither knows what is limited.
"""

from __future__ import annotations

import random
from typing import Literal

import anyio

BreakerState = Literal["closed", "open", "half-open"]

jitter = random.SystemRandom()
"""Spreads what many would otherwise do at the same moment."""


class TokenBucket:
    """Admits `rate` events a second on average and `burst` at once; waiters are served in the order they came."""

    def __init__(self, rate: float, burst: int) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate and burst must be positive")
        self._interval = 1.0 / rate
        self._slack = self._interval * (burst - 1)
        self._next = float("-inf")
        """When the next event is due at an even pace; it may come up to `_slack` earlier."""

    def reserve(self, now: float, longest: float) -> float | None:
        """Takes a place and returns the seconds to wait for it; None, and no place, when that is above `longest`."""
        due = max(self._next, now)
        wait = max(0.0, due - self._slack - now)
        if wait > longest:
            return None
        self._next = due + self._interval
        return wait

    async def wait(self, longest: float) -> bool:
        """Returns True when the caller may go on, False at once when that would take more than `longest` seconds."""
        wait = self.reserve(anyio.current_time(), longest)
        if wait is None:
            return False
        if wait > 0:
            await anyio.sleep(wait)
        return True


class Breaker:
    """Opens after `threshold` failures in a row; then lets one attempt through at a time, ever more rarely.

    The pause after the n-th opening is between half and the whole of `base` × 2ⁿ seconds, at most `cap`. A success at
    any time closes it.
    """

    def __init__(self, threshold: int, base: float, cap: float) -> None:
        self._threshold = threshold
        self._base = base
        self._cap = cap
        self._failures = 0
        self._openings = 0
        self._until: float | None = None
        """None while closed; else when the next attempt may go."""
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._until is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def wait(self, now: float) -> float:
        """The seconds after which an attempt may be admitted; 0.0 when one may be now."""
        if self._until is None:
            return 0.0
        if now < self._until:
            return self._until - now
        return self._base if self._probing else 0.0

    def admit(self, now: float) -> float:
        """As `wait`, and when it answers 0.0 the attempt is under way: its end must be told."""
        wait = self.wait(now)
        if wait == 0.0 and self._until is not None:
            self._probing = True
        return wait

    def succeeded(self) -> None:
        self._failures = 0
        self._openings = 0
        self._until = None
        self._probing = False

    def failed(self, now: float, u: float) -> None:
        """`u` in [0, 1) spreads the pauses of many breakers."""
        self._failures += 1
        if self._until is not None and not self._probing:
            return  # an attempt from before it opened; the pause already stands for it
        if self._failures < self._threshold and not self._probing:
            return
        self._probing = False
        # The exponent is bounded so that years of failures cannot overflow the float.
        pause = min(self._cap, self._base * 2.0 ** min(self._openings, 60))
        self._openings += 1
        self._until = now + pause * (0.5 + u / 2)

    def abandoned(self) -> None:
        """An admitted attempt ended without an answer about the peer (it was cancelled)."""
        self._probing = False
