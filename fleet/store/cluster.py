"""What was applied to each cluster: inventories, and the fingerprints of the applied objects (drift.md 1.1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection, delete, select

from fleet.model.cluster import Baseline, Inventory
from fleet.model.objects import ObjectId
from fleet.store import codec, objects, rows
from fleet.store.seal import Sealer
from fleet.store.tables import baseline as baseline_table
from fleet.store.tables import inventory as inventory_table

PLAIN, SEALED = 0, 1

_inventory = msgspec.msgpack.Decoder(Inventory)
_baseline = msgspec.msgpack.Decoder(Baseline)


def inventories(connection: Connection, cluster: str) -> tuple[Inventory, ...]:
    key = inventory_table.c
    found = connection.execute(select(key.bundle, key.body).where(key.cluster == cluster).order_by(key.bundle)).all()
    return tuple(
        codec.from_bytes(_inventory, body, f"the inventory of {bundle} on {cluster}") for bundle, body in found
    )


def put_inventory(connection: Connection, cluster: str, inventory: Inventory) -> None:
    row = (cluster, inventory.bundle, codec.to_bytes(inventory))
    rows.insert(connection, inventory_table, [row], on_conflict="replace")


def drop_inventory(connection: Connection, cluster: str, bundle: str) -> None:
    key = inventory_table.c
    connection.execute(delete(inventory_table).where(key.cluster == cluster, key.bundle == bundle))


def forget_others(connection: Connection, kept: Collection[str]) -> frozenset[str]:
    """Deletes what was applied to every cluster that is not one of `kept`; returns the names of those clusters."""
    gone: set[str] = set()
    for table in (inventory_table, baseline_table):
        known = set(connection.execute(select(table.c.cluster).distinct()).scalars()) - set(kept)
        for name in known:
            connection.execute(delete(table).where(table.c.cluster == name))
        gone |= known
    return frozenset(gone)


def baselines(connection: Connection, sealer: Sealer, cluster: str) -> tuple[Baseline, ...]:
    key = baseline_table.c
    found = connection.execute(
        select(key.object, key.form, key.body).where(key.cluster == cluster).order_by(key.object)
    ).all()
    # Objects of one kind mostly have the same field set: equal bytes are kept once.
    shared: dict[bytes, bytes] = {}
    values = []
    for name, form, body in found:
        plain = sealer.open(body, _context(cluster, name)) if form & SEALED else body
        value = codec.from_bytes(_baseline, plain, f"the baseline of {name} on {cluster}")
        fields, presence = (shared.setdefault(part, part) for part in (value.fields, value.presence))
        values.append(msgspec.structs.replace(value, fields=fields, presence=presence))
    return tuple(values)


def put_baselines(
    connection: Connection, sealer: Sealer, cluster: str, changed: Sequence[Baseline], gone: Sequence[ObjectId]
) -> None:
    """One statement for what changed and one for what is gone (per `rows.CHUNK`)."""
    rows.insert(connection, baseline_table, [_row(sealer, cluster, b) for b in changed], on_conflict="replace")
    rows.delete_keys(
        connection,
        baseline_table,
        (baseline_table.c.cluster, baseline_table.c.object),
        [(cluster, _key(identity)) for identity in gone],
    )


def _row(sealer: Sealer, cluster: str, value: Baseline) -> tuple[object, ...]:
    key, body = _key(value.id), codec.to_bytes(value)
    if objects.is_secret(value.id.group, value.id.kind):
        # `manifest` is a plain digest of the wanted object, from which a short secret could be guessed.
        return (cluster, key, SEALED, sealer.seal(body, _context(cluster, key)))
    return (cluster, key, PLAIN, body)


def _key(identity: ObjectId) -> str:
    return f"{identity.group}/{identity.kind}/{identity.namespace}/{identity.name}"


def _context(cluster: str, key: str) -> bytes:
    return f"baseline\0{cluster}\0{key}".encode()
