"""Which objects two bundles claim on one cluster, and which of the bundles has to give way.

An object belongs to one bundle. Who holds it in the content that is in force keeps it; between newcomers nobody can
say, so both are refused. A bundle that is refused stays at its content in force, which may touch others in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    shared: dict[tuple[str, str, frozenset[ObjectId]], set[str]] = {}
    compared: dict[tuple[str, str], frozenset[ObjectId]] = {}
    for cluster, digests in _by_cluster(contents).items():
        for (first, one), (second, two) in combinations(sorted(digests.items()), 2):
            # Most clusters have the same pairs of contents: each pair is compared once.
            pair = (one, two) if one < two else (two, one)
            if pair not in compared:
                compared[pair] = members[one] & members[two]
            if compared[pair]:
                shared.setdefault((first, second, compared[pair]), set()).add(cluster)
    found = (Conflict(first, second, objects, tuple(sorted(on))) for (first, second, objects), on in shared.items())
    return tuple(sorted(found, key=lambda conflict: (conflict.first, conflict.second, conflict.clusters)))


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


def _by_cluster(contents: Mapping[str, Contents]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for bundle, digests in contents.items():
        for cluster, digest in digests.items():
            found.setdefault(cluster, {})[bundle] = digest
    return found


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
