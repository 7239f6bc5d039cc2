"""What a broken disk, file or key leads to: one sentence, and nothing half done."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection

from fleet.errors import StoreError
from fleet.settings import StoreSettings
from fleet.store import Store, open_store
from fleet.store.database import Database
from tests.unit.store import values

pytestmark = pytest.mark.anyio

QUICK = StoreSettings(busy_timeout=0.01)


def notes(connection: Connection) -> list[str]:
    return list(connection.exec_driver_sql("select text from note").scalars())


async def test_a_full_disk_loses_nothing_and_space_cures_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db", QUICK)
    database.prepare_now()
    await database.write(lambda c: c.exec_driver_sql("create table note (text)"))
    await database.write(lambda c: c.exec_driver_sql("insert into note values ('kept')"))

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("pragma max_page_count = 4")
        connection.exec_driver_sql("insert into note values ('first half')")
        connection.exec_driver_sql("insert into note values (?)", ("x" * 100_000,))

    with pytest.raises(StoreError, match=f"the disk of {tmp_path} is full: free some space") as caught:
        await database.write(fill)
    assert "xxx" not in str(caught.value)
    assert await database.read(notes) == ["kept"]
    await database.write(lambda c: c.exec_driver_sql("pragma max_page_count = 100000").all())
    await database.write(lambda c: c.exec_driver_sql("insert into note values ('more')"))
    assert await database.read(notes) == ["kept", "more"]
    await database.aclose()


async def test_a_file_that_is_no_database(data_dir: Path) -> None:
    await anyio.Path(data_dir).mkdir()
    await anyio.Path(data_dir / "fleet.db").write_bytes(b"apiVersion: fleet/v1\n" * 500)
    with pytest.raises(StoreError, match="is not a database, or damaged: restore a backup"):
        await open_store(data_dir, QUICK)


async def test_a_damaged_page_is_an_error_and_not_an_empty_table(data_dir: Path) -> None:
    async with await open_store(data_dir, QUICK) as store:
        await store.append([values.event() for _ in range(2000)])
    path = data_dir / "fleet.db"
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\x5a" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        async with await open_store(data_dir, QUICK) as store:
            await store.events(0, 1000)


async def test_a_lock_of_another_program(data_dir: Path) -> None:
    async with await open_store(data_dir, QUICK) as store:
        shell = sqlite3.connect(data_dir / "fleet.db", isolation_level=None)
        shell.execute("begin immediate")
        with pytest.raises(StoreError, match="another program holds a lock on"):
            await store.append([values.event()])
        assert await store.last_seq() == 0
        shell.execute("rollback")
        shell.close()
        assert [e.seq for e in await store.append([values.event()])] == [1]


async def test_a_body_of_a_newer_version_is_named(data_dir: Path) -> None:
    async with await open_store(data_dir, QUICK) as store:
        await store.commit(values.commit())
        with sqlite3.connect(data_dir / "fleet.db") as shell:
            shell.execute('update bundle_state set body = \'{"bundle": 7, "token": "hunter2"}\'')
        shell.close()
        with pytest.raises(StoreError, match="the state of bundle shop in the database cannot be read") as caught:
            await store.bundle_states()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda key: key.unlink(), "key is missing, and the database is sealed with it"),
        (lambda key: key.write_bytes(b"k" * 32), "key is not the key that the database is sealed with"),
        (lambda key: key.write_bytes(b"short"), "has 5 instead of 32 bytes"),
    ],
)
async def test_a_lost_key(data_dir: Path, damage: object, message: str) -> None:
    assert callable(damage)
    await (await open_store(data_dir, QUICK)).aclose()
    damage(data_dir / "key")
    with pytest.raises(StoreError, match=message):
        await open_store(data_dir, QUICK)


def modes(data_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in [data_dir, *data_dir.iterdir()]}


async def test_the_key_stays_and_is_private(data_dir: Path) -> None:
    async with await open_store(data_dir, QUICK) as store:
        first = store.fingerprint_key
    async with await open_store(data_dir, QUICK) as store:
        assert store.fingerprint_key == first
        found = modes(data_dir)
    assert len(first) == 32
    assert first not in (data_dir / "key").read_bytes()
    assert found.pop("data") == 0o700
    assert set(found.values()) == {0o600}
    assert {"fleet.db", "fleet.db-wal", "key", "lock"} <= found.keys()


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.aclose()
    with pytest.raises(StoreError, match="is closed"):
        await store.last_seq()


class Blocked:
    """A transaction that holds the writer until it is let go."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, connection: Connection) -> str:
        self.running.set()
        assert self.let_go.wait(30)
        connection.exec_driver_sql("create table done (x)")
        return "done"


async def test_what_waits_is_bounded_and_has_a_deadline(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db", StoreSettings(write_queue=2, write_timeout=0.05))
    database.prepare_now()
    blocked = Blocked()
    failures: list[str] = []
    answers: list[str] = []

    async def slow() -> None:
        answers.append(await database.write(blocked))

    async def late() -> None:
        with pytest.raises(StoreError) as caught:
            await database.write(lambda c: None)
        failures.append(str(caught.value))

    async with anyio.create_task_group() as group:
        group.start_soon(slow)
        await anyio.to_thread.run_sync(blocked.running.wait)
        async with anyio.create_task_group() as waiting:
            for _ in range(3):
                waiting.start_soon(late)
        blocked.let_go.set()
    # The one that was running is finished although its deadline passed long ago.
    assert answers == ["done"]
    assert sorted(failure.partition(" ")[0] for failure in failures) == ["2", "the", "the"]
    assert sum("gave no turn within 0.05 s" in failure for failure in failures) == 2
    await database.aclose()


async def test_cancelling_finishes_what_runs_and_withdraws_what_waits(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db", StoreSettings())
    database.prepare_now()
    blocked = Blocked()
    async with anyio.create_task_group() as group:
        group.start_soon(database.write, blocked)
        await anyio.to_thread.run_sync(blocked.running.wait)
        group.start_soon(database.write, lambda c: c.exec_driver_sql("create table withdrawn (x)"))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        blocked.let_go.set()
    tables = await database.read(lambda c: list(c.exec_driver_sql("select name from sqlite_master").scalars()))
    assert tables == ["done"]
    await database.aclose()


async def test_readers_cannot_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db", StoreSettings())
    database.prepare_now()
    with pytest.raises(StoreError, match="read-only"):
        await database.read(lambda c: c.exec_driver_sql("create table x (y)"))
    await database.aclose()
