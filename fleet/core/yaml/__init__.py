"""YAML in and out: fleet.yaml with positions, manifests fast; nothing else imports PyYAML.

`examine` and `load` read one document by the YAML 1.2 core schema, `load_all` reads manifests, `dump_all` writes them.
Every value is JSON: mappings have text keys (`8080: x` has the key "8080"), there are no dates, sets or binaries.

What is refused, each with its position: duplicate keys, tags outside the core schema, keys that are not scalars,
numbers that JSON cannot carry, and input above `Limits`. Aliases are expanded into copies whose growth counts against
the limits. Merge keys (`<<`), which YAML 1.2 dropped and manifests still use, are expanded; explicit keys win.

Manifests differ from the core schema where every Kubernetes tool does: `0644` is octal, and `5.0` is the integer 5
(encoding/json of Go writes it so).
"""

from __future__ import annotations

import msgspec

from fleet.core.yaml.composer import Composer, Limits, Path, Position
from fleet.core.yaml.writer import dump_all
from fleet.errors import InvalidInput
from fleet.model.fleetfile import Problem

__all__ = [
    "DOCUMENT",
    "MANIFESTS",
    "Document",
    "InvalidDocument",
    "Limits",
    "Path",
    "Position",
    "dump_all",
    "examine",
    "load",
    "load_all",
]

DOCUMENT = Limits(size=1 << 20, expanded=8 << 20, depth=32, documents=1)
MANIFESTS = Limits(size=16 << 20, expanded=64 << 20, depth=128, documents=10_000)


class Document(msgspec.Struct, frozen=True):
    """One document as far as it could be read; with problems its value is incomplete."""

    file: str
    value: object
    positions: dict[Path, Position]
    """By path, such as ("bundles", 0, "path"). What came through an alias has the position of the alias alone."""
    problems: tuple[Problem, ...] = ()
    complete: bool = True
    """False when the text after the last problem was not read (syntax error, limit)."""


class InvalidDocument(InvalidInput):
    """The text is not YAML that is accepted here; `problems` says where and why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = problems


def examine(data: bytes | str, *, file: str, limits: Limits = DOCUMENT) -> Document:
    """One document with its positions and everything that is wrong with it; never raises. An empty file is null."""
    positions: dict[Path, Position] = {}
    composer = Composer(file, limits, positions=positions, manifests=False)
    values = list(composer.documents(data))
    value = values[0] if values else None
    return Document(file, value, positions, tuple(composer.problems), composer.complete)


def load(data: bytes | str, *, file: str, limits: Limits = DOCUMENT) -> Document:
    """One document with its positions; raises InvalidDocument."""
    document = examine(data, file=file, limits=limits)
    if document.problems:
        raise InvalidDocument(document.problems)
    return document


def load_all(data: bytes | str, *, file: str, limits: Limits = MANIFESTS) -> tuple[object, ...]:
    """The value of every document, None for an empty one; raises InvalidDocument when any of them is wrong."""
    composer = Composer(file, limits, positions=None, manifests=True)
    values = tuple(composer.documents(data))
    if composer.problems:
        raise InvalidDocument(tuple(composer.problems))
    return values
