"""What a change would do: two plannings compared, per bundle, with clusters that see the same change told together.

The answer of `fleet plan` (interface.md); whoever asks plans both revisions with a planner of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from fleet.core.difference import Difference, ObjectChange, difference
from fleet.engine.planner import Planned
from fleet.errors import NotFound
from fleet.model.cluster import DeployOptions
from fleet.model.objects import ManifestSet
from fleet.model.rollout import Plan, Release


class Sets(Protocol):
    """Manifest sets by digest."""

    async def get(self, digest: str) -> ManifestSet:
        """Raises NotFound."""


class KeptSets:
    """Manifest sets in memory, for plannings that end with the command that asked for them."""

    def __init__(self) -> None:
        self._sets: dict[str, ManifestSet] = {}

    async def put(self, manifests: ManifestSet) -> None:
        self._sets[manifests.digest] = manifests

    async def get(self, digest: str) -> ManifestSet:
        """Raises NotFound."""
        try:
            return self._sets[digest]
        except KeyError:
            raise NotFound(f"nothing was rendered to {digest}") from None


class Group(msgspec.Struct, frozen=True):
    """Clusters on which the same happens."""

    clusters: tuple[str, ...]
    create: tuple[str, ...]
    change: tuple[ObjectChange, ...]
    delete: tuple[str, ...]


class WavePreview(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    clusters: tuple[str, ...]
    gates: tuple[str, ...]
    bake_seconds: float


class BundlePreview(msgspec.Struct, frozen=True):
    bundle: str
    groups: tuple[Group, ...] = ()
    waves: tuple[WavePreview, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Preview(msgspec.Struct, frozen=True):
    """`bundles` holds those that change, and those that cannot be planned."""

    before: str = msgspec.field(name="from")
    after: str = msgspec.field(name="to")
    bundles: tuple[BundlePreview, ...]

    @property
    def empty(self) -> bool:
        return not self.bundles


async def preview(
    before: Iterable[Planned], after: Iterable[Planned], sets: Sets, *, names: tuple[str, str]
) -> Preview:
    """Compares two plannings; `names` are what their revisions are called. Raises what `sets` raises."""
    old = {planned.bundle: planned for planned in before}
    new = {planned.bundle: planned for planned in after}
    found = [await _bundle(name, old.get(name), new.get(name), sets) for name in dict.fromkeys((*new, *old))]
    return Preview(names[0], names[1], tuple(item for item in found if item is not None))


async def _bundle(name: str, before: Planned | None, after: Planned | None, sets: Sets) -> BundlePreview | None:
    """None when nothing changes."""
    if after is not None and after.error is not None:
        return BundlePreview(name, error=after.error)
    old = before.release if before else None
    new = after.release if after else None
    groups = await _groups(old, new, sets)
    if not groups and (old is None) == (new is None) and _options(old) == _options(new):
        return None
    warnings = []
    if before is not None and before.error is not None:
        warnings.append(f"the state before cannot be rendered, so everything counts as new: {before.error}")
    if after is None:
        # What becomes of the objects depends on `deletion`.
        warnings.append("the bundle leaves fleet.yaml")
    warnings += _warnings(old, new, groups)
    return BundlePreview(name, groups, _waves(after.plan if after else None), tuple(warnings))


async def _groups(old: Release | None, new: Release | None, sets: Sets) -> tuple[Group, ...]:
    before: Mapping[str, str] = old.digests if old else {}
    after: Mapping[str, str] = new.digests if new else {}
    alike: dict[tuple[str | None, str | None], list[str]] = {}
    for cluster in sorted(before.keys() | after.keys()):
        pair = (before.get(cluster), after.get(cluster))
        if pair[0] != pair[1]:
            alike.setdefault(pair, []).append(cluster)
    # Different pairs of sets may still differ in the same way.
    seen: list[tuple[Difference, list[str]]] = []
    for pair, clusters in alike.items():
        sides = [await sets.get(digest) if digest else None for digest in pair]
        change = difference(sides[0], sides[1])
        same = next((members for known, members in seen if known == change), None)
        if same is None:
            seen.append((change, list(clusters)))
        else:
            same += clusters
    return tuple(
        Group(tuple(sorted(clusters)), change.create, change.change, change.delete)
        for change, clusters in sorted(seen, key=lambda item: min(item[1]))
    )


def _waves(plan: Plan | None) -> tuple[WavePreview, ...]:
    return tuple(
        WavePreview(wave.name, wave.clusters, tuple(gate.name for gate in wave.gates_before), wave.bake)
        for wave in (plan.waves if plan else ())
    )


def _warnings(old: Release | None, new: Release | None, groups: tuple[Group, ...]) -> list[str]:
    if new is None:
        return []
    warnings = []
    left = sorted(old.digests.keys() - new.digests.keys()) if old else []
    # On clusters that it leaves altogether `deletion` decides, not `prune`.
    staying = [group for group in groups if set(group.clusters) - set(left)]
    if deleted := max((len(group.delete) for group in staying), default=0):
        limit = new.options.prune_max_objects
        if not new.options.prune:
            warnings.append(f"{_objects(deleted)} no longer wanted; without prune.enabled they stay in the clusters")
        elif deleted > limit:
            warnings.append(f"deletes {_objects(deleted)}, more than prune.maxObjects {limit}")
        else:
            warnings.append(f"deletes {_objects(deleted)}")
    if left:
        warnings.append(f"leaves {len(left)} clusters: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}")
    if old is not None and old.options != new.options:
        warnings.append(f"changes {', '.join(_changed_options(old.options, new.options))}")
    return warnings


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _options(release: Release | None) -> DeployOptions | None:
    return release.options if release else None


def _changed_options(old: DeployOptions, new: DeployOptions) -> list[str]:
    names = [field.name for field in msgspec.structs.fields(DeployOptions)]
    return [name for name in names if getattr(old, name) != getattr(new, name)]
