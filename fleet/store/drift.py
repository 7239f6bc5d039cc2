"""Drift records: what still differs is always kept, what is over is bounded."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import Connection, delete, select

from fleet.errors import NotFound
from fleet.model.drift import Drift
from fleet.store import codec
from fleet.store.tables import drift as table

OPEN = frozenset({"open", "reported", "contested"})
"""States in which the object is not as wanted."""

_drift = msgspec.json.Decoder(Drift)


def put(connection: Connection, value: Drift) -> None:
    """Inserts or replaces by id; a record keeps its place in the order."""
    row = {
        "cluster": value.cluster,
        "bundle": value.bundle,
        "state": value.state,
        "open": int(value.state in OPEN),
        "body": codec.to_text(value),
    }
    updated = connection.execute(table.update().where(table.c.id == value.id).values(row))
    if updated.rowcount == 0:
        connection.execute(table.insert().values(id=value.id, **row))


def read(
    connection: Connection, cluster: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
) -> tuple[Drift, ...]:
    """Newest first; raises NotFound when `before` is not (or no longer) stored."""
    query = select(table.c.id, table.c.body).order_by(table.c.position.desc()).limit(limit)
    if cluster is not None:
        query = query.where(table.c.cluster == cluster)
    if bundle is not None:
        query = query.where(table.c.bundle == bundle)
    if open_only:
        query = query.where(table.c.open == 1)
    if before is not None:
        position = connection.execute(select(table.c.position).where(table.c.id == before)).scalar_one_or_none()
        if position is None:
            raise NotFound(f"no drift {before}: start again from the first page")
        query = query.where(table.c.position < position)
    return tuple(codec.from_text(_drift, body, f"drift {name}") for name, body in connection.execute(query).all())


def close_others(connection: Connection, kept: Collection[str], now: float) -> tuple[Drift, ...]:
    """Closes what is open on clusters that are not one of `kept`: nobody looks there any more. Oldest first."""
    query = select(table.c.id, table.c.cluster, table.c.body).where(table.c.open == 1).order_by(table.c.position)
    closed = []
    for name, cluster, body in connection.execute(query).all():
        if cluster not in kept:
            value = codec.from_text(_drift, body, f"drift {name}")
            value = msgspec.structs.replace(value, state="healed", healed_at=now, message="")
            put(connection, value)
            closed.append(value)
    return tuple(closed)


def trim(connection: Connection, keep: int) -> int:
    """Deletes all but the newest `keep` of those that are over; returns how many went."""
    closed = select(table.c.position).where(table.c.open == 0)
    oldest = connection.execute(closed.order_by(table.c.position.desc()).offset(keep - 1).limit(1)).scalar_one_or_none()
    if oldest is None:
        return 0
    gone = connection.execute(delete(table).where(table.c.open == 0, table.c.position < oldest))
    return gone.rowcount
