"""`fleet validate`: fleet.yaml and everything it refers to, all errors at once. `fleet schema`: its JSON Schema."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit
from fleet.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.cli.local_worktree import WorkTree
    from fleet.model.fleetfile import Fleet, Problem

PANEL = "On this machine"
MAX_KUBECONFIG = 4 << 20


def register(app: typer.Typer) -> None:
    command(app, "validate", panel=PANEL, examples=("fleet validate", "fleet validate my-fleet -o json"))(validate)
    command(app, "schema", panel=PANEL, examples=("fleet schema > fleet.schema.json",))(schema)


def validate(
    session: Session,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder of fleet.yaml, or the file itself.")
    ] = Path(),
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=DIR", help="A checkout of one of `sources`; repeatable."),
    ] = None,
) -> None:
    """Check fleet.yaml and everything it refers to; exit 1 when something is wrong."""
    import anyio
    import msgspec

    from fleet.cli import local_worktree

    tree = local_worktree.open_tree(directory, source)
    errors = list(tree.parsed.problems)
    warnings = list(tree.parsed.warnings)
    fleet = tree.parsed.fleet
    if fleet is not None:
        warnings += _credentials(tree, fleet)
        warnings += [_about(tree, sentence) for sentence in tree.elsewhere(fleet)]
        rendered = anyio.run(local_worktree.render, tree)
        errors += local_worktree.unrenderable(tree, rendered)
    answer = msgspec.to_builtins({"valid": not errors, "errors": errors, "warnings": warnings})
    session.output.show(answer, lambda data: _text(data, tree))
    if errors:
        raise typer.Exit(Exit.NO)


def schema(session: Session) -> None:
    """Print the JSON Schema of fleet.yaml, for editors."""
    import json
    import sys

    from fleet.core import fleetfile

    document = fleetfile.schema()
    if session.format == "text":
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        session.output.data(document)


def _text(data: Any, tree: WorkTree) -> list[RenderableType]:
    from fleet.cli.output import line

    parts = [line(_sentence(each)) for each in data["errors"]]
    parts += [line(("warning:", "yellow"), _sentence(each)) for each in data["warnings"]]
    if data["errors"]:
        count = len(data["errors"])
        return [*parts, line((f"{tree.parsed.file}: {count} error{'s' if count > 1 else ''}", "red"))]
    fleet = tree.fleet()
    counts = f"{len(fleet.clusters)} clusters, {len(fleet.bundles)} bundles"
    return [*parts, line((f"{tree.parsed.file}: valid", "green"), f"({counts})")]


def _sentence(problem: Any) -> str:
    where = f"{problem['file']}:{problem['line']}:{problem['column']}"
    path = f" {problem['path']}:" if problem["path"] else ""
    hint = f", did you mean `{problem['suggestion']}`?" if problem["suggestion"] else ""
    return f"{where}:{path} {problem['message']}{hint}"


def _about(tree: WorkTree, sentence: str) -> Problem:
    return tree.parsed.problem(("bundles",), sentence)


def _credentials(tree: WorkTree, fleet: Fleet) -> Iterator[Problem]:
    """Kubeconfigs and secrets that are not on this machine: the server may run on another one, so these only warn."""
    contexts: dict[Path, frozenset[str] | str] = {}
    for number, cluster in enumerate(fleet.clusters):
        if cluster.kubeconfig is not None:
            file = _kubeconfig(cluster.kubeconfig.path)
            known = contexts.setdefault(file, _contexts(file))
            context = cluster.kubeconfig.context
            if isinstance(known, str):
                yield tree.parsed.problem(("clusters", number, "kubeconfig"), f"{file}: {known}")
            elif context is not None and context not in known:
                message = f"{file} has no context {context}"
                yield tree.parsed.problem(("clusters", number, "kubeconfig", "context"), message, _near(context, known))
        elif cluster.secret_ref is not None and fleet.secrets_path is not None:
            file = Path(fleet.secrets_path) / cluster.secret_ref
            if not file.is_file():
                yield tree.parsed.problem(("clusters", number, "secretRef"), f"{file} is not on this machine")


def _kubeconfig(path: str | None) -> Path:
    if path is not None:
        return Path(path).expanduser()
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(listed[0]) if listed else Path.home() / ".kube" / "config"


def _contexts(file: Path) -> frozenset[str] | str:
    """The names of the contexts in a kubeconfig, or why they are not known."""
    from fleet.core import yaml
    from fleet.errors import InvalidInput

    try:
        with file.open("rb") as opened:
            document = yaml.load(opened.read(MAX_KUBECONFIG), file=str(file)).value
    except OSError as error:
        return f"{error.strerror} on this machine"
    except InvalidInput as error:
        return str(error)
    listed = document.get("contexts") if isinstance(document, dict) else None
    names = (each.get("name") for each in listed or () if isinstance(each, dict))
    return frozenset(name for name in names if isinstance(name, str))


def _near(word: str, known: frozenset[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, sorted(known), n=1)), None)
