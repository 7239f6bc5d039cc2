"""What the conductor needs of the world around it: the store that its decisions live in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fleet.model.cluster import Assignment
from fleet.model.events import Event
from fleet.model.rollout import BundleState, Commit, Release, Rollout


class Store(Protocol):
    """The part of the store that decisions live in."""

    async def commit(self, commit: Commit) -> Sequence[Event]: ...
    async def append(self, events: Sequence[Event]) -> Sequence[Event]: ...
    async def bundle_states(self) -> Sequence[BundleState]: ...
    async def assignments(self) -> Sequence[Assignment]: ...
    async def release(self, release: str) -> Release | None: ...
    async def rollout(self, rollout: str) -> Rollout | None: ...
    async def events(self, since: int, limit: int) -> Sequence[Event]:
        """At most `limit` that came after the number `since`, oldest first."""

    async def last_seq(self) -> int: ...
