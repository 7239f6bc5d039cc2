"""Which fleet.yaml is in force: the last valid one that Git held; an invalid one is shown and changes nothing.

The document that was accepted last is kept in the store, so that a restart works without Git.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import anyio.to_thread
import msgspec

from fleet.core import fleetfile
from fleet.errors import InvalidInput, NotFound
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet, Problem

DOCUMENT = "fleet.yaml"
MAX_BYTES = 1 << 20


class Files(Protocol):
    """The repository of fleet.yaml at a commit."""

    async def read(self, sha: str, path: str, limit: int) -> bytes: ...


class Documents(Protocol):
    """Where the last valid document is kept."""

    async def put_document(self, name: str, revision: str, body: bytes) -> None: ...
    async def document(self, name: str) -> tuple[str, bytes] | None: ...


class InForce(msgspec.Struct, frozen=True):
    """The fleet.yaml in force, and what is wrong with the newest one if that is another."""

    fleet: Fleet
    revision: str


class Configuration:
    """Turns commits of the fleet repository into an accepted `Fleet`, or into problems that people can read."""

    def __init__(
        self, documents: Documents, files: Files, path: str, emit: Callable[[Event], None], now: Callable[[], float]
    ) -> None:
        self._documents = documents
        self._files = files
        self._path = path
        self._emit = emit
        self._now = now
        self.in_force: InForce | None = None
        self.error: str | None = None
        self._judged: str | None = None

    async def restore(self) -> InForce | None:
        """Puts the stored document into force at start; None on the very first start."""
        stored = await self._documents.document(DOCUMENT)
        if stored is None:
            return None
        revision, body = stored
        parsed = await anyio.to_thread.run_sync(partial(fleetfile.parse, body, file=DOCUMENT), abandon_on_cancel=True)
        if parsed.fleet is None:
            raise InvalidInput(
                f"the fleet.yaml of {revision[:12]} that was accepted earlier is not valid for this version: "
                f"{_sentence(parsed.problems)}"
            )
        self.in_force = InForce(parsed.fleet, revision)
        return self.in_force

    async def judge(self, sha: str) -> InForce | None:
        """Reads fleet.yaml at a commit; returns it when it is new and valid, else None (`error` tells why).

        Raises SourceError or StoreError, upon which the same commit is judged again later.
        """
        if sha == self._judged:
            return None
        try:
            body = await self._files.read(sha, self._path, MAX_BYTES)
        except NotFound:
            self._reject(sha, f"{self._path}: the commit {sha[:12]} has no such file", ())
            return None
        # A large one takes most of a second, which the event loop must not wait for.
        parsed = await anyio.to_thread.run_sync(partial(fleetfile.parse, body, file=self._path), abandon_on_cancel=True)
        if parsed.fleet is None:
            self._reject(sha, _sentence(parsed.problems), parsed.problems)
            return None
        previous = self.in_force
        if previous is not None and previous.fleet.name != parsed.fleet.name:
            self._reject(
                sha,
                f"{self._path}: metadata.name changed from {previous.fleet.name} to {parsed.fleet.name}; "
                "it names our field manager in every cluster and cannot change while objects carry it",
                (),
            )
            return None
        await self._documents.put_document(DOCUMENT, sha, body)
        self._judged, self.error = sha, None
        self.in_force = InForce(parsed.fleet, sha)
        if previous is None or previous.fleet != parsed.fleet:
            self._say("config.accepted", {"revision": sha, "warnings": [str(w) for w in parsed.warnings]})
        return self.in_force

    def _reject(self, sha: str, error: str, problems: tuple[Problem, ...]) -> None:
        self._judged, self.error = sha, error
        self._say("config.rejected", {"revision": sha, "error": error, "errors": [str(p) for p in problems[:50]]})

    def _say(self, kind: str, data: dict[str, Any]) -> None:
        self._emit(Event(type=kind, time=self._now(), data=data))


def _sentence(problems: tuple[Problem, ...]) -> str:
    first = str(problems[0]) if problems else "not valid"
    return first if len(problems) < 2 else f"{first} (and {len(problems) - 1} more)"
