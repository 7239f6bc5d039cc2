"""The kinds of value a document can have, as data; `document` describes fleet.yaml with them.

`reader` and `schema` follow that description, so that what is accepted, suggested and documented cannot come apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

Check = Callable[[Mapping[str, object]], tuple[str, str] | None]
"""Over the read keys of a record: the key that is wrong with respect to others and what is wrong, or None."""


class Text(msgspec.Struct, frozen=True):
    """Text that matches a pattern whole and that `convert` accepts (it raises ValueError)."""

    expected: str
    pattern: str
    max: int = 253
    convert: Callable[[str], str] | None = None


class Integer(msgspec.Struct, frozen=True):
    min: int
    max: int


class Flag(msgspec.Struct, frozen=True):
    only: bool | None = None
    """The one value that is accepted."""


class Choice(msgspec.Struct, frozen=True):
    values: tuple[str, ...]
    later: tuple[str, ...] = ()
    """Values that are designed and not in force."""


class Duration(msgspec.Struct, frozen=True):
    """Text such as "10m", or a number of seconds; both bounds in seconds. Read as seconds."""

    min: float
    max: float


class Concurrency(msgspec.Struct, frozen=True):
    """A number of clusters of at least 1, or a percentage."""

    max: int


class ListOf(msgspec.Struct, frozen=True):
    item: Shape
    max: int
    min: int = 0
    unique: bool = False


class MapOf(msgspec.Struct, frozen=True):
    key: Text
    value: Shape
    max: int


class Anything(msgspec.Struct, frozen=True):
    """A mapping of any JSON values."""


class Key(msgspec.Struct, frozen=True):
    """One key of a record. `default` is what a user would have written; UNSET: the key has none."""

    name: str
    shape: Shape
    doc: str
    required: bool = False
    default: object = msgspec.UNSET


class Record(msgspec.Struct, frozen=True):
    """A mapping of known keys; `later` are those that are designed and not in force."""

    title: str
    doc: str
    keys: tuple[Key, ...]
    later: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    """Exactly one of these keys must be there."""
    check: Check | None = None


Shape = Text | Integer | Flag | Choice | Duration | Concurrency | ListOf | MapOf | Anything | Record
