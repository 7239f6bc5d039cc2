"""Work on one connected cluster: bundles and suspect objects go as keys through one queue to a few workers.

A worker reads the latest assignment or state when it runs. A bundle being worked on and its suspects exclude each
other: suspects wait until the pass is over, a pass waits for the repairs under way. A pass whose assignment was
replaced ends early. Every failure puts its key back with backoff; nothing is given up.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import anyio
import msgspec

from fleet.aio.keyedqueue import KeyedQueue
from fleet.core import backoff
from fleet.engine import differences
from fleet.engine.agentview import ObjectDifference
from fleet.engine.applier import Applier, ApplierSettings
from fleet.engine.clusterinventory import Fenced
from fleet.engine.contents import Contents
from fleet.engine.deployer import Deployer, DeployerSettings
from fleet.engine.findings import Findings
from fleet.engine.halt import Halt
from fleet.engine.member import Member, Standing
from fleet.engine.observer import Counters, Observer
from fleet.engine.ports import ClusterClient
from fleet.engine.prune import Pruner
from fleet.engine.reconcile import Keeper, Reconciler
from fleet.engine.repair import LASTING, Metrics, Repair
from fleet.engine.watches import Watches
from fleet.errors import FleetError, InvalidInput, Rejected, StoreError, Unauthorized, Unavailable
from fleet.model.cluster import Baseline, ClusterState
from fleet.model.drift import Drift
from fleet.model.objects import GroupKind, Manifest, ObjectId

_log = logging.getLogger(__name__)

Key = str | ObjectId
"""A bundle's name, or the identity of a suspect object."""

SELECTOR = "fleet/bundle"
CRD = ("apiextensions.k8s.io", "CustomResourceDefinition")


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
    sweep: float = 60.0
    watch_retry: float = 30.0
    retry_base: float = 0.5
    retry_cap: float = 60.0
    applier: ApplierSettings = ApplierSettings()
    deployer: DeployerSettings = DeployerSettings()


class Clock(Protocol):
    def wall(self) -> float: ...
    def monotonic(self) -> float: ...


def _unclaimed(_cluster: str, _object_id: ObjectId) -> str | None:
    return None


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
    claimed: Callable[[str, ObjectId], str | None] = _unclaimed
    """The bundle whose newest planned content holds an object on a cluster, though it may not be assigned there yet."""


