"""Random fleets, faults, commands and crashes: every decision keeps the invariants, every rollout comes to an end."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fleet.core import rollout as engine
from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import BundleState, Commanded, PlannedWave, Release, RolloutEvent, RolloutState, Step
from tests.unit.core.rollout_invariants import Invariants
from tests.unit.core.rollout_world import Behaviour, CommandName, SimulatedCluster, World, wave

BEHAVIOURS: list[Behaviour] = ["good", "unhealthy", "failed", "errored", "slow"]
COMMANDS: list[CommandName] = ["approve", "reject", "pause", "resume", "abort", "retry"]
LIMITS: list[int | str] = [1, 2, 5, "25%", "50%", "100%"]
RELEASES = ["r0", "r1", "r2", "r3", "r4"]


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlannedWave, ...]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return tuple(
        wave(
            f"w{i}",
            *(f"c{i}{j}" for j in range(size)),
            limit=draw(st.sampled_from(LIMITS)),
            bake=draw(st.sampled_from([0.0, 0.0, 60.0, 600.0])),
            gates=draw(st.sampled_from([(), (), (ApprovalGate("go", timeout=5000.0),)])),
            protected=draw(st.booleans()),
        )
        for i, size in enumerate(sizes)
    )


class Rollouts(RuleBasedStateMachine):
    @initialize(waves=plans())
    def begin(self, waves: tuple[PlannedWave, ...]) -> None:
        invariants = Invariants()

        def check(before: BundleState, event: RolloutEvent | None, step: Step) -> None:
            invariants(before, event, step, self.world.consumed)

        self.world = World(*waves)
        self.world.check = check
        self.pushed: dict[str, Release] = {}

    def cluster(self, index: int) -> SimulatedCluster:
        names = sorted(self.world.clusters)
        return self.world.clusters[names[index % len(names)]]

    # --- what people and Git do --------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(RELEASES), settle=st.booleans())
    def push(self, name: str, settle: bool) -> None:
        self.pushed[name] = self.world.push(name, settle=settle)

    @rule(name=st.sampled_from(COMMANDS), number=st.integers(0, 3), actor=st.sampled_from(["ann", "bob"]))
    def command(self, name: CommandName, number: int, actor: str) -> None:
        newest = self.world.state.next_number - 1
        self.world.command(name, f"shop-{max(1, newest - number)}", actor=actor)

    @rule(index=st.integers(0, 11), everywhere=st.booleans())
    def roll_back(self, index: int, everywhere: bool) -> None:
        clusters = () if everywhere else (self.cluster(index).name,)
        asked = Commanded(name="rollback", actor="ann", bundle="shop", clusters=clusters)
        wanted = engine.principal(self.world.state, asked)
        target = next((r for r in self.pushed.values() if r.id == wanted), None)
        self.world.rollback(target, clusters=clusters)

    @rule(name=st.sampled_from(RELEASES))
    def roll_back_to(self, name: str) -> None:
        if name in self.pushed:
            self.world.rollback(self.pushed[name], named=True)

    @rule(index=st.integers(0, 11))
    def toggle_pause(self, index: int) -> None:
        self.world.paused ^= {self.cluster(index).name}
        self.world.facts()
        self.world.settle()

    @rule()
    def toggle_suspension(self) -> None:
        self.world.suspended = not self.world.suspended
        self.world.facts()
        self.world.settle()

    # --- what the world does -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 29.0, 30.0, 75.0, 300.0, 1000.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(name=st.sampled_from(RELEASES), how=st.sampled_from(BEHAVIOURS), index=st.integers(0, 11))
    def behave(self, name: str, how: Behaviour, index: int) -> None:
        self.world.behave(name, how, self.cluster(index).name)
        self.world.settle()

    @rule(index=st.integers(0, 11))
    def toggle_reach(self, index: int) -> None:
        cluster = self.cluster(index)
        self.world.reach(cluster.name, not cluster.reachable)

    @rule(index=st.integers(0, 11))
    def drift(self, index: int) -> None:
        self.world.drift(self.cluster(index).name)

    @rule(index=st.integers(0, 11))
    def fence(self, index: int) -> None:
        """Another leader wrote into the cluster."""
        cluster = self.cluster(index)
        if cluster.assigned is not None:
            cluster.fence = max(cluster.fence, cluster.assigned.seq)
            self.world.settle()

    @rule()
    def crash(self) -> None:
        self.world.crash()
        self.world.settle()

    @rule(index=st.integers(0, 11))
    def leave_and_return(self, index: int) -> None:
        gone = self.cluster(index).name
        self.world.facts(clusters=[name for name in self.world.clusters if name != gone])
        self.world.settle()
        self.world.facts()
        self.world.settle()

    @precondition(lambda self: self.world.state.next_number > 1)
    @rule()
    def replay(self) -> None:
        """The same release, handed in again by a planner that started again."""
        newest = self.world.rollout()
        if newest.kind == "forward" and newest.state is not RolloutState.REJECTED:
            self.world.push(newest.release.revisions["apps"])

    # --- and in the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once faults end and people answer, nothing is left hanging."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.paused, world.suspended = set(), False
        for cluster in world.clusters.values():
            cluster.reachable = True
            cluster.behaviour.clear()
            cluster.fence = 0
        world.facts()
        world.settle()
        for _ in range(40):
            if world.state.active is None and world.state.waiting is None:
                break
            active = world.state.active
            assert active is not None, "something waits although the lock is free"
            if active.blocked_by is not None and active.blocked_by.kind == "gate":
                world.command("approve", active.id)
                world.command("approve", active.id, actor="bob")
            elif active.paused:
                world.command("resume", active.id)
            world.pass_time(700.0)
        assert world.state.active is None, world.state.active
        assert world.state.waiting is None


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
