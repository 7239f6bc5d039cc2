"""One line of the event log."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.engine.views.timestamps import rfc3339
from fleet.model.events import Event

BEHIND = "reader.behind"
"""Type of the entry that tells a reader to start again from `data.restartFrom`; it is not part of the log."""


class EventView(msgspec.Struct, frozen=True, rename="camel"):
    seq: int
    time: str
    type: str
    bundle: str | None
    rollout: str | None
    wave: str | None
    cluster: str | None
    actor: str
    data: dict[str, Any]


def event_view(event: Event) -> EventView:
    return EventView(
        seq=event.seq,
        time=rfc3339(event.time),
        type=event.type,
        bundle=event.bundle,
        rollout=event.rollout,
        wave=event.wave,
        cluster=event.cluster,
        actor=event.actor,
        data=event.data,
    )


def behind(restart_from: int, now: float) -> EventView:
    """Tells a reader that what it asks for is no longer kept; `restart_from` is what it should pass as `since`."""
    return EventView(
        seq=restart_from,
        time=rfc3339(now),
        type=BEHIND,
        bundle=None,
        rollout=None,
        wave=None,
        cluster=None,
        actor="system",
        data={"restartFrom": restart_from},
    )
