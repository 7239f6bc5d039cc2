"""One Git source: asks the server which commit its ref is, fetches what is new, waits, and does it again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from fleet.aio.clock import Clock
from fleet.core import backoff
from fleet.engine.ports import CommitInfo, Mirror, Mirrors, Secrets
from fleet.errors import FleetError
from fleet.model.events import Event
from fleet.model.fleetfile import GitSource

log = logging.getLogger(__name__)


class SourcesSettings(msgspec.Struct, frozen=True):
    """Seconds."""

    backoff_base: float = 2.0
    backoff_cap: float = 300.0
    jitter: float = 0.1
    """Part of the interval by which a poll may come earlier."""
    spacing: float = 0.2
    """Least time between two polls of a source, however often it is nudged."""
    maintenance: float = 3600.0
    """Least time between two rounds of housekeeping of a mirror."""
    at_once: int = 4
    """Sources that are fetched at a time."""


class SourceState(msgspec.Struct, frozen=True):
    """What is known of one source; times in seconds since the epoch."""

    name: str
    url: str
    ref: str
    sha: str | None = None
    """The commit that is in force; stays when the source fails."""
    commit: CommitInfo | None = None
    fetched_at: float | None = None
    """When the server was last asked with success."""
    fetch_started: float | None = None
    fetch_ended: float | None = None
    """When the poll began and ended that brought `sha`."""
    error: str | None = None
    since: float | None = None
    """Since when `error` stands."""


class Surroundings(msgspec.Struct, frozen=True):
    """What all sources share. `observe` is given the seconds of every poll that brought a commit."""

    mirrors: Mirrors
    secrets: Secrets
    emit: Callable[[Event], None]
    changed: Callable[[str], None]
    observe: Callable[[float], None]
    settings: SourcesSettings
    clock: Clock
    jitter: Callable[[], float]
    limit: anyio.CapacityLimiter


class Poller:
    """One wanted source. `state` and `mirror` are what is known of it; nobody else writes them."""

    def __init__(self, wanted: GitSource, url: str, around: Surroundings) -> None:
        self.wanted = wanted
        self.state = SourceState(wanted.name, url, wanted.ref)
        self.mirror: Mirror | None = None
        self._around = around
        self._nudged = anyio.Event()
        self._failures = 0
        self._begun = 0
        self._maintained = around.clock.monotonic()
        self._waiting: list[tuple[int, anyio.Event]] = []

    def inherit(self, other: Poller) -> None:
        """Takes over what was known, when only the interval or the credentials changed."""
        self.state, self.mirror = other.state, other.mirror

    def nudge(self) -> None:
        self._nudged.set()

    def awaited(self) -> anyio.Event:
        """Nudges, and gives what is set when a poll has ended that began after this call."""
        done = anyio.Event()
        self._waiting.append((self._begun + 1, done))
        self._nudged.set()
        return done

    def release(self) -> None:
        """Wakes everybody who waits: there will be no further poll."""
        self._wake(None)

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            self._nudged = anyio.Event()
            await self.poll()
            await self._maintain()
            await self._breathe(self._pause())

    async def poll(self) -> None:
        """Asks the server and fetches; the outcome is in `state`, in an event where it is news, and told."""
        self._begun += 1
        begun, started = self._begun, self._around.clock.wall()
        try:
            async with self._around.limit:
                mirror = await self._opened()
                sha = await mirror.resolve()
                commit = self.state.commit
                if commit is None or commit.sha != sha:
                    await mirror.fetch(sha)
                    commit = await mirror.info(sha)
        except FleetError as error:
            self._failed(str(error))
        else:
            self.mirror = mirror
            self._fetched(sha, commit, started)
        self._wake(begun)

    async def _opened(self) -> Mirror:
        # The secret is read anew for each poll: a rotated credential counts at once, and nothing keeps it.
        reference = self.wanted.secret_ref
        secret = await self._around.secrets.read(reference) if reference else None
        return self._around.mirrors.mirror(self.wanted, secret)

    def _fetched(self, sha: str, commit: CommitInfo, started: float) -> None:
        before, now = self.state, self._around.clock.wall()
        moved = sha != before.sha
        self._failures = 0
        self.state = msgspec.structs.replace(before, sha=sha, commit=commit, fetched_at=now, error=None, since=None)
        if moved:
            self.state = msgspec.structs.replace(self.state, fetch_started=started, fetch_ended=now)
            self._around.observe(now - started)
        if moved or before.error is not None:
            told = {"sha": sha, "previous": before.sha, "author": commit.author, "message": commit.message}
            self._say("source.fetched", told | ({"seconds": round(now - started, 6)} if moved else {}))
        if moved:
            self._around.changed(before.name)

    def _failed(self, error: str) -> None:
        before = self.state
        self._failures += 1
        since = self._around.clock.wall() if before.error is None else before.since
        self.state = msgspec.structs.replace(before, error=error, since=since)
        if error != before.error:
            self._say("source.failed", {"error": error, "sha": before.sha})

    def _say(self, kind: str, told: dict[str, Any]) -> None:
        known = {"source": self.state.name, "url": self.state.url, "ref": self.state.ref}
        self._around.emit(Event(type=kind, time=self._around.clock.wall(), data=known | told))

    def _pause(self) -> float:
        """Seconds until the next poll."""
        settings, u = self._around.settings, self._around.jitter()
        if self._failures:
            return backoff.delay(self._failures, u, base=settings.backoff_base, cap=settings.backoff_cap)
        return self.wanted.interval * (1.0 - settings.jitter * u)

    async def _maintain(self) -> None:
        """Housekeeping of the mirror, when it is due; what goes wrong with it is no fault of the source."""
        now = self._around.clock.monotonic()
        if self.mirror is None or self._failures or now - self._maintained < self._around.settings.maintenance:
            return
        self._maintained = now
        try:
            await self.mirror.maintain()
        except FleetError as error:
            log.warning("housekeeping of source %s: %s", self.wanted.name or "of fleet.yaml", error)

    async def _breathe(self, seconds: float) -> None:
        """Waits for the time or a nudge, and a moment in any case."""
        spacing = self._around.settings.spacing
        await self._around.clock.sleep(spacing)
        await self._around.clock.wait(self._nudged, max(0.0, seconds - spacing))

    def _wake(self, begun: int | None) -> None:
        """Wakes who waits for the poll that ended (None: for any)."""
        for number, done in self._waiting:
            if begun is None or number <= begun:
                done.set()
        self._waiting = [(number, done) for number, done in self._waiting if not done.is_set()]
