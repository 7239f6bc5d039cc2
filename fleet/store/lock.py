"""One control plane per data directory: an exclusive lock held for as long as the process lives.

The kernel drops it with the process, however that ends, so there is nothing stale to clean up.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fleet.errors import Locked, StoreError

FILE = "lock"


class DataDirLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, data_dir: Path) -> DataDirLock:
        """Raises Locked, naming the process that holds it, or StoreError when the directory cannot be written."""
        path = data_dir / FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be opened ({error.strerror}): make {data_dir} a directory that this user may write"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise Locked(
                f"another control plane{holder} works on {data_dir}: stop it, or give this one its own --data-dir"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"{path} cannot be locked ({error.strerror}): {data_dir} must be on a local disk"
            ) from error
        return cls(descriptor)

    def release(self) -> None:
        """Idempotent. The file stays: removing it would let two processes lock two different files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return f" (process {int(text)})" if text.isdigit() else ""
