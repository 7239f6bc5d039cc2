"""Intents that were not carried out when their rollout let go of them: nothing lands later (I6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fleet.core import rollout as engine
from fleet.model.rollout import Now, Reported, RolloutState
from tests.unit.core.rollout_world import Behaviour, World, digest, wave


def three(before: str = "one") -> World:
    """`before` is good everywhere; then `bad` reaches b while b is only beginning to apply it."""
    world = World(wave("qa", "a", "b", "c", limit=3))
    if before:
        world.push(before)
        world.pass_time(60.0)
        assert world.rollout().state is RolloutState.SUCCEEDED
    return world


def assigned(world: World, cluster: str) -> tuple[str | None, int] | None:
    deploy = world.clusters[cluster].assigned
    return None if deploy is None else (deploy.digest, deploy.seq)


def owed(world: World, cluster: str) -> str | None:
    return world.state.records[cluster].owed


def comes_back(world: World, cluster: str) -> None:
    """Whatever kept it from applying is over."""
    world.clusters[cluster].behaviour.clear()
    world.paused = set()
    world.facts()
    world.reach(cluster, True)
    world.settle()


def lose(world: World, how: Behaviour = "slow") -> None:
    world.behave("bad", how, "b")
    world.push("bad")
    if how == "slow":
        world.reach("b", False)


def halt(world: World) -> None:
    world.behave("bad", "failed", "a")
    world.settle()
    assert world.rollout(2).state is RolloutState.HALTED


@pytest.mark.parametrize("how", ["slow", "errored"])
def test_what_was_halted_and_quarantined_is_not_applied_later(how: Behaviour) -> None:
    world = three()
    world.behave("bad", "failed", "a")
    world.behave("bad", how, "b")
    world.push("bad", settle=False)
    if how == "slow":
        world.clusters["b"].reachable = False
    world.settle()
    assert world.rollout().state is RolloutState.HALTED
    assert world.states()["b"] == "Skipped(halted)"
    assert world.rollout().release.content in world.state.quarantined
    assert assigned(world, "b") == (digest("one"), 3)
    assert world.deploys[-1].purpose == "rollback"
    record = world.state.records["b"]
    assert record.recorded is not None
    assert record.last_good is not None
    assert (record.seq, record.recorded.digest, record.last_good.digest) == (3, digest("one"), digest("one"))
    comes_back(world, "b")
    assert world.holds()["b"] == "one"
    assert world.holds()["c"] == "bad", "what was applied before the halt stays for people to decide about"


def test_where_nothing_was_before_nothing_is_assigned_any_more() -> None:
    world = three(before="")
    world.behave("bad", "failed", "a")
    world.behave("bad", "errored", "b")
    world.push("bad")
    assert world.rollout().state is RolloutState.HALTED
    assert assigned(world, "b") is None
    assert world.withdrawn == ["b"]
    assert world.state.records["b"].recorded is None
    assert world.state.reports["b"].reachable
    comes_back(world, "b")
    assert world.clusters["b"].applied is None
    world.push("fix")
    assert assigned(world, "b") == (digest("fix"), 2)


def abort(world: World) -> None:
    world.command("abort")


def give_up(world: World) -> None:
    world.pass_time(300.0)
    assert world.states()["b"].startswith("Errored")


def roll_back_the_others(world: World) -> None:
    world.rollback(world.ended["shop-1"].release, clusters=("a",))


def pause(world: World) -> None:
    world.paused = {"b"}
    world.facts()
    world.settle()
    assert world.states()["b"] == "Skipped(paused)"
    halt(world)


@pytest.mark.parametrize("end", [abort, give_up, roll_back_the_others, pause])
@pytest.mark.parametrize("how", ["slow", "errored"])
def test_however_a_rollout_lets_go_of_a_cluster_nothing_lands_later(
    end: Callable[[World], None], how: Behaviour
) -> None:
    world = three()
    lose(world, how)
    end(world)
    assert assigned(world, "b") == (digest("one"), 3)
    comes_back(world, "b")
    assert world.holds()["b"] == "one"


def test_a_superseded_release_does_not_land_where_its_successor_has_not_come() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.pass_time(60.0)
    world.behave("bad", "errored", "b")
    world.push("bad")
    world.pass_time(30.0)
    world.push("two")
    assert world.rollout(2).state is RolloutState.SUPERSEDED
    assert world.states(2)["b"] == "Skipped(superseded)"
    assert world.states(3) == {"a": "Soaking"}
    assert assigned(world, "b") == (digest("one"), 3)
    comes_back(world, "b")
    assert world.holds()["b"] == "one"


def test_a_first_install_that_is_superseded_starts_again_at_once() -> None:
    world = World(wave("qa", "a"))
    world.behave("bad", "errored")
    world.push("bad")
    world.hear()
    world.push("two")
    assert world.states(2) == {"a": "Soaking"}
    assert world.withdrawn == []
    assert assigned(world, "a") == (digest("two"), 2)


def test_a_cluster_that_applied_while_it_was_retried_keeps_what_it_has() -> None:
    world = three()
    world.behave("bad", "errored", "b")
    world.push("bad")
    world.clusters["b"].behaviour.clear()
    world.behave("bad", "failed", "a")
    news = [world.clusters[name].report() for name in ("a", "b")]
    step = engine.fold(world.state, news, Now(world.wall, 0.0))
    assert [run.state for run in step.ended] == [RolloutState.HALTED]
    assert [(m.cluster, m.reason) for m in step.ended[0].waves[0].members][1] == ("b", "halted")
    assert (step.deploys, step.withdrawn) == ((), ())


def test_a_cluster_that_left_is_not_given_anything_back() -> None:
    world = three()
    lose(world, "errored")
    world.facts(clusters=["a", "c"])
    assert world.started("rollback") == []
    assert assigned(world, "b") is None


def test_a_retry_returns_to_what_was_there_before_the_first_attempt() -> None:
    world = three()
    world.behave("bad", "failed", "b")
    world.push("bad")
    assert assigned(world, "b") == (digest("bad"), 2), "a definite error is for people to decide about"
    world.behave("bad", "errored", "b")
    world.command("retry", "shop-2")
    give_up(world)
    assert world.rollout().state is RolloutState.HALTED
    deploy = world.clusters["b"].assigned
    assert deploy is not None
    assert (deploy.digest, deploy.purpose) == (digest("one"), "rollback")


def test_the_way_back_leads_past_what_is_quarantined() -> None:
    """b holds a bad release when its fix is lost: it goes to what was good; where nothing was good, nowhere."""
    world = three()
    world.behave("bad", "failed")
    world.push("bad")
    assert world.rollout().state is RolloutState.HALTED
    world.behave("fix", "errored", "b")
    world.push("fix")
    world.command("abort")
    assert assigned(world, "b") == (digest("one"), 4)
    fresh = three(before="")
    fresh.behave("bad", "failed")
    fresh.push("bad")
    fresh.behave("fix", "errored", "b")
    fresh.push("fix")
    fresh.command("abort")
    assert assigned(fresh, "b") is None


def test_what_was_owed_is_owed_again() -> None:
    """b missed `two`, was about to get `three` instead, and lost that: `two` is what its wave has proven."""
    world = three()
    world.reach("b", False)
    two = world.push("two")
    world.pass_time(60.0)
    world.behave("two", "unhealthy", "b")
    world.reach("b", True)
    assert owed(world, "b") == two.id
    world.behave("bad", "errored", "b")
    world.push("bad")
    assert owed(world, "b") is None
    world.command("abort")
    assert owed(world, "b") == two.id
    comes_back(world, "b")
    assert world.holds()["b"] == "two"
    good = world.state.records["b"].last_good
    assert good is not None
    assert good.digest == digest("two")


@pytest.mark.parametrize("before", ["one", ""])
def test_a_catch_up_with_what_is_quarantined_meanwhile_does_not_land(before: str) -> None:
    world = World(wave("qa", "a", "b", limit=2), wave("prod", "c"))
    if before:
        world.push(before)
        world.pass_time(90.0)
    world.reach("b", False)
    world.behave("bad", "slow", "b", "c")
    world.push("bad")
    world.pass_time(30.0)
    world.reach("b", True)
    world.reach("b", False)
    assert world.started("catchup") == ["b"]
    world.behave("bad", "failed", "c")
    world.settle()
    assert world.rollout().state is RolloutState.HALTED
    assert world.states()["a"] == "Updated"
    comes_back(world, "b")
    assert world.holds() == {"a": "bad", "b": before or None, "c": before or None}


def test_a_late_word_about_what_was_withdrawn_says_only_that_the_cluster_is_there() -> None:
    world = three(before="")
    world.behave("bad", "errored", "b")
    world.push("bad")
    late = world.clusters["b"].report()
    world.command("abort")
    world.decide(Reported(late))
    assert (world.state.reports["b"].seq, world.state.reports["b"].reachable) == (0, True)
