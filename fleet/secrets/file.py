"""The `file` provider: a folder with one file per secret, as Kubernetes mounts a Secret.

The folder is asked at every use, so that a rotated secret counts at once. Names are confined to the folder; what is too
large to be a secret is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread

from fleet.errors import InvalidInput, NotFound, Unavailable
from fleet.model.fleetfile import Fleet

MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")


class FileSecrets:
    """`folder` None: no provider is configured, and every secret is missing. `single`: files outside of it, by name."""

    def __init__(self, folder: Path | None = None, single: Mapping[str, Path] | None = None) -> None:
        self._folder = folder
        self._single = dict(single or {})

    def configure(self, fleet: Fleet) -> None:
        """Takes the folder that fleet.yaml names; a relative one counts from the working directory of the process."""
        self._folder = Path(fleet.secrets_path) if fleet.secrets_path is not None else None

    async def read(self, name: str) -> bytes:
        """Raises NotFound without such a secret, Unavailable when it cannot be read, InvalidInput for a bad name."""
        if (path := self._single.get(name)) is not None:
            return await anyio.to_thread.run_sync(_read, path, path.name, abandon_on_cancel=True)
        if not _NAME.match(name):
            raise InvalidInput(f"the secret name {name!r} may hold letters, digits, dots, dashes and underscores only")
        if self._folder is None:
            raise NotFound(f"secret {name}: fleet.yaml has no secrets.file.path to look for it in")
        return await anyio.to_thread.run_sync(_read, self._folder / name, name, abandon_on_cancel=True)


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"secret {name}: there is no file of that name in {path.parent}") from None
    except OSError as error:
        raise Unavailable(f"secret {name}: {path} cannot be read ({error.strerror})") from error
    if len(body) > MAX_BYTES:
        raise Unavailable(f"secret {name}: {path} is larger than {MAX_BYTES} bytes")
    return body
