"""The fleet on one page: configuration, sources, clusters and bundles."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleet.engine.service_ports import Configuration, SourceState
from fleet.engine.views import cluster
from fleet.engine.views.bundle import BundleCounts, BundleStateName, BundleView
from fleet.engine.views.cluster import ClusterCounts, ClusterView
from fleet.engine.views.timestamps import rfc3339


class SourceView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    url: str
    ref: str
    sha: str | None
    fetched_at: str | None
    error: str | None
    error_since: str | None


class StatusBundle(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    state: BundleStateName
    rollout: str | None
    reason: str | None
    clusters: BundleCounts


class StatusView(msgspec.Struct, frozen=True, rename="camel"):
    fleet: str | None
    """null until a valid fleet.yaml was read."""
    version: str
    time: str
    config_revision: str | None
    config_error: str | None
    sources: tuple[SourceView, ...]
    clusters: ClusterCounts
    bundles: tuple[StatusBundle, ...]


def status_view(
    version: str,
    now: float,
    configuration: Configuration,
    sources: Sequence[SourceState],
    clusters: Sequence[ClusterView],
    bundles: Sequence[BundleView],
) -> StatusView:
    in_force = configuration.in_force
    return StatusView(
        fleet=in_force.fleet.name if in_force else None,
        version=version,
        time=rfc3339(now),
        config_revision=in_force.revision if in_force else None,
        config_error=configuration.error,
        sources=tuple(source_view(source) for source in sources),
        clusters=cluster.count(clusters),
        bundles=tuple(
            StatusBundle(view.name, view.state, view.rollout, view.reason, view.clusters) for view in bundles
        ),
    )


def source_view(source: SourceState) -> SourceView:
    return SourceView(
        name=source.name,
        url=source.url,
        ref=source.ref,
        sha=source.sha,
        fetched_at=rfc3339(source.fetched_at),
        error=source.error,
        error_since=rfc3339(source.since) if source.error else None,
    )
