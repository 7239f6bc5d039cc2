"""Work on one connected cluster: bundles and suspect objects go as keys through one queue to a few workers.

A worker reads the latest assignment or state when it runs. A bundle being applied and its suspects exclude each other:
the suspects are looked at when the pass is over. Every failure puts its key back with backoff; nothing is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import msgspec

from fleet.aio.keyedqueue import KeyedQueue
from fleet.core import backoff
from fleet.engine import differences
from fleet.engine.agentview import ObjectDifference
from fleet.engine.applier import Applier, ApplierSettings
from fleet.engine.contents import Contents
from fleet.engine.deployer import Deployer, DeployerSettings
from fleet.engine.member import Member, Standing
from fleet.engine.observer import Counters, Observer
from fleet.engine.ports import ClusterClient
from fleet.engine.prune import Pruner
from fleet.engine.reconcile import Keeper, Reconciler
from fleet.engine.repair import Metrics, Repair
from fleet.engine.watches import Watches
from fleet.errors import FleetError, Unauthorized
from fleet.model.cluster import Baseline, ClusterState
from fleet.model.drift import Drift
from fleet.model.objects import GroupKind, Manifest, ObjectId

_log = logging.getLogger(__name__)

Key = str | ObjectId
"""A bundle's name, or the identity of a suspect object."""

SELECTOR = "fleet/bundle"


class SessionSettings(msgspec.Struct, frozen=True):
    """Seconds, and counts."""

    workers: int = 8
    writes: int = 8
    """Applies in flight on one cluster."""
    queue: int = 100_000
    probe: float = 20.0
    """A cluster that showed no sign of life for this long is asked for one."""
    probe_deadline: float = 10.0
    lost_after: float = 45.0
    """Without a sign of life for this long the cluster is Unknown."""
    tick: float = 5.0
    prune_confirm: float = 10.0
    watch_retry: float = 30.0
    retry_base: float = 0.5
    retry_cap: float = 60.0
    applier: ApplierSettings = ApplierSettings()
    deployer: DeployerSettings = DeployerSettings()


class Clock(Protocol):
    def wall(self) -> float: ...
    def monotonic(self) -> float: ...


class Shared(msgspec.Struct, frozen=True):
    """What all clusters' sessions share."""

    fleet: str
    fingerprint_key: bytes
    contents: Contents
    keeper: Keeper
    keep: Callable[[str, Drift | Baseline], None]
    """Stores for a cluster, without waiting."""
    counters: Counters
    metrics: Metrics
    applied: Callable[[str, float], None]
    """Takes the result of a deploy pass and its seconds."""
    clock: Clock
    jitter: Callable[[], float]
    """A number in [0, 1)."""
    new_id: Callable[[], str]
    settings: SessionSettings


class Overflow(FleetError):
    """More keys wait than may; the session starts anew, which looks at everything again."""


