"""The tables of the documentation that the code itself can tell: `python -m tests.reference` writes them.

A table stands in a page between `<!-- NAME: from the code -->` and `<!-- end -->`; tests/unit/test_docs.py holds the
pages against what is rendered here.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

import msgspec
import typer
from typer.core import TyperGroup

from fleet import settings
from fleet.api.server import endpoints
from fleet.api.stream import Streams
from fleet.cli.command import GLOBALS
from fleet.cli.main import app
from fleet.core.fleetfile import document, shapes
from fleet.telemetry.metrics import Metrics

DOCS = Path(__file__).parent.parent / "docs"


def fleet_yaml() -> str:
    """Every record of fleet.yaml with its keys, in the order in which a reader meets them."""
    seen: dict[str, shapes.Record] = {}
    _collect(document.ROOT, seen)
    return "\n".join(_record(record) for record in seen.values())


def routes() -> str:
    rows = ["| Request | What it does |", "|---|---|"]
    rows += [
        f"| `{each.method} {each.path}` | {_cell(each.summary)} |"
        for each in endpoints(Streams(settings.ApiSettings()))
    ]
    return "\n".join(rows) + "\n"


def variables() -> str:
    """Every FLEET_* setting with its default, by group."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for group in msgspec.structs.fields(settings.Settings):
        told = dict(_docstrings(group.type))
        for field in msgspec.structs.fields(group.type):
            name = f"{settings.PREFIX}{group.name}_{field.name}".upper()
            meaning = told.get(field.name) or field.name.replace("_", " ")
            rows.append(f"| `{name}` | {_number(field.default)} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def metrics() -> str:
    rows = ["| Metric | Type | Meaning |", "|---|---|---|"]
    families = re.findall(r"# HELP (\S+) (.*)\n# TYPE \S+ (\S+)", Metrics(process=False).render().decode())
    rows += [
        f"| `{name}` | {kind} | {text} |" for name, text, kind in sorted(families) if not name.endswith("_created")
    ]
    return "\n".join(rows) + "\n"


def command_line() -> str:
    """Every command by its panel, with its arguments, options and examples."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    lines: list[str] = []
    panel = ""
    for name in group.list_commands(group.make_context("fleet", [], resilient_parsing=True)):
        command = group.commands[name]
        if command.hidden:
            continue
        if (own := str(getattr(command, "rich_help_panel", ""))) != panel:
            panel = own
            lines += [f"### {panel}", "", "| Command | What it does | Options |", "|---|---|---|"]
        lines.append(_command(name, command))
        if _last_of_panel(group, name):
            lines.append("")
    return "\n".join(lines)


def _last_of_panel(group: TyperGroup, name: str) -> bool:
    names = [each for each, command in group.commands.items() if not command.hidden]
    after = names[names.index(name) + 1 : names.index(name) + 2]
    panels = [getattr(group.commands[each], "rich_help_panel", None) for each in (name, *after)]
    return len(panels) == 1 or panels[0] != panels[1]


def _command(name: str, command: Any) -> str:
    arguments, options = [], []
    for parameter in command.params:
        if parameter.name in (*GLOBALS, "help"):
            continue
        if parameter.param_type_name == "argument":
            word = str(parameter.metavar or parameter.name).strip("[]").upper()
            arguments.append(word if parameter.required else f"[{word}]")
        elif parameter.required:
            arguments.append(f"{parameter.opts[0]} {parameter.metavar}")
        else:
            options.append(f"`{parameter.opts[0]}`")
    help_text = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return f"| `{' '.join(('fleet', name, *arguments))}` | {_cell(help_text)} | {' '.join(options)} |"


TABLES: Mapping[str, Callable[[], str]] = {
    "fleet.yaml": fleet_yaml,
    "routes": routes,
    "settings": variables,
    "metrics": metrics,
    "commands": command_line,
}
_SHORT = {
    document.NAME.expected: "name",
    document.LABEL_KEY.expected: "label key",
    document.LABEL_VALUE.expected: "label value",
    document.PATH.expected: "path",
    document.SECRET.expected: "secret name",
    document.PRINTABLE.expected: "text",
}
"""Kinds that stand in many cells; the page explains them once."""
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"<!-- (?P<name>[a-z.]+): from the code -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)


def fenced(page: Path, *languages: str) -> Iterator[str]:
    """The code of a page in these languages, "" for what names none."""
    for match in FENCE.finditer(page.read_text()):
        if match["language"] in languages:
            yield match["body"]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Name and content of every table in a page."""
    for match in _BLOCK.finditer(text):
        yield match["name"], match["body"]


def renewed(text: str) -> str:
    """The page with every table as the code has it now; raises KeyError for a name that is none."""
    return _BLOCK.sub(
        lambda match: f"<!-- {match['name']}: from the code -->\n{TABLES[match['name']]()}<!-- end -->", text
    )


def _collect(shape: shapes.Shape, seen: dict[str, shapes.Record]) -> None:
    if isinstance(shape, shapes.ListOf):
        _collect(shape.item, seen)
    elif isinstance(shape, shapes.Record) and shape.title not in seen:
        seen[shape.title] = shape
        for key in shape.keys:
            _collect(key.shape, seen)


def _record(record: shapes.Record) -> str:
    lines = [f"### {record.title}", "", record.doc, ""]
    if record.one_of:
        lines += [f"Exactly one of {', '.join(f'`{name}`' for name in record.one_of)}.", ""]
    lines += ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for key in record.keys:
        name = f"`{key.name}`" + (" (required)" if key.required else "")
        lines.append(f"| {name} | {_value(key.shape)} | {_default(key)} | {_cell(key.doc)} |")
    if record.later:
        lines += ["", f"Not supported yet: {', '.join(f'`{name}`' for name in record.later)}."]
    return "\n".join(lines) + "\n"


@singledispatch
def _value(shape: object) -> str:
    raise TypeError(f"a {type(shape).__name__} has no description")


@_value.register
def _of_text(shape: shapes.Text) -> str:
    return _SHORT.get(shape.expected) or _cell(shape.expected)


@_value.register
def _of_integer(shape: shapes.Integer) -> str:
    return f"{shape.min} to {shape.max}"


@_value.register
def _of_flag(shape: shapes.Flag) -> str:
    return "`true` or `false`" if shape.only is None else f"`{str(shape.only).lower()}`"


@_value.register
def _of_choice(shape: shapes.Choice) -> str:
    return " or ".join(f"`{value}`" for value in shape.values)


@_value.register
def _of_duration(shape: shapes.Duration) -> str:
    return "duration"


@_value.register
def _of_concurrency(shape: shapes.Concurrency) -> str:
    return "number or percentage"


@_value.register
def _of_list(shape: shapes.ListOf) -> str:
    return f"list of {_value(shape.item)}"


@_value.register
def _of_map(shape: shapes.MapOf) -> str:
    return f"mapping of {_value(shape.key)} to {_value(shape.value)}"


@_value.register
def _of_anything(shape: shapes.Anything) -> str:
    return "any mapping"


@_value.register
def _of_record(shape: shapes.Record) -> str:
    return f"[{shape.title}](#{shape.title.lower()})"


def _default(key: shapes.Key) -> str:
    if key.default is msgspec.UNSET:
        return ""
    return f"`{msgspec.json.encode(key.default).decode().strip(chr(34))}`"


def _docstrings(kind: type) -> Iterator[tuple[str, str]]:
    """The text below each field of a class; the interpreter keeps none of it."""
    source = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(source, ast.ClassDef)
    for field, text in zip(source.body, source.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            yield field.target.id, inspect.cleandoc(str(text.value.value))


def _number(value: object) -> str:
    if isinstance(value, int) and value >= settings.MIB and value % settings.MIB == 0:
        return f"{value} ({value // settings.MIB} MiB)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def main() -> int:
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        if (now := renewed(text)) != text:
            page.write_text(now)
            print(f"wrote {page.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