class Exams:
    """How many suspects of each bundle are being examined, and the end of that."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._ended = anyio.Event()

    @contextmanager
    def of(self, bundle: str) -> Iterator[None]:
        self._running[bundle] += 1
        try:
            yield
        finally:
            self._running[bundle] -= 1
            if not self._running[bundle]:
                del self._running[bundle]
                self._ended.set()
                self._ended = anyio.Event()

    async def wait_none(self, bundle: str) -> None:
        """Ends with the last of them; every one is bounded by the deadlines of its few requests."""
        while self._running[bundle]:
            await self._ended.wait()


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
        self._passes: dict[str, Halt] = {}
        """Bundles that are being worked on."""
        self._exams = Exams()
        self._waiting: dict[str, set[ObjectId]] = {}
        """Suspects of bundles that are being worked on."""
        self._review: set[str] = set()
        """Bundles whose open drifts are to be looked at again."""
        self._sweep_at = 0.0
        self._discover_at = 0.0
        self._alive_at = shared.clock.monotonic()
        self.observer = Observer(
            member.records, f"fleet-{shared.fleet}", shared.fingerprint_key, self, shared.counters, self._touch
        )
        self.watches = Watches(
            client,
            SELECTOR,
            self.observer,
            shared.clock.monotonic,
            retry=settings.watch_retry,
            observed=self._observed,
        )
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
        pruner = Pruner(
            client,
            self.applier.known_catalog,
            refresh=lambda: self.applier.discover(refresh=True),
            concurrency=settings.writes,
            confirm=settings.prune_confirm,
        )
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
            claimed=lambda object_id: shared.claimed(member.name, object_id),
        )
        self._findings = Findings(
            member,
            keep=self._keep,
            wall=shared.clock.wall,
            monotonic=shared.clock.monotonic,
            new_id=shared.new_id,
        )
        self._repair = Repair(
            member,
            self.applier,
            self.observer,
            self._findings,
            shared.metrics,
            save=self._save,
            verify=self._verify,
            monotonic=shared.clock.monotonic,
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
        """The assignment of a bundle changed, or whether it may be written: what is under way for it ends early."""
        running = self._passes.get(bundle)
        if running is not None:
            running.call()
        self._review.add(bundle)
        self._put_after(bundle)

    def resume(self) -> None:
        """Looks at every bundle, also at those that are assigned no more but still remembered."""
        for bundle in {*self._member.standings, *self._member.inventories, *self._member.records.bundles()}:
            self.assigned(bundle)

    def _put_after(self, key: Key, seconds: float = 0.0) -> None:
        if not self._queue.put_after(key, seconds):
            raise Overflow(f"{self._settings.queue} keys wait already")

    def rewatch(self) -> None:
        if self.applier.catalog is not None:
            self.watches.adjust(self._member.records.kinds(), self.applier.catalog)

    # --- for people ---

    async def diff(self, standing: Standing) -> tuple[ObjectDifference, ...]:
        return await differences.wanted_against_live(self.applier, standing, self._settings.writes)

    def owner(self, object_id: ObjectId) -> str | None:
        """The field manager that a drift of this object is known to be of."""
        drift = self._findings.of(object_id)
        return drift.manager if drift is not None else None

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
        if standing is None:
            return
        if standing.wait is not None or (standing.phase == "applied" and not standing.settled):
            self._put_after(bundle)

    def disowned(self, object_id: ObjectId) -> bool:
        return self._repair.may_reown(object_id)

    def clean(self, object_id: ObjectId) -> None:
        self._findings.resolved(object_id)
        record = self._member.records.get(object_id)
        if record is not None:
            self._member.report(record.bundle)

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
        halt = self._passes[bundle] = Halt()
        try:
            await self._exams.wait_none(bundle)
            await self._guard(bundle, self._deployer.work(bundle, halt))
        finally:
            del self._passes[bundle]
            suspects = self._waiting.pop(bundle, set())
            if bundle in self._review:
                self._review.discard(bundle)
                suspects.update(self._findings.open_of(bundle))
            for object_id in suspects:
                self._put_after(object_id)

    async def _object(self, object_id: ObjectId) -> None:
        record = self._member.records.get(object_id)
        standing = self._member.standings.get(record.bundle) if record is not None else None
        if record is None or standing is None:
            self._since.pop(object_id, None)
            return
        bundle = record.bundle
        if bundle in self._passes or standing.wanted is None:
            # Without its content there is nothing to hold it against; the bundle's key is queued and loads it.
            self._waiting.setdefault(bundle, set()).add(object_id)
            return
        with self._exams.of(bundle):
            await self._guard(object_id, self._examine(object_id))

    async def _examine(self, object_id: ObjectId) -> None:
        since = self._since.pop(object_id, self._shared.clock.monotonic())
        try:
            await self._repair.work(object_id, self.observer.take_suspect(object_id), since)
        except FleetError:
            self._since.setdefault(object_id, since)
            raise
        if (object_id.group, object_id.kind) == CRD:
            await self._served_again()

    async def _served_again(self) -> None:
        """A definition was repaired: its kind may be watched from now on."""
        await self.applier.discover(refresh=True)
        self.rewatch()
        for kind in self._member.records.kinds():
            self.watches.retry(kind[0])

    async def _guard(self, key: Key, work: Awaitable[None]) -> None:
        """One piece of work; one that fails is tried again with backoff, and the others go on."""
        try:
            await work
        except (Unauthorized, Overflow):
            raise
        except FleetError as error:
            attempt = self._failures[key] = self._failures.get(key, 0) + 1
            settings = self._settings
            wait = backoff.delay(attempt, self._shared.jitter(), base=settings.retry_base, cap=settings.retry_cap)
            if isinstance(error, InvalidInput) or (isinstance(error, Rejected) and error.kind in LASTING):
                wait = settings.retry_cap
            _log.warning("%s: %s: %s; again in %.1fs", self._member.name, key, error, wait)
            self._put_after(key, max(wait, getattr(error, "retry_after", None) or 0.0))
        # A defect that one object brings to light must not stop the whole cluster, again after every reconnect.
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.subgroup(Unauthorized) is not None:
                raise
            self._failures[key] = self._failures.get(key, 0) + 1
            wait = self._settings.retry_cap
            _log.exception("%s: %s failed %d times; again in %.1fs", self._member.name, key, self._failures[key], wait)
            self._put_after(key, wait)
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
            await self._tidy()

    async def _tidy(self) -> None:
        """What no event asks for: kinds that came to be served, and what is remembered of objects that are gone."""
        now = self._shared.clock.monotonic()
        if self.watches.missing and self._member.reachable and now >= self._discover_at:
            self._discover_at = now + self._settings.watch_retry
            with suppress(Unavailable, Rejected), anyio.move_on_after(self._settings.probe_deadline):
                await self.applier.discover(refresh=True)
                self.rewatch()
        if now >= self._sweep_at:
            self._sweep_at = now + self._settings.sweep
            self._findings.withdraw()
            known = self._member.records
            for memory in (self._suspicions, self._since):
                for object_id in [i for i in memory if known.get(i) is None]:
                    del memory[object_id]
            for key in [k for k in self._failures if not isinstance(k, str) and known.get(k) is None]:
                del self._failures[key]

    def _observed(self, kind: GroupKind, again: bool) -> None:
        """A kind is observed now, for the first time or `again` after a loss: the health of its bundles counts."""
        if again:
            self._reconciler.doubt_inventories()
        for bundle, standing in self._member.standings.items():
            if standing.wanted is not None and kind in standing.wanted.kinds:
                self._member.report(bundle)
                if standing.phase == "applied":
                    self._put_after(bundle)

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

    def _keep(self, drift: Drift) -> None:
        self._shared.keep(self._member.name, drift)

    async def _verify(self, standing: Standing) -> bool:
        try:
            await self._reconciler.verify(standing.assignment)
        except Fenced as error:
            standing.phase, standing.message, standing.fence = "errored", str(error), error.seq
            self._member.report(standing.assignment.bundle)
            self._put_after(standing.assignment.bundle, self._settings.retry_cap)
            return False
        return True

    async def _save(self, baseline: Baseline) -> None:
        try:
            await self._shared.keeper.put_baselines(self._member.name, (baseline,))
        except StoreError as error:
            _log.warning("%s: the baseline of %s is not stored: %s", self._member.name, baseline.id, error)
