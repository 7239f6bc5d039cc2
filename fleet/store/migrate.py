"""Brings a database file to `tables.REVISION` when the control plane starts, or refuses it with what to do.

An empty file gets the tables as they are described, a current one costs one query, and only an older one loads Alembic
(11 MiB) to be upgraded, after a copy of it was put beside it. Downgrades are refused: an older program cannot know what
a newer one wrote.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from fleet.errors import StoreError
from fleet.store import tables
from fleet.store.database import Database, translated

VERSION_TABLE = "alembic_version"


def migrations_dir() -> Path:
    return Path(str(resources.files("fleet.store") / "migrations"))


def ensure(database: Database, scripts: Path | None = None, target: str = tables.REVISION) -> None:
    """Blocking; raises StoreError. `scripts` and `target` name the migrations to use, the program's own by default."""
    scripts = scripts or migrations_dir()
    with translated(database.path):
        found = database.write_now(_look)
        if found == "":
            database.write_now(_create)
        elif found != target:
            _upgrade(database, found, scripts, target)


def _look(connection: Connection) -> str:
    """The revision of the file; "" when it is empty."""
    names = set(inspect(connection).get_table_names())
    if not names:
        return ""
    if VERSION_TABLE not in names:
        raise StoreError("the data directory holds a database of another program: name another directory")
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def _create(connection: Connection) -> None:
    tables.metadata.create_all(connection)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (tables.REVISION,))


def _upgrade(database: Database, found: str, scripts: Path, target: str) -> None:
    known = {match[1] for path in (scripts / "versions").glob("*.py") if (match := re.match(r"(r\d+)_", path.name))}
    if found not in known:
        raise StoreError(
            f"{database.path} was written by a newer version of this program (schema {found}, this one knows "
            f"{target}): run that version, or restore the copy that it left beside the file"
        )
    # Imported here: most starts never need it.
    from alembic import command
    from alembic.config import Config

    copy = database.path.with_name(f"{database.path.name}.before-{target}")
    copy.unlink(missing_ok=True)
    database.copy_now(copy)
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, target)

    database.write_now(upgrade)
