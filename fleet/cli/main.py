"""The `fleet` program: its commands in groups, and a clear word about those that do not exist yet."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import typer
from typer.core import TyperGroup

import fleet
from fleet.cli import (
    events,
    local_demo,
    local_doctor,
    local_init,
    local_plan,
    local_render,
    local_serve,
    local_validate,
    standing,
    steer,
)
from fleet.cli.command import Format, NoColor, Server, Token, ending
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Globals

NOT_YET = frozenset(
    {
        *("simulate", "freeze", "promote", "skip", "pin", "unpin", "pause-cluster", "resume-cluster"),
        *("quarantine", "unquarantine", "audit", "history"),
    }
)
"""Commands that the interface names and this version does not have."""


class Commands(TyperGroup):
    """Lists the commands by what they are for, in the order in which they are registered."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, each) for name, each in named if each is not None and not each.hidden]
        for panel, members in groupby(shown, key=lambda pair: str(getattr(pair[1], "rich_help_panel", "Commands"))):
            with formatter.section(panel):
                formatter.write_dl([(name, each.get_short_help_str(limit=90)) for name, each in members])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in NOT_YET:
            with ending():
                raise Failure(Exit.USAGE, f"`fleet {args[0]}` is not supported yet", "`fleet --help` lists what is")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="fleet",
    help="Rolls what Git holds out to many Kubernetes clusters in waves, and keeps it there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fleet {fleet.__version__}")
        raise typer.Exit


@app.callback()
def program(
    context: typer.Context,
    server: Server = None,
    token: Token = None,
    output: Format = None,
    no_color: NoColor = False,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    context.obj = Globals(server, token, output, no_color)


MODULES = (
    local_init,
    local_validate,
    local_render,
    local_plan,
    local_doctor,
    local_serve,
    local_demo,
    standing,
    events,
    steer,
)
for module in MODULES:
    module.register(app)
