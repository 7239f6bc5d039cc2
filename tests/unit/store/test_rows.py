from __future__ import annotations

from sqlalchemy import create_engine, event

from fleet.store import rows
from fleet.store.tables import baseline as table


def test_many_rows_are_few_statements() -> None:
    engine = create_engine("sqlite://")
    statements: list[str] = []
    with engine.begin() as connection:
        table.create(connection)
        event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        written = [("qa-1", f"object {number}", 0, b"x") for number in range(2 * rows.CHUNK)]
        rows.insert(connection, table, written, on_conflict="replace")
        rows.insert(connection, table, [*written[:5], ("qa-1", "new", 0, b"y")], on_conflict="ignore")
        rows.insert(connection, table, [], on_conflict="replace")
        assert len(statements) == 3
        assert connection.execute(table.select()).all() == [*written, ("qa-1", "new", 0, b"y")]
    engine.dispose()
