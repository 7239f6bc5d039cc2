"""Rollback by hand: to each cluster's own last good release, never blocked (rollouts.md 3 and 4)."""

from __future__ import annotations

from fleet.core import rollout as engine
from fleet.core.rollout.rollback import DEADLINE
from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import Commanded, Release, RolloutState
from tests.unit.core.rollout_world import World, digest, wave


def after_two() -> tuple[World, Release, Release]:
    world = World(wave("qa", "a"), wave("prod", "b", "c", limit=2))
    one = world.push("one")
    world.pass_time(60.0)
    two = world.push("two")
    world.pass_time(60.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    return world, one, two


def asked(world: World, *clusters: str) -> str | None:
    return engine.principal(world.state, Commanded(name="rollback", actor="ann", bundle="shop", clusters=clusters))


def test_everything_returns_to_the_release_before_at_once() -> None:
    world, one, two = after_two()
    assert asked(world) == one.id
    assert world.rollback(one).refused is None
    rollout = world.rollout()
    assert rollout.state is RolloutState.ROLLED_BACK
    assert (rollout.kind, rollout.actor, rollout.release.id) == ("rollback", "ann", one.id)
    assert world.started("rollback") == ["a", "b", "c"]
    assert world.holds() == {"a": "one", "b": "one", "c": "one"}
    assert list(world.state.quarantined) == [two.content]
    assert {r.last_good.digest for r in world.state.records.values() if r.last_good} == {digest("one")}
    assert world.told("cluster.state")[-3:] == ["RolledBack"] * 3


def test_the_head_that_was_left_does_not_come_back() -> None:
    world, one, _ = after_two()
    world.rollback(one)
    world.push("two")
    assert world.rollout().kind == "rollback"
    world.push("three")
    world.pass_time(60.0)
    world.push("two")
    assert world.rollout().state is RolloutState.REJECTED
    assert world.holds() == {"a": "three", "b": "three", "c": "three"}


def test_each_cluster_returns_to_its_own_last_good() -> None:
    """Scenario 12: two differ."""
    world = World(wave("qa", "a"), wave("prod", "b", "c", limit=2))
    world.push("zero")
    world.pass_time(60.0)
    world.reach("c", False)
    one = world.push("one")
    world.pass_time(60.0)
    world.behave("one", "unhealthy", "c")
    world.reach("c", True)
    assert world.holds()["c"] == "one"
    world.behave("two", "unhealthy", "b")
    world.push("two")
    world.pass_time(400.0)
    assert world.rollout().state is RolloutState.HALTED
    assert world.holds() == {"a": "two", "b": "two", "c": "two"}
    world.rollback(one)
    assert world.rollout().state is RolloutState.ROLLED_BACK
    assert world.holds() == {"a": "one", "b": "one", "c": "zero"}


def test_clusters_that_do_not_hold_what_is_left_are_not_touched() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    one = world.push("one")
    world.pass_time(60.0)
    world.behave("bad", "failed")
    world.push("bad")
    world.rollback(one)
    assert world.started("rollback") == ["a"]
    assert world.rollout().state is RolloutState.ROLLED_BACK


def test_a_running_rollout_is_ended_and_its_gates_block_nothing() -> None:
    world = World(wave("qa", "a"), wave("prod", "b", gates=(ApprovalGate("go"),)))
    one = world.push("one")
    world.pass_time(30.0)
    world.command("approve")
    world.pass_time(30.0)
    world.behave("two", "slow")
    world.push("two")
    world.rollback(one)
    assert world.rollout(2).state is RolloutState.ABORTED
    assert world.rollout(2).successor == "shop-3"
    assert world.states(2) == {"a": "Skipped(aborted)"}
    assert world.rollout(3).state is RolloutState.ROLLED_BACK
    assert [deploy.seq for deploy in world.deploys if deploy.cluster == "a"] == [1, 2, 3]


def test_what_waits_starts_after_the_rollback() -> None:
    world = World(wave("qa", "a", protected=True))
    one = world.push("one")
    world.pass_time(30.0)
    world.push("two")
    world.push("three")
    world.rollback(one)
    assert world.rollout(2).state is RolloutState.ABORTED
    assert world.rollout(4).state is RolloutState.ROLLED_BACK
    assert world.rollout(3).state is RolloutState.RUNNING


def test_suspension_and_pauses_do_not_block_a_rollback() -> None:
    """I14."""
    world, one, _ = after_two()
    world.suspended = True
    world.facts()
    world.rollback(one)
    assert world.rollout().state is RolloutState.ROLLED_BACK


def test_a_named_release_and_named_clusters() -> None:
    world, one, two = after_two()
    three = world.push("three")
    world.pass_time(60.0)
    assert world.rollback(one, clusters=("b",), named=True).refused is None
    assert world.holds() == {"a": "three", "b": "one", "c": "three"}
    assert list(world.state.quarantined) == [three.content]
    step = world.rollback(three, clusters=("b",), named=True)
    assert step.refused is not None
    assert "quarantined" in step.refused
    assert world.rollback(two, clusters=("b",), named=True).refused is None
    assert world.holds() == {"a": "three", "b": "two", "c": "three"}


def test_going_back_twice_goes_further_back() -> None:
    world, one, two = after_two()
    world.push("three")
    world.pass_time(60.0)
    assert asked(world) == two.id
    world.rollback(two)
    assert world.holds()["a"] == "two"
    assert asked(world) == one.id
    world.rollback(one)
    assert world.holds() == {"a": "one", "b": "one", "c": "one"}
    step = world.rollback(None)
    assert step.refused is not None
    assert "no cluster had a good release" in step.refused


def test_a_rollback_that_fails_halts_and_tries_no_older_release() -> None:
    """Scenario 19."""
    world, one, _ = after_two()
    world.behave("one", "errored", "b")
    world.rollback(one)
    assert world.states() == {"a": "RolledBack", "b": "RollingBack", "c": "RolledBack"}
    world.pass_time(DEADLINE - 1)
    assert world.rollout().state is RolloutState.ROLLING_BACK
    world.pass_time(1.0)
    assert world.states()["b"] == "RollbackFailed(apply)"
    assert world.rollout().state is RolloutState.HALTED
    assert world.rollout().reason.startswith("RollbackFailed: b")
    assert world.started("rollback") == ["a", "b", "c"]
    world.behave("one", "good", "b")
    assert world.command("retry", world.rollout().id).refused is None
    assert world.rollout().state is RolloutState.ROLLED_BACK
    assert world.holds()["b"] == "one"


def test_an_unreachable_cluster_has_its_rollback_waiting_when_it_returns() -> None:
    world, one, _ = after_two()
    world.reach("b", False)
    world.rollback(one)
    world.pass_time(DEADLINE)
    assert world.states()["b"] == "RollbackFailed(lost)"
    assigned = world.clusters["b"].assigned
    assert assigned is not None
    assert assigned.digest == digest("one")
    world.reach("b", True)
    assert world.holds()["b"] == "one"
    assert world.rollout().state is RolloutState.HALTED


def test_a_paused_cluster_is_owed_the_way_back() -> None:
    world, one, _ = after_two()
    world.paused = {"b"}
    world.facts()
    world.rollback(one)
    assert world.states()["b"] == "Skipped(paused)"
    assert world.holds()["b"] == "two"
    world.paused = set()
    world.facts()
    world.settle()
    assert world.holds()["b"] == "one"


def test_a_first_install_has_nothing_to_return_to() -> None:
    """Scenario 20, `keep`."""
    world = World(wave("qa", "a"))
    world.behave("bad", "failed")
    world.push("bad")
    step = world.rollback(None)
    assert step.refused is not None
    assert "no cluster had a good release" in step.refused
    assert world.rollout().number == 1


def test_nothing_to_leave_is_said() -> None:
    world = World(wave("qa", "a", gates=(ApprovalGate("go"),)))
    assert "not been deployed anywhere" in (world.rollback(None).refused or "")
    world.push("one")
    assert "fleet abort shop-1" in (world.rollback(None).refused or "")
    assert "holds nothing on zz" in (world.rollback(None, clusters=("zz",)).refused or "")


def test_a_second_rollback_waits_for_the_first() -> None:
    world, one, _ = after_two()
    world.behave("one", "slow", "b")
    world.rollback(one)
    step = world.rollback(one)
    assert step.refused is not None
    assert "rolling back already" in step.refused
    assert (world.command("pause").refused, world.command("abort").refused) != (None, None)


def test_a_crash_in_the_middle_of_a_rollback_changes_nothing() -> None:
    world, one, _ = after_two()
    world.behave("one", "slow", "b")
    world.rollback(one)
    world.crash()
    world.settle()
    world.behave("one", "good", "b")
    world.settle()
    assert world.rollout().state is RolloutState.ROLLED_BACK
    assert [deploy.seq for deploy in world.deploys if deploy.cluster == "b"] == [1, 2, 3]
