"""Finished spans as values, with ids that follow from what they tell, so that telling it twice is the same span.

Everything here is free of OpenTelemetry; `traces` turns these values into what a collector takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

Value = str | bool | int | float | tuple[str, ...]


class Mark(msgspec.Struct, frozen=True):
    """Something that happened within a span (an OpenTelemetry span event)."""

    name: str
    time: float
    """Seconds since the epoch."""
    attributes: dict[str, Value] = {}


class Link(msgspec.Struct, frozen=True):
    """Another span that this one follows from."""

    trace_id: str
    span_id: str
    attributes: dict[str, Value] = {}


class Span(msgspec.Struct, frozen=True):
    """A span that has ended; times are seconds since the epoch, ids lower-case hex (32 and 16 digits)."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: float
    end: float
    attributes: dict[str, Value] = {}
    marks: tuple[Mark, ...] = ()
    links: tuple[Link, ...] = ()
    error: str | None = None
    """Why it failed, in one sentence; None when it did not."""


class Exporter(Protocol):
    """Where finished spans go."""

    async def export(self, spans: Sequence[Span]) -> bool:
        """Whether the collector has them now; never raises for a collector that does not take them."""

    async def aclose(self) -> None: ...


def derive_trace_id(*parts: str) -> str:
    """32 hex digits that follow from the parts."""
    return _derived(16, parts)


def derive_span_id(trace_id: str, name: str, wave: str = "", subject: str = "", attempt: int = 0) -> str:
    """16 hex digits; `subject` is the cluster or gate, `attempt` tells apart what happens to it more than once."""
    return _derived(8, (trace_id, name, wave, subject, str(attempt)))


def _derived(size: int, parts: Sequence[str]) -> str:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=size, person=b"fleet-trace").hexdigest()
    # The all-zero id means "none" to OpenTelemetry.
    return digest if digest.strip("0") else "1".rjust(2 * size, "0")
