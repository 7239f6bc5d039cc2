"""`fleet plan`: what a working tree would change on which clusters, in which waves, against a commit; without a
server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.cli.local_worktree import WorkTree
    from fleet.engine.planner import Planned
    from fleet.engine.preview import KeptSets, Preview

MAX_FLEETFILE = 1 << 20


def register(app: typer.Typer) -> None:
    examples = (
        "fleet plan",
        "fleet plan --against origin/main --exit-code",
        "fleet plan my-fleet --against v1.4 -o json",
    )
    command(app, "plan", panel="On this machine", examples=examples)(plan)


def plan(
    session: Session,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder of fleet.yaml, or the file itself.")
    ] = Path(),
    against: Annotated[str, typer.Option("--against", metavar="REV", help="The commit to compare with.")] = "HEAD",
    live: Annotated[bool, typer.Option("--live", help="Compare with the clusters (not supported yet).")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when something would change.")] = False,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=DIR", help="A checkout of one of `sources`; repeatable."),
    ] = None,
) -> None:
    """What a working tree would change on which clusters, in which waves; Secret values are masked."""
    import anyio
    import msgspec

    from fleet.cli import local_git, local_worktree

    if live:
        hint = "`fleet diff BUNDLE --cluster C` compares what is released with a cluster"
        raise Failure(Exit.USAGE, "--live is not supported yet", hint)
    tree = local_worktree.open_tree(directory, source)
    fleet = tree.fleet()
    sha = local_git.resolve(tree.repository, against)
    found = anyio.run(_compare, tree, sha)
    for sentence in tree.elsewhere(fleet):
        session.output.remark(f"fleet: {sentence}")
    # Without a commit to compare with, there is no revision to name.
    session.output.show(msgspec.to_builtins(found) | ({} if sha else {"from": None}), _text)
    if any(bundle.error for bundle in found.bundles) or (exit_code and not found.empty):
        raise typer.Exit(Exit.NO)


async def _compare(tree: WorkTree, sha: str | None) -> Preview:
    from fleet.cli import local_worktree
    from fleet.engine import preview

    after = await local_worktree.render(tree)
    if sha is None:
        return await preview.preview((), after.planned, after.sets, names=("", local_worktree.WORKING_TREE))
    with tempfile.TemporaryDirectory(prefix="fleet-plan-") as folder:
        before = await _planned_at(tree, sha, Path(folder), after.sets)
    return await preview.preview(before, after.planned, after.sets, names=(sha, local_worktree.WORKING_TREE))


async def _planned_at(tree: WorkTree, sha: str, folder: Path, sets: KeptSets) -> tuple[Planned, ...]:
    """The same fleet as it was at a commit; nothing when there was no fleet.yaml there."""
    from fleet.cli import local_worktree
    from fleet.core import fleetfile
    from fleet.engine.planner import Snapshot
    from fleet.errors import NotFound
    from fleet.git.mirror import GitMirrors
    from fleet.git.trees import FolderTree
    from fleet.model.fleetfile import GitSource

    mirror = GitMirrors(folder).mirror(GitSource(name="", url=str(tree.repository), ref=sha), None)
    await mirror.fetch(sha)
    name = tree.file.relative_to(tree.repository).as_posix()
    try:
        body = await mirror.read(sha, name, MAX_FLEETFILE)
    except NotFound:
        return ()
    parsed = fleetfile.parse(body, file=f"{sha[:12]}:{name}")
    if parsed.fleet is None:
        problem = f"it cannot be compared with {sha[:12]}: {parsed.problems[0]}"
        raise Failure(Exit.NO, problem, "take another commit: --against REV")
    snapshots = {"": Snapshot(sha, mirror.tree(sha), await mirror.info(sha))}
    snapshots |= {each: Snapshot(local_worktree.WORKING_TREE, FolderTree(path)) for each, path in tree.sources.items()}
    return (await local_worktree.render_at(tree, parsed.fleet, snapshots, sets)).planned


def _text(data: Mapping[str, Any]) -> list[RenderableType]:
    from fleet.cli.output import line, short

    before = short(data["from"]) if data["from"] else "nothing"
    parts = [line(("from", "bold"), before, ("to", "bold"), data["to"])]
    if not data["bundles"]:
        parts.append(line("no change"))
    for bundle in data["bundles"]:
        parts += [line(""), line((bundle["bundle"], "bold")), *_bundle(bundle)]
    return parts


def _bundle(bundle: Mapping[str, Any]) -> list[RenderableType]:
    from fleet.cli.output import line, span

    if bundle["error"]:
        return [line(("  error:", "red"), bundle["error"])]
    parts: list[RenderableType] = []
    for group in bundle["groups"]:
        parts += _group(group)
    if not bundle["groups"]:
        parts.append(line("  no object changes"))
    for wave in bundle["waves"]:
        gates = f"after gate {', '.join(wave['gates'])}" if wave["gates"] else ""
        bake = f"bakes {span(wave['bakeSeconds'])}" if wave["bakeSeconds"] else ""
        parts.append(line("  wave", wave["name"] + ":", _listed(wave["clusters"]), gates, bake))
    return [*parts, *(line(("  warning:", "yellow"), warning) for warning in bundle["warnings"])]


def _group(group: Mapping[str, Any]) -> list[RenderableType]:
    from fleet.cli.output import line
    from fleet.cli.show_drift import value

    words = {"created": group["create"], "changed": group["change"], "pruned": group["delete"]}
    counts = ", ".join(f"{len(objects)} {word}" for word, objects in words.items() if objects)
    number = len(group["clusters"])
    parts = [line(f"  {number} cluster{'s' if number > 1 else ''}: {counts}", f"({_listed(group['clusters'])})")]
    parts += [line((f"    + {each}", "green")) for each in group["create"]]
    for change in group["change"]:
        parts.append(line((f"    ~ {change['object']}", "yellow")))
        parts += [
            line(f"        {each['path']}: {value(each['from'])} → {value(each['to'])}") for each in change["fields"]
        ]
    return [*parts, *(line((f"    - {each}", "red")) for each in group["delete"])]


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
