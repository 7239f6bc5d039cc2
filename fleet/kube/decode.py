"""Bytes of the API → typed values, with no dictionaries: objects, pages of a list, watch lines.

An object's bytes are copied out of the page or line that they came in, so that holding on to one object, or to its raw
managedFields, does not hold on to its neighbours.
"""

from __future__ import annotations

import msgspec

from fleet.errors import Unavailable
from fleet.model.objects import LiveObject, ObjectMeta, Resource


class Unreadable(Unavailable):
    """Bytes that no API server sends here (a proxy's page, cut or garbled JSON): they say nothing about the cluster."""


class _Head(msgspec.Struct):
    metadata: ObjectMeta


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None
    """Required, since an answer without it must not pass for an empty list."""


class Page(msgspec.Struct):
    """One page of a list; `next` is empty on the last."""

    version: str
    next: str
    items: list[msgspec.Raw]


class WatchLine(msgspec.Struct):
    """One line of a watch; `object` is a view into the line."""

    type: str
    object: msgspec.Raw


_head = msgspec.json.Decoder(_Head)
_list = msgspec.json.Decoder(_List)
_line = msgspec.json.Decoder(WatchLine)


def live(resource: Resource, raw: bytes) -> LiveObject:
    """An object as it came; raises Unreadable. An item of a list of a built-in kind has no kind and apiVersion."""
    try:
        return LiveObject(resource, _head.decode(raw).metadata, raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"not an object of kind {resource.kind}") from error


def page(body: bytes) -> Page:
    """Raises Unreadable."""
    try:
        decoded = _list.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable("not a list") from error
    if not decoded.metadata.resource_version:
        raise Unreadable("not a list")
    return Page(decoded.metadata.resource_version, decoded.metadata.continue_, decoded.items or [])


def line(body: bytes) -> WatchLine:
    """Raises Unreadable."""
    try:
        return _line.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable("not a watch event") from error


class LineSplitter:
    """Chunks of bytes as they come → whole lines, copying each byte at most twice; a line has at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether part of a line is here."""
        return bool(self._parts)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends and without empty ones; raises Unreadable."""
        if b"\n" not in chunk:
            if chunk:
                self._keep(chunk)
            return []
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if self._parts:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts.clear()
            self._size = 0
        if len(lines[0]) > self._limit:
            raise Unreadable(f"a line of more than {self._limit} bytes")
        if rest:
            self._keep(rest)
        return [line for line in lines if line]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise Unreadable(f"a line of more than {self._limit} bytes")
        self._parts.append(part)
