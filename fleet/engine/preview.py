"""What a change would do: two states of a fleet compared, per bundle, with clusters that see the same told together.

The answer of `fleet plan` (interface.md); whoever asks has planned both sides, each with a planner of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from fleet.core.difference import Difference, ObjectChange, difference
from fleet.engine.planner import Planned
from fleet.model.cluster import DeployOptions
from fleet.model.fleetfile import Fleet
from fleet.model.objects import ManifestSet
from fleet.model.rollout import Plan, Release


class Side(msgspec.Struct, frozen=True):
    """A fleet at a commit or as a working tree, planned; `manifests` by digest."""

    name: str
    fleet: Fleet
    planned: tuple[Planned, ...]
    manifests: Mapping[str, ManifestSet]

    def of(self, bundle: str) -> Planned | None:
        return next((planned for planned in self.planned if planned.bundle == bundle), None)


class GroupView(msgspec.Struct, frozen=True):
    """Clusters on which the same happens."""

    clusters: tuple[str, ...]
    create: tuple[str, ...]
    change: tuple[ObjectChange, ...]
    delete: tuple[str, ...]


class WaveView(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    clusters: tuple[str, ...]
    gates: tuple[str, ...]
    bake_seconds: float


class BundleView(msgspec.Struct, frozen=True):
    bundle: str
    groups: tuple[GroupView, ...] = ()
    """Empty when nothing changes."""
    waves: tuple[WaveView, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """Why the bundle cannot be planned."""


class PlanView(msgspec.Struct, frozen=True):
    before: str | None = msgspec.field(name="from")
    after: str = msgspec.field(name="to")
    bundles: tuple[BundleView, ...]
    """Those of the state after, then those that are only in the state before."""

    @property
    def errors(self) -> bool:
        return any(bundle.error is not None for bundle in self.bundles)

    @property
    def changes(self) -> bool:
        """Whether a rollout would start, or something would leave."""
        return any(bundle.groups or bundle.warnings for bundle in self.bundles)


def preview(before: Side | None, after: Side) -> PlanView:
    """Compares two sides; without the one before everything is new."""
    names = [planned.bundle for planned in after.planned]
    views = [_bundle(name, before, after) for name in names]
    if before is not None:
        here = {bundle.name for bundle in after.fleet.bundles}
        views += [_left(planned, before) for planned in before.planned if planned.bundle not in here]
    return PlanView(before.name if before else None, after.name, tuple(views))


def _bundle(name: str, before: Side | None, after: Side) -> BundleView:
    planned = after.of(name)
    if planned is None or planned.release is None:
        return BundleView(name, error=planned.error if planned else "it was not planned")
    known = before.of(name) if before else None
    old = known.release if known else None
    warnings: list[str] = []
    if before is not None and known is not None and known.error is not None:
        warnings.append(f"at {before.name[:12]} it cannot be rendered, so everything counts as new: {known.error}")
    groups = _groups(old, planned.release, before, after)
    warnings += _deletions(groups, planned.release.options)
    if old is not None:
        warnings += _leaving(old, planned.release, _deletion(after.fleet, name))
        warnings += _options(old.options, planned.release.options)
    return BundleView(name, groups, _waves(planned.plan), tuple(warnings))


def _left(planned: Planned, before: Side) -> BundleView:
    deletion = _deletion(before.fleet, planned.bundle)
    clusters = len(planned.release.digests) if planned.release else 0
    return BundleView(
        planned.bundle,
        warnings=("it leaves fleet.yaml", f"{_fate(deletion)} on {_count(clusters, 'cluster')}"),
    )


def _groups(old: Release | None, new: Release, before: Side | None, after: Side) -> tuple[GroupView, ...]:
    """The changes on the clusters that the bundle goes to."""
    alike: dict[tuple[str | None, str], list[str]] = {}
    for cluster, digest in new.digests.items():
        known = old.digests.get(cluster) if old else None
        if known != digest:
            alike.setdefault((known, digest), []).append(cluster)
    # Different pairs of sets may still differ in the same way.
    seen: list[tuple[Difference, list[str]]] = []
    for (known, digest), clusters in alike.items():
        former = before.manifests[known] if before is not None and known is not None else None
        change = difference(former, after.manifests[digest])
        same = next((members for other, members in seen if other == change), None)
        if same is None:
            seen.append((change, clusters))
        else:
            same += clusters
    views = (GroupView(tuple(sorted(names)), it.create, it.change, it.delete) for it, names in seen)
    return tuple(sorted(views, key=lambda view: view.clusters))


def _waves(plan: Plan | None) -> tuple[WaveView, ...]:
    return tuple(
        WaveView(wave.name, wave.clusters, tuple(gate.name for gate in wave.gates_before), wave.bake)
        for wave in (plan.waves if plan else ())
    )


def _deletions(groups: Iterable[GroupView], options: DeployOptions) -> list[str]:
    """What becomes of objects that are no longer wanted."""
    clusters: dict[int, int] = {}
    for group in groups:
        if group.delete:
            clusters[len(group.delete)] = clusters.get(len(group.delete), 0) + len(group.clusters)
    warnings = []
    for objects, number in sorted(clusters.items()):
        where = f"{_count(objects, 'object')} on each of {_count(number, 'cluster')}"
        if not options.prune:
            warnings.append(f"leaves {where} without an owner (prune is off)")
        elif objects > options.prune_max_objects:
            warnings.append(f"deletes {where}, more than prune.maxObjects {options.prune_max_objects} allows")
        else:
            warnings.append(f"deletes {where}")
    return warnings


def _leaving(old: Release, new: Release, deletion: str) -> list[str]:
    """Clusters that the bundle no longer goes to."""
    left = sorted(old.digests.keys() - new.digests.keys())
    if not left:
        return []
    shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    return [f"it no longer goes to {shown}: {_fate(deletion)}"]


def _deletion(fleet: Fleet, bundle: str) -> str:
    return next((known.deletion for known in fleet.bundles if known.name == bundle), "orphan")


def _fate(deletion: str) -> str:
    if deletion == "delete":
        return "deletion is delete: its objects are deleted"
    return "deletion is orphan: its objects stay, without an owner"


def _options(old: DeployOptions, new: DeployOptions) -> list[str]:
    """A release of its own, even where no object changes."""
    names = [field.name for field in msgspec.structs.fields(DeployOptions)]
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    return [f"changes how it is deployed: {', '.join(changed)}"] if changed else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
