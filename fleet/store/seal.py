"""What must not be read out of the database file, and with which key it is kept from being read.

`DATA_DIR/key` (mode 0600) holds 32 random bytes, made at the first start. The database holds no manifest of a Secret
but sealed with a key derived from it (AES-256-GCM), and no digest of one but keyed. Who copies the database alone
learns nothing; who copies the whole directory has everything, so the directory is 0700.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE = "key"
KEY_BYTES = 32
NONCE_BYTES = 12


class Sealer:
    """Seals and opens bytes; keys for other uses are derived, so that none is used twice."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise StoreError(f"the key of the data directory has {len(key)} instead of {KEY_BYTES} bytes: restore it")
        self._key = key
        self._cipher: AESGCM | None = None
        self.fingerprint_key = self._derive(b"fingerprint")
        """Keys the fingerprints of live objects (32 bytes), so that a short secret cannot be guessed from one."""
        self._ref_key = self._derive(b"manifest-ref")

    @property
    def identity(self) -> str:
        """Tells keys apart without betraying them."""
        return self._derive(b"identity").hex()[:16]

    def ref(self, content: bytes) -> bytes:
        """Keyed blake2b-128, the address of a stored manifest."""
        return hashlib.blake2b(content, key=self._ref_key, digest_size=16).digest()

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """`context` says where the value belongs; sealed bytes moved elsewhere do not open."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead().encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises StoreError when the bytes were changed, or sealed with another key or for another place."""
        # Imported where needed: an installation without Secrets never pays for it.
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead().decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except InvalidTag as error:
            raise StoreError(
                "a sealed value in the database is damaged: restore a backup of the data directory"
            ) from error

    def _aead(self) -> AESGCM:
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self._derive(b"seal"))
        return self._cipher

    def _derive(self, purpose: bytes) -> bytes:
        return hashlib.blake2b(purpose, key=self._key, digest_size=KEY_BYTES, person=b"fleet-derive").digest()


def load_key(data_dir: Path, *, create: bool) -> bytes | None:
    """The key of a data directory; made when absent and `create`, else None. Raises StoreError."""
    path = data_dir / FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _make_key(path) if create else None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): it must belong to this user, mode 0600") from error
    with os.fdopen(descriptor, "rb") as file:
        return file.read(KEY_BYTES + 1)


def _make_key(path: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        # Renamed when whole: a crash leaves either no key or a good one.
        draft.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): check the space and rights of {path.parent}"
        ) from error
    return key
