"""Which objects two bundles claim on one cluster, and which of the bundles has to give way.

An object belongs to one bundle. Who holds it in the content that is in force keeps it; between newcomers nobody can
say, so both are refused. A bundle that is refused stays at its content in force, which may touch others in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import msgspec

from fleet.model.objects import ObjectId

Contents = Mapping[str, str]
"""Cluster → digest of a manifest set, for one bundle."""
Members = Mapping[str, frozenset[ObjectId]]
"""Digest → identities of the objects in that set."""

NAMED = 3
"""Objects and clusters that a message names."""


class Conflict(msgspec.Struct, frozen=True):
    """Objects that two bundles claim on each of some clusters; `first` sorts before `second`."""

    first: str
    second: str
    objects: frozenset[ObjectId]
    clusters: tuple[str, ...]


def conflicts(contents: Mapping[str, Contents], members: Members) -> tuple[Conflict, ...]:
    """Every pair of bundles that claim the same objects somewhere, in the order of their names."""
    found = (
        Conflict(first, second, objects, tuple(sorted(clusters)))
        for combination, clusters in _alike(contents).items()
        for (first, second), objects in _shared(combination, members).items()
    )
    return tuple(sorted(_joined(found), key=lambda conflict: (conflict.first, conflict.second, conflict.clusters)))


def refused(wanted: Mapping[str, Contents], in_force: Mapping[str, Contents], members: Members) -> dict[str, str]:
    """The bundles of `wanted` that may not have it, each with a sentence that names the other bundle.

    `in_force` is what bundles have now; a bundle that is not in `wanted` keeps that.
    """
    contents = {**in_force, **wanted}
    reasons: dict[str, str] = {}
    # Every round refuses at least one bundle or is the last.
    while True:
        losers: dict[str, str] = {}
        for conflict in conflicts(contents, members):
            for loser in _losers(conflict, contents, in_force, members):
                other = conflict.second if loser == conflict.first else conflict.first
                losers.setdefault(loser, _sentence(conflict, other))
        if not losers:
            return reasons
        reasons |= losers
        for bundle in losers:
            contents[bundle] = in_force.get(bundle, {})


def _alike(contents: Mapping[str, Contents]) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Clusters by what all bundles are there, as (bundle, digest) pairs; most clusters are like many others."""
    by_cluster: dict[str, list[tuple[str, str]]] = {}
    for bundle in sorted(contents):
        for cluster, digest in contents[bundle].items():
            by_cluster.setdefault(cluster, []).append((bundle, digest))
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for cluster, pairs in by_cluster.items():
        found.setdefault(tuple(pairs), []).append(cluster)
    return found


def _shared(combination: tuple[tuple[str, str], ...], members: Members) -> dict[tuple[str, str], frozenset[ObjectId]]:
    """What pairs of bundles have in common on a cluster; linear in the number of objects."""
    holders: dict[ObjectId, list[str]] = {}
    for bundle, digest in combination:
        for member in members[digest]:
            holders.setdefault(member, []).append(bundle)
    found: dict[tuple[str, str], set[ObjectId]] = {}
    for member, bundles in holders.items():
        for pair in combinations(bundles, 2) if len(bundles) > 1 else ():
            found.setdefault(pair, set()).add(member)
    return {pair: frozenset(objects) for pair, objects in found.items()}


def _joined(conflicts: Iterable[Conflict]) -> Iterable[Conflict]:
    """The same objects of the same bundles, told once for all clusters."""
    clusters: dict[tuple[str, str, frozenset[ObjectId]], set[str]] = {}
    for conflict in conflicts:
        clusters.setdefault((conflict.first, conflict.second, conflict.objects), set()).update(conflict.clusters)
    return [Conflict(first, second, objects, tuple(sorted(on))) for (first, second, objects), on in clusters.items()]


def _losers(
    conflict: Conflict, contents: Mapping[str, Contents], in_force: Mapping[str, Contents], members: Members
) -> list[str]:
    both = (conflict.first, conflict.second)
    newcomers = [bundle for bundle in both if contents[bundle] != in_force.get(bundle, {})]
    holders = [bundle for bundle in both if _holds(bundle, conflict, in_force, members)]
    intruders = [bundle for bundle in newcomers if bundle not in holders]
    return intruders if len(holders) == 1 else newcomers


def _holds(bundle: str, conflict: Conflict, in_force: Mapping[str, Contents], members: Members) -> bool:
    """Whether the bundle has all of these objects already, on all of these clusters."""
    held = in_force.get(bundle, {})
    return all(cluster in held and conflict.objects <= members[held[cluster]] for cluster in conflict.clusters)


def _sentence(conflict: Conflict, other: str) -> str:
    objects = sorted(str(item) for item in conflict.objects)
    shown = ", ".join(objects[:NAMED]) + (f" and {len(objects) - NAMED} more" if len(objects) > NAMED else "")
    clusters = ", ".join(conflict.clusters[:NAMED])
    more = f" and {len(conflict.clusters) - NAMED} more" if len(conflict.clusters) > NAMED else ""
    return f"bundle {other} claims {shown} on {clusters}{more}, too; an object belongs to one bundle"
