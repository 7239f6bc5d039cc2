"""A control plane for tests: the real `Service` over engine parts that hold plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import anyio
import msgspec

from fleet.core import fleetfile
from fleet.engine.service import Parts, Service
from fleet.errors import Conflict, NotFound
from fleet.model.cluster import ApplyOutcome, ClusterState, Health, ObjectFailure, Sync
from fleet.model.drift import Drift, FieldChange
from fleet.model.events import Event
from fleet.model.fleetfile import ApprovalGate, Fleet
from fleet.model.objects import ObjectId
from fleet.model.rollout import (
    Approval,
    BlockedBy,
    BundleState,
    ClusterRecord,
    Commanded,
    GateRun,
    GateState,
    HistoryEntry,
    Member,
    MemberState,
    Plan,
    PlannedWave,
    Release,
    Rollout,
    RolloutState,
    WaveRun,
    WaveState,
)

T = TypeVar("T")
NOW = 1_795_165_200.25
"""2026-11-20T09:00:00.250Z."""
SHA = "3f2a1bc0d4e5f60718293a4b5c6d7e8f90a1b2c3"
GO = ApprovalGate(name="go", approvers=("group:sre",))

FLEET = """
apiVersion: fleet/v1
kind: Fleet
metadata: {name: acme}
clusters:
  - {name: qa, labels: {env: qa}, kubeconfig: {context: qa}}
  - {name: prod, labels: {env: prod}, kubeconfig: {context: prod}}
bundles:
  - {name: shop, path: apps/shop, namespace: shop, strategy: qa-then-prod}
strategies:
  - name: qa-then-prod
    waves:
      - {name: qa, clusterSelector: {matchLabels: {env: qa}}, bake: 10m}
      - {name: prod, clusterSelector: {matchLabels: {env: prod}}, gates: {before: [go]}}
gates:
  - {name: go, type: approval, approvers: ["group:sre"]}
