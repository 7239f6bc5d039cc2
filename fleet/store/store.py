"""The store as the engine knows it (`engine.ports.Store`): every method one transaction over the functions by noun."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

import anyio.to_thread
from sqlalchemy import Connection, select

from fleet.errors import InvalidInput, StoreError
from fleet.model.cluster import Assignment, Baseline, Inventory
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.objects import ManifestSet, ObjectId
from fleet.model.rollout import BundleState, Commit, Release, Rollout
from fleet.settings import StoreSettings
from fleet.store import cluster, document, drift, events, migrate, objects, retention, rollout, rows, seal
from fleet.store import database as sqlite
from fleet.store.lock import DataDirLock
from fleet.store.retention import Collected
from fleet.store.tables import installation


class Store:
    """An open data directory. Made by `open_store`; every method raises StoreError when it did not happen."""

    def __init__(
        self,
        database: sqlite.Database,
        sealer: seal.Sealer,
        lock: DataDirLock,
        settings: StoreSettings,
        wall: Callable[[], float],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._lock = lock
        self._settings = settings
        self._wall = wall

    @property
    def fingerprint_key(self) -> bytes:
        """32 bytes of this installation that key the fingerprints of live objects."""
        return self._sealer.fingerprint_key

    async def commit(self, commit: Commit) -> tuple[Event, ...]:
        """All of one decision, durable when this returns; raises Conflict when it was made on another version."""
        return await self._database.write(lambda c: rollout.commit(c, commit, self._settings.event_rows))

    async def append(self, events_: Sequence[Event]) -> tuple[Event, ...]:
        """The events with the numbers they were given."""
        return await self._database.write(lambda c: events.append(c, events_, self._settings.event_rows))

    async def events(self, since: int, limit: int) -> tuple[Event, ...]:
        """After `since`, oldest first; the first has a later number than since + 1 when older ones were trimmed."""
        return await self._database.read(lambda c: events.read(c, since, self._page(limit)))

    async def events_of(self, rollout_id: str) -> tuple[Event, ...]:
        """Everything about one rollout that is still kept."""
        return await self._database.read(lambda c: events.of_rollout(c, rollout_id))

    async def last_seq(self) -> int:
        return await self._database.read(events.last_seq)

    async def first_seq(self) -> int:
        """Number of the oldest event that is kept."""
        return await self._database.read(events.first_seq)

    async def bundle_states(self) -> tuple[BundleState, ...]:
        return await self._database.read(rollout.bundle_states)

    async def assignments(self) -> tuple[Assignment, ...]:
        return await self._database.read(rollout.assignments)

    async def release(self, release: str) -> Release | None:
        return await self._database.read(lambda c: rollout.release(c, release))

    async def rollout(self, rollout_id: str) -> Rollout | None:
        return await self._database.read(lambda c: rollout.rollout(c, rollout_id))

    async def rollouts(self, bundle: str | None, before: str | None, limit: int) -> tuple[Rollout, ...]:
        """Newest first; raises NotFound when `before` is no longer stored."""
        return await self._database.read(lambda c: rollout.rollouts(c, bundle, before, self._page(limit)))

    async def put_manifests(self, manifests: ManifestSet) -> None:
        """Idempotent by digest. Durable at the latest with the commit that assigns it."""
        now = self._wall()
        await self._database.write(lambda c: objects.put(c, self._sealer, manifests, now), durable=False)

    async def manifests(self, digest: str) -> ManifestSet:
        """Raises NotFound."""
        return await self._database.read(lambda c: objects.get(c, self._sealer, digest))

    async def put_document(self, name: str, revision: str, body: bytes) -> None:
        await self._database.write(lambda c: document.put(c, name, revision, body))

    async def document(self, name: str) -> tuple[str, bytes] | None:
        return await self._database.read(lambda c: document.get(c, name))

    async def inventories(self, cluster_name: str) -> tuple[Inventory, ...]:
        return await self._database.read(lambda c: cluster.inventories(c, cluster_name))

    async def put_inventory(self, cluster_name: str, inventory: Inventory) -> None:
        await self._database.write(lambda c: cluster.put_inventory(c, cluster_name, inventory))

    async def drop_inventory(self, cluster_name: str, bundle: str) -> None:
        await self._database.write(lambda c: cluster.drop_inventory(c, cluster_name, bundle))

    async def baselines(self, cluster_name: str) -> tuple[Baseline, ...]:
        return await self._database.read(lambda c: cluster.baselines(c, self._sealer, cluster_name))

    async def put_baselines(
        self, cluster_name: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()
    ) -> None:
        """One lost with the power costs a dry-run (the object looks suspect), so it need not be durable."""
        await self._database.write(
            lambda c: cluster.put_baselines(c, self._sealer, cluster_name, baselines, gone), durable=False
        )

    async def forget_clusters(self, kept: Collection[str]) -> tuple[Drift, ...]:
        """Forgets what was applied to every cluster but these, and closes what is open there; the drifts it closed."""
        now, names = self._wall(), frozenset(kept)

        def forget(connection: Connection) -> tuple[Drift, ...]:
            cluster.forget_others(connection, names)
            return drift.close_others(connection, names, now)

        return await self._database.write(forget)

    async def put_drift(self, value: Drift) -> None:
        """Durable at the latest with the event that tells of it."""
        await self._database.write(lambda c: drift.put(c, value), durable=False)

    async def drifts(
        self, cluster_name: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
    ) -> tuple[Drift, ...]:
        """Newest first; `open_only` keeps what still differs (open, reported, contested)."""
        page = self._page(limit)
        return await self._database.read(lambda c: drift.read(c, cluster_name, bundle, open_only, before, page))

    async def collect(self) -> Collected:
        """Forgets what `retention` allows to; to be called every `collect_interval` seconds."""
        now = self._wall()
        return await self._database.write(lambda c: retention.collect(c, self._settings, now), durable=False)

    async def aclose(self) -> None:
        """Lets running transactions end, closes the file and gives up the lock; idempotent."""
        try:
            await self._database.aclose()
        finally:
            self._lock.release()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _page(self, limit: int) -> int:
        return max(1, min(limit, self._settings.page_max))


async def open_store(
    data_dir: Path,
    settings: StoreSettings,
    *,
    database: str | None = None,
    wall: Callable[[], float] = time.time,
) -> Store:
    """Locks, creates or upgrades, and opens a data directory (mode 0700).

    `database` is the URL of `--database`; only the embedded database is in force. `wall` gives seconds since the epoch.
    Raises Locked when another control plane works there, InvalidInput for another database, and StoreError when the
    directory cannot be used, was written by a newer version, or lost its key.
    """
    if database:
        scheme = database.partition(":")[0]
        raise InvalidInput(
            f"--database {scheme}: not supported yet; without the option the database is embedded in the data directory"
        )
    return await anyio.to_thread.run_sync(lambda: _open(data_dir, settings, wall))


def _open(data_dir: Path, settings: StoreSettings, wall: Callable[[], float]) -> Store:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the data directory {data_dir} cannot be made ({error.strerror}): name one that this user may write"
        ) from error
    lock = DataDirLock.acquire(data_dir)
    try:
        database = sqlite.Database(data_dir / sqlite.FILE, settings)
        try:
            database.prepare_now()
            migrate.ensure(database)
            return Store(database, _sealer(data_dir, database), lock, settings, wall)
        except BaseException:
            database.dispose_now()
            raise
    except BaseException:
        lock.release()
        raise


def _sealer(data_dir: Path, database: sqlite.Database) -> seal.Sealer:
    """The sealer of the key that this database was first opened with."""

    def identity(connection: Connection) -> str | None:
        return connection.execute(select(installation.c.value).where(installation.c.name == "key")).scalar_one_or_none()

    expected = database.read_now(identity)
    key = seal.load_key(data_dir, create=expected is None)
    if key is None:
        raise StoreError(
            f"{data_dir / seal.FILE} is missing, and the database is sealed with it: restore it from a backup"
        )
    sealer = seal.Sealer(key)
    if expected is None:
        database.write_now(lambda c: rows.insert(c, installation, [("key", sealer.identity)]))
    elif expected != sealer.identity:
        raise StoreError(
            f"{data_dir / seal.FILE} is not the key that the database is sealed with: restore the right one"
        )
    return sealer
