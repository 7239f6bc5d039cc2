"""The decision on one watch event: one comparison of fingerprints, in the order of drift.md 1.1 "On an event".

Nothing here is a proof of drift. `Suspect` asks for one dry-run apply; all other verdicts need no request at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fleet.core import ownership
from fleet.model.cluster import Baseline
from fleet.model.objects import LiveObject, Manifest

Change = Literal["ADDED", "MODIFIED", "DELETED"]


class Echo(msgspec.Struct, frozen=True, tag=True, gc=False):
    """What we know already: our own write come back, or a state older than it (`stale`).

    Drop a stale event of a stream. A stale object in a list is read once more: a cluster restored from a backup counts
    its resource versions anew, and only a read tells that from a list that an apply overtook.
    """

    stale: bool = False


class Unchanged(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Our fields are as we left them; `follow` takes over the rest."""

    resource_version: str
    generation: int
    entry: bytes
    ownership_lost: bool = False
    """Our managedFields entry is gone, the values are not: no drift; `backoff.may_reown` limits applying for it."""


class Terminating(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The object is being deleted: an apply would be answered with success and be lost. Wait for Gone."""

    since: str


class Suspect(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Something differs; one dry-run apply of the wanted manifest tells whether it matters.

    recreated: another uid. version: our entry is written at another API version, its paths may not line up.
    fields: the projection has another fingerprint.
    """

    reason: Literal["recreated", "version", "fields"]
    ownership_lost: bool = False


class Gone(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Deleted, or only without our label: confirm with a GET before it is made again."""


class NotOurs(msgspec.Struct, frozen=True, tag=True, gc=False):
    """No baseline: never applied by us, or not yet."""


Verdict = Echo | Unchanged | Terminating | Suspect | Gone | NotOurs


def judge(
    baseline: Baseline | None,
    live: LiveObject,
    change: Change,
    *,
    manager: str,
    key: bytes,
    presence_only: bytes | None = None,
    body: Mapping[str, Any] | None = None,
) -> Verdict:
    """The verdict on one event of an object.

    `key` is the installation's fingerprint key, `presence_only` stands in for what the baseline remembers of it, `body`
    is the decoded `live` when the caller has it already. Events that arrive while an apply of the
    object is in flight are to be held back by the caller until its response is the baseline. Raises InvalidInput when
    the server's bytes are no object.
    """
    if baseline is None:
        return NotOurs()
    meta = live.meta
    if change == "DELETED":
        other = meta.uid != baseline.uid
        return Echo(stale=True) if other and older(meta.resource_version, baseline.resource_version) else Gone()
    if older(meta.resource_version, baseline.resource_version):
        return Echo(stale=True)
    if meta.deletion_timestamp is not None:
        return Terminating(meta.deletion_timestamp)
    if meta.uid != baseline.uid:
        return Suspect("recreated")
    if meta.resource_version and meta.resource_version == baseline.resource_version:
        return Echo()
    own = ownership.entry_of(meta.managed_fields, manager)
    if own is not None and own.api_version != live.resource.api_version:
        return Suspect("version")
    fields = ownership.unpack(baseline.fields) if own is None else bytes(own.fields_v1)
    presence = baseline.presence if presence_only is None else presence_only
    seen = _fingerprint(fields, presence, ownership.decode(live) if body is None else body, key)
    if seen != baseline.projection:
        return Suspect("fields", ownership_lost=own is None)
    entry = baseline.entry if own is None else ownership.entry_hash(fields)
    return Unchanged(meta.resource_version, meta.generation, entry, ownership_lost=own is None)


def remember(
    wanted: Manifest,
    bundle: str,
    live: LiveObject,
    *,
    manager: str,
    key: bytes,
    presence_only: bytes = b"",
    body: Mapping[str, Any] | None = None,
    previous: Baseline | None = None,
) -> Baseline:
    """The baseline of an object from the response to its apply (or from a dry-run that found no difference).

    `presence_only` is what `ownership.presence_only` finds in `wanted`. Without an entry of ours in the response, as a
    server answers that cannot convert some entry (drift.md 1.3 row 1), the field set of `previous` stays in use if it
    belongs to the same manifest; without that the whole object stands in for its projection.
    """
    own = ownership.entry_of(live.meta.managed_fields, manager)
    if own is not None:
        fields = bytes(own.fields_v1)
    elif previous is not None and previous.manifest == wanted.digest:
        fields = ownership.unpack(previous.fields)
    else:
        fields = b""
    return Baseline(
        id=wanted.id,
        bundle=bundle,
        manifest=wanted.digest,
        uid=live.meta.uid,
        generation=live.meta.generation,
        projection=_fingerprint(fields, presence_only, ownership.decode(live) if body is None else body, key),
        entry=ownership.entry_hash(fields),
        fields=ownership.pack(fields),
        resource_version=live.meta.resource_version,
        presence=presence_only,
        version=wanted.version,
    )


def follow(baseline: Baseline, seen: Unchanged) -> Baseline:
    """The baseline after an event that changed nothing of ours."""
    return msgspec.structs.replace(
        baseline, resource_version=seen.resource_version, generation=seen.generation, entry=seen.entry
    )


def older(left: str, right: str) -> bool:
    """Whether one resourceVersion is from before another; False when they cannot be compared.

    Comparing them as numbers is part of the API since Kubernetes 1.35 and true of etcd before.
    """
    if len(left) != len(right):
        return len(left) < len(right) and left.isdecimal() and right.isdecimal()
    return left < right and left.isdecimal() and right.isdecimal()


def _fingerprint(fields: bytes, presence_only: bytes, body: Mapping[str, Any], key: bytes) -> bytes:
    if not fields:
        return ownership.fingerprint(ownership.project_whole(body), key)
    return ownership.fingerprint(ownership.project(ownership.compile_fields(fields, presence_only), body), key)
