"""What should run on a cluster, and what its agent last saw there."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from fleet.model.objects import ObjectId


class ClusterState(StrEnum):
    READY = "Ready"
    CONNECTING = "Connecting"
    UNKNOWN = "Unknown"
    PAUSED = "Paused"
    UNAUTHORIZED = "Unauthorized"


class Health(StrEnum):
    """Health of an object or of a bundle on a cluster; HEALTHY is kstatus' Current."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SUSPENDED = "Suspended"
    MISSING = "Missing"
    UNKNOWN = "Unknown"


class Sync(StrEnum):
    SYNCED = "Synced"
    OUT_OF_SYNC = "OutOfSync"
    APPLYING = "Applying"
    UNKNOWN = "Unknown"


Purpose = Literal["forward", "rollback", "catchup", "heal", "remove"]


class DeployOptions(msgspec.Struct, frozen=True):
    """The keys of a bundle that travel with a release to the cluster."""

    namespace: str = "default"
    create_namespace: bool = True
    prune: bool = False
    prune_max_objects: int = 10
    adopt: Literal["never", "ifUnmanaged", "always"] = "ifUnmanaged"
    drift_mode: Literal["correct", "detect", "off"] = "correct"


class Assignment(msgspec.Struct, frozen=True):
    """What one cluster shall hold of one bundle: a durable row, written before anything is sent to the cluster."""

    cluster: str
    bundle: str
    release: str | None
    digest: str | None
    """Of the manifest set; None removes everything in the inventory of the bundle."""
    seq: int
    """Fencing number: grows with every assignment of this cluster × bundle."""
    rollout: str | None = None
    wave: str | None = None
    purpose: Purpose = "forward"
    options: DeployOptions = DeployOptions()


class ObjectFailure(msgspec.Struct, frozen=True):
    """Why one object could not be applied or pruned."""

    object: str
    error: str
    kind: Literal["definite", "conflict", "transient", "blocked"]
    """definite: the manifest is wrong; conflict: owned by another; transient: worth a retry; blocked: a protection."""


class ApplyOutcome(msgspec.Struct, frozen=True):
    """Counts of objects of one pass; partial progress is data."""

    total: int = 0
    applied: int = 0
    """Objects that now are as wanted, whether or not they had to be written."""
    changed: int = 0
    pruned: int = 0
    failed: tuple[ObjectFailure, ...] = ()


class MemberReport(msgspec.Struct, frozen=True):
    """What the agent of a cluster knows about one bundle there; the latest replaces all earlier ones.

    Health speaks only of objects seen after the apply of exactly (`seq`, `digest`); until then it is UNKNOWN.
    """

    cluster: str
    bundle: str
    reachable: bool
    seq: int = 0
    digest: str | None = None
    phase: Literal["idle", "applying", "applied", "failed", "errored"] = "idle"
    """failed: a definite error, retrying cannot help; errored: infrastructure, the agent goes on retrying."""
    outcome: ApplyOutcome | None = None
    health: Health = Health.UNKNOWN
    health_reason: str = ""
    drift_restarts: int = 0
    """How often drift was repaired since the apply; each growth restarts this cluster's soak."""
    message: str = ""
    fence: int = 0
    """The seq that the cluster's inventory holds when it is ahead of ours; 0 otherwise."""


class InventoryEntry(msgspec.Struct, frozen=True):
    """One object that we have applied, or are about to."""

    id: ObjectId
    version: str
    uid: str = ""
    """Empty until the first apply has been answered."""


class Inventory(msgspec.Struct, frozen=True):
    """Everything of one bundle that may exist on one cluster because of us; written before what adds to it."""

    bundle: str
    seq: int
    digest: str | None
    entries: tuple[InventoryEntry, ...] = ()


class Baseline(msgspec.Struct, frozen=True):
    """What is remembered of one applied object instead of the object (drift.md 1.1)."""

    id: ObjectId
    bundle: str
    manifest: bytes
    """Digest of the wanted manifest that was applied."""
    uid: str
    generation: int
    projection: bytes
    """Keyed blake2b-128 of the projection of our fields."""
    entry: bytes
    """blake2b-64 of our raw managedFields entry."""
    fields: bytes
    """Our fieldsV1, zlib-compressed."""
    version: str = ""
    """API version that was applied, and is watched."""
    resource_version: str = ""
    presence: bytes = b""
    """Skeleton of the paths that are ours while what stands below them is not (`core.ownership.presence_only`)."""
