"""Decisions about bundles: states, releases, rollouts and the assignments that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, select

from fleet.errors import Conflict, NotFound
from fleet.model.cluster import Assignment
from fleet.model.events import Event
from fleet.model.rollout import BundleState, Commit, Release, Rollout
from fleet.store import codec, events, rows
from fleet.store.tables import assignment as assignment_table
from fleet.store.tables import bundle_state as state_table
from fleet.store.tables import release as release_table
from fleet.store.tables import rollout as rollout_table

_state = msgspec.json.Decoder(BundleState)
_release = msgspec.json.Decoder(Release)
_rollout = msgspec.json.Decoder(Rollout)
_assignment = msgspec.json.Decoder(Assignment)


def commit(connection: Connection, decision: Commit, keep_events: int) -> tuple[Event, ...]:
    """Everything that one decision changed; raises Conflict when it was made on another version of the state."""
    _put_state(connection, decision.state, decision.expected_version)
    # A rollout embeds its release; storing that, too, keeps the reference whole whoever made it.
    releases = {release.id: release for release in decision.releases}
    releases.update((rollout.release.id, rollout.release) for rollout in decision.rollouts)
    _put_releases(connection, releases.values())
    for rollout in decision.rollouts:
        _put_rollout(connection, rollout)
    rows.insert(connection, assignment_table, [_assignment_row(a) for a in decision.assignments], on_conflict="replace")
    rows.delete_keys(
        connection, assignment_table, (assignment_table.c.cluster, assignment_table.c.bundle), decision.withdrawn
    )
    return events.append(connection, decision.events, keep_events)


def bundle_states(connection: Connection) -> tuple[BundleState, ...]:
    found = connection.execute(select(state_table.c.bundle, state_table.c.body).order_by(state_table.c.bundle)).all()
    return tuple(codec.from_text(_state, body, f"the state of bundle {bundle}") for bundle, body in found)


def assignments(connection: Connection) -> tuple[Assignment, ...]:
    key = assignment_table.c
    found = connection.execute(select(key.cluster, key.bundle, key.body).order_by(key.cluster, key.bundle)).all()
    return tuple(
        codec.from_text(_assignment, body, f"the assignment of {bundle} on {cluster}")
        for cluster, bundle, body in found
    )


def release(connection: Connection, name: str) -> Release | None:
    body = connection.execute(select(release_table.c.body).where(release_table.c.id == name)).scalar_one_or_none()
    return None if body is None else codec.from_text(_release, body, f"release {name}")


def rollout(connection: Connection, name: str) -> Rollout | None:
    body = connection.execute(select(rollout_table.c.body).where(rollout_table.c.id == name)).scalar_one_or_none()
    return None if body is None else codec.from_text(_rollout, body, f"rollout {name}")


def rollouts(connection: Connection, bundle: str | None, before: str | None, limit: int) -> tuple[Rollout, ...]:
    """Newest first; raises NotFound when `before` is not (or no longer) stored."""
    query = select(rollout_table.c.id, rollout_table.c.body).order_by(rollout_table.c.position.desc()).limit(limit)
    if bundle is not None:
        query = query.where(rollout_table.c.bundle == bundle)
    if before is not None:
        position = connection.execute(
            select(rollout_table.c.position).where(rollout_table.c.id == before)
        ).scalar_one_or_none()
        if position is None:
            raise NotFound(f"no rollout {before}: start again from the first page")
        query = query.where(rollout_table.c.position < position)
    return tuple(codec.from_text(_rollout, body, f"rollout {name}") for name, body in connection.execute(query).all())


def _put_state(connection: Connection, state: BundleState, expected: int) -> None:
    stored = connection.execute(
        select(state_table.c.version).where(state_table.c.bundle == state.bundle)
    ).scalar_one_or_none()
    if (stored or 0) != expected:
        raise Conflict(f"bundle {state.bundle} is at version {stored or 0}, not {expected}: it changed meanwhile")
    # Reports are evidence of this process; after a restart the agents see for themselves (rollouts.md, lesson 2).
    body = codec.to_text(msgspec.structs.replace(state, reports={}, listening=0.0))
    rows.insert(connection, state_table, [(state.bundle, state.version, body)], on_conflict="replace")


def _put_releases(connection: Connection, releases: Iterable[Release]) -> None:
    """Ignores those that are stored: a release never changes (I4)."""
    rows.insert(
        connection,
        release_table,
        [(r.id, r.bundle, r.content, r.created_at, codec.to_text(r)) for r in releases],
        on_conflict="ignore",
    )


def _put_rollout(connection: Connection, value: Rollout) -> None:
    changing = {
        "state": value.state.value,
        "ended_at": value.ended_at,
        "version": value.version,
        "body": codec.to_text(value),
    }
    updated = connection.execute(rollout_table.update().where(rollout_table.c.id == value.id).values(changing))
    if updated.rowcount == 0:
        fixed = {
            "id": value.id,
            "bundle": value.bundle,
            "release": value.release.id,
            "created_at": value.created_at,
        }
        connection.execute(rollout_table.insert().values({**fixed, **changing}))


def _assignment_row(value: Assignment) -> Sequence[object]:
    return (value.cluster, value.bundle, value.seq, value.digest, codec.to_text(value))
