"""How a command is registered: with the global options, its examples, a Session, and the exit codes of its failures.

`fleet -o json status` and `fleet status -o json` are the same: the options are parameters of the program and of every
command, and those nearer to the end win.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from fleet.cli.failure import Exit, Failure
from fleet.cli.session import DEFAULT_SERVER, FORMATS, Globals, Session
from fleet.errors import Conflict, FleetError, Unauthorized, Unavailable

Server = Annotated[
    str | None, typer.Option("--server", metavar="URL", help=f"The server (FLEET_SERVER, else {DEFAULT_SERVER}).")
]
Token = Annotated[str | None, typer.Option("--token", metavar="TOKEN", help="Its token (FLEET_TOKEN).")]
Format = Annotated[str | None, typer.Option("-o", "--output", metavar="|".join(FORMATS), help="Output format.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, also on a terminal.")]

GLOBALS: Mapping[str, tuple[Any, Any]] = {
    "server": (Server, None),
    "token": (Token, None),
    "output": (Format, None),
    "no_color": (NoColor, False),
}

Action = Callable[..., None]


def command(
    app: typer.Typer,
    name: str,
    *,
    panel: str,
    examples: tuple[str, ...] = (),
    cls: type[TyperCommand] | None = None,
) -> Callable[[Action], Action]:
    """Registers a function whose first parameter is the Session; its docstring is the help."""

    def register(action: Action) -> Action:
        signature = inspect.signature(action, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "session"]

        def run(context: typer.Context, **given: Any) -> None:
            options = Globals(**{key: given.pop(key) for key in GLOBALS})
            outer = context.obj if isinstance(context.obj, Globals) else Globals()
            with ending():
                action(Session(options.over(outer)), **given)

        parameters = [_parameter("context", typer.Context), *own]
        parameters += [_parameter(key, kind, default) for key, (kind, default) in GLOBALS.items()]
        run.__doc__ = action.__doc__
        run.__name__ = action.__name__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        ordered = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        cast(Any, run).__signature__ = inspect.Signature(ordered)
        app.command(name, epilog=_epilog(examples), rich_help_panel=panel, cls=cls)(run)
        return action

    return register


@contextmanager
def ending() -> Iterator[None]:
    """Turns what a command raises into a message on stderr and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except Failure as failure:
        tell(failure.message, failure.hint)
        raise typer.Exit(failure.exit) from None
    except FleetError as error:
        tell(str(error))
        raise typer.Exit(_exit_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has enough; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def tell(message: str, hint: str | None = None) -> None:
    """A failure, for people: on stderr, the next step on its own line."""
    from fleet.cli.output import clean

    sys.stderr.write(f"fleet: {clean(message)}\n" + (f"  → {clean(hint)}\n" if hint else ""))


def _exit_of(error: FleetError) -> Exit:
    """For the offline commands, which meet the engine's own errors."""
    if isinstance(error, Unauthorized):
        return Exit.FORBIDDEN
    if isinstance(error, Unavailable):
        return Exit.UNREACHABLE
    return Exit.CONFLICT if isinstance(error, Conflict) else Exit.NO


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _epilog(examples: tuple[str, ...]) -> str | None:
    # \b keeps the lines of the paragraph as they are.
    return "\b\nExamples:\n" + "\n".join(f"  {each}" for each in examples) if examples else None
