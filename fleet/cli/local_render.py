"""`fleet render`: the exact manifests of a working tree for one cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

if TYPE_CHECKING:
    from fleet.cli.local_worktree import WorkTree


def register(app: typer.Typer) -> None:
    examples = ("fleet render --cluster qa", "fleet render my-fleet --cluster prod-eu1 --bundle shop -o json")
    command(app, "render", panel="On this machine", examples=examples)(render)


def render(
    session: Session,
    cluster: Annotated[str, typer.Option("--cluster", metavar="CLUSTER", help="For which cluster.")],
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder of fleet.yaml, or the file itself.")
    ] = Path(),
    bundle: Annotated[str | None, typer.Option("--bundle", metavar="BUNDLE", help="Only this bundle.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=DIR", help="A checkout of one of `sources`; repeatable."),
    ] = None,
) -> None:
    """Print the exact manifests for a cluster, as YAML documents or a JSON list."""
    import anyio

    from fleet.cli import local_worktree
    from fleet.core import yaml

    tree = local_worktree.open_tree(directory, source)
    fleet = tree.fleet()
    if all(each.name != cluster for each in fleet.clusters):
        raise Failure(
            Exit.NO, f"no cluster {cluster} in {tree.parsed.file}", _named(each.name for each in fleet.clusters)
        )
    if bundle is not None and all(each.name != bundle for each in fleet.bundles):
        raise Failure(Exit.NO, f"no bundle {bundle} in {tree.parsed.file}", _named(each.name for each in fleet.bundles))
    names = [each.name for each in fleet.bundles if bundle in (None, each.name)]
    bodies = anyio.run(_bodies, tree, names, cluster)
    for sentence in tree.elsewhere(fleet):
        session.output.remark(f"fleet: {sentence}")
    if session.format == "json":
        session.output.data({"apiVersion": "v1", "kind": "List", "items": bodies})
    else:
        sys.stdout.write(yaml.dump_all(bodies))


async def _bodies(tree: WorkTree, bundles: list[str], cluster: str) -> list[object]:
    """The objects of these bundles on a cluster, in their order."""
    from fleet.cli import local_worktree

    rendered = await local_worktree.render(tree)
    found = [await rendered.of(bundle, cluster) for bundle in bundles]
    return [json.loads(manifest.body) for each in found if each is not None for manifest in each.manifests]


def _named(names: Iterable[str]) -> str:
    return f"it has {', '.join(names)}"
