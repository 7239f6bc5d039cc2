"""A cluster as its agent last saw it, and what it holds of each bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from fleet.engine.service_ports import AgentView, BundleStanding, ObjectStanding
from fleet.engine.views.drift import ObjectRef
from fleet.engine.views.timestamps import rfc3339
from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.fleetfile import Cluster


class ClusterBundle(msgspec.Struct, frozen=True, rename="camel"):
    bundle: str
    wanted: str | None
    recorded: str | None
    revisions: dict[str, str]
    """Source name → SHA of what is recorded; empty when that release is no longer stored."""
    sync: Sync
    health: Health
    drifted: int


class ClusterView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    labels: dict[str, str]
    state: ClusterState
    reason: str | None
    observed_at: str | None
    age_seconds: float | None
    """Since the cluster was last heard; null: never since the start."""
    kubernetes: str | None
    watches: int
    objects: int
    bundles: tuple[ClusterBundle, ...]


class ClusterCounts(msgspec.Struct, frozen=True, rename="camel"):
    """`drifted` overlaps the others; clusters that connect or refuse us are in `total` alone."""

    total: int = 0
    ready: int = 0
    unknown: int = 0
    paused: int = 0
    drifted: int = 0


class ObjectView(msgspec.Struct, frozen=True, rename="camel"):
    """One object of a bundle on a cluster."""

    object: ObjectRef
    kind: str
    name: str
    sync: Sync
    health: Health
    reason: str | None
    drift: Literal["none", "drifted", "unknown"]
    owner: str | None
    """The field manager that changed what differs."""


def cluster_view(agent: AgentView, revisions: Mapping[str, Mapping[str, str]], now: float) -> ClusterView:
    """`revisions` are those of what is recorded, by bundle; `now` is seconds since the epoch."""
    return ClusterView(
        name=agent.name,
        labels=dict(agent.labels),
        state=agent.state,
        reason=agent.reason or None,
        observed_at=rfc3339(agent.observed_at),
        age_seconds=None if agent.observed_at is None else round(max(0.0, now - agent.observed_at), 3),
        kubernetes=agent.kubernetes,
        watches=agent.watches,
        objects=agent.objects,
        bundles=tuple(_bundle(agent, standing, revisions.get(standing.bundle, {})) for standing in agent.bundles),
    )


def unseen(cluster: Cluster) -> ClusterView:
    """A cluster of fleet.yaml whose agent has not started yet."""
    return ClusterView(
        name=cluster.name,
        labels=dict(cluster.labels),
        state=ClusterState.PAUSED if cluster.paused else ClusterState.CONNECTING,
        reason=None,
        observed_at=None,
        age_seconds=None,
        kubernetes=None,
        watches=0,
        objects=0,
        bundles=(),
    )


def count(views: Sequence[ClusterView]) -> ClusterCounts:
    return ClusterCounts(
        total=len(views),
        ready=sum(view.state is ClusterState.READY for view in views),
        unknown=sum(view.state is ClusterState.UNKNOWN for view in views),
        paused=sum(view.state is ClusterState.PAUSED for view in views),
        drifted=sum(any(bundle.drifted for bundle in view.bundles) for view in views),
    )


def object_view(standing: ObjectStanding, *, observed: bool) -> ObjectView:
    """`observed` is False while the cluster is not heard: then nothing is claimed about the object."""
    drift: Literal["none", "drifted", "unknown"] = "drifted" if standing.drifted else "none"
    return ObjectView(
        object=ObjectRef.of(standing.id, standing.version),
        kind=standing.id.kind,
        name=standing.id.name,
        sync=standing.sync if observed else Sync.UNKNOWN,
        health=standing.health if observed else Health.UNKNOWN,
        reason=standing.health_reason or None,
        drift=drift if observed else "unknown",
        owner=standing.owner,
    )


def observed(state: ClusterState) -> bool:
    """Whether what an agent remembers may still be told as what is so (a paused cluster is still watched)."""
    return state in (ClusterState.READY, ClusterState.PAUSED)


def _bundle(agent: AgentView, standing: BundleStanding, revisions: Mapping[str, str]) -> ClusterBundle:
    heard = observed(agent.state)
    return ClusterBundle(
        bundle=standing.bundle,
        wanted=standing.wanted,
        recorded=standing.recorded,
        revisions=dict(revisions),
        sync=standing.sync if heard else Sync.UNKNOWN,
        health=standing.health if heard else Health.UNKNOWN,
        drifted=standing.drifted,
    )
