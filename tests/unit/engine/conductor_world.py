"""A plant around the conductor: a store in memory that can be killed at any commit, and clusters that apply.

The clusters outlive the conductor, as real ones do; what they apply is held against what the store has at that moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import anyio
import msgspec

from fleet.aio.clock import VirtualClock
from fleet.engine.assignments import Assignments
from fleet.engine.conductor import Conductor, ConductorSettings
from fleet.errors import Conflict, StoreError
from fleet.model.cluster import Assignment, Health, MemberReport
from fleet.model.events import Event
from fleet.model.fleetfile import (
    ApprovalGate,
    Bundle,
    BundleSource,
    Cluster,
    Fleet,
    HealthPolicy,
    Selector,
    Strategy,
    Wave,
)
from fleet.model.rollout import (
    BundleState,
    Commanded,
    Commit,
    Plan,
    PlannedWave,
    Release,
    ReleaseReady,
    Rollout,
)

T = TypeVar("T")

HEALTH = HealthPolicy(stable_for=10.0, progress_deadline=100.0)
GO = ApprovalGate("go")


class Killed(BaseException):
    """The process ends here, as by kill -9."""


def copied(value: T) -> T:
    """As a database would give it back."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


class MemoryStore:
    def __init__(self) -> None:
        self.states: dict[str, BundleState] = {}
        self.releases: dict[str, Release] = {}
        self.stored_rollouts: dict[str, Rollout] = {}
        self.rows: dict[tuple[str, str], Assignment] = {}
        self.log: list[Event] = []
        self.commits = 0
        self.down = False
        self.kill: tuple[int, Literal["before", "after"]] | None = None
        """The commit (from 0) at which the process is killed, and on which side of it."""
        self.lose_answer = False
        """The next commit is carried out, but its caller is told that it failed."""
        self.meanwhile: Callable[[], None] | None = None
        """What happens once while a commit is under way."""

    def _check(self) -> None:
        if self.down:
            raise StoreError("the disk is full")

    async def commit(self, commit: Commit) -> Sequence[Event]:
        await anyio.lowlevel.checkpoint()
        self._check()
        number, self.commits = self.commits, self.commits + 1
        if self.kill == (number, "before"):
            raise Killed
        stored = self.states.get(commit.state.bundle)
        if (stored.version if stored else 0) != commit.expected_version:
            raise Conflict("changed meanwhile")
        assert commit.state.version == commit.expected_version + 1
        assert not commit.state.reports
        self.states[commit.state.bundle] = copied(commit.state)
        self.releases.update((r.id, copied(r)) for r in commit.releases)
        for rollout in commit.rollouts:
            self.releases.setdefault(rollout.release.id, copied(rollout.release))
            self.stored_rollouts[rollout.id] = copied(rollout)
        for pair in commit.withdrawn:
            self.rows.pop(pair, None)
        for assignment in commit.assignments:
            self.rows[assignment.cluster, assignment.bundle] = copied(assignment)
        events = self._append(commit.events)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()
        if self.kill == (number, "after"):
            raise Killed
        if self.lose_answer:
            self.lose_answer = False
            raise StoreError("the connection broke")
        return events

    async def append(self, events: Sequence[Event]) -> Sequence[Event]:
        self._check()
        return self._append(events)

    def _append(self, events: Sequence[Event]) -> tuple[Event, ...]:
        numbered = tuple(msgspec.structs.replace(e, seq=len(self.log) + i) for i, e in enumerate(events, start=1))
        self.log += numbered
        return numbered

    async def bundle_states(self) -> Sequence[BundleState]:
        self._check()
        return [copied(state) for state in self.states.values()]

    async def assignments(self) -> Sequence[Assignment]:
        self._check()
        return [copied(row) for row in self.rows.values()]

    async def events(self, since: int, limit: int) -> Sequence[Event]:
        self._check()
        return self.log[since : since + limit]

    async def last_seq(self) -> int:
        self._check()
        return len(self.log)

    async def release(self, release: str) -> Release | None:
        self._check()
        return self.releases.get(release)

    async def rollout(self, rollout: str) -> Rollout | None:
        self._check()
        return self.stored_rollouts.get(rollout)


