"""Who may speak to the API: whoever holds the token in DATA_DIR/token.

The token is made at the first start (32 random bytes, file mode 0600) and compared in constant time. It proves that the
caller may act, not who the caller is: names of actors are stated by them (`reading.actor`).
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fleet.api.problem import NotAuthenticated
from fleet.errors import InvalidInput, StoreError

MIN_LENGTH = 16
MAX_LENGTH = 4096


def token_of(data_dir: Path) -> str:
    """The token of a data directory, created there when it has none yet.

    Raises StoreError when it cannot be read or written, InvalidInput when others on the machine can read it or when it
    is too short to be safe.
    """
    path = data_dir / "token"
    try:
        return _read(path)
    except FileNotFoundError:
        return _create(path)
    except OSError as error:
        raise StoreError(f"{path}: the API token cannot be read: {error.strerror}; check the owner and mode") from error


def guard(token: str, open_paths: frozenset[str]) -> Middleware:
    """Refuses every request without the token, unless its path is one of `open_paths`."""
    expected = token.encode()

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths and not _matches(request.headers.get("Authorization"), expected):
            raise NotAuthenticated(
                "this needs the header `Authorization: Bearer TOKEN`; the token lies in the server's data directory, "
                "and the CLI takes it from FLEET_TOKEN"
            )
        return await handler(request)

    return authenticate


def _matches(header: str | None, expected: bytes) -> bool:
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(MAX_LENGTH + 1)
    # Group bits are left alone: a Kubernetes volume with fsGroup sets them on every file.
    if mode & stat.S_IRWXO:
        raise InvalidInput(
            f"{path}: everybody on this machine can read the API token (mode {stat.S_IMODE(mode):04o}); "
            "remove the file to get a new one, or chmod 600 it if nobody has read it"
        )
    token = content.decode("ascii", "replace").strip()
    if not MIN_LENGTH <= len(token) <= MAX_LENGTH or not token.isprintable() or "�" in token or " " in token:
        raise InvalidInput(
            f"{path}: not a token: {MIN_LENGTH} to {MAX_LENGTH} printable ASCII characters without spaces are "
            "wanted; remove the file to get a new one"
        )
    return token


def _create(path: Path) -> str:
    """Written beside and linked into place, so that nobody ever reads half a token, and the first writer wins."""
    token = secrets.token_urlsafe(32)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{token}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(beside, path)
        finally:
            os.unlink(beside)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise StoreError(
            f"{path}: the API token cannot be written: {error.strerror}; is the directory writable?"
        ) from error
    return token
