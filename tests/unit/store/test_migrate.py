"""The schema equals the migrations, whichever way a database came to it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from fleet.errors import StoreError
from fleet.settings import StoreSettings
from fleet.store import migrate, tables
from fleet.store.database import Database

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "r9999"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("document", sa.Column("note", sa.Text))
"""


def opened(path: Path) -> Database:
    database = Database(path, StoreSettings())
    database.prepare_now()
    return database


def schema(path: Path) -> set[tuple[str, str, str]]:
    """(type, name, normalised SQL) of everything in a database file."""
    connection = sqlite3.connect(path)
    found = connection.execute("select type, name, coalesce(sql, '') from sqlite_master").fetchall()
    connection.close()
    return {
        (kind, name, re.sub(r"[\s\"]+", " ", sql).replace("( ", "(").replace(" )", ")")) for kind, name, sql in found
    }


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    found = {name: connection.execute(f"pragma table_info({name})").fetchall() for name in names}
    connection.close()
    return found


def empty_but_versioned(path: Path) -> Database:
    """A database that Alembic believes to be before the first migration."""
    database = opened(path)
    database.write_now(lambda c: c.exec_driver_sql("create table alembic_version (version_num varchar(32) not null)"))
    return database


def by_migrations(path: Path) -> Database:
    from alembic import command

    database = opened(path)
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_dir()))

    def upgrade(connection: object) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    database.write_now(upgrade)
    return database


def test_all_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    migrated, created = by_migrations(tmp_path / "a.db"), opened(tmp_path / "b.db")
    migrate.ensure(created)
    differences = migrated.read_now(
        lambda c: compare_metadata(MigrationContext.configure(c, opts={"compare_type": True}), tables.metadata)
    )
    migrated.close_now()
    created.close_now()
    assert differences == []
    assert columns(tmp_path / "a.db") == columns(tmp_path / "b.db")
    assert schema(tmp_path / "a.db") == schema(tmp_path / "b.db")


def test_the_description_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_dir()))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.REVISION]


def test_a_current_database_is_left_alone(tmp_path: Path) -> None:
    database = opened(tmp_path / "fleet.db")
    migrate.ensure(database)
    before = schema(database.path)
    migrate.ensure(database)
    database.close_now()
    assert schema(database.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.db"]


def test_an_older_database_is_copied_and_upgraded(tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate.migrations_dir(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "r9999_next.py").write_text(NEXT.format(head=tables.REVISION))
    database = opened(tmp_path / "fleet.db")
    migrate.ensure(database)
    database.write_now(lambda c: c.exec_driver_sql("insert into document values ('fleet.yaml', 'abc', x'00')"))
    migrate.ensure(database, scripts, "r9999")
    found = database.read_now(lambda c: c.exec_driver_sql("select name, revision, note from document").all())
    database.close_now()
    assert [tuple(row) for row in found] == [("fleet.yaml", "abc", None)]
    kept = sqlite3.connect(tmp_path / "fleet.db.before-r9999")
    assert kept.execute("select version_num from alembic_version").fetchall() == [(tables.REVISION,)]
    assert kept.execute("select revision from document").fetchall() == [("abc",)]
    kept.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate.migrations_dir(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    broken = NEXT.format(head=tables.REVISION) + '    op.execute("insert into no_such_table values (1)")\n'
    (scripts / "versions" / "r9999_next.py").write_text(broken)
    database = opened(tmp_path / "fleet.db")
    migrate.ensure(database)
    before = schema(database.path)
    with pytest.raises(StoreError, match="refuses a statement"):
        migrate.ensure(database, scripts, "r9999")
    database.close_now()
    assert schema(database.path) == before


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = opened(tmp_path / "fleet.db")
    migrate.ensure(database)
    database.write_now(lambda c: c.exec_driver_sql("update alembic_version set version_num = 'r7777'"))
    before = schema(database.path)
    with pytest.raises(StoreError, match=r"newer version of this program \(schema r7777, this one knows r\d+\)"):
        migrate.ensure(database)
    database.close_now()
    assert schema(database.path) == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "fleet.db")
    connection.execute("create table recipes (name text)")
    connection.close()
    database = opened(tmp_path / "fleet.db")
    with pytest.raises(StoreError, match="another program"):
        migrate.ensure(database)
    database.close_now()


def test_most_starts_never_load_alembic(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nimport anyio\n"
        "from fleet.settings import StoreSettings\nfrom fleet.store import open_store\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        store = await open_store(Path(sys.argv[1]), StoreSettings())\n"
        "        await store.aclose()\n"
        "anyio.run(main)\n"
        "print([m for m in ('alembic', 'mako', 'cryptography', 'greenlet', 'sqlalchemy.orm') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "[]\n"