class AppliedCluster:
    """An agent with its cluster: applies what is assigned at once, within the fence, and reports."""

    def __init__(self, name: str, store: MemoryStore) -> None:
        self.name = name
        self.reachable = True
        self.holds: dict[str, Assignment] = {}
        """Bundle → what the inventory in the cluster says."""
        self.written: list[tuple[str | None, int]] = []
        """(digest, seq) of every change of the inventory."""
        self.unhealthy: set[str] = set()
        """Digests that never get healthy here."""
        self._store = store

    def work(self, assigned: Assignment) -> MemberReport:
        durable = self._store.rows.get((self.name, assigned.bundle))
        assert durable == assigned, "something is applied that is not durable"
        if not self.reachable:
            return MemberReport(cluster=self.name, bundle=assigned.bundle, reachable=False)
        held = self.holds.get(assigned.bundle)
        if held is None or held.seq < assigned.seq:
            self.written.append((assigned.digest, assigned.seq))
            self.holds[assigned.bundle] = assigned
        else:
            assert (held.seq, held.digest) == (assigned.seq, assigned.digest), "the fence was broken"
        bad = assigned.digest in self.unhealthy
        return MemberReport(
            cluster=self.name,
            bundle=assigned.bundle,
            reachable=True,
            seq=assigned.seq,
            digest=assigned.digest,
            phase="applied",
            health=Health.DEGRADED if bad else Health.HEALTHY,
        )


