"""Everything that a command prints: JSON or YAML exactly as the API answered it, or text for people.

Data goes to stdout alone, remarks to stderr. What clusters and commits say is cleaned of control characters first, so
that a commit message cannot move the cursor of whoever reads it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleet.cli.session import Format

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

Cell = str | int | float | None | tuple[str, str]
"""Plain text, or (text, style)."""
WIDE = 4096
"""Columns where nobody watches: a pipe gets whole lines, never folded ones."""

STYLES = {
    **dict.fromkeys(("Ready", "Synced", "Healthy", "Succeeded", "Passed", "Updated", "NoOp", "healed"), "green"),
    **dict.fromkeys(("RollingOut", "Running", "Rolling", "Baking", "Applying", "Soaking", "Verifying"), "cyan"),
    **dict.fromkeys(("Blocked", "Waiting", "Paused", "Connecting", "Suspended", "Skipped", "OutOfSync"), "yellow"),
    **dict.fromkeys(("Gating", "Superseded", "Aborted", "RolledBack", "Progressing", "reported"), "yellow"),
    **dict.fromkeys(("Unknown", "Unauthorized", "Degraded", "Failed", "Errored", "Halted", "Expired"), "red"),
    **dict.fromkeys(("Rejected", "RollbackFailed", "Missing", "open", "contested"), "red"),
}
"""Colours of the words that are states."""


class Output:
    def __init__(self, format: Format, no_color: bool) -> None:
        self.format = format
        self._no_color = no_color

    def show(self, data: Any, text: Callable[[Any], Sequence[RenderableType]]) -> None:
        """One answer: as data, or as the parts that `text` makes of it."""
        if self.format == "text":
            self.print(*text(data))
        else:
            self.data(data)

    def data(self, data: Any) -> None:
        if self.format == "yaml":
            sys.stdout.write(_yaml(data))
        else:
            sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, data: Any, text: Callable[[Any], RenderableType]) -> None:
        """One of many entries: a line of JSON, a YAML document, or a line of text."""
        if self.format == "text":
            self.print(text(data))
        elif self.format == "yaml":
            sys.stdout.write("---\n" + _yaml(data))
        else:
            sys.stdout.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def print(self, *parts: RenderableType) -> None:
        console = self.console()
        if console.is_terminal:
            console.print(*parts, sep="\n")
            return
        with console.capture() as captured:
            console.print(*parts, sep="\n")
        # Tables pad their last column; a pipe wants lines without trailing blanks.
        lines = captured.get().split("\n")
        sys.stdout.write("\n".join(line.rstrip() for line in lines))
        sys.stdout.flush()

    def remark(self, text: str) -> None:
        """Something beside the answer: on stderr."""
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()

    def console(self) -> Console:
        from rich.console import Console

        width = None if sys.stdout.isatty() else WIDE
        return Console(
            file=sys.stdout, no_color=self._no_color or None, width=width, highlight=False, markup=False, emoji=False
        )


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str) -> RenderableType:
    """Aligned columns without lines; `empty` is what is said when there is no row."""
    from rich.text import Text

    if not rows:
        return Text(empty)
    made = _grid()
    for column in columns:
        made.add_column(column, header_style="bold", no_wrap=column not in ("WHY", "URL", "CHANGE", "ERROR", "MESSAGE"))
    for row in rows:
        made.add_row(*(_cell(cell) for cell in row))
    return made


def line(*cells: Cell) -> RenderableType:
    """Cells in one line, a blank between them; states keep their colours."""
    from rich.text import Text

    return Text(" ").join([_cell(cell) for cell in cells if cell not in (None, "")])


def clean(text: str) -> str:
    """Without control characters and with a mark in place of each: a terminal obeys none of what is left."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if char in "\n\t" else "�" for char in text.replace("\r\n", "\n")
    )


def ago(time: str | None, now: float | None = None) -> str:
    """The age of an RFC 3339 time: `3m`; `-` for none."""
    if not time:
        return "-"
    try:
        then = datetime.fromisoformat(time).timestamp()
    except ValueError:
        return clean(time)
    return span((datetime.now().timestamp() if now is None else now) - then)


def span(seconds: float | None) -> str:
    """`45s`, `3m20s`, `4m`, `2h05m`, `5d`; a clock that is ahead gives `0s`."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 600:
        return f"{whole // 60}m{whole % 60:02d}s" if whole % 60 else f"{whole // 60}m"
    if whole < 3600:
        return f"{whole // 60}m"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m" if whole < 86_400 else f"{whole // 86_400}d"


def short(sha: str | None, length: int = 10) -> str:
    """A commit or digest as people read it."""
    return "-" if not sha else clean(sha.removeprefix("sha256:"))[:length]


def _cell(cell: Cell) -> Any:
    from rich.text import Text

    text, style = cell if isinstance(cell, tuple) else ("-" if cell is None else str(cell), "")
    return Text(clean(text), style=style or STYLES.get(text, ""))


def _grid() -> Table:
    from rich.table import Table

    return Table(box=None, show_edge=False, pad_edge=False, padding=(0, 3, 0, 0))


def _yaml(data: Any) -> str:
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=WIDE))
