"""From the parser's events to values: positions, duplicate keys, aliases and limits are judged as events come.

Between PyYAML's scanner and `core.yaml`. libyaml reads where it is there; the parser in Python is its slower stand-in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec
import yaml as pyyaml

from fleet.core.yaml import scalars
from fleet.model.fleetfile import Problem

Path = tuple[str | int, ...]


class Limits(msgspec.Struct, frozen=True):
    size: int
    """Bytes of the whole input."""
    expanded: int
    """Characters of all scalars once aliases are expanded, plus 16 for every node."""
    depth: int
    documents: int


class Position(NamedTuple):
    """Where a node and its key stand, counted from 1; an element of a list has itself as its key."""

    key_line: int
    key_column: int
    line: int
    column: int


PARSER = pyyaml.CSafeLoader if pyyaml.__with_libyaml__ else pyyaml.SafeLoader
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_PROBLEMS = 100
_NODE = 16
_HALF = "half of a surrogate pair is not a character"
TEXT_TAG = "tag:yaml.org,2002:str"
_COLLECTION_TAGS = {
    pyyaml.SequenceStartEvent: "tag:yaml.org,2002:seq",
    pyyaml.MappingStartEvent: "tag:yaml.org,2002:map",
}


class _Stop(Exception):
    """Reading cannot go on after the problem that was just recorded."""


class _At(Protocol):
    """A place in the text, line and column counted from 0, as the parser's marks do."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class _Place(NamedTuple):
    line: int
    column: int


_START = _Place(0, 0)


class _Open:
    """A collection whose end has not been read; `items` is what it will be."""

    __slots__ = ("anchor", "at", "cost", "items", "key", "key_at", "merge", "merging", "path")

    def __init__(
        self, items: list[object] | dict[str, object], at: _At, path: Path, anchor: str | None, cost: int
    ) -> None:
        self.items = items
        self.at = at
        self.path = path
        self.anchor = anchor
        self.cost = cost
        self.key: str | None = None
        self.key_at = at
        self.merging = False
        self.merge: tuple[object, _At] | None = None


class _Anchor(NamedTuple):
    value: object
    cost: int
    closed: bool