class Plant:
    """Two waves: qa (qa1), then prod (prod1, prod2) behind the approval `go`."""

    def __init__(self, *, gates: tuple[ApprovalGate, ...] = (GO,)) -> None:
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.gates = gates
        self.fleet = fleet_of({"qa1": "qa", "prod1": "prod", "prod2": "prod"})
        self.clusters = {cluster.name: AppliedCluster(cluster.name, self.store) for cluster in self.fleet.clusters}
        self.told: list[Event] = []
        self.starts = 0
        self.release: ReleaseReady | None = None
        self.settings = ConductorSettings(answer_timeout=1000.0, retry_base=1.0, retry_cap=8.0)
        self.conductor = self._new()

    def _new(self) -> Conductor:
        self.starts += 1
        self.assignments = Assignments()
        conductor = Conductor(
            self.store, self.assignments, self.told.extend, clock=self.clock, settings=self.settings, jitter=lambda: 1.0
        )
        assignments = self.assignments

        def changed(cluster: str) -> None:
            for assigned in assignments.of(cluster).values():
                conductor.report(self.clusters[cluster].work(assigned))

        assignments.subscribe(changed)
        return conductor

    def hear(self) -> None:
        """Every agent tells where it stands."""
        for cluster in self.clusters.values():
            self.conductor.report(MemberReport(cluster=cluster.name, bundle="", reachable=cluster.reachable))
            for assigned in self.assignments.of(cluster.name).values():
                self.conductor.report(cluster.work(assigned))

    async def act(self, action: Callable[[], Awaitable[None]]) -> None:
        """Runs the conductor while `action` goes on; after a kill it starts again, and so does the action."""
        killed = True
        while killed:
            killed = False
            try:
                await self._once(action)
            except* Killed:
                killed = True
                self.store.kill = None
                self.conductor = self._new()

    async def _once(self, action: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as group:
            if self.conductor.state("shop") is None:
                await self.conductor.restore()
            self.conductor.configure(self.fleet)
            self.hear()
            if self.release is not None:
                group.start_soon(self._submit_again, self.release)
            group.start_soon(self.conductor.run, name="conductor")
            await self.clock.settle()
            await action()
            await self.clock.settle()
            group.cancel_scope.cancel()

    async def _submit_again(self, ready: ReleaseReady) -> None:
        """The planner is level-triggered: after a start it hands in what it knows."""
        await self.conductor.submit(ready)

    # --- what happens ------------------------------------------------------------------------------------------------

    def ready(self, name: str) -> ReleaseReady:
        digests = dict.fromkeys(self.clusters, f"sha256:{name}")
        content = hashlib.sha256(name.encode()).hexdigest()
        release = Release(f"shop-{content[:12]}", "shop", f"sha256:{content}", {"apps": name}, digests)
        waves = (
            PlannedWave("qa", ("qa1",), health=HEALTH),
            PlannedWave("prod", ("prod1", "prod2"), max_concurrency=2, gates_before=self.gates, health=HEALTH),
        )
        return ReleaseReady(release, Plan("standard", waves))

    async def push(self, name: str) -> None:
        self.release = self.ready(name)

        async def submit() -> None:
            await self.conductor.submit(self.ready(name))

        await self.act(submit)

    async def pass_time(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds

        async def wait() -> None:
            await self.clock.advance(until - self.clock.monotonic())

        await self.act(wait)

    async def command(self, command: Commanded) -> None:
        """Given again after a kill, as a person would; by then it may have been carried out."""
        tries = 0

        async def give() -> None:
            nonlocal tries
            tries += 1
            try:
                await self.conductor.command(command)
            except Conflict:
                if tries == 1:
                    raise

        await self.act(give)

    # --- what came of it ---------------------------------------------------------------------------------------------

    def picture(self) -> dict[str, object]:
        """The end of everything, without what a crash may change (times, versions, numbers of attempts)."""
        state = self.store.states["shop"]
        return {
            "rollouts": {name: str(rollout.state) for name, rollout in self.store.stored_rollouts.items()},
            "members": {
                (name, member.cluster): (str(member.state), member.reason)
                for name, rollout in self.store.stored_rollouts.items()
                for run in rollout.waves
                for member in run.members
            },
            "good": {c: r.last_good.digest for c, r in state.records.items() if r.last_good},
            "quarantined": sorted(state.quarantined),
            "proven": state.proven,
            "written": {cluster.name: cluster.written for cluster in self.clusters.values()},
            "assigned": {key: (row.digest, row.seq, row.purpose) for key, row in self.store.rows.items()},
        }


def fleet_of(clusters: dict[str, str], *, deletion: Literal["orphan", "delete"] = "orphan") -> Fleet:
    """Cluster → environment."""
    waves = tuple(
        Wave(env, Selector(match_labels={"env": env}), health=HEALTH) for env in dict.fromkeys(clusters.values())
    )
    return Fleet(
        name="acme",
        clusters=tuple(Cluster(name, {"env": env}) for name, env in clusters.items()),
        bundles=(Bundle("shop", (BundleSource("apps", "."),), "standard", deletion=deletion),),
        strategies=(Strategy("standard", waves),),
    )


def approve(rollout: str) -> Commanded:
    return Commanded(name="approve", actor="ann", rollout=rollout, gate="go")


def rollback() -> Commanded:
    return Commanded(name="rollback", actor="ann", bundle="shop")


async def whole_run(plant: Plant) -> None:
    """A first rollout, an approval, a bad commit that halts, a fix, a rollback by hand.

    Each wait is long enough for a clock that begins again, since a kill may cost what ran since the last checkpoint.
    """
    await plant.push("one")
    await plant.pass_time(30.0)
    await plant.command(approve("shop-1"))
    await plant.pass_time(30.0)
    plant.clusters["qa1"].unhealthy.add("sha256:bad")
    await plant.push("bad")
    await plant.pass_time(250.0)
    await plant.push("two")
    await plant.pass_time(30.0)
    await plant.command(approve("shop-3"))
    await plant.pass_time(30.0)
    await plant.command(rollback())
    await plant.pass_time(30.0)
