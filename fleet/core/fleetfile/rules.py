"""What must hold across a fleet.yaml: unique names, references, and which clusters each wave and bundle mean.

Works on the tree that `reader` made, also where parts of it are INVALID, and is silent about what it cannot know then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from fleet.core.fleetfile.build import Node, selector
from fleet.core.fleetfile.reader import INVALID, Report, closest, spell
from fleet.core.targets import Index
from fleet.core.yaml import Path
from fleet.model.fleetfile import Selector

_SHOWN = 5


def check(root: Node, raw: Mapping[str, object], errors: Report, warnings: Report) -> None:
    """Reports everything; `raw` is the document before it was read, as a name wrong in itself is still referred to."""
    for collection in ("sources", "clusters", "bundles", "gates", "strategies"):
        _unique(root, collection, (), errors)
    for number, strategy in _nodes(root, "strategies"):
        _unique(strategy, "waves", ("strategies", number), errors)
    _references(root, raw, errors, warnings)
    _Selection(root, raw, errors).check()
    _credentials(root, warnings)


def _nodes(parent: Node, key: str) -> Iterator[tuple[int, Node]]:
    """The readable records of a list, with their indexes."""
    items = parent.get(key)
    for number, item in enumerate(items if isinstance(items, tuple) else ()):
        if isinstance(item, dict):
            yield number, item


def _whole(value: object) -> bool:
    """Whether nothing in a value is INVALID."""
    if isinstance(value, dict):
        return all(_whole(item) for item in value.values())
    if isinstance(value, tuple):
        return all(_whole(item) for item in value)
    return value is not INVALID


def _unique(parent: Node, key: str, path: Path, errors: Report) -> None:
    first: dict[str, int] = {}
    for number, node in _nodes(parent, key):
        name = node["name"]
        if name is INVALID:
            continue
        if name in first:
            errors.add(
                (*path, key, number, "name"), f"the name `{name}` is taken by {spell((*path, key, first[name]))}"
            )
        first.setdefault(name, number)


# --- references ------------------------------------------------------------------------------------------------------


def _references(root: Node, raw: Mapping[str, object], errors: Report, warnings: Report) -> None:
    used: dict[str, set[str]] = {"sources": set(), "gates": set(), "strategies": set()}
    known = {collection: _raw_names(raw, collection) for collection in used}
    unknown: set[str] = set()
    singular = {"sources": "source", "gates": "gate", "strategies": "strategy"}
    for collection, path, name in _uses(root):
        used[collection].add(name)
        if name not in known[collection]:
            unknown.add(collection)
            listed = sorted(known[collection])
            there = f"; there are {_some(listed)}" if listed else f"; `{collection}` has none"
            meant = closest(name, listed)
            what = singular[collection]
            errors.add(path, f"there is no {what} `{name}`{'' if meant else there}", meant)
    user = {"sources": "bundle", "gates": "wave", "strategies": "bundle"}
    for collection, names in used.items():
        for number, node in _nodes(root, collection):
            name = node["name"]
            # An unknown reference probably meant one of those that seem unused.
            if name is not INVALID and name not in names and collection not in unknown:
                path = (collection, number, "name")
                warnings.add(path, f"no {user[collection]} uses the {singular[collection]} `{name}`")


def _uses(root: Node) -> Iterator[tuple[str, Path, str]]:
    """Every reference by name: what it refers to, where, and the name."""
    for number, bundle in _nodes(root, "bundles"):
        if bundle["strategy"] is not INVALID:
            yield "strategies", ("bundles", number, "strategy"), bundle["strategy"]
        for part, source in _nodes(bundle, "sources"):
            if isinstance(source.get("name"), str):
                yield "sources", ("bundles", number, "sources", part, "name"), source["name"]
    for number, strategy in _nodes(root, "strategies"):
        for position, wave in _nodes(strategy, "waves"):
            gates = wave["gates"]
            before = gates["before"] if isinstance(gates, dict) else ()
            for part, gate in enumerate(before if isinstance(before, tuple) else ()):
                if gate is not INVALID:
                    yield "gates", ("strategies", number, "waves", position, "gates", "before", part), gate


def _raw_names(raw: Mapping[str, object], collection: str) -> set[str]:
    items = raw.get(collection)
    named = [item.get("name") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {name for name in named if isinstance(name, str)}


def _raw_cluster(item: object) -> tuple[str, dict[str, str]] | None:
    """Name and labels as they were probably meant; None when the labels cannot be told."""
    labels = item.get("labels", {}) if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(labels, dict):
        return None
    return str(item.get("name")), {key: str(value) for key, value in labels.items()}


# --- which clusters --------------------------------------------------------------------------------------------------


class _Waves(msgspec.Struct, frozen=True):
    """The waves of a strategy, each with its clusters; None where its selector is not valid."""

    names: list[str]
    members: list[int | None]

    def all(self) -> int | None:
        union = 0
        for members in self.members:
            if members is None:
                return None
            union |= members
        return union


class _Selection:
    """Checks the selectors of waves and bundles against the clusters."""

    def __init__(self, root: Node, raw: Mapping[str, object], errors: Report) -> None:
        self._root = root
        self._errors = errors
        items = raw.get("clusters", [])
        written = [_raw_cluster(item) for item in items] if isinstance(items, list) else [None]
        readable = [cluster for cluster in written if cluster is not None]
        # Without every cluster, "selects none" cannot be said.
        self._complete = len(readable) == len(written)
        self._index = Index(readable)
        self._names = {name for name, _ in readable}
        self._labels = self._index.labels()

    def check(self) -> None:
        strategies: dict[str, _Waves] = {}
        for number, strategy in _nodes(self._root, "strategies"):
            checked = self._strategy(strategy, ("strategies", number, "waves"))
            if strategy["name"] is not INVALID:
                strategies.setdefault(strategy["name"], checked)
        for number, bundle in _nodes(self._root, "bundles"):
            waves = strategies.get(bundle["strategy"]) if bundle["strategy"] is not INVALID else None
            self._bundle(bundle, ("bundles", number), waves)

    def _strategy(self, strategy: Node, path: Path) -> _Waves:
        names: list[str] = []
        members: list[int | None] = []
        complete = isinstance(strategy["waves"], tuple)
        for number, wave in enumerate(strategy["waves"] if complete else ()):
            readable = isinstance(wave, dict)
            own = self._select(wave["clusterSelector"], (*path, number, "clusterSelector")) if readable else None
            for earlier, others in enumerate(members):
                if own and others and (both := own & others):
                    shared = _some(self._index.names(both))
                    where = (*path, number, "clusterSelector")
                    self._errors.add(where, f"selects {shared}, which wave `{names[earlier]}` selects too")
                    break
            names.append(str(wave["name"]) if readable else "")
            members.append(own)
        return _Waves(names, members if complete else [None])

    def _bundle(self, bundle: Node, path: Path, waves: _Waves | None) -> None:
        if "clusterSelector" not in bundle:
            return
        where = (*path, "clusterSelector")
        own = self._select(bundle["clusterSelector"], where)
        waved = waves.all() if waves else None
        if not own or waves is None or waved is None:
            return
        strategy = bundle["strategy"]
        if left := own & ~waved:
            lost = _some(self._index.names(left))
            self._errors.add(where, f"selects {lost}, which no wave of strategy `{strategy}` selects")
        for name, members in zip(waves.names, waves.members, strict=True):
            if self._complete and members and not members & own:
                self._errors.add(where, f"leaves wave `{name}` of strategy `{strategy}` without a cluster")

    def _select(self, node: Any, path: Path) -> int | None:
        """The clusters of a selector; None when that cannot be known, after its own problems were reported."""
        if not isinstance(node, dict) or not _whole(node):
            return None
        chosen = selector(node)
        if self._complete:
            unknown = [number for number, name in enumerate(chosen.match_names) if name not in self._names]
            for number in unknown:
                name = chosen.match_names[number]
                self._errors.add(
                    (*path, "matchNames", number), f"there is no cluster `{name}`", closest(name, self._names)
                )
            members = self._index.select(chosen)
            if not members and not unknown:
                why, meant = self._why_none(chosen)
                self._errors.add(path, f"selects no cluster{why}", meant)
            return members
        return self._index.select(chosen)

    def _why_none(self, chosen: Selector) -> tuple[str, str | None]:
        if not self._names:
            return ": the fleet has none", None
        wanted: list[tuple[str, tuple[str, ...]]] = [(key, (value,)) for key, value in chosen.match_labels.items()]
        wanted += [(item.key, item.values) for item in chosen.match_expressions if item.operator in ("In", "Exists")]
        for key, values in wanted:
            if key not in self._labels:
                return f": no cluster has the label `{key}`", closest(key, self._labels)
            if values and not self._labels[key].intersection(values):
                return f": no cluster has the label `{key}` with {_some(values)}", closest(values[0], self._labels[key])
        return "", None


# --- clusters and secrets --------------------------------------------------------------------------------------------


def _credentials(root: Node, warnings: Report) -> None:
    first: dict[object, int] = {}
    for number, cluster in _nodes(root, "clusters"):
        way = _way(cluster)
        if way is not None and first.setdefault(way, number) != number:
            warnings.add(
                ("clusters", number), f"is reached as {spell(('clusters', first[way]))} is: one cluster, two names"
            )
    secrets = root.get("secrets")
    if secrets is INVALID or (isinstance(secrets, dict) and "file" in secrets):
        return
    for path in _secret_references(root):
        warnings.add(path, "no secret can be found: `secrets.file.path`, the folder of secrets, is not set")


def _way(cluster: Node) -> object | None:
    kubeconfig = cluster.get("kubeconfig")
    if isinstance(kubeconfig, dict) and _whole(kubeconfig):
        return kubeconfig.get("path"), kubeconfig.get("context")
    if cluster.get("inCluster") is True:
        return True
    secret = cluster.get("secretRef")
    return secret if isinstance(secret, str) else None


def _secret_references(root: Node) -> Iterator[Path]:
    nested: tuple[tuple[str, Callable[[Node], object], tuple[str, ...]], ...] = (
        ("clusters", lambda node: node, ("secretRef",)),
        ("sources", lambda node: node.get("git"), ("git", "secretRef")),
    )
    for collection, holder, rest in nested:
        for number, node in _nodes(root, collection):
            held = holder(node)
            if isinstance(held, dict) and "secretRef" in held:
                yield (collection, number, *rest)


def _some(names: Any) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in listed[:_SHOWN]) + more
