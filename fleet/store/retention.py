"""What may be forgotten, so that the database stays bounded.

Kept always: bundle states, assignments, inventories, baselines, drift that is open, and the manifests of whatever is
assigned, recorded, last good, active, waiting or previous. Kept up to a bound (settings.StoreSettings): events, closed
drift, rollouts per bundle, and the manifests of the newest rollouts per bundle, which `rollback --to` can reach.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, delete, func, select

from fleet.model.rollout import BundleState
from fleet.settings import StoreSettings
from fleet.store import cluster, drift, objects, rollout
from fleet.store.tables import assignment as assignment_table
from fleet.store.tables import inventory as inventory_table
from fleet.store.tables import release as release_table
from fleet.store.tables import rollout as rollout_table

VACUUM_PAGES = 1000
"""Free pages given back to the file system at most in one collection (4 MB), to bound its time."""


class Collected(msgspec.Struct, frozen=True):
    """How many rows of each went."""

    rollouts: int = 0
    releases: int = 0
    manifest_sets: int = 0
    manifests: int = 0
    drifts: int = 0


def collect(connection: Connection, settings: StoreSettings, now: float) -> Collected:
    """One transaction, so that what a decision refers to at the same time is seen."""
    states = rollout.bundle_states(connection)
    rollouts = _trim_rollouts(connection, states, settings.rollout_rows)
    releases = _trim_releases(connection, states)
    kept = _digests(connection, states, settings.release_rows)
    sets, manifests = objects.sweep(connection, kept, now - settings.manifest_grace)
    drifts = drift.trim(connection, settings.drift_rows)
    _give_back_pages(connection)
    return Collected(rollouts, releases, sets, manifests, drifts)


def _give_back_pages(connection: Connection) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    # It frees one page a step, so it must be read to its end.
    cursor.fetchall()
    cursor.close()


def _trim_rollouts(connection: Connection, states: Iterable[BundleState], keep: int) -> int:
    held = {r.id for state in states for r in (state.active, state.waiting, state.previous) if r is not None}
    age = func.row_number().over(partition_by=rollout_table.c.bundle, order_by=rollout_table.c.position.desc())
    ranked = select(rollout_table.c.position, rollout_table.c.id, age.label("age")).subquery()
    old = select(ranked.c.position).where(ranked.c.age > keep, ranked.c.id.not_in(held))
    return connection.execute(delete(rollout_table).where(rollout_table.c.position.in_(old))).rowcount


def _trim_releases(connection: Connection, states: Iterable[BundleState]) -> int:
    """Releases that no rollout, state, record or assignment names."""
    held = set(connection.execute(select(rollout_table.c.release).distinct()).scalars())
    held.update(a.release for a in rollout.assignments(connection) if a.release)
    for state in states:
        held.update(r.release.id for r in (state.active, state.waiting, state.previous) if r is not None)
        held.update(state.proven.values())
        for record in state.records.values():
            held.update(entry.release for entry in (record.recorded, record.last_good) if entry is not None)
            held.update((record.owed,) if record.owed else ())
    stored = connection.execute(select(release_table.c.id)).scalars().all()
    old = [name for name in stored if name not in held]
    for name in old:
        connection.execute(delete(release_table).where(release_table.c.id == name))
    return len(old)


def _digests(connection: Connection, states: Iterable[BundleState], history: int) -> set[str]:
    """The manifest sets that something may still need."""
    assigned = connection.execute(select(assignment_table.c.digest).where(assignment_table.c.digest.is_not(None)))
    kept: set[str] = {digest for digest in assigned.scalars() if digest}
    for state in states:
        for running in (state.active, state.waiting, state.previous):
            kept.update(running.release.digests.values() if running is not None else ())
        for record in state.records.values():
            entries = (record.recorded, record.last_good)
            kept.update(entry.digest for entry in entries if entry is not None and entry.digest)
        named = {*state.proven.values(), *(record.owed for record in state.records.values() if record.owed)}
        for name in named:
            release = rollout.release(connection, name)
            kept.update(release.digests.values() if release is not None else ())
        for past in rollout.rollouts(connection, state.bundle, None, history):
            kept.update(past.release.digests.values())
    for name in connection.execute(select(inventory_table.c.cluster).distinct()).scalars():
        kept.update(i.digest for i in cluster.inventories(connection, name) if i.digest)
    return kept
