"""Reads a YAML value by its shape: converted values where it is right, INVALID and a problem where it is not.

It goes on after every error, so that a user sees all of them at once; `rules` then checks what spans several values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from difflib import get_close_matches
from typing import Final

import msgspec

from fleet.core.fleetfile import syntax
from fleet.core.fleetfile.shapes import (
    Anything,
    Choice,
    Concurrency,
    Duration,
    Flag,
    Integer,
    Key,
    ListOf,
    MapOf,
    Record,
    Shape,
    Text,
)
from fleet.core.yaml import Path, Position
from fleet.model.fleetfile import Problem

MAX_PROBLEMS = 200


class Invalid:
    """What stands where a value could not be read."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = Invalid()


def spell(path: Path) -> str:
    """`bundles[0].strategy`; keys that are no plain words as `labels["a/b"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part):
            text += f".{part}" if text else part
        else:
            text += f'["{part[:80]}"]'
    return text


def locate(positions: Mapping[Path, Position], path: Path, *, key: bool = False) -> tuple[int, int]:
    """Line and column of the value at `path` (with `key`: of its key), or of the nearest thing around it."""
    for length in range(len(path), -1, -1):
        found = positions.get(path[:length])
        if found is not None:
            return (found.key_line, found.key_column) if key and length == len(path) else (found.line, found.column)
    return (1, 1)


def closest(word: str, accepted: Iterable[str]) -> str | None:
    """The accepted word that was probably meant."""
    folded = {candidate.lower(): candidate for candidate in accepted}
    found = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


class Report:
    """Collects problems of one file, at most MAX_PROBLEMS."""

    def __init__(self, file: str, positions: Mapping[Path, Position]) -> None:
        self._file = file
        self._positions = positions
        self._problems: list[Problem] = []
        self._full = False

    def add(self, path: Path, message: str, suggestion: str | None = None, *, key: bool = False) -> None:
        if len(self._problems) >= MAX_PROBLEMS:
            self._full = True
            return
        line, column = locate(self._positions, path, key=key)
        self._problems.append(Problem(self._file, line, column, spell(path), message, suggestion))

    def problems(self) -> list[Problem]:
        """In the file's order; the last one tells when there are more."""
        ordered = sorted(self._problems, key=lambda problem: (problem.line, problem.column))
        if self._full:
            last = ordered[-1]
            ordered.append(Problem(self._file, last.line, last.column, "", f"only {MAX_PROBLEMS} problems are shown"))
        return ordered

    def __len__(self) -> int:
        return len(self._problems)


