"""What every cluster shall hold, as the store has it: the mirror that agents read.

The conductor puts an assignment here only after the store has it, and then names the cluster to the agents, which read
the whole of what is assigned to it: a nudge that is lost or comes twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from fleet.model.cluster import Assignment

_NOTHING: Mapping[str, Assignment] = MappingProxyType({})


class Assignments:
    """Cluster → bundle → assignment; for one event loop, and written by the conductor alone."""

    def __init__(self) -> None:
        self._by_cluster: dict[str, dict[str, Assignment]] = {}
        self._changed: Callable[[str], None] = lambda cluster: None

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """`changed` is called with the name of a cluster after what is assigned to it changed."""
        self._changed = changed

    def of(self, cluster: str) -> Mapping[str, Assignment]:
        """By bundle; a view that follows later changes."""
        found = self._by_cluster.get(cluster)
        return _NOTHING if found is None else MappingProxyType(found)

    def __len__(self) -> int:
        return sum(len(bundles) for bundles in self._by_cluster.values())

    def load(self, assignments: Iterable[Assignment]) -> None:
        """Replaces everything by what the store answered."""
        before = self._by_cluster
        self._by_cluster = {}
        for assignment in assignments:
            self._by_cluster.setdefault(assignment.cluster, {})[assignment.bundle] = assignment
        for cluster in sorted(before.keys() | self._by_cluster.keys()):
            if before.get(cluster) != self._by_cluster.get(cluster):
                self._changed(cluster)

    def publish(self, assignments: Iterable[Assignment], withdrawn: Iterable[tuple[str, str]] = ()) -> None:
        """Takes over what one stored decision changed; `withdrawn` holds (cluster, bundle)."""
        touched: dict[str, None] = {}
        for cluster, bundle in withdrawn:
            bundles = self._by_cluster.get(cluster, {})
            if bundles.pop(bundle, None) is not None:
                touched[cluster] = None
            if not bundles:
                self._by_cluster.pop(cluster, None)
        for assignment in assignments:
            self._by_cluster.setdefault(assignment.cluster, {})[assignment.bundle] = assignment
            touched[assignment.cluster] = None
        for cluster in touched:
            self._changed(cluster)
