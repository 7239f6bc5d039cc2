"""From a bundle's sources to parts that can be rendered: which folders count, at which content, where on disk.

A bundle names a folder and perhaps an overlay; a Kustomize root in it may refer to more folders of the same source. All
of them together are the input, addressed by their content. One `Inputs` serves one planning; `Closures` outlives it and
remembers which folders a root needed, so that an unchanged input is neither exported nor looked into again.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import msgspec

from fleet.aio.each import each
from fleet.engine.ports import CommitInfo, Renderer, Tree
from fleet.errors import RenderError, SourceError
from fleet.model.fleetfile import Bundle, BundleSource, Cluster
from fleet.model.rendering import Part

ROUNDS = 20
"""How deep folders may refer to further folders."""
AT_ONCE = 4
"""Inputs of one bundle that are looked into at a time."""
REMEMBERED = 20_000


class Snapshot(msgspec.Struct, frozen=True):
    """A source as it is to be planned: at one commit, or as a working tree."""

    revision: str
    """Full SHA, or a word for what has none."""
    tree: Tree
    commit: CommitInfo | None = None


class Closures:
    """What is remembered of inputs between plannings; bounded, the longest unused goes first."""

    def __init__(self) -> None:
        self._needed: OrderedDict[tuple[str, ...], frozenset[str]] = OrderedDict()
        self._complete: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def guess(self, key: tuple[str, ...]) -> frozenset[str]:
        """The folders that were needed beside the named ones the last time."""
        return self._needed.get(key, frozenset())

    def learn(self, key: tuple[str, ...], needed: frozenset[str]) -> None:
        self._needed[key] = needed
        self._needed.move_to_end(key)
        while len(self._needed) > REMEMBERED:
            self._needed.popitem(last=False)

    def complete(self, input_: tuple[str, ...]) -> bool:
        """Whether this input is known to refer to nothing else."""
        return input_ in self._complete

    def completed(self, input_: tuple[str, ...]) -> None:
        self._complete[input_] = None
        self._complete.move_to_end(input_)
        while len(self._complete) > REMEMBERED:
            self._complete.popitem(last=False)


class _Asked:
    """A tree whose answers are kept for the length of one planning."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._known: dict[str, str | None] = {}

    async def hashes(self, paths: Iterable[str]) -> dict[str, str]:
        wanted = list(dict.fromkeys(paths))
        if unknown := [path for path in wanted if path not in self._known]:
            answer = await self.tree.hashes(unknown)
            self._known.update({path: answer.get(path) for path in unknown})
        return {path: found for path in wanted if (found := self._known[path]) is not None}


