"""How long to wait before trying again, before asking again about a suspect, and when healing is a fight.

Random numbers and the clock are arguments (`u` in [0, 1), `now` in seconds of any monotonic clock).
"""

from __future__ import annotations

import math

import msgspec

SUSPICION_BASE = 0.05
SUSPICION_CAP = 30.0
QUIET = 60.0
"""Seconds without a suspicion after which an object is answered at once again."""

FIGHT_LIMIT = 5.0
"""Heals a minute (decaying) from which two managers are taken to fight over an object (Config Sync's rule)."""
FIGHT_MEMORY = 60.0
"""Seconds in which the heat of a fight falls to 1/e."""

REOWN_INTERVAL = 3600.0
"""Seconds between two applies that only restore our lost managedFields entry (drift.md 1.3 row 4)."""


def delay(attempt: int, u: float, *, base: float, cap: float) -> float:
    """Seconds before attempt `attempt` (from 1) is repeated: full jitter over a doubling ceiling."""
    return u * ceiling(attempt, base=base, cap=cap)


def ceiling(attempt: int, *, base: float, cap: float) -> float:
    """The longest that `delay` may wait: base, doubled by each attempt, at most cap."""
    # 2**62 exceeds every ratio of cap to base; the bound keeps the power from overflowing for huge attempts.
    return min(cap, base * 2.0 ** min(max(attempt - 1, 0), 62))


def decorrelated(previous: float, u: float, *, base: float, cap: float) -> float:
    """Seconds to wait after having waited `previous`: decorrelated jitter, at least base and at most cap."""
    return min(cap, base + u * max(0.0, previous * 3.0 - base))


def may_reown(last: float | None, now: float) -> bool:
    """Whether an object without drift may be applied only to own its fields again."""
    return last is None or now - last >= REOWN_INTERVAL


class Suspicion(msgspec.Struct, frozen=True, gc=False):
    """How eagerly suspicions of one object are looked into; the initial value answers at once."""

    interval: float = 0.0
    look: float = -math.inf
    """When the latest look is or was due."""
    last: float = -math.inf
    """When the latest suspicion came."""

    def raised(self, now: float) -> tuple[Suspicion, float]:
        """After a suspicion: the next state, and the time at which to look.

        That is now for the first suspicion after a quiet time; then looks are 50 ms, 100 ms, ... apart. A suspicion
        that comes while a look is still due is answered by it.
        """
        if now < self.look:
            return msgspec.structs.replace(self, last=now), self.look
        quiet = now - self.last >= max(QUIET, self.interval)
        look = now if quiet else max(now, self.look + self.interval)
        interval = SUSPICION_BASE if quiet else min(SUSPICION_CAP, max(SUSPICION_BASE, self.interval * 2.0))
        return Suspicion(interval, look, now), look


class Heat(msgspec.Struct, frozen=True, gc=False):
    """A decaying count of heals of one object: about how many there were in the last minute."""

    value: float = 0.0
    at: float = 0.0

    def healed(self, now: float) -> Heat:
        """One heal more."""
        return Heat(self.current(now) + 1.0, now)

    def current(self, now: float) -> float:
        return self.value * math.exp(-max(0.0, now - self.at) / FIGHT_MEMORY)

    def fighting(self, now: float) -> bool:
        """Whether another heal would be part of a fight."""
        return self.current(now) + 1.0 > FIGHT_LIMIT
