"""One connected cluster: the parts that exist while it is, what they tell each other, and its signs of life.

What the observer notices becomes keys for `engine.workers`; their work is done by `engine.deployer` (bundles) and
`engine.repair` (suspects). A silent cluster is asked for a sign of life, and is Unknown until it gives one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import anyio
import msgspec

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
from fleet.engine.repair import Metrics, Repair
from fleet.engine.watches import Watches
from fleet.engine.workers import Workers, WorkerSettings
from fleet.errors import FleetError, Rejected, StoreError, Unauthorized, Unavailable
from fleet.model.cluster import Baseline, ClusterState
from fleet.model.drift import Drift
from fleet.model.objects import GroupKind, Manifest, ObjectId

_log = logging.getLogger(__name__)

SELECTOR = "fleet/bundle"
CRD = ("apiextensions.k8s.io", "CustomResourceDefinition")


class SessionSettings(msgspec.Struct, frozen=True):
    """Seconds, and counts."""

    writes: int = 8
    """Applies in flight on one cluster."""
    probe: float = 20.0
    """A cluster that showed no sign of life for this long is asked for one."""
    probe_deadline: float = 10.0
    lost_after: float = 45.0
    """Without a sign of life for this long the cluster is Unknown."""
    tick: float = 5.0
    prune_confirm: float = 10.0
    sweep: float = 60.0
    watch_retry: float = 30.0
    workers: WorkerSettings = WorkerSettings()
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


class Session:
    """The parts that exist while a cluster is connected, and the tasks that run them."""

    def __init__(self, member: Member, client: ClusterClient, shared: Shared) -> None:
        settings = shared.settings
        self._member = member
        self._client = client
        self._shared = shared
        self._settings = settings
        self._workers = Workers(member.name, self, settings.workers, shared.jitter)
        self._suspicions: dict[ObjectId, backoff.Suspicion] = {}
        self._since: dict[ObjectId, float] = {}
        self._is_lost = False
        """Whether the cluster was silent for too long, and still is."""
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
            again=self._workers.put,
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
                self._workers.start(group)
                await self._stay_alive()
        finally:
            self._member.disconnected()

    def assigned(self, bundle: str) -> None:
        """The assignment of a bundle changed, or whether it may be written."""
        self._workers.supersede(bundle)

    def resume(self) -> None:
        """Looks at every bundle, also at those that are assigned no more but still remembered."""
        for bundle in {*self._member.standings, *self._member.inventories, *self._member.records.bundles()}:
            self.assigned(bundle)

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
        self._workers.put_suspect(object_id, ready - now)

    def health_changed(self, bundle: str) -> None:
        self._member.report(bundle)
        standing = self._member.standings.get(bundle)
        if standing is None:
            return
        if standing.wait is not None or (standing.phase == "applied" and not standing.settled):
            self._workers.put(bundle)

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

    # --- what the workers do ---

    async def work_on(self, bundle: str, halt: Halt) -> None:
        await self._deployer.work(bundle, halt)

    async def examine(self, object_id: ObjectId) -> None:
        since = self._since.pop(object_id, self._shared.clock.monotonic())
        try:
            await self._repair.work(object_id, self.observer.take_suspect(object_id), since)
        except FleetError:
            self._since.setdefault(object_id, since)
            raise
        if (object_id.group, object_id.kind) == CRD:
            await self._served_again()

    def bundle_of(self, object_id: ObjectId) -> str | None:
        record = self._member.records.get(object_id)
        if record is None or record.bundle not in self._member.standings:
            self._since.pop(object_id, None)
            return None
        return record.bundle

    def is_loaded(self, bundle: str) -> bool:
        standing = self._member.standings.get(bundle)
        return standing is not None and standing.wanted is not None

    def review(self, bundle: str) -> list[ObjectId]:
        return self._findings.open_of(bundle)

    async def _served_again(self) -> None:
        """A definition was repaired: its kind may be watched from now on."""
        await self.applier.discover(refresh=True)
        self.rewatch()
        for kind in self._member.records.kinds():
            self.watches.retry(kind[0])

    # --- signs of life ---

    def _touch(self) -> None:
        self._alive_at = self._shared.clock.monotonic()
        self._member.observed_at = self._shared.clock.wall()
        if self._is_lost:
            self._is_lost = False
            self._member.enter(ClusterState.READY)

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
                self._is_lost = True
                self._member.enter(ClusterState.UNKNOWN, silence)
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
            records = self._member.records
            for memory in (self._suspicions, self._since):
                for object_id in [i for i in memory if records.get(i) is None]:
                    del memory[object_id]
            self._workers.forget_others(lambda object_id: records.get(object_id) is not None)

    def _observed(self, kind: GroupKind, again: bool) -> None:
        """A kind is observed now, for the first time or `again` after a loss: the health of its bundles counts."""
        if again:
            self._reconciler.doubt_inventories()
        for bundle, standing in self._member.standings.items():
            if standing.wanted is not None and kind in standing.wanted.kinds:
                self._member.report(bundle)
                if standing.phase == "applied":
                    self._workers.put(bundle)

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
            self._workers.put(standing.assignment.bundle, self._settings.workers.retry_cap)
            return False
        return True

    async def _save(self, baseline: Baseline) -> None:
        try:
            await self._shared.keeper.put_baselines(self._member.name, (baseline,))
        except StoreError as error:
            _log.warning("%s: the baseline of %s is not stored: %s", self._member.name, baseline.id, error)
