"""What an agent knows, as frozen values for queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.drift import FieldChange
from fleet.model.objects import ObjectId


class BundleStanding(msgspec.Struct, frozen=True):
    bundle: str
    wanted: str | None
    recorded: str | None
    sync: Sync
    health: Health
    drifted: int


class AgentView(msgspec.Struct, frozen=True):
    name: str
    labels: Mapping[str, str]
    state: ClusterState
    reason: str | None
    observed_at: float | None
    kubernetes: str | None
    watches: int
    objects: int
    bundles: tuple[BundleStanding, ...]


class ObjectStanding(msgspec.Struct, frozen=True):
    id: ObjectId
    version: str
    sync: Sync
    health: Health
    health_reason: str
    drifted: bool
    owner: str | None


class ObjectDifference(msgspec.Struct, frozen=True):
    id: ObjectId
    version: str
    change: Literal["create", "change", "delete", "none"]
    fields: tuple[FieldChange, ...]
