"""`fleet init`: a commented starter fleet.yaml and one example bundle, if asked with the contexts of a kubeconfig."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

STARTER = Path(__file__).with_name("starter")
MAX_KUBECONFIG = 4 << 20
MAX_NAME = 63
_PROD = re.compile(r"(^|[^a-z])(prod|production|prd|live)([^a-z]|$)")


@dataclass(frozen=True)
class Member:
    """One cluster of the new file."""

    name: str
    env: str
    context: str
    kubeconfig: str | None = None
    """Path, when it is not the one that kubectl takes by default."""


EXAMPLES = (Member("qa", "qa", "qa"), Member("prod", "prod", "prod"))


class _OptionalValue(TyperCommand):
    """Lets `--from-kubeconfig` stand without a value, which the option parser does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        for index, word in enumerate(args):
            if word == "--from-kubeconfig" and (index + 1 == len(args) or args[index + 1].startswith("-")):
                given[index] = "--from-kubeconfig="
        return super().parse_args(ctx, given)


def register(app: typer.Typer) -> None:
    examples = ("fleet init", "fleet init my-fleet --from-kubeconfig", "fleet init --from-kubeconfig ~/work.kubeconfig")
    command(app, "init", panel="On this machine", examples=examples, cls=_OptionalValue)(init)


def init(
    session: Session,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")] = Path(),
    from_kubeconfig: Annotated[
        str | None,
        typer.Option(
            "--from-kubeconfig", metavar="[FILE]", help="Take the contexts of FILE (or of kubectl's own) as clusters."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there already.")] = False,
) -> None:
    """Write a commented starter fleet.yaml and one example bundle."""
    members = EXAMPLES if from_kubeconfig is None else contexts(from_kubeconfig)
    files = {
        "fleet.yaml": starter(name_of(directory.resolve().name, "fleet"), members),
        "apps/hello/configmap.yaml": (STARTER / "apps/hello/configmap.yaml").read_text(),
    }
    taken = [name for name in files if (directory / name).exists()]
    if taken and not force:
        raise Failure(
            Exit.NO, f"{directory / taken[0]} exists already", "take another directory, or --force to replace"
        )
    for name, text in files.items():
        _write(directory / name, text)
    if session.format != "text":
        session.output.data({"directory": str(directory), "files": list(files), "clusters": [m.name for m in members]})
        return
    for name in files:
        session.output.remark(f"wrote {directory / name}")
    for step in _next_steps(directory, from_kubeconfig is None):
        session.output.remark(step)


def starter(fleet: str, members: Sequence[Member]) -> str:
    """The text of a fleet.yaml with these clusters; it is valid."""
    text = (STARTER / "fleet.yaml").read_text()
    environments = [env for env in ("qa", "prod") if any(member.env == env for member in members)]
    gates = "" if environments[-1] != "prod" else _GATES
    blocks = {
        "@NAME@": fleet,
        "@CLUSTERS@": "\n".join(_cluster(member) for member in members),
        "@WAVES@": "\n".join(_WAVES[env] for env in environments),
        "@GATES@": gates,
    }
    for mark, block in blocks.items():
        text = text.replace(mark, block)
    return text.rstrip() + "\n"


def contexts(file: str) -> tuple[Member, ...]:
    """The contexts of a kubeconfig as clusters, `prod` where the name says so, else `qa`; raises Failure."""
    from fleet.core import yaml

    path = _kubeconfig(file)
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_KUBECONFIG)
    except OSError as error:
        raise Failure(Exit.NO, f"{path}: {error.strerror}", "name the kubeconfig: --from-kubeconfig FILE") from error
    document = yaml.load(content, file=str(path)).value
    found = document.get("contexts") if isinstance(document, dict) else None
    names = [each.get("name") for each in found or () if isinstance(each, dict)]
    usable = [name for name in names if isinstance(name, str) and name and name.isprintable()]
    if not usable:
        raise Failure(Exit.NO, f"{path}: no contexts in it", "`kubectl config get-contexts` lists what kubectl knows")
    taken: set[str] = set()
    return tuple(_member(name, str(path.resolve()) if file else None, taken) for name in dict.fromkeys(usable))


def name_of(text: str, otherwise: str) -> str:
    """`text` as a DNS label of at most 63 characters."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-")
    return label or otherwise


def _member(context: str, kubeconfig: str | None, taken: set[str]) -> Member:
    base = name_of(context.rpartition("/")[2] or context, "cluster")
    name, number = base, 2
    while name in taken:
        name, number = f"{base[: MAX_NAME - 5]}-{number}", number + 1
    taken.add(name)
    return Member(name, "prod" if _PROD.search(context.lower()) else "qa", context, kubeconfig)


def _kubeconfig(file: str) -> Path:
    if file:
        return Path(file).expanduser()
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(listed[0]) if listed else Path.home() / ".kube" / "config"


def _cluster(member: Member) -> str:
    path = f"path: {_quoted(member.kubeconfig)}, " if member.kubeconfig else ""
    return (
        f"  - name: {_quoted(member.name)}\n"
        f"    labels: {{env: {member.env}}}\n"
        f"    kubeconfig: {{{path}context: {_quoted(member.context)}}}"
    )


def _quoted(text: str) -> str:
    """A YAML scalar: plain where that is safe in every reader, else double-quoted as JSON has it."""
    import json

    return (
        text
        if re.fullmatch(r"[a-z][a-z0-9-]*[0-9a-z]", text) and text not in _WORDS
        else json.dumps(text, ensure_ascii=False)
    )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise Failure(Exit.NO, f"{path}: {error.strerror}", "choose a directory that you may write to") from error


def _next_steps(directory: Path, examples: bool) -> list[str]:
    from shlex import quote

    place = quote(str(directory))
    edit = ["  edit fleet.yaml: give each cluster the kubeconfig context that reaches it"] if examples else []
    return [
        "next:",
        *edit,
        f"  fleet validate {place}",
        f"  git -C {place} init -b main; git -C {place} add -A; git -C {place} commit -m 'A fleet'",
        f"  fleet doctor {place}",
        f"  fleet serve --fleet {place}",
    ]


_WORDS = frozenset({"no", "yes", "on", "off", "true", "false", "null"})
_WAVES = {
    "qa": """\
      - name: qa
        clusterSelector: {matchLabels: {env: qa}}
        maxConcurrency: 2
        # Observed-healthy time before the next wave.
        bake: 1m""",
    "prod": """\
      - name: prod
        clusterSelector: {matchLabels: {env: prod}}
        maxConcurrency: 1
        # Once this wave has begun, a newer commit waits for its end instead of replacing it.
        protected: true
        # Somebody has to say: fleet approve ROLLOUT go
        gates: {before: [go]}""",
}
_GATES = """
gates:
  - name: go
    type: approval
    # Whoever wrote the commit may not approve it unless this is true.
    allowAuthor: true
    timeout: 24h"""
