"""A working tree with a fleet.yaml, read and rendered without a server: what validate, render, plan and doctor share.

The sources of other repositories are not fetched: `--source NAME=DIR` says where a checkout of one lies. Bundles of
sources that are not here are left out, and named.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fleet.cli import local_git
from fleet.cli.failure import Exit, Failure
from fleet.core import fleetfile
from fleet.engine.planner import Planned, Planner, Snapshot
from fleet.engine.preview import KeptSets
from fleet.errors import InvalidInput
from fleet.git.trees import FolderTree
from fleet.model.fleetfile import Bundle, Fleet, Problem
from fleet.model.objects import ManifestSet
from fleet.render.renderer import Renderer

WORKING_TREE = "working tree"
MAX_BYTES = 1 << 20


class WorkTree(msgspec.Struct, frozen=True):
    """A fleet.yaml on disk, and where everything it refers to lies."""

    file: Path
    repository: Path
    """The root of its repository; its own folder where that is in none."""
    parsed: fleetfile.Parsed
    sources: dict[str, Path]

    @property
    def root(self) -> str:
        """The folder of fleet.yaml in its repository; "" is the repository's root."""
        relative = self.file.parent.relative_to(self.repository).as_posix()
        return "" if relative == "." else relative

    def fleet(self) -> Fleet:
        """Raises InvalidInput with the first problem when fleet.yaml is not valid."""
        if self.parsed.fleet is None:
            first, more = self.parsed.problems[0], len(self.parsed.problems) - 1
            raise InvalidInput(f"{first}" + (f" (and {more} more; `fleet validate` lists all)" if more else ""))
        return self.parsed.fleet

    def here(self, bundle: Bundle) -> bool:
        """Whether all sources of a bundle are on this machine."""
        return all(source.name == "" or source.name in self.sources for source in bundle.sources)

    def elsewhere(self, fleet: Fleet) -> tuple[str, ...]:
        """The bundles that cannot be rendered here, a sentence each."""
        return tuple(
            f"bundle {bundle.name} is left out: its sources are not here; give "
            + " ".join(
                f"--source {source.name}=DIR" for source in bundle.sources if source.name not in ("", *self.sources)
            )
            for bundle in fleet.bundles
            if not self.here(bundle)
        )


class Rendered(msgspec.Struct, frozen=True):
    """All bundles of a fleet.yaml that could be rendered here, and what is wrong with the others."""

    fleet: Fleet
    planned: tuple[Planned, ...]
    sets: KeptSets

    async def of(self, bundle: str, cluster: str) -> ManifestSet | None:
        """What a bundle is on a cluster; None: it does not go there. Raises InvalidInput with why it cannot be
        rendered.
        """
        planned = next((each for each in self.planned if each.bundle == bundle), None)
        if planned is not None and planned.error is not None:
            raise InvalidInput(f"bundle {bundle}: {planned.error}")
        release = planned.release if planned is not None else None
        digest = release.digests.get(cluster) if release is not None else None
        return None if digest is None else await self.sets.get(digest)


def open_tree(directory: Path, sources: Sequence[str] | None = None) -> WorkTree:
    """Reads a fleet.yaml; raises Failure when there is none. What is wrong in it stands in `parsed`."""
    file = directory / "fleet.yaml" if directory.is_dir() else directory
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failure(Exit.NO, f"{file}: {error.strerror}", "`fleet init` writes a first fleet.yaml") from error
    resolved = file.resolve()
    parsed = fleetfile.parse(content, file=str(file))
    return WorkTree(
        resolved, local_git.repository_of(resolved.parent) or resolved.parent, parsed, _checkouts(sources or ())
    )


async def render(tree: WorkTree) -> Rendered:
    """Renders every bundle whose sources are here; raises InvalidInput when fleet.yaml is not valid."""
    snapshots = {"": Snapshot(WORKING_TREE, FolderTree(tree.repository))}
    snapshots |= {name: Snapshot(WORKING_TREE, FolderTree(path)) for name, path in tree.sources.items()}
    return await render_at(tree, tree.fleet(), snapshots)


async def render_at(
    tree: WorkTree, fleet: Fleet, snapshots: Mapping[str, Snapshot], sets: KeptSets | None = None
) -> Rendered:
    """Renders a fleet at given states of its sources, as far as they are here; manifests go to `sets`."""
    sets = sets if sets is not None else KeptSets()
    here = msgspec.structs.replace(fleet, bundles=tuple(bundle for bundle in fleet.bundles if tree.here(bundle)))
    planner = Planner(Renderer(), sets, time.time, root=tree.root)
    return Rendered(fleet, await planner.plan(here, snapshots), sets)


def unrenderable(tree: WorkTree, rendered: Rendered) -> tuple[Problem, ...]:
    """The bundles that cannot be rendered, at their places in fleet.yaml."""
    places = {bundle.name: number for number, bundle in enumerate(rendered.fleet.bundles)}
    return tuple(
        tree.parsed.problem(("bundles", places[each.bundle]), each.error)
        for each in rendered.planned
        if each.error is not None
    )


def _checkouts(given: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for each in given:
        name, equals, folder = each.partition("=")
        path = Path(folder).expanduser()
        if not equals or not name or not path.is_dir():
            raise Failure(Exit.USAGE, f"--source {each}: NAME=DIR with a folder that exists is wanted")
        found[name] = path.resolve()
    return found
