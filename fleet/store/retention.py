"""What may be forgotten, so that the database stays bounded.

Kept always: bundle states, assignments, inventories, baselines, drift that is open, and whatever rollout, release or
manifests one of them names (assigned, recorded, last good, owed, active, waiting, previous …). Kept up to a bound
(settings.StoreSettings): events, closed drift, rollouts per bundle, and the manifests of the newest rollouts per
bundle, which `rollback --to` can reach.
"""

from __future__ import annotations

import re

import msgspec
from sqlalchemy import Connection, func, select

from fleet.settings import StoreSettings
from fleet.store import cluster, drift, objects, rollout, rows
from fleet.store.tables import assignment as assignment_table
from fleet.store.tables import bundle_state as state_table
from fleet.store.tables import inventory as inventory_table
from fleet.store.tables import release as release_table
from fleet.store.tables import rollout as rollout_table

VACUUM_PAGES = 1000
"""Free pages given back to the file system at most in one collection (4 MB), to bound its time."""

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"')
"""A string in JSON, left as it is written: ids and digests have no escapes."""


class Collected(msgspec.Struct, frozen=True):
    """How many rows of each went."""

    rollouts: int = 0
    releases: int = 0
    manifest_sets: int = 0
    manifests: int = 0
    drifts: int = 0


def collect(connection: Connection, settings: StoreSettings, now: float) -> Collected:
    """One transaction, so that what a decision refers to at the same time is seen."""
    named = _named(connection)
    rollouts = _trim_rollouts(connection, named, settings.rollout_rows)
    releases = _trim_releases(connection, named)
    kept = _digests(connection, named, settings.release_rows)
    sets, manifests = objects.sweep(connection, kept, now - settings.manifest_grace)
    drifts = drift.trim(connection, settings.drift_rows)
    _give_back_pages(connection)
    return Collected(rollouts, releases, sets, manifests, drifts)


def _named(connection: Connection) -> set[str]:
    """Every string in the states of bundles and in assignments.

    A state may refer to rollouts, releases and manifests from anywhere within it, now or in a later version. Keeping
    whatever it names cannot miss a place; that it also names other things costs nothing.
    """
    bodies = [*connection.execute(select(state_table.c.body)).scalars()]
    bodies += connection.execute(select(assignment_table.c.body)).scalars()
    return {name for body in bodies for name in _STRING.findall(body)}


def _give_back_pages(connection: Connection) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    # It frees one page a step, so it must be read to its end.
    cursor.fetchall()
    cursor.close()


def _trim_rollouts(connection: Connection, named: set[str], keep: int) -> int:
    age = func.row_number().over(partition_by=rollout_table.c.bundle, order_by=rollout_table.c.position.desc())
    ranked = select(rollout_table.c.id, age.label("age")).subquery()
    old = connection.execute(select(ranked.c.id).where(ranked.c.age > keep)).scalars()
    gone = [(name,) for name in old if name not in named]
    rows.delete_keys(connection, rollout_table, (rollout_table.c.id,), gone)
    return len(gone)


def _trim_releases(connection: Connection, named: set[str]) -> int:
    held = named | set(connection.execute(select(rollout_table.c.release).distinct()).scalars())
    gone = [(name,) for name in connection.execute(select(release_table.c.id)).scalars() if name not in held]
    rows.delete_keys(connection, release_table, (release_table.c.id,), gone)
    return len(gone)


def _digests(connection: Connection, named: set[str], history: int) -> set[str]:
    """The manifest sets that something may still need."""
    kept = set(named)
    bundles = connection.execute(select(rollout_table.c.bundle).distinct()).scalars().all()
    recent = [r for bundle in bundles for r in rollout.rollouts(connection, bundle, None, history)]
    for past in recent:
        kept.update(past.release.digests.values())
    for name in named.intersection(connection.execute(select(release_table.c.id)).scalars()):
        release = rollout.release(connection, name)
        kept.update(release.digests.values() if release is not None else ())
    for name in connection.execute(select(inventory_table.c.cluster).distinct()).scalars().all():
        kept.update(i.digest for i in cluster.inventories(connection, name) if i.digest)
    return kept
