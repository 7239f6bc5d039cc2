"""The agents of all clusters: those that fleet.yaml names against those that run, and what they know, for people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import anyio
import msgspec

from fleet.aio.supervise import Policy, Supervisor
from fleet.engine.agent import Agent, AgentSettings
from fleet.engine.agentview import AgentView, BundleStanding, ObjectDifference, ObjectStanding
from fleet.engine.member import Member
from fleet.engine.ports import Connector, Secrets, Store
from fleet.engine.session import Shared
from fleet.errors import NotFound, StoreError
from fleet.model.cluster import Assignment, ClusterState, MemberReport
from fleet.model.events import Event
from fleet.model.fleetfile import Cluster, Fleet

_log = logging.getLogger(__name__)


class Parts(msgspec.Struct, frozen=True):
    """What every agent is made of."""

    connector: Connector
    secrets: Secrets
    store: Store
    settings: AgentSettings
    report: Callable[[MemberReport], None]
    emit: Callable[[Event], None]
    assignments: Callable[[str], Mapping[str, Assignment]]
    """What one cluster shall hold, by bundle."""


class Agents:
    """Adjusts the running agents to fleet.yaml: stop first, start after."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._agents: dict[str, Agent] = {}
        self._suspended: frozenset[str] = frozenset()
        self._wanted: dict[str, Cluster] = {}
        self._shared: Shared | None = None
        self._changed = anyio.Event()
        self._remembered: frozenset[str] | None = None
        """The clusters that the store remembers, none besides; None: not looked at since the start."""

    def configure(self, fleet: Fleet, shared: Shared) -> None:
        """The clusters of another fleet.yaml; takes effect in `run`."""
        self._wanted = {cluster.name: cluster for cluster in fleet.clusters}
        self._suspended = frozenset(b.name for b in fleet.bundles if b.suspend)
        self._shared = shared
        self._changed.set()

    def assigned(self, cluster: str) -> None:
        """The assignments of a cluster changed."""
        running = self._agents.get(cluster)
        if running is not None:
            running.assign(self._parts.assignments(cluster), self._suspended)

    async def run(self) -> None:
        """Owns all agents until cancelled. An agent with a defect is started again alone; the others go on."""
        async with Supervisor("agents") as supervisor:
            while True:
                await self._changed.wait()
                self._changed = anyio.Event()
                await self._adjust(supervisor)
                await self._forget_others()

    async def _forget_others(self) -> None:
        """What is remembered of clusters that left fleet.yaml would be wrong of one that comes back by that name."""
        if self._wanted.keys() == self._remembered:
            return
        try:
            closed = await self._parts.store.forget_clusters(self._wanted.keys())
        except StoreError as error:
            _log.warning("what is remembered of former clusters stays until fleet.yaml changes again: %s", error)
            return
        self._remembered = frozenset(self._wanted)
        for drift in closed:
            told = {"id": drift.id, "object": str(drift.object), "verdict": drift.verdict, "how": "withdrawn"}
            self._parts.emit(
                Event(
                    type="drift.healed",
                    time=drift.healed_at or 0.0,
                    bundle=drift.bundle,
                    cluster=drift.cluster,
                    data=told,
                )
            )

    async def _adjust(self, supervisor: Supervisor) -> None:
        for name, agent in list(self._agents.items()):
            spec = self._wanted.get(name)
            if spec is None or _reach(spec) != _reach(agent.member.spec):
                await supervisor.stop(name)
                del self._agents[name]
            else:
                agent.reconfigure(spec)
        for name, spec in self._wanted.items():
            if name not in self._agents:
                self._start(supervisor, spec)
            self.assigned(name)

    def _start(self, supervisor: Supervisor, spec: Cluster) -> None:
        if self._shared is None:
            return
        parts = self._parts
        member = Member(spec, parts.report, parts.emit, self._shared.clock.wall)
        agent = Agent(member, parts.connector, parts.secrets, parts.store, self._shared, parts.settings)
        self._agents[spec.name] = agent
        supervisor.start(spec.name, agent.run, Policy.RESTARTED)

    # --- what they know ---

    def views(self) -> Sequence[AgentView]:
        return tuple(self._view(agent) for _, agent in sorted(self._agents.items()))

    def view(self, cluster: str) -> AgentView | None:
        running = self._agents.get(cluster)
        return self._view(running) if running is not None else None

    def objects(self, cluster: str, bundle: str) -> Sequence[ObjectStanding]:
        """Every object of a bundle on a cluster; empty when it is not assigned there."""
        running = self._agents.get(cluster)
        return running.objects(bundle) if running is not None else ()

    async def diff(self, bundle: str, cluster: str) -> Sequence[ObjectDifference]:
        """Wanted against live, asked of the cluster now. Raises NotFound, Unavailable, Unauthorized or Rejected."""
        running = self._agents.get(cluster)
        if running is None:
            raise NotFound(f"no cluster {cluster!r} in fleet.yaml; `fleet clusters` lists them")
        return await running.diff(bundle)

    def _view(self, agent: Agent) -> AgentView:
        member = agent.member
        return AgentView(
            name=member.name,
            labels=member.spec.labels,
            state=ClusterState.PAUSED if member.spec.paused and member.reachable else member.state,
            reason=member.reason,
            observed_at=member.observed_at,
            kubernetes=member.kubernetes,
            watches=agent.watches,
            objects=len(member.records),
            bundles=tuple(
                BundleStanding(
                    bundle=bundle,
                    wanted=standing.assignment.digest,
                    recorded=standing.assignment.digest if standing.phase == "applied" else None,
                    sync=member.sync(standing),
                    health=member.health(standing)[0],
                    drifted=member.records.drifted(bundle),
                )
                for bundle, standing in sorted(member.standings.items())
            ),
        )


def _reach(spec: Cluster) -> tuple[object, ...]:
    """What the connection depends on."""
    return (spec.kubeconfig, spec.secret_ref, spec.in_cluster)
