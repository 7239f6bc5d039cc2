"""The documentation against the program: its commands exist, its links lead somewhere, its tables are current."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from fleet.cli.main import app
from fleet.core import fleetfile
from tests import reference
from tests.reference import FENCE, fenced

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
INLINE = re.compile(r"`((?:fleet|make) [^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
PLACEHOLDER = re.compile(r"^[A-Z][A-Z_-]*$|…")
"""Words such as ROLLOUT or DIR, which a reader replaces."""


def pages() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in PAGES]


def typed(line: str) -> Iterator[list[str]]:
    """The commands of one line, without comments, pipes and redirections; those joined by && or ; one by one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word and set(word) <= set("|&;<>()"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def commands(page: Path, program: str) -> list[list[str]]:
    """Every command of `program` that the page shows, as words."""
    lines = [line for block in fenced(page, "", "sh", "console") for line in block.splitlines()]
    lines += INLINE.findall(FENCE.sub("", page.read_text()))
    ours = [line for line in lines if re.search(rf"(?:^|&& |; ){program} ", line)]
    return [words for line in ours for words in typed(line) if words[:1] == [program]]


def parse(words: list[str]) -> None:
    """Parses a command line with the program's own parser, to the last option; raises a usage error."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = group.make_context("fleet", words[1:])
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    # A command that is only named is no command line: then its arguments may be missing.
    if rest:
        command.make_context(name, [_example(word) for word in rest], parent=context)


def _example(word: str) -> str:
    return "1" if PLACEHOLDER.search(word) and word.isupper() else word


@pytest.mark.parametrize("page", pages())
def test_every_fleet_command_is_one(page: str) -> None:
    wrong = []
    for words in commands(ROOT / page, "fleet"):
        try:
            parse(words)
        except (SystemExit, Exception) as error:  # noqa: BLE001 - whatever the parser says is told with the command
            wrong.append(f"{shlex.join(words)}: {error}")
    assert wrong == []


def test_every_fleet_command_is_documented() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    shown = {words[1] for words in commands(ROOT / "docs/cli.md", "fleet")}
    assert shown == {name for name, command in group.commands.items() if not command.hidden}


@pytest.mark.parametrize("page", pages())
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for words in commands(ROOT / page, "make") for word in words[1:] if "=" not in word}
    assert used - targets == set()


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for target in LINK.findall((ROOT / page).read_text()):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path) if path else ROOT / page
        found = file.exists() and file.resolve().is_relative_to(ROOT)
        if not found or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def _anchors(file: Path) -> set[str]:
    """The headings of a page, as a forge names them."""
    text = reference.renewed(file.read_text())
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages())
def test_tables_from_the_code_are_current(page: str) -> None:
    text = (ROOT / page).read_text()
    assert reference.renewed(text) == text, "run `python -m tests.reference`"


def test_every_table_is_in_a_page() -> None:
    shown = {name for page in PAGES for name, _ in reference.blocks(page.read_text())}
    assert shown == set(reference.TABLES)


def test_every_event_type_is_documented() -> None:
    table = set(re.findall(r"`([a-z]+\.[a-z]+)`", (ROOT / "docs/api.md").read_text().partition("## Events")[2]))
    emitted = {
        type
        for file in [*ROOT.glob("fleet/core/rollout/*.py"), *ROOT.glob("fleet/engine/*.py")]
        for type in re.findall(r'\b(?:say|Event)\(\s*(?:type=)?"([a-z]+\.[a-z]+)"', file.read_text())
    }
    assert emitted
    assert emitted - table == set()


@pytest.mark.parametrize("page", pages())
def test_every_fleet_yaml_is_valid(page: str) -> None:
    wrong = []
    for block in fenced(ROOT / page, "yaml"):
        if re.search(r"^kind: Fleet$", block, re.MULTILINE) and page != "docs/rollouts.md":
            wrong += [str(problem) for problem in fleetfile.parse(block).problems]
    assert wrong == []


def test_the_smallest_fleet_yaml_of_the_design_is_valid() -> None:
    """The other example of that page has keys of later versions."""
    block = next(fenced(ROOT / "docs/rollouts.md", "yaml"))
    assert fleetfile.parse(block).problems == ()


def test_the_picture_is_small_and_fetches_nothing() -> None:
    picture = ROOT / "docs/images/demo.svg"
    assert picture.stat().st_size < 200_000
    assert not re.search(r"url\(['\"]?http|@import|<script|xlink:href", picture.read_text())


def test_nothing_tells_of_the_machine_it_was_written_on() -> None:
    files = [*PAGES, *(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "config").rglob("*.yaml"), ROOT / "Dockerfile"]
    files.append(ROOT / "docs/images/demo.svg")
    home = re.compile(r"(?<![\w.])/(?:root|home|work|Users)/")
    assert [str(file.relative_to(ROOT)) for file in files if home.search(file.read_text())] == []


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text
    assert all(f"   {number}. " in text for number in range(1, 10))


def test_shell_of_the_documentation_is_shell() -> None:
    for page in PAGES:
        for block in fenced(page, "", "sh"):
            if block.lstrip().startswith(("fleet/", "model", "kube ", "watch event")):
                continue  # a picture of folders or of a flow
            done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=30, check=False)
            assert (str(page), done.returncode, done.stderr) == (str(page), 0, "")
