"""Two control planes at one cluster: a new one goes beyond the other's number once, the former one stops (I10)."""

from __future__ import annotations

import pytest

from fleet.model.rollout import MemberState, RolloutState, WaveState
from tests.unit.core.rollout_world import World, digest, wave


def standing(bake: float = 0.0) -> World:
    """`one` is on both clusters by our hand."""
    world = World(wave("qa", "a", "b", limit=2, bake=bake))
    world.push("one")
    world.pass_time(60.0 + bake)
    assert world.rollout().state is RolloutState.SUCCEEDED
    return world


def take_over(world: World, cluster: str, number: int) -> None:
    world.clusters[cluster].fence = number
    world.settle()


def seqs(world: World, cluster: str) -> list[int]:
    return [deploy.seq for deploy in world.deploys if deploy.cluster == cluster]


def fence(world: World, cluster: str) -> int:
    return world.state.records[cluster].fence


def test_an_empty_database_goes_beyond_a_higher_number_once() -> None:
    world = World(wave("qa", "a"))
    world.clusters["a"].fence = 41
    world.behave("one", "slow")
    world.push("one")
    assert seqs(world, "a") == [1, 42]
    take_over(world, "a", 43)
    assert seqs(world, "a") == [1, 42], "the other one is alive, and has the word"
    assert world.states() == {"a": "Errored(fenced)"}
    assert world.rollout().state is RolloutState.HALTED
    assert "another control plane" in world.rollout().reason
    assert "number 43" in world.rollout().reason
    assert not world.state.quarantined
    assert world.clusters["a"].assigned is None
    world.push("two")
    assert seqs(world, "a") == [1, 42]


@pytest.mark.parametrize("crash", [False, True])
def test_who_was_taken_over_from_starts_nothing_there_any_more(*, crash: bool) -> None:
    """Scenario 43, with a data directory for each leader."""
    world = standing()
    take_over(world, "b", 7)
    assert fence(world, "b") == 7
    if crash:
        world.crash()
        world.settle()
    world.push("two")
    assert seqs(world, "b") == [1]
    assert world.rollout(2).state is RolloutState.HALTED
    assert world.states(2)["b"] == "Errored(fenced)"
    message = world.member("b", 2).message
    assert "number 7" in message
    assert "fleet retry shop-2" in message
    assert not world.state.quarantined
    world.push("three")
    assert seqs(world, "b") == [1]
    assert world.rollout(3).state is RolloutState.HALTED
    assert seqs(world, "a") == [1, 2, 3], "the others go on"


def test_a_person_takes_the_cluster_back() -> None:
    world = standing()
    take_over(world, "b", 7)
    world.push("two")
    assert world.command("retry", "shop-2").refused is None
    assert seqs(world, "b") == [1, 8]
    world.pass_time(60.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.holds() == {"a": "two", "b": "two"}
    assert fence(world, "b") == 0


def test_found_out_only_by_an_apply_it_stops_at_once_and_leaves_nothing_behind() -> None:
    world = standing()
    world.clusters["b"].fence = 7
    world.push("two")
    assert seqs(world, "b") == [1, 2]
    assert world.states()["b"] == "Errored(fenced)"
    assert world.clusters["b"].assigned is None, "it would be applied should the other one leave"
    take_over(world, "b", 0)
    assert world.clusters["b"].applied is not None
    assert world.clusters["b"].applied.digest == digest("one")


@pytest.mark.parametrize("seconds", [10.0, 100.0])
def test_a_release_is_not_blamed_for_another_control_plane(seconds: float) -> None:
    """While it soaks, and while the wave bakes."""
    world = World(wave("qa", "a", bake=1000.0))
    world.push("one")
    world.pass_time(seconds)
    assert world.member("a").state in (MemberState.SOAKING, MemberState.UPDATED)
    take_over(world, "a", 7)
    assert world.states() == {"a": "Errored(fenced)"}
    assert world.run("qa").state is WaveState.FAILED
    assert world.rollout().state is RolloutState.HALTED
    assert not world.state.quarantined


def test_it_is_ours_again_when_the_cluster_takes_our_number() -> None:
    world = standing()
    take_over(world, "b", 7)
    take_over(world, "b", 0)
    assert fence(world, "b") == 0
    world.push("two")
    world.pass_time(60.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_rollback_by_hand_takes_it_back_and_does_not_fight() -> None:
    world = standing()
    one = world.rollout().release
    world.push("two")
    world.pass_time(60.0)
    take_over(world, "b", 7)
    world.behave("one", "slow")
    world.rollback(one)
    assert seqs(world, "b") == [1, 2, 8]
    take_over(world, "b", 9)
    assert seqs(world, "b") == [1, 2, 8]
    assert world.states()["b"] == "RollbackFailed(fenced)"
    world.behave("one", "good")
    world.settle()
    assert world.rollout().state is RolloutState.HALTED
    assert world.command("retry", world.rollout().id).refused is None
    assert seqs(world, "b") == [1, 2, 8, 10]
    assert world.rollout().state is RolloutState.ROLLED_BACK


def test_a_catch_up_does_not_fight() -> None:
    world = standing()
    world.reach("b", False)
    world.push("two")
    world.pass_time(60.0)
    world.behave("two", "unhealthy", "b")
    world.reach("b", True)
    assert seqs(world, "b") == [1, 2]
    take_over(world, "b", 7)
    assert seqs(world, "b") == [1, 2]


@pytest.mark.parametrize("known", [True, False])
def test_what_belongs_to_another_one_is_not_removed(*, known: bool) -> None:
    world = standing()
    if known:
        take_over(world, "b", 7)
    world.clusters["b"].fence = 7
    world.facts(clusters=["a"], deletion="delete")
    world.settle()
    assert seqs(world, "b") == ([1] if known else [1, 2])
    assert world.withdrawn == ["b"]