"""


def fleet(text: str = FLEET) -> Fleet:
    parsed = fleetfile.parse(text)
    assert parsed.fleet is not None, parsed.problems
    return parsed.fleet


def digest(word: str) -> str:
    return f"sha256:{word * (64 // len(word))}"


RELEASE = Release(
    id="shop-0123456789ab",
    bundle="shop",
    content=digest("ab"),
    revisions={"": SHA},
    digests={"qa": digest("0a"), "prod": digest("0b")},
    author="ana@acme.example",
    message="Raise the replicas",
    committed_at=NOW - 400,
    created_at=NOW - 390,
)
WAVES = (
    PlannedWave(name="qa", clusters=("qa",), bake=600.0),
    PlannedWave(name="prod", clusters=("prod",), gates_before=(GO,)),
)


def rollout(**changes: object) -> Rollout:
    """shop-17: qa has passed, prod waits for the approval `go` since three minutes."""
    waiting = Rollout(
        id="shop-17",
        bundle="shop",
        number=17,
        release=RELEASE,
        plan=Plan(strategy="qa-then-prod", waves=WAVES),
        state=RolloutState.BLOCKED,
        blocked_by=BlockedBy("gate", "go", NOW - 180, ("group:sre",), "fleet approve shop-17 go"),
        waves=(
            WaveRun(
                plan=WAVES[0],
                state=WaveState.PASSED,
                members=(
                    Member(
                        cluster="qa",
                        digest=digest("0a"),
                        state=MemberState.UPDATED,
                        attempts=1,
                        seq=17,
                        started_at=NOW - 380,
                        ended_at=NOW - 300,
                        outcome=ApplyOutcome(total=3, applied=3, changed=1),
                    ),
                ),
                baked=600.0,
                started_at=NOW - 380,
                ended_at=NOW - 200,
            ),
            WaveRun(
                plan=WAVES[1],
                state=WaveState.GATING,
                gates=(GateRun(gate=GO, state=GateState.WAITING, since=NOW - 180),),
                started_at=NOW - 180,
            ),
        ),
        created_at=NOW - 385,
        started_at=NOW - 384,
        trace_id="0123456789abcdef" * 2,
        version=42,
    )
    return msgspec.structs.replace(waiting, **changes)


def halted(id: str = "shop-16") -> Rollout:
    """shop-16: an object was refused in qa."""
    failure = ObjectFailure("apps/Deployment shop/web", "spec.replicas: Invalid value: -1", "definite")
    member = Member(
        cluster="qa",
        digest=digest("0c"),
        state=MemberState.FAILED,
        reason="apply",
        attempts=1,
        seq=16,
        outcome=ApplyOutcome(total=3, applied=2, failed=(failure,)),
    )
    return rollout(
        id=id,
        number=16,
        state=RolloutState.HALTED,
        reason="qa failed in wave qa: apply",
        blocked_by=None,
        waves=(WaveRun(plan=WAVES[0], state=WaveState.FAILED, members=(member,)),),
        created_at=NOW - 4000,
        ended_at=NOW - 3900,
        version=7,
    )


def approved(by: str = "sam@acme.example") -> GateRun:
    answer = Approval(by=by, groups=("sre",), at=NOW - 5, accepted=True, comment="fine")
    return GateRun(gate=GO, state=GateState.PASSED, since=NOW - 180, at=NOW - 5, answers=(answer,))


@dataclass(frozen=True)
class InForce:
    fleet: Fleet
    revision: str = SHA


@dataclass
class Configuration:
    in_force: InForce | None = field(default_factory=lambda: InForce(fleet()))
    error: str | None = None


class Source(msgspec.Struct, frozen=True):
    name: str = ""
    url: str = "https://git.acme.example/fleet.git"
    ref: str = "main"
    sha: str | None = SHA
    fetched_at: float | None = NOW - 12
    error: str | None = None
    since: float | None = None


@dataclass
class Sources:
    held: list[Source] = field(default_factory=lambda: [Source()])
    nudged: list[str | None] = field(default_factory=list)

    def states(self) -> Sequence[Source]:
        return self.held

    def nudge(self, name: str | None = None) -> None:
        if name is not None and all(source.name != name for source in self.held):
            raise NotFound(f"no source {name!r}")
        self.nudged.append(name)


class Standing(msgspec.Struct, frozen=True):
    bundle: str = "shop"
    wanted: str | None = digest("0a")
    recorded: str | None = digest("0a")
    sync: Sync = Sync.SYNCED
    health: Health = Health.HEALTHY
    drifted: int = 0


class Agent(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}
    state: ClusterState = ClusterState.READY
    reason: str | None = None
    observed_at: float | None = NOW - 0.4
    kubernetes: str | None = "v1.36.3"
    watches: int = 7
    objects: int = 3
    bundles: tuple[Standing, ...] = (Standing(),)


class ObjectStanding(msgspec.Struct, frozen=True):
    id: ObjectId = ObjectId("apps", "Deployment", "shop", "web")
    version: str = "v1"
    sync: Sync = Sync.SYNCED
    health: Health = Health.HEALTHY
    health_reason: str = ""
    drifted: bool = False
    owner: str | None = None


class Difference(msgspec.Struct, frozen=True):
    id: ObjectId = ObjectId("apps", "Deployment", "shop", "web")
    version: str = "v1"
    change: Literal["create", "change", "delete", "none"] = "change"
    fields: tuple[FieldChange, ...] = (FieldChange("spec.replicas", 3, 5, "kubectl-edit"),)


@dataclass
class Agents:
    held: dict[str, Agent] = field(
        default_factory=lambda: {
            "qa": Agent("qa", {"env": "qa"}),
            "prod": Agent("prod", {"env": "prod"}, bundles=(Standing(wanted=digest("0e"), recorded=digest("0e")),)),
        }
    )
    known: list[ObjectStanding] = field(default_factory=lambda: [ObjectStanding()])
    differences: list[Difference] = field(default_factory=lambda: [Difference()])
    failure: Exception | None = None

    def views(self) -> Sequence[Agent]:
        return list(self.held.values())

    def view(self, cluster: str) -> Agent | None:
        return self.held.get(cluster)

    def objects(self, cluster: str, bundle: str) -> Sequence[ObjectStanding]:
        return self.known

    async def diff(self, bundle: str, cluster: str) -> Sequence[Difference]:
        if self.failure is not None:
            raise self.failure
        return self.differences


@dataclass
class Conductor:
    """Answers commands as the real one does where that matters here: versions, unknown rollouts, states that end."""

    states: dict[str, BundleState] = field(default_factory=dict)
    commands: list[Commanded] = field(default_factory=list)
    failure: Exception | None = None
    gate: anyio.Event | None = None
    """When set, commands wait for it."""
    called: anyio.Event = field(default_factory=anyio.Event)
    coming: deque[Rollout] = field(default_factory=deque)
    """The active rollout as each next look finds it."""

    async def command(self, command: Commanded) -> Rollout:
        self.commands.append(command)
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        name = command.bundle or (command.rollout or "").rpartition("-")[0]
        active = self.states[name].active if name in self.states else None
        if active is None or (command.rollout is not None and active.id != command.rollout):
            raise NotFound(f"no rollout {command.rollout!r} is under way")
        if command.expected_version not in (None, active.version):
            raise Conflict(f"{active.id} has version {active.version} now, not {command.expected_version}")
        return msgspec.structs.replace(active, version=active.version + 1)

    def state(self, bundle: str) -> BundleState | None:
        if self.coming:
            self.states[bundle] = msgspec.structs.replace(self.states[bundle], active=self.coming.popleft())
        return self.states.get(bundle)


class History:
    """Stored rollouts, drift and events; `kept_from` is the oldest sequence number that is still there."""

    def __init__(self) -> None:
        self.stored: list[Rollout] = [rollout(), halted()]
        self.releases: dict[str, Release] = {RELEASE.id: RELEASE}
        self.drift: list[Drift] = []
        self.log: list[Event] = []
        self.failure: Exception | None = None

    def keep(self, *types: str) -> None:
        for kind in types:
            seq = self.log[-1].seq + 1 if self.log else 1
            self.log.append(Event(type=kind, time=NOW, bundle="shop", data={"n": seq}, seq=seq))

    def forget(self, up_to: int) -> None:
        self.log = [event for event in self.log if event.seq > up_to]

    async def events(self, since: int, limit: int) -> Sequence[Event]:
        if self.failure is not None:
            raise self.failure
        return [event for event in self.log if event.seq > since][:limit]

    async def last_seq(self) -> int:
        if self.failure is not None:
            raise self.failure
        return self.log[-1].seq if self.log else 0

    async def release(self, release: str) -> Release | None:
        return self.releases.get(release)

    async def rollout(self, rollout: str) -> Rollout | None:
        return next((each for each in self.stored if each.id == rollout), None)

    async def rollouts(self, bundle: str | None, before: str | None, limit: int) -> Sequence[Rollout]:
        found = [each for each in self.stored if bundle in (None, each.bundle)]
        return _after(found, [each.id for each in found], before)[:limit]

    async def drifts(
        self, cluster: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
    ) -> Sequence[Drift]:
        found = [
            each
            for each in self.drift
            if cluster in (None, each.cluster)
            and bundle in (None, each.bundle)
            and (each.state == "open" or not open_only)
        ]
        return _after(found, [each.id for each in found], before)[:limit]


class Log:
    """The news that the log has grown."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._grown = anyio.Event()

    async def append(self, events: Sequence[Event]) -> Sequence[Event]:
        stored = []
        for event in events:
            seq = self._history.log[-1].seq + 1 if self._history.log else 1
            stored.append(msgspec.structs.replace(event, seq=seq))
            self._history.log.append(stored[-1])
        self.announce()
        return stored

    def announce(self) -> None:
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

    async def wait_beyond(self, seq: int) -> None:
        while not self._history.log or self._history.log[-1].seq <= seq:
            await self._grown.wait()


