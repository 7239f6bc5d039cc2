"""What every command works with: the server, the token, the output format; taken from options, then the environment.

On the machine of a server with a default data directory nothing has to be set: the token is then read from there, for a
server on loopback only, so that it never leaves the machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fleet.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from fleet.cli.client import Client
    from fleet.cli.output import Output

DEFAULT_SERVER = "http://127.0.0.1:8080"
Format = Literal["text", "json", "yaml"]
FORMATS: tuple[Format, ...] = ("text", "json", "yaml")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Globals:
    """The global options as typed, before or after the command's name; None where absent."""

    server: str | None = None
    token: str | None = field(default=None, repr=False)
    output: str | None = None
    no_color: bool = False

    def over(self, outer: Globals) -> Globals:
        """These, and the outer ones where these are absent."""
        return Globals(
            self.server or outer.server,
            self.token or outer.token,
            self.output or outer.output,
            self.no_color or outer.no_color,
        )


class Session:
    def __init__(self, options: Globals) -> None:
        self.server = options.server or os.environ.get("FLEET_SERVER") or DEFAULT_SERVER
        self.no_color = options.no_color
        self.format = _format(options.output or "text")
        self._token = options.token or os.environ.get("FLEET_TOKEN") or None

    @cached_property
    def client(self) -> Client:
        from fleet.cli.client import Client

        return Client(self.server, self._token or _local_token(self.server))

    @cached_property
    def output(self) -> Output:
        from fleet.cli.output import Output

        return Output(self.format, self.no_color)


def data_dir() -> Path:
    """Where a server of this user keeps its state unless told otherwise."""
    chosen = os.environ.get("FLEET_DATA_DIR")
    if chosen:
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "fleet"


def _format(text: str) -> Format:
    for known in FORMATS:
        if text == known:
            return known
    raise Failure(Exit.USAGE, f"-o {text}: unknown format", f"take one of {', '.join(FORMATS)}")


def _local_token(server: str) -> str | None:
    from urllib.parse import urlsplit

    try:
        host = urlsplit(server if "://" in server else f"http://{server}").hostname
        if host not in _LOOPBACK:
            return None
        with (data_dir() / "token").open("rb") as file:
            return file.read(4096).decode("ascii").strip() or None
    except (OSError, ValueError, RuntimeError):
        # Without a readable file the request goes out without a token, and its 401 explains what to do.
        return None
