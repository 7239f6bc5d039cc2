"""The event log: what happened, in order, as people and programs read it."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True):
    """One entry; `seq` is given by the store when the entry is written (0 before that) and has no holes."""

    type: str
    time: float
    """Seconds since the epoch."""
    bundle: str | None = None
    rollout: str | None = None
    wave: str | None = None
    cluster: str | None = None
    actor: str = "system"
    data: dict[str, Any] = {}
    seq: int = 0