def drift(id: str = "d1", **changes: object) -> Drift:
    found = Drift(
        id=id,
        cluster="prod",
        bundle="shop",
        object=ObjectId("apps", "Deployment", "shop", "web"),
        version="v1",
        verdict="modified",
        state="healed",
        mode="correct",
        detected_at=NOW - 60,
        healed_at=NOW - 59.9,
        changed_at="2026-11-20T08:59:00Z",
        manager="kubectl-edit",
        operation="Update",
        fields=(FieldChange("spec.replicas", 3, 5, "kubectl-edit"),),
    )
    return msgspec.structs.replace(found, **changes)


class ControlPlane:
    """All parts, and the service over them."""

    def __init__(self) -> None:
        self.configuration = Configuration()
        self.sources = Sources()
        self.agents = Agents()
        record = HistoryEntry(release=RELEASE.id, content=RELEASE.content, digest=digest("0a"), at=NOW - 300)
        records = {"qa": ClusterRecord(seq=17, recorded=record)}
        state = BundleState(bundle="shop", active=rollout(), previous=halted(), records=records)
        self.conductor = Conductor({"shop": state})
        self.history = History()
        self.log = Log(self.history)
        self.problems: dict[str, str] = {}
        self.service = Service(
            Parts(
                configuration=self.configuration,
                sources=self.sources,
                agents=self.agents,
                conductor=self.conductor,
                history=self.history,
                log=self.log,
                now=lambda: NOW,
                version="0.1.0",
                problem=self.problems.get,
            )
        )

    def rolling(self, **changes: object) -> None:
        """Changes the state of the bundle `shop`."""
        self.conductor.states["shop"] = msgspec.structs.replace(self.conductor.states["shop"], **changes)


def _after(items: list[T], ids: list[str], before: str | None) -> list[T]:
    return items if before is None else items[ids.index(before) + 1 :]
