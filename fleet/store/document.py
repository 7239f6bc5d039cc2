"""Small named documents that a restart needs without Git, such as the last valid fleet.yaml."""

from __future__ import annotations

from sqlalchemy import Connection, select

from fleet.store import rows
from fleet.store.tables import document as table


def put(connection: Connection, name: str, revision: str, body: bytes) -> None:
    rows.insert(connection, table, [(name, revision, body)], on_conflict="replace")


def get(connection: Connection, name: str) -> tuple[str, bytes] | None:
    """(revision, body)."""
    row = connection.execute(select(table.c.revision, table.c.body).where(table.c.name == name)).one_or_none()
    return None if row is None else (row.revision, row.body)
