"""Many rows in one statement.

`executemany` gives up the interpreter lock once a row; while the event loop is busy each turn can take one switch
interval (5 ms by default), so that 110 rows were measured at 840 ms. One multi-row VALUES gives it up once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

from sqlalchemy import Column, Connection, Table, delete, tuple_

T = TypeVar("T")

CHUNK = 250
"""Rows a statement: far below SQLite's 32,766 parameters for every table."""

OnConflict = Literal["fail", "ignore", "replace"]


def insert(
    connection: Connection, table: Table, rows: Sequence[Sequence[Any]], *, on_conflict: OnConflict = "fail"
) -> None:
    """Inserts rows given in the order of the table's columns; `replace` updates every column but the primary key's."""
    for chunk in chunks(rows):
        statement = _statement(table, len(chunk), on_conflict)
        connection.exec_driver_sql(statement, tuple(value for row in chunk for value in row))


def delete_keys(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Iterable[tuple[Any, ...]]
) -> None:
    """Deletes the rows whose `columns` equal one of `keys`."""
    for chunk in chunks(list(keys)):
        connection.execute(delete(table).where(tuple_(*columns).in_(chunk)))


def chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


@lru_cache(maxsize=256)
def _statement(table: Table, count: int, on_conflict: OnConflict) -> str:
    names = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key]
    row = f"({','.join('?' * len(names))})"
    head = " ".join(
        ("INSERT INTO", f'"{table.name}"', f"({','.join(_quoted(names))})", "VALUES", ",".join([row] * count))
    )
    if on_conflict == "fail":
        return head
    if on_conflict == "ignore":
        return f"{head} ON CONFLICT DO NOTHING"
    changed = ",".join(f'"{name}"=excluded."{name}"' for name in names if name not in key)
    return f"{head} ON CONFLICT ({','.join(_quoted(key))}) DO UPDATE SET {changed}"


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]
