"""`fleet serve`: the control plane in this process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session, data_dir

if TYPE_CHECKING:
    from fleet.api.server import Listening

DEFAULT_LISTEN = "127.0.0.1:8080"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def register(app: typer.Typer) -> None:
    examples = (
        "fleet serve",
        "fleet serve --fleet https://git.acme.example/fleet.git --ref main --secret git.yaml",
        "fleet serve --fleet my-fleet --data-dir /var/lib/fleet --listen 127.0.0.1:9090",
    )
    command(app, "serve", panel="On this machine", examples=examples)(serve)


def serve(
    session: Session,
    fleet: Annotated[
        str,
        typer.Option("--fleet", metavar="URL|DIR", help="The repository of fleet.yaml: its URL, or a folder in it."),
    ] = ".",
    ref: Annotated[
        str | None,
        typer.Option("--ref", metavar="REF", help="Branch, tag or commit; by default main, or a folder's branch."),
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="Folder of fleet.yaml in the repository of a URL.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Where state and token are kept (FLEET_DATA_DIR)."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the API answers.")
    ] = DEFAULT_LISTEN,
    secret: Annotated[
        Path | None,
        typer.Option("--secret", metavar="FILE", help="A file with the credentials of a private repository."),
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="Another database than the embedded one.")
    ] = None,
) -> None:
    """Run the control plane until SIGTERM or Ctrl-C."""
    import anyio

    from fleet import app, settings
    from fleet.telemetry import logs

    host, port = address(listen)
    repository, folder, branch = source(fleet, path, ref)
    options = app.ServeOptions(
        fleet=repository,
        data_dir=(data or data_dir()).absolute(),
        ref=branch,
        path=folder,
        host=host,
        port=port,
        database=database,
        secret=secret.expanduser().absolute() if secret is not None else None,
    )
    chosen = settings.load(os.environ)
    undo = logs.set_up(chosen.telemetry)
    try:
        anyio.run(
            app.serve,
            options,
            chosen,
            partial(_listening, session),
            end_within,
            backend_options=_loop(),
        )
    except ExceptionGroup as group:
        raise _first(group) from group
    finally:
        undo()


def address(listen: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `:PORT`; raises Failure."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or (":" in host and host[0] != "["):
        raise Failure(Exit.USAGE, f"--listen {listen}: HOST:PORT is wanted", f"for example --listen {DEFAULT_LISTEN}")
    return host.strip("[]") or "127.0.0.1", int(port)


def source(fleet: str, path: str | None, ref: str | None) -> tuple[str, str, str]:
    """(repository, folder of fleet.yaml in it, ref) for what --fleet names; raises Failure."""
    from fleet.cli import local_git

    place = Path(fleet).expanduser()
    if not place.exists():
        if "://" not in fleet and not (":" in fleet and "@" in fleet):
            raise Failure(Exit.USAGE, f"--fleet {fleet}: neither a folder on this machine nor the URL of a repository")
        return fleet, path or ".", ref or "main"
    resolved = place.resolve()
    if resolved.is_file():
        resolved = resolved.parent
    repository = local_git.repository_of(resolved)
    if repository is None:
        hint = f"git -C {place} init -b main; git -C {place} add -A; git -C {place} commit -m 'A fleet'"
        raise Failure(Exit.NO, f"--fleet {fleet}: not in a Git repository; only what is committed is rolled out", hint)
    if path is not None:
        return str(repository), path, ref or local_git.branch(repository)
    inside = resolved.relative_to(repository).as_posix() if resolved != repository else "."
    return str(repository), inside, ref or local_git.branch(repository)


def _listening(session: Session, where: Listening, token: Path) -> None:
    """Says where the API is and where the token lies, once it answers."""
    if session.format == "text":
        session.output.remark(f"fleet listens on {where.url}; the token lies in {token}")
        if where.host not in _LOOPBACK:
            session.output.remark("fleet: this is plain HTTP and not loopback: put a TLS proxy before it")
        return
    sys.stdout.write(json.dumps({"url": where.url, "tokenFile": str(token)}) + "\n")
    sys.stdout.flush()


def end_within(seconds: float) -> None:
    """From now on a second signal ends the process at once, and so does the end of its time (exit code 1).

    The time is kept beside the event loop, and over the end of the interpreter, which waits for threads: one that a
    disk holds would keep the process for ever.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    watchdog = threading.Timer(seconds, _overdue, (seconds,))
    watchdog.daemon = True
    watchdog.start()


def _overdue(seconds: float) -> None:
    os.write(2, f"fleet: not ended within {seconds:g} s: ending now; nothing that was decided is lost\n".encode())
    os._exit(Exit.NO)


def _loop() -> dict[str, Any]:
    """uvloop holds a TLS stream in a fifth of the memory; without it everything works the same."""
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The error that a person should be told of a group: an expected one before any other."""
    from fleet.errors import FleetError

    expected, others = errors.split(FleetError)
    first: Exception = expected or others or errors
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
