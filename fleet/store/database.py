"""SQLite as the rest of the store uses it: whole transactions, one writer, readers beside it, readable errors.

A unit of work is a plain function over a `Connection`; it runs as one transaction in a worker thread. Statements are
not awaited one by one: every hop between threads may cost a turn of the interpreter lock while the event loop is busy,
so a transaction costs one hop, and many rows go into one statement (see `rows`).

Writes take turns (`BEGIN IMMEDIATE`, one connection). `durable` writes are on the disk when the call returns
(synchronous=FULL); others survive the end of the process but may be lost with the power, never out of order: a later
durable write makes all earlier ones durable, too, because they share one write-ahead log.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from fleet.errors import StoreError
from fleet.settings import StoreSettings

T = TypeVar("T")

_log = logging.getLogger(__name__)

FILE = "fleet.db"
CACHE_KIB = 1024
"""Page cache of one connection; the operating system caches the rest."""


class Database:
    """An open database file. Every method raises StoreError when what it was asked did not happen."""

    def __init__(self, path: Path, settings: StoreSettings) -> None:
        self.path = path
        self._settings = settings
        self._write_engine = _engine(path, settings, pool_size=1, read_only=False)
        self._read_engine = _engine(path, settings, pool_size=settings.readers, read_only=True)
        self._writer = anyio.CapacityLimiter(1)
        self._readers = anyio.CapacityLimiter(settings.readers)
        self._turns = dict.fromkeys((self._writer, self._readers), 0)
        """Transactions that run or wait, so that those that wait are bounded."""
        self._closed = False
        self._synchronous: bool | None = None

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds in one consistent snapshot."""
        return await self._turn(self._readers, lambda: self.read_now(work))

    async def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Runs `work` as one immediate transaction; it happened as a whole when this returns, else not at all.

        Cancelling while it waits for its turn withdraws it; once it runs it is finished first.
        """
        return await self._turn(self._writer, lambda: self.write_now(work, durable=durable))

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """`read` in the calling thread."""
        with translated(self.path), self._read_engine.connect() as connection, connection.begin():
            return work(connection)

    def write_now(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """`write` in the calling thread, which must be the only writer."""
        with translated(self.path), self._write_engine.connect() as connection:
            if durable is not self._synchronous:
                _pragma(connection, f"synchronous={'FULL' if durable else 'NORMAL'}")
                self._synchronous = durable
            with connection.begin():
                return work(connection)

    def prepare_now(self) -> None:
        """What the file keeps for itself; it comes before the first table."""
        with translated(self.path), self._write_engine.connect() as connection:
            # Without effect on a file that has tables; lets `retention` give pages back.
            _pragma(connection, "auto_vacuum=INCREMENTAL")
            _pragma(connection, "journal_mode=WAL")
            self.path.chmod(0o600)

    def copy_now(self, target: Path) -> None:
        """A consistent copy of the whole database in one new file."""
        with translated(self.path), self._write_engine.connect() as connection:
            cursor = connection.connection.cursor()
            cursor.execute("VACUUM INTO ?", (str(target),))
            cursor.close()

    async def aclose(self) -> None:
        """Lets running transactions end, folds the log into the file where it can, and closes it; idempotent."""
        if self._closed:
            return
        self._closed = True
        with anyio.move_on_after(self._settings.write_timeout, shield=True):
            await anyio.to_thread.run_sync(self.close_now, limiter=self._writer)

    def dispose_now(self) -> None:
        """Drops the connections of a file that could not be opened or prepared."""
        self._closed = True
        self._read_engine.dispose()
        self._write_engine.dispose()

    def close_now(self) -> None:
        """`aclose` in the calling thread."""
        self._closed = True
        self._read_engine.dispose()
        try:
            with translated(self.path), self._write_engine.connect() as connection:
                _pragma(connection, "optimize")
                _pragma(connection, "wal_checkpoint(TRUNCATE)")
        except StoreError as error:
            # Everything stays in the write-ahead log, which the next start reads.
            _log.warning("the database was closed without being tidied: %s", error)
        finally:
            self._write_engine.dispose()

    async def _turn(self, limiter: anyio.CapacityLimiter, run: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError("the database is closed: the control plane is stopping")
        if self._turns[limiter] >= self._settings.write_queue + limiter.total_tokens:
            raise StoreError(
                f"{self._settings.write_queue} transactions wait for the database {self.path.name}: "
                "its disk does not keep up (look at the disk's load)"
            )
        self._turns[limiter] += 1
        try:
            # The thread itself is shielded, so the deadline only ever ends the wait for a turn.
            with anyio.fail_after(self._settings.write_timeout):
                return await anyio.to_thread.run_sync(run, limiter=limiter)
        except TimeoutError as error:
            raise StoreError(
                f"the database {self.path.name} gave no turn within {self._settings.write_timeout:g} s: "
                "its disk does not keep up (look at the disk's load)"
            ) from error
        finally:
            self._turns[limiter] -= 1


def _engine(path: Path, settings: StoreSettings, *, pool_size: int, read_only: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=settings.write_timeout,
        # Parameters hold manifests; they must not reach an error text.
        hide_parameters=True,
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": settings.busy_timeout},
    )

    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "foreign_keys=ON",
            f"cache_size=-{CACHE_KIB}",
            f"journal_size_limit={settings.journal_limit}",
            f"query_only={'ON' if read_only else 'OFF'}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _pragma(connection: Connection, pragma: str) -> None:
    """A pragma outside of a transaction, as those need that change how transactions are written."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA {pragma}")
        cursor.fetchall()
    finally:
        cursor.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite, SQLAlchemy or the file system says into one sentence with what to do."""
    try:
        yield
    except DBAPIError as error:
        raise explain(error.orig, path) from error
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path) from error


_WHAT_TO_DO = {
    "FULL": "the disk of {dir} is full: free some space; nothing that was stored is lost",
    "READONLY": "{dir} is read-only: make it writable for this user; nothing is done until it is",
    "PERM": "this user may not write {path}: check the owner and mode of {dir}",
    "CANTOPEN": "{path} cannot be opened: check that {dir} exists and that this user may write it",
    "CORRUPT": "{path} is damaged: stop, keep a copy, and restore a backup of {dir}",
    "NOTADB": "{path} is not a database, or damaged: restore a backup of {dir}, or name another directory",
    "BUSY": "another program holds a lock on {path}: end it (a database shell, a backup?)",
    "LOCKED": "another program holds a lock on {path}: end it (a database shell, a backup?)",
    "IOERR": "the disk of {dir} fails or is full ({name}): look at its free space and at the system's log",
    "NOMEM": "no memory is left to work on {path}",
    "TOOBIG": "a value is too large for the database {path}",
}


def explain(error: BaseException | None, path: Path) -> StoreError:
    """The StoreError for what SQLite or the operating system answered about the database at `path`."""
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return StoreError(
            f"{error.filename or path}: {reason[:1].lower()}{reason[1:]}; check the disk and rights of {path.parent}"
        )
    name = str(getattr(error, "sqlite_errorname", "") or type(error).__name__).removeprefix("SQLITE_")
    sentence = _WHAT_TO_DO.get(name.partition("_")[0])
    if sentence is None:
        # The text of other errors names tables and columns, never values.
        return StoreError(f"the database {path} refuses a statement ({name}): {error}")
    return StoreError(sentence.format(path=path, dir=path.parent, name=name))
