"""Which clusters a selector, a bundle and each wave of its strategy mean; the one place that evaluates selectors.

`core.fleetfile` checks a new fleet.yaml with it, the planner and the conductor ask it for a release's targets. The
semantics are those of Kubernetes label selectors (an absent key satisfies NotIn), plus `matchNames`; all must hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from fleet.errors import NotFound
from fleet.model.fleetfile import Bundle, Cluster, Fleet, Requirement, Selector, Strategy, Wave

_T = TypeVar("_T")


def matches(selector: Selector, labels: Mapping[str, str], name: str) -> bool:
    """Whether one cluster is selected."""
    return Index([(name, labels)]).select(selector) != 0


def targets(fleet: Fleet, bundle: Bundle) -> tuple[Cluster, ...]:
    """The clusters that a bundle goes to, by name; raises NotFound when its strategy is not in the fleet."""
    index = Index((cluster.name, cluster.labels) for cluster in fleet.clusters)
    members = _selected(index, bundle, _strategy(fleet, bundle))
    return tuple(sorted(index.pick(members, fleet.clusters), key=lambda cluster: cluster.name))


def waves(fleet: Fleet, bundle: Bundle) -> tuple[tuple[Wave, tuple[str, ...]], ...]:
    """The waves of a bundle in order, each with its clusters' names in order; raises NotFound as `targets`."""
    index = Index((cluster.name, cluster.labels) for cluster in fleet.clusters)
    strategy = _strategy(fleet, bundle)
    members = _selected(index, bundle, strategy)
    return tuple(
        (wave, tuple(sorted(index.names(members & index.select(wave.cluster_selector))))) for wave in strategy.waves
    )


class Index:
    """Clusters by label, as sets packed into integers (bit i is the i-th cluster), so that thousands of selectors over
    thousands of clusters cost a few operations each."""

    def __init__(self, clusters: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        self._names: list[str] = []
        self._named: dict[str, int] = defaultdict(int)
        self._keyed: dict[str, int] = defaultdict(int)
        self._labelled: dict[tuple[str, str], int] = defaultdict(int)
        for number, (name, labels) in enumerate(clusters):
            bit = 1 << number
            self._names.append(name)
            self._named[name] |= bit
            for key, value in labels.items():
                self._keyed[key] |= bit
                self._labelled[key, value] |= bit
        self.all = (1 << len(self._names)) - 1

    def select(self, selector: Selector) -> int:
        """The set of clusters that a selector matches."""
        chosen = self.all
        for pair in selector.match_labels.items():
            chosen &= self._labelled.get(pair, 0)
        for requirement in selector.match_expressions:
            chosen &= self._satisfying(requirement)
        if selector.match_names:
            chosen &= self._union(self._named.get(name, 0) for name in selector.match_names)
        return chosen

    def names(self, members: int) -> list[str]:
        """The names in a set, in the order the clusters were given."""
        return self.pick(members, self._names)

    def pick(self, members: int, items: Iterable[_T]) -> list[_T]:
        """Those of `items` (one for each cluster) that are in a set."""
        return [item for number, item in enumerate(items) if members >> number & 1]

    def labels(self) -> dict[str, set[str]]:
        """Every label key with the values it has somewhere."""
        values: dict[str, set[str]] = defaultdict(set)
        for key, value in self._labelled:
            values[key].add(value)
        return values

    def _satisfying(self, requirement: Requirement) -> int:
        present = self._keyed.get(requirement.key, 0)
        if requirement.operator == "Exists":
            return present
        if requirement.operator == "DoesNotExist":
            return self.all & ~present
        named = self._union(self._labelled.get((requirement.key, value), 0) for value in requirement.values)
        return named if requirement.operator == "In" else self.all & ~named

    @staticmethod
    def _union(sets: Iterable[int]) -> int:
        union = 0
        for members in sets:
            union |= members
        return union


def _selected(index: Index, bundle: Bundle, strategy: Strategy) -> int:
    if bundle.cluster_selector is not None:
        return index.select(bundle.cluster_selector)
    members = 0
    for wave in strategy.waves:
        members |= index.select(wave.cluster_selector)
    return members


def _strategy(fleet: Fleet, bundle: Bundle) -> Strategy:
    for strategy in fleet.strategies:
        if strategy.name == bundle.strategy:
            return strategy
    raise NotFound(f"bundle {bundle.name}: fleet.yaml has no strategy {bundle.strategy}")