class Composer:
    """Builds values from the parser's events on a stack of its own; depth and growth are checked as they arise."""

    def __init__(self, file: str, limits: Limits, positions: dict[Path, Position] | None, *, manifests: bool) -> None:
        self.problems: list[Problem] = []
        self.complete = True
        self._file = file
        self._limits = limits
        self._positions = positions
        self._manifests = manifests
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchor] = {}
        self._cost = 0
        self._documents = 0
        self._steps: dict[type[pyyaml.Event], Callable[[Any, _At], None]] = {
            pyyaml.ScalarEvent: self._leaf,
            pyyaml.SequenceStartEvent: self._open,
            pyyaml.MappingStartEvent: self._open,
            pyyaml.SequenceEndEvent: self._close,
            pyyaml.MappingEndEvent: self._close,
            pyyaml.AliasEvent: self._alias,
        }

    def documents(self, data: bytes | str) -> Iterator[object]:
        """The values, until the end or a problem that ends reading."""
        try:
            for event in self._events(self._text(data)):
                kind = type(event)
                if kind is pyyaml.DocumentStartEvent:
                    self._begin(event.start_mark or _START)
                elif kind is pyyaml.DocumentEndEvent:
                    # A refused root still counts as null, so that documents keep their numbers.
                    items = self._stack.pop().items
                    yield items[0] if isinstance(items, list) and items else None
                elif (step := self._steps.get(kind)) is not None:
                    step(event, event.start_mark or _START)
        except _Stop:
            self.complete = False
            yield from self._unfinished()

    def _begin(self, at: _At) -> None:
        self._documents += 1
        allowed = self._limits.documents
        if self._documents > allowed:
            self._stop(at, "only one document is allowed" if allowed == 1 else f"only {allowed} documents are allowed")
        self._anchors.clear()
        self._stack.append(_Open([], at, (), None, 0))

    def _unfinished(self) -> list[object]:
        """What was read of the last document; a collection is put in its place as it ends, so all end here."""
        while len(self._stack) > 1:
            last = self._stack.pop()
            self._put(last.items, last.at)
        return list(self._stack[0].items)[:1] if self._stack else []

    def _text(self, data: bytes | str) -> str:
        """The input as text that the parser accepts whole."""
        if len(data) > self._limits.size:
            self._stop(_START, f"the file is larger than {self._limits.size} bytes")
        try:
            text = data if isinstance(data, str) else data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode("utf-8")
            self._stop(_end(before), "the file is not UTF-8 text")
        text = text.removeprefix("\ufeff")
        if found := _FORBIDDEN.search(text):
            self._stop(_end(text[: found.start()]), f"the character U+{ord(found[0]):04X} is not allowed")
        return text

    def _events(self, text: str) -> Iterator[pyyaml.Event]:
        parser = PARSER(text)
        try:
            while (event := parser.get_event()) is not None and type(event) is not pyyaml.StreamEndEvent:
                yield event
        except pyyaml.MarkedYAMLError as error:
            at = error.problem_mark or error.context_mark
            self._stop(at or _START, _syntax(error, text, at.index if at else 0))
        except (pyyaml.YAMLError, ValueError, OverflowError):
            # The parser that stands in where libyaml is missing lets bad escapes through to chr().
            self._stop(_START, "the file is not YAML")
        finally:
            parser.dispose()

    def _leaf(self, event: pyyaml.ScalarEvent, at: _At) -> None:
        cost = _NODE + len(event.value)
        self._pay(at, cost)
        top = self._stack[-1]
        if top.key is None and isinstance(top.items, dict):
            value: object = self._key(top, event, at)
        else:
            value = self._scalar(event, at)
            self._put(value, at)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(value, cost, True)

    def _open(self, event: pyyaml.CollectionStartEvent, at: _At) -> None:
        top = self._stack[-1]
        if isinstance(top.items, dict) and top.key is None:
            self._stop(at, "a key must be text, not a collection")
        if len(self._stack) > self._limits.depth:
            self._stop(at, f"nested deeper than {self._limits.depth} levels")
        kind = type(event)
        if event.tag not in (None, "!", _COLLECTION_TAGS[kind]):
            self._tag(at, event.tag)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(None, 0, False)
        items: list[object] | dict[str, object] = {} if kind is pyyaml.MappingStartEvent else []
        path = self._path(top) if self._positions is not None else ()
        opened = _Open(items, at, path, event.anchor, self._cost)
        self._pay(at, _NODE)
        self._stack.append(opened)

    def _close(self, event: pyyaml.CollectionEndEvent, at: _At) -> None:
        closed = self._stack.pop()
        if closed.merge is not None:
            self._merge(closed, *closed.merge)
        if closed.anchor is not None:
            self._anchors[closed.anchor] = _Anchor(closed.items, self._cost - closed.cost, True)
        self._put(closed.items, closed.at)

    def _alias(self, event: pyyaml.AliasEvent, at: _At) -> None:
        top = self._stack[-1]
        anchor = self._anchors.get(event.anchor or "")
        if anchor is None:
            self._stop(at, f"the alias `*{event.anchor}` has no anchor `&{event.anchor}` before it")
        if not anchor.closed:
            self._stop(at, f"the alias `*{event.anchor}` stands inside what it names")
        if isinstance(top.items, dict) and top.key is None:
            self._stop(at, "a key must be text, not an alias")
        self._pay(at, anchor.cost)
        # A copy: whoever changes one place of a manifest must not change the other.
        self._put(self._copy(anchor.value, at, len(self._stack)), at)

    def _copy(self, value: object, at: _At, depth: int) -> object:
        if not isinstance(value, dict | list):
            return value
        if depth > self._limits.depth:
            self._stop(at, f"nested deeper than {self._limits.depth} levels once the alias is expanded")
        if isinstance(value, dict):
            return {key: self._copy(item, at, depth + 1) for key, item in value.items()}
        return [self._copy(item, at, depth + 1) for item in value]

    def _key(self, top: _Open, event: pyyaml.ScalarEvent, at: _At) -> str:
        """Opens the entry whose value comes next."""
        plain = event.implicit[0] and event.tag is None
        top.key_at = at
        top.key = event.value
        if plain and not event.value:
            self._problem(at, "a key is missing before `:`")
        elif _SURROGATE.search(event.value):
            self._problem(at, _HALF)
        elif event.tag not in (None, "!", TEXT_TAG):
            self._tag(at, event.tag)
        top.merging = plain and event.value == "<<"
        if top.merging:
            if top.merge is not None:
                self._problem(at, "duplicate key `<<`; a list merges several: `<<: [*a, *b]`")
        elif event.value in top.items:
            first = self._positions.get((*top.path, event.value)) if self._positions is not None else None
            where = f", first on line {first.key_line}" if first else ""
            self._problem(at, f"duplicate key `{_short(event.value)}`{where}")
        return event.value

    def _put(self, value: object, at: _At) -> None:
        top = self._stack[-1]
        if self._positions is not None:
            key = top.key_at if isinstance(top.items, dict) else at
            self._positions.setdefault(self._path(top), _position(key, at))
        if isinstance(top.items, list):
            top.items.append(value)
        elif top.key is not None:
            if top.merging:
                top.merge = (value, top.key_at)
            else:
                top.items.setdefault(top.key, value)
            top.key = None

    def _merge(self, into: _Open, value: object, at: _At) -> None:
        """Adds what explicit keys and earlier sources leave open."""
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict) or not isinstance(into.items, dict):
                self._problem(at, "`<<` merges a mapping or a list of mappings")
                return
            for key, item in source.items():
                into.items.setdefault(key, item)
                if self._positions is not None:
                    self._positions.setdefault((*into.path, key), _position(at, at))

    def _scalar(self, event: pyyaml.ScalarEvent, at: _At) -> object:
        text = event.value
        if not text.isascii() and _SURROGATE.search(text):
            self._problem(at, _HALF)
            return None
        try:
            if event.tag is None:
                return scalars.plain(text, manifests=self._manifests) if event.implicit[0] else text
            if event.tag in ("!", TEXT_TAG):
                return text
            if event.tag not in scalars.TAGS:
                self._tag(at, event.tag)
                return None
            value = scalars.plain(text, manifests=self._manifests)
        except ValueError as error:
            self._problem(at, str(error))
            return None
        if type(value) not in scalars.TAGS[event.tag]:
            self._problem(at, f"the value is not what its tag `!!{event.tag.rpartition(':')[2]}` says")
            return None
        return (
            float(value) if event.tag.endswith(":float") and isinstance(value, int) and not self._manifests else value
        )

    def _path(self, top: _Open) -> Path:
        """The path of the next child of `top`."""
        if len(self._stack) == 1:
            return ()
        return (*top.path, len(top.items) if isinstance(top.items, list) else top.key or "")

    def _pay(self, at: _At, cost: int) -> None:
        self._cost += cost
        if self._cost > self._limits.expanded:
            self._stop(at, f"the content grows above {self._limits.expanded} characters once aliases are expanded")

    def _tag(self, at: _At, tag: str | None) -> None:
        self._problem(at, f"the tag `{_short((tag or '').replace('tag:yaml.org,2002:', '!!'))}` is not accepted")

    def _problem(self, at: _At, message: str) -> None:
        self.problems.append(Problem(self._file, at.line + 1, at.column + 1, "", message))
        if len(self.problems) >= _MAX_PROBLEMS:
            raise _Stop

    def _stop(self, at: _At, message: str) -> NoReturn:
        self._problem(at, message)
        raise _Stop


def _position(key: _At, value: _At) -> Position:
    return Position(key.line + 1, key.column + 1, value.line + 1, value.column + 1)


def _end(text: str) -> _Place:
    """The place of the character after `text`."""
    return _Place(text.count("\n"), len(text) - text.rfind("\n") - 1)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _syntax(error: pyyaml.MarkedYAMLError, text: str, index: int) -> str:
    """What the parser says is wrong; never a piece of the text, which may be a secret."""
    if text[index : index + 1] == "\t":
        return "a tab cannot indent YAML, use spaces"
    problem = error.problem or "the file is not YAML"
    return f"{problem} ({error.context})" if error.context else problem
