"""One member cluster, in a bulkhead of its own: it connects, works in a session, and connects again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import anyio
import msgspec

from fleet.core import backoff
from fleet.engine.agentview import ObjectDifference, ObjectStanding
from fleet.engine.member import Member, Standing
from fleet.engine.ports import Connector, Secrets, Store
from fleet.engine.session import Session, Shared
from fleet.errors import FleetError, NotFound, Unauthorized, Unavailable
from fleet.model.cluster import Assignment, ClusterState, Health, Sync
from fleet.model.drift import Drift
from fleet.model.fleetfile import Cluster
from fleet.model.objects import Manifest

_log = logging.getLogger(__name__)

PAGE = 500
"""Drift records that are read at a time."""


class AgentSettings(msgspec.Struct, frozen=True):
    """Seconds."""

    connect_deadline: float = 30.0
    reconnect_base: float = 1.0
    reconnect_cap: float = 60.0
    close_deadline: float = 5.0


class Agent:
    """The owner of everything that concerns one cluster."""

    def __init__(
        self,
        member: Member,
        connector: Connector,
        secrets: Secrets,
        store: Store,
        shared: Shared,
        settings: AgentSettings,
    ) -> None:
        self.member = member
        self._connector = connector
        self._secrets = secrets
        self._store = store
        self._shared = shared
        self._settings = settings
        self._session: Session | None = None
        self._loaded = False

    async def run(self) -> None:
        """Connects and works, again and again, until cancelled."""
        attempt = 0
        begun = self._shared.clock.monotonic()
        while True:
            started = self._shared.clock.monotonic()
            try:
                await self._load()
                await self._connected()
            except Unauthorized as error:
                self.member.enter(ClusterState.UNAUTHORIZED, str(error))
            except FleetError as error:
                self._unreached(str(error), self._shared.clock.monotonic() - begun)
            except Exception as error:
                # The supervisor starts us again; until then nothing that was seen counts.
                self.member.enter(ClusterState.UNKNOWN, f"a defect of the agent: {type(error).__name__}")
                raise
            lasted = self._shared.clock.monotonic() - started
            attempt = 1 if lasted > self._settings.reconnect_cap else attempt + 1
            settings = self._settings
            wait = backoff.delay(
                attempt, self._shared.jitter(), base=settings.reconnect_base, cap=settings.reconnect_cap
            )
            if self.member.state is ClusterState.CONNECTING:
                left = begun + self._shared.settings.lost_after - self._shared.clock.monotonic()
                wait = min(wait, max(left, settings.reconnect_base))
            _log.warning("%s: %s; connecting again in %.1fs", self.member.name, self.member.reason, wait)
            await anyio.sleep(wait)

    def _unreached(self, reason: str, seconds: float) -> None:
        """`seconds`: since the first attempt.

        What was not reached yet is lost after the same time as what went silent: until then a rollout that comes to it
        waits instead of passing it over.
        """
        if self.member.state is ClusterState.CONNECTING and seconds < self._shared.settings.lost_after:
            self.member.reason = reason
        else:
            self.member.enter(ClusterState.UNKNOWN, reason)

    def assign(self, assignments: Mapping[str, Assignment], suspended: frozenset[str]) -> None:
        """What this cluster shall hold now, by bundle."""
        standings = self.member.standings
        changed = [bundle for bundle in standings if bundle not in assignments]
        for bundle in changed:
            del standings[bundle]
        for bundle, assignment in assignments.items():
            standing = standings.get(bundle)
            if standing is None:
                standing = standings[bundle] = Standing(assignment)
                changed.append(bundle)
            elif standing.assignment != assignment or standing.suspended != (bundle in suspended):
                standing.assign(assignment)
                changed.append(bundle)
            standing.suspended = bundle in suspended
        for bundle in changed:
            self.member.report(bundle)
            if self._session is not None:
                self._session.assigned(bundle)

    def reconfigure(self, spec: Cluster) -> None:
        """Labels, values or `paused` changed; the connection stays."""
        toggled = self.member.spec.paused != spec.paused
        self.member.spec = spec
        if toggled and self._session is not None:
            self._session.resume()

    @property
    def watches(self) -> int:
        return len(self._session.watches) if self._session is not None else 0

    def objects(self, bundle: str) -> tuple[ObjectStanding, ...]:
        standing = self.member.standings.get(bundle)
        if standing is None or standing.wanted is None:
            return ()
        return tuple(self._object(standing, manifest) for manifest in standing.wanted.by_id.values())

    async def diff(self, bundle: str) -> tuple[ObjectDifference, ...]:
        """Raises NotFound when the bundle is not assigned here, Unavailable when the cluster is not reached."""
        standing = self.member.standings.get(bundle)
        if standing is None or standing.wanted is None:
            raise NotFound(f"bundle {bundle!r} has nothing on cluster {self.member.name}")
        if self._session is None:
            raise Unavailable(f"{self.member.name}: {self.member.reason or 'not connected yet'}")
        return await self._session.diff(standing)

    def _object(self, standing: Standing, manifest: Manifest) -> ObjectStanding:
        record = self.member.records.get(manifest.id)
        current = record is not None and record.baseline is not None and record.baseline.manifest == manifest.digest
        if not self.member.reachable:
            sync = Sync.UNKNOWN
        elif standing.phase == "applying" and not current:
            sync = Sync.APPLYING
        else:
            sync = Sync.SYNCED if current and record is not None and not record.drifted else Sync.OUT_OF_SYNC
        return ObjectStanding(
            id=manifest.id,
            version=manifest.version,
            sync=sync,
            health=record.health if record is not None and self.member.reachable else Health.UNKNOWN,
            health_reason=record.reason if record is not None else "",
            drifted=record is not None and record.drifted,
            owner=self._session.owner(manifest.id) if self._session is not None else None,
        )

    async def _load(self) -> None:
        """What the store remembers of this cluster, once per process."""
        if self._loaded:
            return
        name = self.member.name
        self.member.inventories.update({i.bundle: i for i in await self._store.inventories(name)})
        for baseline in await self._store.baselines(name):
            self.member.records.ensure(baseline.id, baseline.bundle, baseline.version).baseline = baseline
        for drift in await self._open_drifts():
            self.member.repairs.open[drift.object] = drift
            record = self.member.records.get(drift.object)
            if record is not None:
                self.member.records.set_drifted(record, True)
        self._loaded = True

    async def _open_drifts(self) -> list[Drift]:
        """What was not over when this process began, oldest first: of two records of one object the newer counts."""
        found: list[Drift] = []
        page: Sequence[Drift] = ()
        while not found or len(page) == PAGE:
            page = await self._store.drifts(self.member.name, None, True, found[-1].id if found else None, PAGE)
            if not page:
                break
            found.extend(page)
        return found[::-1]

    async def _connected(self) -> None:
        """One session; raises Unavailable or Unauthorized when it cannot be had or is over."""
        spec = self.member.spec
        secrets = {spec.secret_ref: await self._secrets.read(spec.secret_ref)} if spec.secret_ref else {}
        with anyio.move_on_after(self._settings.connect_deadline) as deadline:
            client = await self._connector.connect(spec, secrets)
        if deadline.cancelled_caught:
            raise Unavailable(f"no connection within {self._settings.connect_deadline:g}s")
        try:
            self._session = Session(self.member, client, self._shared)
            await self._session.run()
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            self._session = None
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._settings.close_deadline):
                await client.aclose()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a session: a refusal of our credentials before anything else."""
    refused, others = group.split(Unauthorized)
    found: BaseException | None = refused or others
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if found is not None else group