class Session:
    """The parts that exist while a cluster is connected, and the tasks that run them."""

    def __init__(self, member: Member, client: ClusterClient, shared: Shared) -> None:
        settings = shared.settings
        self._member = member
        self._client = client
        self._shared = shared
        self._settings = settings
        self._queue: KeyedQueue[Key] = KeyedQueue(settings.queue)
        self._suspicions: dict[ObjectId, backoff.Suspicion] = {}
        self._since: dict[ObjectId, float] = {}
        self._failures: dict[Key, int] = {}
        self._busy: set[str] = set()
        self._waiting: dict[str, set[ObjectId]] = {}
        self._alive_at = shared.clock.monotonic()
        self.observer = Observer(
            member.records, f"fleet-{shared.fleet}", shared.fingerprint_key, self, shared.counters, self._touch
        )
        self.watches = Watches(client, SELECTOR, self.observer, shared.clock.monotonic, retry=settings.watch_retry)
        self.observer.kinds = self.watches
        self.applier = Applier(shared.fleet, client, member.records, self.observer, self, settings.applier)
        self._reconciler = Reconciler(
            member.name,
            shared.fleet,
            client,
            self.applier,
            member.records,
            shared.keeper,
            member.inventories,
            self.applier.known_catalog,
            concurrency=settings.writes,
        )
        pruner = Pruner(client, self.applier.known_catalog, concurrency=settings.writes, confirm=settings.prune_confirm)
        self._deployer = Deployer(
            shared.fleet,
            member,
            shared.contents,
            self._reconciler,
            pruner,
            shared.keeper,
            settings.deployer,
            rewatch=self.rewatch,
            again=self._put_after,
            applied=shared.applied,
            monotonic=shared.clock.monotonic,
            jitter=shared.jitter,
        )
        self._repair = Repair(
            member,
            self.applier,
            self.observer,
            shared.metrics,
            keep=self._keep,
            wall=shared.clock.wall,
            monotonic=shared.clock.monotonic,
            new_id=shared.new_id,
        )

    # --- life ---

    async def run(self) -> None:
        """Works until cancelled; raises Unauthorized when our credentials are refused."""
        self._member.kubernetes = await self._client.version()
        await self.applier.discover()
        self._touch()
        try:
            async with anyio.create_task_group() as group:
                self.watches.bind(group)
                self._member.unobserved = self._unobserved
                self._member.enter(ClusterState.READY)
                self.rewatch()
                self.resume()
                for number in range(self._settings.workers):
                    group.start_soon(self._work, name=f"worker {number} of {self._member.name}")
                await self._stay_alive()
        finally:
            self._member.disconnected()

    def assigned(self, bundle: str) -> None:
        """The assignment of a bundle changed."""
        self._put_after(bundle)

    def _put_after(self, key: Key, seconds: float = 0.0) -> None:
        if not self._queue.put_after(key, seconds):
            raise Overflow(f"{self._settings.queue} keys wait already")

    def resume(self) -> None:
        """Looks at every bundle, also at those that are assigned no more but still remembered."""
        for bundle in {*self._member.standings, *self._member.inventories}:
            self._put_after(bundle)

    def rewatch(self) -> None:
        if self.applier.catalog is not None:
            self.watches.adjust(self._member.records.kinds(), self.applier.catalog)

    # --- for people ---

    async def diff(self, standing: Standing) -> tuple[ObjectDifference, ...]:
        return await differences.wanted_against_live(self.applier, standing, self._settings.writes)

    def owner(self, object_id: ObjectId) -> str | None:
        """The field manager that a drift of this object is known to be of."""
        return self._repair.owner(object_id)

    # --- what the observer tells ---

    def suspect(self, object_id: ObjectId, reason: str) -> None:
        """At once the first time; further suspicions within its backoff are answered by one look (drift.md step 9)."""
        now = self._shared.clock.monotonic()
        self._since.setdefault(object_id, now)
        suspicion, ready = self._suspicions.get(object_id, backoff.Suspicion()).raised(now)
        self._suspicions[object_id] = suspicion
        self._put_after(object_id, ready - now)

    def health_changed(self, bundle: str) -> None:
        self._member.report(bundle)
        standing = self._member.standings.get(bundle)
        if standing is not None and standing.phase == "applied" and not standing.settled:
            self._put_after(bundle)

    def clean(self, object_id: ObjectId) -> None:
        self._repair.resolved(object_id)

    def holds(self, bundle: str, manifest: Manifest) -> bool:
        standing = self._member.standings.get(bundle)
        return standing is not None and (standing.wanted is None or manifest.id in standing.wanted.by_id)

    # --- workers ---

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                if isinstance(key, str):
                    await self._bundle(key)
                else:
                    await self._object(key)
            finally:
                self._queue.done(key)

    async def _bundle(self, bundle: str) -> None:
        self._busy.add(bundle)
        try:
            await self._guard(bundle, self._deployer.work(bundle))
        finally:
            self._busy.discard(bundle)
            for object_id in self._waiting.pop(bundle, ()):
                self._put_after(object_id)

    async def _object(self, object_id: ObjectId) -> None:
        record = self._member.records.get(object_id)
        if record is not None and record.bundle in self._busy:
            self._waiting.setdefault(record.bundle, set()).add(object_id)
            return
        await self._guard(object_id, self._examine(object_id))

    async def _examine(self, object_id: ObjectId) -> None:
        since = self._since.pop(object_id, self._shared.clock.monotonic())
        try:
            await self._repair.work(object_id, self.observer.take_suspect(object_id), since)
        except FleetError:
            self._since.setdefault(object_id, since)
            raise

    async def _guard(self, key: Key, work: Awaitable[None]) -> None:
        """One piece of work; what fails for a known reason is tried again with backoff."""
        try:
            await work
        except Unauthorized:
            raise
        except FleetError as error:
            attempt = self._failures[key] = self._failures.get(key, 0) + 1
            settings = self._settings
            wait = backoff.delay(attempt, self._shared.jitter(), base=settings.retry_base, cap=settings.retry_cap)
            _log.warning("%s: %s: %s; again in %.1fs", self._member.name, key, error, wait)
            self._put_after(key, max(wait, getattr(error, "retry_after", None) or 0.0))
        else:
            self._failures.pop(key, None)

    # --- signs of life ---

    def _touch(self) -> None:
        self._alive_at = self._shared.clock.monotonic()
        self._member.observed_at = self._shared.clock.wall()

    async def _stay_alive(self) -> None:
        """Asks a silent cluster for a sign of life; one that stays silent is Unknown until it gives one."""
        settings = self._settings
        while True:
            await anyio.sleep(min(settings.tick, settings.probe))
            reason = ""
            if self._silent_for() >= settings.probe:
                reason = await self._probe()
            if self._silent_for() >= settings.lost_after:
                silence = f"no sign of life for {self._silent_for():.0f}s{': ' + reason if reason else ''}"
                self._member.enter(ClusterState.UNKNOWN, silence)
            elif self._member.state is ClusterState.UNKNOWN:
                self._member.enter(ClusterState.READY)
            self._member.report_all()

    def _silent_for(self) -> float:
        return self._shared.clock.monotonic() - self._alive_at

    async def _probe(self) -> str:
        """Why the cluster did not answer; empty when it did."""
        try:
            with anyio.fail_after(self._settings.probe_deadline):
                self._member.kubernetes = await self._client.version()
        except Unauthorized:
            raise
        except (FleetError, TimeoutError) as error:
            return str(error) or "no answer in time"
        self._touch()
        return ""

    def _unobserved(self, kinds: frozenset[GroupKind]) -> str | None:
        return self.watches.unobserved(kinds, self._settings.lost_after)

    def _keep(self, value: Drift | Baseline) -> None:
        self._shared.keep(self._member.name, value)
