"""The directory of what was built, shared by all checkouts of a user: content-keyed, locked, published at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def say(text: str) -> None:
    """A line of progress on the terminal."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def root() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/fleet-testbed`.

    A relative XDG_CACHE_HOME is ignored (XDG base directory specification).
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return base / "fleet-testbed"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the entry's lock; another process that builds the same entry is waited for.

    The kernel drops the lock with its holder, so a killed build blocks nobody.
    """
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f"{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another process builds it, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def publishing(name: str) -> Iterator[Path]:
    """A fresh directory that becomes the entry `name` when the body succeeds and vanishes when it does not.

    To be used under `locked(name)`. Raises OSError when the file system refuses.
    """
    final = root() / name
    for left_over in root().glob(f".{name}.*"):
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root()))
    try:
        yield work
        work.chmod(0o755)
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
    finally:
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)