class Inputs:
    """The inputs of one planning. Methods raise RenderError or SourceError."""

    def __init__(self, renderer: Renderer, closures: Closures, snapshots: Mapping[str, Snapshot], root: str) -> None:
        self._renderer = renderer
        self._closures = closures
        self._snapshots = snapshots
        self._root = root
        self._trees = {name: _Asked(snapshot.tree) for name, snapshot in snapshots.items()}

    async def preload(self, bundles: Iterable[Bundle]) -> None:
        """Asks each tree once for what the bundles name, instead of bundle by bundle; raises nothing."""
        paths: dict[str, set[str]] = {}
        for bundle in bundles:
            for source in bundle.sources:
                # What is wrong is said when the bundle's turn comes.
                with contextlib.suppress(RenderError):
                    base = self._base(source)
                    place = (bundle.name, source.name, base, "", "")
                    paths.setdefault(source.name, set()).update({base}, self._closures.guess(place))
        for name, wanted in paths.items():
            with contextlib.suppress(SourceError):
                if name in self._trees:
                    await self._trees[name].hashes(sorted(wanted))

    async def parts(self, bundle: Bundle, clusters: Sequence[Cluster]) -> dict[str, tuple[Part, ...]]:
        """Cluster → what is to be rendered there."""
        by_source = [await self._source_parts(bundle, source, clusters) for source in bundle.sources]
        return {cluster.name: tuple(parts[cluster.name] for parts in by_source) for cluster in clusters}

    async def _source_parts(self, bundle: Bundle, source: BundleSource, clusters: Sequence[Cluster]) -> dict[str, Part]:
        """Cluster → what one source contributes there; clusters with the same input share one part."""
        if source.name not in self._snapshots:
            raise RenderError(f"source {source.name or 'of fleet.yaml'} could not be read yet")
        overlays = await self._overlays(source, clusters)
        # With templates each cluster may refer to folders of its own.
        keys = {c.name: (overlays[c.name], c.name if bundle.templates else "") for c in clusters}
        distinct = {keys[cluster.name]: cluster for cluster in clusters}
        made: dict[tuple[str | None, str], Part] = {}

        async def one(key: tuple[str | None, str]) -> None:
            made[key] = await self._part(bundle, source, key[0], distinct[key] if bundle.templates else None)

        await each(one, distinct, at_once=AT_ONCE, name=lambda key: f"input {bundle.name} {key[0] or ''}")
        return {name: made[key] for name, key in keys.items()}

    async def on_disk(self, bundle: Bundle, parts: Sequence[Part]) -> tuple[Part, ...]:
        """The parts with their folders exported, where they are not."""
        exported = []
        for source, part in zip(bundle.sources, parts, strict=True):
            if not part.root:
                folder = await self._trees[source.name].tree.folder(part.folders)
                part = msgspec.structs.replace(part, root=str(folder))
            exported.append(part)
        return tuple(exported)

    def revisions(self, bundle: Bundle) -> dict[str, str]:
        """Source → revision, of the sources of a bundle."""
        return {source.name: self._snapshots[source.name].revision for source in bundle.sources}

    def newest(self, bundle: Bundle) -> CommitInfo | None:
        """The latest of the commits that a bundle is made of."""
        commits = [self._snapshots[source.name].commit for source in bundle.sources]
        return max((commit for commit in commits if commit is not None), key=lambda c: c.time, default=None)

    def _base(self, source: BundleSource) -> str:
        return _inside(posixpath.join("" if source.name else self._root, source.path), source.path)

    async def _overlays(self, source: BundleSource, clusters: Sequence[Cluster]) -> dict[str, str | None]:
        """Cluster → its overlay: a folder in the bundle's folder, or else one at the root of the source."""
        if source.overlay is None:
            return {cluster.name: None for cluster in clusters}
        places = [self._base(source), "" if source.name else self._root]
        candidates: dict[str, list[str]] = {}
        for cluster in clusters:
            written = self._renderer.expand(source.overlay, cluster)
            _inside(written, written)
            candidates[cluster.name] = [_inside(posixpath.join(place, written), written) for place in places]
        found = await self._trees[source.name].hashes(path for paths in candidates.values() for path in paths)
        chosen = {name: next((path for path in paths if path in found), None) for name, paths in candidates.items()}
        # An overlay that is named outright must be there; one that is named by cluster may be absent for some.
        if "{{" not in source.overlay and (missing := [name for name, path in chosen.items() if path is None]):
            raise RenderError(f"there is no overlay folder {candidates[missing[0]][0]}{self._at(source)}")
        return chosen

    async def _part(self, bundle: Bundle, source: BundleSource, overlay: str | None, cluster: Cluster | None) -> Part:
        base, tree = self._base(source), self._trees[source.name]
        if base not in await tree.hashes([base]):
            raise RenderError(f"there is no folder {base or '.'}{self._at(source)}")
        place = (bundle.name, source.name, base, overlay or "", cluster.name if cluster else "")
        named = {base, *([overlay] if overlay is not None else [])}
        needed = set(await tree.hashes(self._closures.guess(place)))
        for _ in range(ROUNDS):
            part = await self._assemble(source, base, overlay, named | needed)
            input_ = (part.digest, base, overlay or "", _seen(cluster))
            if self._closures.complete(input_):
                break
            root = await tree.tree.folder(part.folders)
            part = msgspec.structs.replace(part, root=str(root))
            absent = await self._renderer.absent(part, cluster)
            if not absent:
                self._closures.completed(input_)
                break
            present = await tree.hashes(sorted(absent))
            if missing := sorted(absent - present.keys()):
                raise RenderError(f"{base or '.'} refers to {missing[0]}, which is not there{self._at(source)}")
            needed |= absent
        else:
            raise RenderError(f"{base or '.'} refers to folders that refer to folders, more than {ROUNDS} deep")
        self._closures.learn(place, frozenset(needed))
        return part

    async def _assemble(self, source: BundleSource, base: str, overlay: str | None, paths: set[str]) -> Part:
        folders = tuple(sorted(path for path in paths if not _within(path, paths)))
        hashes = await self._trees[source.name].hashes(folders)
        digest = sha256(json.dumps([[path, hashes.get(path)] for path in folders]).encode()).hexdigest()
        return Part("", folders, base, digest, overlay, source.overlay)

    def _at(self, source: BundleSource) -> str:
        revision = self._snapshots[source.name].revision
        name = f"source {source.name}" if source.name else "the repository of fleet.yaml"
        return f" in {name} at {revision[:12]}"


def _seen(cluster: Cluster | None) -> str:
    """What a template could read of a cluster."""
    if cluster is None:
        return ""
    return json.dumps([cluster.name, cluster.labels, cluster.values], sort_keys=True)


def _inside(path: str, written: str) -> str:
    """A normal path that does not leave the source; "" is its root."""
    normal = posixpath.normpath(path)
    if normal.startswith(("/", "..")) or "\0" in normal:
        raise RenderError(f"the path {written!r} leads out of its source")
    return "" if normal == "." else normal


def _within(path: str, others: Iterable[str]) -> bool:
    """Whether a path lies in another one of them."""
    return any(path != other and (not other or path.startswith(f"{other}/")) for other in others)