class Reader:
    """Turns plain values into what `build` takes: texts, floats (seconds), tuples, and dicts by key name."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._by_type: dict[type, Callable[..., object]] = {
            Text: self._text,
            Integer: self._integer,
            Flag: self._flag,
            Choice: self._choice,
            Duration: self._duration,
            Concurrency: self._concurrency,
            ListOf: self._list,
            MapOf: self._map,
            Anything: self._anything,
            Record: self._record,
        }
        self._defaults: dict[int, object] = {}

    def read(self, shape: Shape, value: object, path: Path) -> object:
        """The value as `shape` converts it, or INVALID after a problem was reported."""
        return self._by_type[type(shape)](shape, value, path)

    def _bad(self, path: Path, message: str, suggestion: str | None = None) -> Invalid:
        self._report.add(path, message, suggestion)
        return INVALID

    def _expected(self, path: Path, value: object, expected: str) -> Invalid:
        if value is None:
            return self._bad(path, f"has no value; expected {expected}, or remove the key")
        return self._bad(path, f"is {_kind(value)}; expected {expected}")

    def _text(self, shape: Text, value: object, path: Path) -> object:
        if isinstance(value, bool | int | float):
            written = str(value).lower() if isinstance(value, bool) else str(value)
            return self._bad(path, f"is {_kind(value)} where text is expected; put it in quotes", f'"{written}"')
        if not isinstance(value, str):
            return self._expected(path, value, shape.expected)
        if len(value) > shape.max:
            return self._bad(path, f"is longer than {shape.max} characters")
        try:
            converted = shape.convert(value) if shape.convert else value
        except ValueError as error:
            return self._bad(path, str(error))
        if not re.fullmatch(shape.pattern, value):
            return self._bad(path, f"is not {shape.expected}")
        return converted

    def _integer(self, shape: Integer, value: object, path: Path) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            return self._expected(path, value, f"a whole number from {shape.min} to {shape.max}")
        if not shape.min <= value <= shape.max:
            return self._bad(path, f"is {value}; expected a whole number from {shape.min} to {shape.max}")
        return value

    def _flag(self, shape: Flag, value: object, path: Path) -> object:
        accepted = "true or false" if shape.only is None else str(shape.only).lower()
        if not isinstance(value, bool):
            meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(str(value).lower())
            if meant and meant in accepted:
                return self._bad(path, f"is text; expected {accepted}", meant)
            return self._expected(path, value, accepted)
        if shape.only is not None and value is not shape.only:
            return self._bad(path, f"can only be {accepted}; remove the key otherwise")
        return value

    def _choice(self, shape: Choice, value: object, path: Path) -> object:
        accepted = " or ".join(f"`{word}`" for word in shape.values)
        if not isinstance(value, str):
            return self._expected(path, value, accepted)
        if value in shape.later:
            return self._bad(path, f"`{value}` is not supported yet; expected {accepted}")
        if value not in shape.values:
            return self._bad(path, f"is not one of {accepted}", closest(value, shape.values))
        return value

    def _duration(self, shape: Duration, value: object, path: Path) -> object:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | str)
            or (isinstance(value, str) and len(value) > 40)
        ):
            return self._expected(path, value, "a duration such as 90s, 10m, 1h30m or 2d, or a number of seconds")
        try:
            seconds = syntax.duration(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            return self._bad(path, str(error))
        if not shape.min <= seconds <= shape.max:
            return self._bad(path, f"must be from {syntax.spoken(shape.min)} to {syntax.spoken(shape.max)}")
        return seconds

    def _concurrency(self, shape: Concurrency, value: object, path: Path) -> object:
        expected = 'a number of clusters of at least 1, or a percentage from "1%" to "100%"'
        if isinstance(value, str) and re.fullmatch(syntax.PERCENTAGE, value):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return value if 1 <= value <= shape.max else self._bad(path, f"is {value}; expected {expected}")
        return self._expected(path, value, expected)

    def _list(self, shape: ListOf, value: object, path: Path) -> object:
        if not isinstance(value, list):
            return self._expected(path, value, "a list")
        if not shape.min <= len(value) <= shape.max:
            bounds = f"at least {shape.min}" if len(value) < shape.min else f"at most {shape.max}"
            return self._bad(path, f"has {len(value)} entries; expected {bounds}")
        items = tuple(self.read(shape.item, item, (*path, number)) for number, item in enumerate(value))
        if shape.unique:
            seen: set[object] = set()
            for number, item in enumerate(items):
                if item is not INVALID and item in seen:
                    self._report.add((*path, number), f"`{item}` is listed twice")
                seen.add(item)
        return items

    def _map(self, shape: MapOf, value: object, path: Path) -> object:
        if not isinstance(value, dict):
            return self._expected(path, value, "a mapping")
        if len(value) > shape.max:
            return self._bad(path, f"has {len(value)} entries; expected at most {shape.max}")
        read: dict[str, object] = {}
        for key, item in value.items():
            if len(key) > shape.key.max or not re.fullmatch(shape.key.pattern, key):
                self._report.add((*path, key), f"the key is not {shape.key.expected}", key=True)
            read[key] = self.read(shape.value, item, (*path, key))
        return read

    def _anything(self, shape: Anything, value: object, path: Path) -> object:
        return value if isinstance(value, dict) else self._expected(path, value, "a mapping")

    def _record(self, shape: Record, value: object, path: Path) -> object:
        if not isinstance(value, dict):
            return self._expected(path, value, f"a mapping with {_listed(key.name for key in shape.keys)}")
        before = len(self._report)
        meant = self._unknown(shape, value, path)
        read: dict[str, object] = {}
        for key in shape.keys:
            if key.name in value:
                read[key.name] = self.read(key.shape, value[key.name], (*path, key.name))
            elif key.required:
                read[key.name] = INVALID
                if key.name not in meant:
                    self._report.add(path, f"`{key.name}` is missing: {key.doc}")
            elif key.default is not msgspec.UNSET:
                read[key.name] = self._default(key, path)
        self._one_of(shape, meant.union(value), path)
        if shape.check is not None and len(self._report) == before and (wrong := shape.check(read)):
            self._report.add((*path, wrong[0]), wrong[1])
            read[wrong[0]] = INVALID
        return read

    def _unknown(self, shape: Record, value: dict[str, object], path: Path) -> set[str]:
        """Reports keys that are not accepted; answers those that were probably meant, so that they are not missing."""
        misspelled: set[str] = set()
        names = [key.name for key in shape.keys]
        for name in value:
            if name in shape.later:
                self._report.add((*path, name), f"`{name}` is not supported yet", key=True)
            elif name not in names:
                meant = closest(name, names)
                misspelled.update([meant] if meant else [])
                accepted = "" if meant else f", expected one of {_listed(names)}"
                self._report.add((*path, name), f"unknown key `{name[:80]}`{accepted}", meant, key=True)
        return misspelled

    def _one_of(self, shape: Record, present: Set[str], path: Path) -> None:
        if not shape.one_of:
            return
        given = [name for name in shape.one_of if name in present]
        choices = " or ".join(f"`{name}`" for name in shape.one_of)
        if not given and present.isdisjoint(shape.later):
            self._report.add(path, f"one of {choices} is missing")
        for name in given[1:]:
            self._report.add((*path, name), f"only one of {choices} can be there", key=True)

    def _default(self, key: Key, path: Path) -> object:
        if id(key) not in self._defaults:
            self._defaults[id(key)] = self.read(key.shape, key.default, (*path, key.name))
        return self._defaults[id(key)]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
