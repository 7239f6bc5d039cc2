"""What the demo prints: steps, the commands it runs with what they answered, events as they happen.

Text goes through Rich and is recorded, so that the same run can be saved as a picture.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.terminal_theme import MONOKAI
from rich.text import Text

from fleet.cli.output import STYLES, clean

WIDTH = 110
"""Columns where nobody watches, and of the picture."""
_STYLES = {**STYLES, "Waiting": "yellow", "healed": "green", "drift": "red"}


class Narrator:
    def __init__(self, file: TextIO, *, no_color: bool = False, record: bool = False) -> None:
        watched = file.isatty() and not record
        self._console = Console(
            file=file,
            width=None if watched else WIDTH,
            no_color=no_color or None,
            highlight=False,
            markup=False,
            emoji=False,
            record=record,
        )
        self._live = watched
        self._typing = False

    def heading(self, text: str) -> None:
        self._show(Text(text, style="bold"))

    def step(self, number: int, title: str, *explanation: str) -> None:
        self._console.print()
        self._show(Rule(Text(f" {number}. {title} ", style="bold"), align="left", style="blue"))
        for line in explanation:
            self.say(line)

    def say(self, text: str) -> None:
        self._show(Text(clean(text)))

    def done(self, text: str) -> None:
        self._show(Text.assemble(("✓ ", "bold green"), clean(text)))

    def failed(self, text: str) -> None:
        self._show(Text.assemble(("✗ ", "bold red"), clean(text)))

    def command(self, words: Sequence[str] | str) -> None:
        """A command as typed; those that follow one another without an answer stand together."""
        if not self._typing:
            self._console.print()
        self._typing = True
        typed = words if isinstance(words, str) else shlex.join(words)
        self._console.print(Text.assemble(("$ ", "bold blue"), (typed, "bold")), soft_wrap=True)

    def answer(self, output: str) -> None:
        """What a command printed, its colours kept."""
        for line in output.rstrip().splitlines():
            text = Text.from_ansi(line)
            text.rstrip()
            text.truncate(self._console.width - 2, overflow="ellipsis")
            self._show(Text("  ") + text, whole=True)

    def event(self, seconds: float, *words: str) -> None:
        """One line of what happened, `seconds` after the step began."""
        text = Text()
        for word in filter(None, words):
            text.append(clean(word), style=_STYLES.get(word.strip(), ""))
            text.append(" ")
        text.rstrip()
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=8, justify="right", style="dim")
        line.add_column()
        line.add_row(f"{seconds:.1f}s", text)
        self._show(line)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A sign of life on a terminal; one line elsewhere."""
        if self._live:
            with self._console.status(Text(clean(text), style="dim"), spinner="dots"):
                yield
        else:
            self.say(text)
            yield

    def panel(self, title: str, rows: Mapping[str, Sequence[str]]) -> None:
        """Headed groups of commands, whole lines, so that they can be copied."""
        self._console.print()
        self._show(Rule(Text(f" {title} ", style="bold"), align="left", style="green"))
        for heading, commands in rows.items():
            self._show(Text(heading, style="dim"))
            for command in commands:
                self._show(Text(f"  {command}", style="bold"), whole=True)

    def error(self, title: str, text: str) -> None:
        self._show(Panel(Text(clean_lines(text)), title=Text(title), border_style="red"))

    def _show(self, shown: RenderableType, *, whole: bool = False) -> None:
        """`whole`: a line stays one line, so that it can be copied."""
        self._typing = False
        self._console.print(shown, soft_wrap=whole)

    def forget(self) -> None:
        """The picture begins here."""
        if self._console.record:
            self._console.export_text(clear=True)

    def picture(self, file: Path, title: str) -> None:
        """Everything printed since `forget` as SVG. Raises OSError."""
        drawn = self._console.export_svg(title=title, theme=MONOKAI)
        # A picture that fetches nothing: the reader's own fixed-width font instead of one from elsewhere.
        drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
        file.write_text(drawn.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace"))


def clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.splitlines())
