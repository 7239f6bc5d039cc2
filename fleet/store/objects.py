"""Wanted manifests by digest: each is stored once, however many sets, clusters and releases contain it.

A set is the ordered list of its manifests' references. A manifest of a Secret is sealed; every reference is keyed,
because a plain digest would let a short secret be guessed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, select, update

from fleet.errors import NotFound, StoreError
from fleet.model.objects import Manifest, ManifestSet
from fleet.store import codec, rows
from fleet.store.seal import Sealer
from fleet.store.tables import manifest as manifest_table
from fleet.store.tables import manifest_set as set_table

REF_BYTES = 16
COMPRESS_ABOVE = 4096
"""Bytes from which compressing pays (CRDs, dashboards in ConfigMaps); most manifests are smaller."""
BODY_MAX = 64 * 1024 * 1024
"""Bytes that one stored manifest may unfold to."""

PLAIN, COMPRESSED, SEALED = 0, 1, 2
"""Bits of the column `form`; what is both was compressed first."""

_manifest = msgspec.msgpack.Decoder(Manifest)


def put(connection: Connection, sealer: Sealer, manifests: ManifestSet, now: float) -> None:
    """Idempotent by digest; touching a stored set keeps it from being collected before it is referred to."""
    touched = connection.execute(update(set_table).where(set_table.c.digest == manifests.digest).values(stored_at=now))
    if touched.rowcount:
        return
    encoded = [(manifest, codec.to_bytes(manifest)) for manifest in manifests.manifests]
    refs = [sealer.ref(body) for _, body in encoded]
    known = _stored(connection, refs)
    fresh = {
        ref: (ref, *_fold(sealer, ref, manifest, body))
        for ref, (manifest, body) in zip(refs, encoded, strict=True)
        if ref not in known
    }
    rows.insert(connection, manifest_table, list(fresh.values()))
    rows.insert(connection, set_table, [(manifests.digest, now, b"".join(refs))])


def get(connection: Connection, sealer: Sealer, digest: str) -> ManifestSet:
    """Raises NotFound, or StoreError when what is stored is not what was."""
    refs = connection.execute(select(set_table.c.refs).where(set_table.c.digest == digest)).scalar_one_or_none()
    if refs is None:
        raise NotFound(f"no manifests {digest}: the release is older than what is kept, or was never rendered here")
    order = split(refs)
    found: dict[bytes, Manifest] = {}
    columns = (manifest_table.c.ref, manifest_table.c.form, manifest_table.c.body)
    for chunk in rows.chunks(order):
        for ref, form, body in connection.execute(select(*columns).where(manifest_table.c.ref.in_(chunk))).all():
            found[ref] = _unfold(sealer, ref, form, body)
    if len(found) != len(set(order)):
        raise StoreError(f"manifests {digest} are incomplete in the database: restore a backup of the data directory")
    return ManifestSet(digest=digest, manifests=tuple(found[ref] for ref in order))


def split(refs: bytes) -> list[bytes]:
    return [refs[start : start + REF_BYTES] for start in range(0, len(refs), REF_BYTES)]


def _stored(connection: Connection, refs: list[bytes]) -> set[bytes]:
    known: set[bytes] = set()
    for chunk in rows.chunks(refs):
        known.update(connection.execute(select(manifest_table.c.ref).where(manifest_table.c.ref.in_(chunk))).scalars())
    return known


def _fold(sealer: Sealer, ref: bytes, manifest: Manifest, body: bytes) -> tuple[int, bytes]:
    form = PLAIN
    if len(body) > COMPRESS_ABOVE:
        body, form = zlib.compress(body, 1), form | COMPRESSED
    if is_secret(manifest.id.group, manifest.id.kind):
        body, form = sealer.seal(body, b"manifest" + ref), form | SEALED
    return form, body


def _unfold(sealer: Sealer, ref: bytes, form: int, body: bytes) -> Manifest:
    if form & SEALED:
        body = sealer.open(body, b"manifest" + ref)
    if form & COMPRESSED:
        body = _decompress(body)
    manifest = codec.from_bytes(_manifest, body, "a manifest")
    if hashlib.blake2b(manifest.body, digest_size=16).digest() != manifest.digest:
        raise StoreError(f"the stored manifest of {manifest.id} is damaged: restore a backup of the data directory")
    return manifest


def _decompress(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, BODY_MAX)
    except zlib.error as error:
        raise StoreError("a stored manifest is damaged: restore a backup of the data directory") from error
    if not stream.eof:
        raise StoreError("a stored manifest is damaged or too large: restore a backup of the data directory")
    return plain


def is_secret(group: str, kind: str) -> bool:
    return group == "" and kind == "Secret"


def sweep(connection: Connection, keep: Iterable[str], stored_before: float) -> tuple[int, int]:
    """Deletes sets that are neither in `keep` nor newer than `stored_before`, then manifests that no set contains.

    Returns how many sets and manifests went.
    """
    wanted = set(keep)
    old: list[tuple[str]] = []
    used: set[bytes] = set()
    for digest, stored_at, refs in connection.execute(select(set_table)).all():
        if digest in wanted or stored_at >= stored_before:
            used.update(split(refs))
        else:
            old.append((digest,))
    if not old:
        return 0, 0
    orphans = [(ref,) for ref in connection.execute(select(manifest_table.c.ref)).scalars() if ref not in used]
    rows.delete_keys(connection, set_table, (set_table.c.digest,), old)
    rows.delete_keys(connection, manifest_table, (manifest_table.c.ref,), orphans)
    return len(old), len(orphans)
