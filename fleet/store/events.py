"""The event log: `seq` counts from 1 without holes, because it is given inside the one writer's transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, delete, func, select

from fleet.model.events import Event
from fleet.store import codec, rows
from fleet.store.tables import event as table

TRIM_EVERY = 512
"""Appends between two trims, so that the log is at most this much longer than its bound."""

_data = msgspec.json.Decoder(dict[str, object])


def append(connection: Connection, events: Sequence[Event], keep: int) -> tuple[Event, ...]:
    """Writes the events at the end of the log, trims it to the newest `keep`, and returns them with their numbers."""
    if not events:
        return ()
    last = last_seq(connection)
    numbered = tuple(
        msgspec.structs.replace(entry, seq=last + position) for position, entry in enumerate(events, start=1)
    )
    rows.insert(connection, table, [_row(entry) for entry in numbered])
    end = numbered[-1].seq
    if end // TRIM_EVERY != last // TRIM_EVERY and end > keep:
        connection.execute(delete(table).where(table.c.seq <= end - keep))
    return numbered


def read(connection: Connection, since: int, limit: int) -> tuple[Event, ...]:
    """Entries after `since`, oldest first. The first of them is later than since + 1 when older ones were trimmed."""
    query = select(table).where(table.c.seq > since).order_by(table.c.seq).limit(limit)
    return tuple(_event(row) for row in connection.execute(query).all())


def of_rollout(connection: Connection, rollout: str) -> tuple[Event, ...]:
    query = select(table).where(table.c.rollout == rollout).order_by(table.c.seq)
    return tuple(_event(row) for row in connection.execute(query).all())


def last_seq(connection: Connection) -> int:
    """0 when nothing was ever written."""
    return int(connection.execute(select(func.coalesce(func.max(table.c.seq), 0))).scalar_one())


def first_seq(connection: Connection) -> int:
    """The oldest entry that is kept; last + 1 when the log is empty."""
    first = connection.execute(select(func.min(table.c.seq))).scalar_one()
    return last_seq(connection) + 1 if first is None else int(first)


def _row(entry: Event) -> tuple[object, ...]:
    return (
        entry.seq,
        entry.time,
        entry.type,
        entry.bundle,
        entry.rollout,
        entry.wave,
        entry.cluster,
        entry.actor,
        codec.to_text(entry.data),
    )


def _event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    values["data"] = codec.from_text(_data, values["data"], f"event {values['seq']}")
    return Event(**values)
