"""Values of the model as bodies of rows. Unknown fields are ignored and absent ones get their defaults, so that a body
written by a neighbouring version can be read."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fleet.errors import StoreError

T = TypeVar("T")

_json = msgspec.json.Encoder(order="deterministic")
_msgpack = msgspec.msgpack.Encoder()


def to_text(value: object) -> str:
    """JSON with sorted keys, for bodies that an operator may want to read."""
    return _json.encode(value).decode()


def to_bytes(value: object) -> bytes:
    return _msgpack.encode(value)


def from_text(decoder: msgspec.json.Decoder[T], body: str, what: str) -> T:
    """Raises StoreError naming `what` when the body does not fit; never quotes the body."""
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StoreError(f"{what} in the database cannot be read: it is damaged or of a newer version") from error


def from_bytes(decoder: msgspec.msgpack.Decoder[T], body: bytes, what: str) -> T:
    """As `from_text`, for msgpack."""
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StoreError(f"{what} in the database cannot be read: it is damaged or of a newer version") from error
