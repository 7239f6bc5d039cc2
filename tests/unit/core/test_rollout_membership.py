"""Clusters that join, leave, pause; bundles that leave (rollouts.md 4: membership)."""

from __future__ import annotations

from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import RolloutState
from tests.unit.core.rollout_world import SimulatedCluster, World, digest, wave


def join(world: World, *names: str) -> None:
    for name in names:
        world.clusters[name] = SimulatedCluster(name)
    world.facts()


def test_a_newcomer_gets_what_its_wave_has_proven_without_a_rollout() -> None:
    """Scenario 35, after the rollout."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.pass_time(60.0)
    join(world, "c")
    world.push("one", waves=(wave("qa", "a"), wave("prod", "b", "c")))
    assert world.rollout().number == 1
    assert world.started("catchup") == ["c"]
    good = world.state.records["c"].last_good
    assert good is not None
    assert good.digest == digest("one")


def test_a_newcomer_during_a_rollout_waits_for_its_wave_and_changes_no_denominator() -> None:
    world = World(wave("qa", "a"), wave("prod", "b", bake=60.0, gates=(ApprovalGate("go"),)))
    world.push("one")
    world.pass_time(30.0)
    join(world, "c")
    world.push("one", waves=(wave("qa", "a"), wave("prod", "b", "c")))
    assert world.rollout().number == 1
    assert world.rollout().state is RolloutState.BLOCKED
    assert set(world.state.joining) == {"c"}
    world.command("approve")
    world.pass_time(89.0)
    assert [m.cluster for m in world.run("prod").members] == ["b"]
    assert world.started("catchup") == []
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.started("catchup") == ["c"]
    assert world.state.joining == {}


def test_a_newcomer_to_a_wave_that_halted_gets_nothing() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.behave("bad", "failed")
    world.push("bad")
    join(world, "c")
    world.push("bad", waves=(wave("qa", "a"), wave("prod", "b", "c")))
    assert world.started("catchup") == []
    assert world.rollout().number == 1


def test_clusters_in_a_wave_that_the_rollout_did_not_have_get_a_rollout() -> None:
    world = World(wave("qa", "a"))
    world.push("one")
    world.pass_time(30.0)
    join(world, "b")
    world.push("one", waves=(wave("qa", "a"), wave("prod", "b", gates=(ApprovalGate("go"),))))
    assert world.rollout().number == 2
    assert world.rollout().state is RolloutState.BLOCKED
    assert world.started("catchup") == []


def test_a_cluster_that_leaves_counts_neither_way() -> None:
    """Scenario 36, first part."""
    world = World(wave("qa", "a", "b", "c", limit=2, bake=60.0))
    world.push("one")
    world.facts(clusters=["a"])
    assert world.states() == {"a": "Soaking", "b": "Skipped(left)", "c": "Skipped(left)"}
    world.pass_time(90.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.withdrawn == ["b"]


def test_an_updated_cluster_that_leaves_does_not_hold_up_the_bake() -> None:
    world = World(wave("qa", "a", "b", limit=2, bake=60.0))
    world.push("one")
    world.pass_time(50.0)
    world.facts(clusters=["a"])
    world.reach("b", False)
    world.pass_time(40.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_wave_whose_clusters_all_left_opens_nothing() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.facts(clusters=["b"])
    assert world.rollout().state is RolloutState.HALTED
    assert world.started() == ["a"]


def test_a_relabelled_cluster_stays_where_the_plan_has_it() -> None:
    """Scenario 36, second part: the plan is frozen with the release."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.push("one", waves=(wave("qa", "a", "b"),))
    world.pass_time(60.0)
    assert world.rollout().number == 1
    assert [run.plan.name for run in world.rollout().waves] == ["qa", "prod"]


def test_orphan_leaves_the_objects_and_a_return_gets_a_higher_seq() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one")
    world.pass_time(30.0)
    world.facts(clusters=["a"])
    assert world.withdrawn == ["b"]
    assert world.started("remove") == []
    world.facts(clusters=["a", "b"])
    world.push("one", waves=(wave("qa", "a"),))
    world.push("one")
    assert world.started("catchup") == ["b"]
    assert [deploy.seq for deploy in world.deploys if deploy.cluster == "b"] == [1, 2]


def test_delete_removes_the_objects_and_then_forgets_the_cluster() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one")
    world.pass_time(30.0)
    world.behave("", "slow", "b")
    world.facts(clusters=["a"], deletion="delete")
    removal = world.deploys[-1]
    assert (removal.cluster, removal.purpose, removal.digest, removal.seq) == ("b", "remove", None, 2)
    assert world.withdrawn == []
    world.facts(clusters=["a"], deletion="delete")
    assert world.started("remove") == ["b"]
    world.clusters["b"].behaviour[""] = "good"
    world.settle()
    assert world.withdrawn == ["b"]
    assert world.state.records["b"].recorded is None


def test_a_cluster_that_left_the_fleet_cannot_be_cleaned() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one")
    world.pass_time(30.0)
    del world.clusters["b"]
    world.facts(clusters=["a"], deletion="delete")
    assert world.started("remove") == []
    assert world.withdrawn == ["b"]


def test_a_bundle_that_leaves_ends_its_rollouts_and_begins_anew_when_it_returns() -> None:
    world = World(wave("qa", "a"), wave("prod", "b", gates=(ApprovalGate("go"),)))
    world.push("one")
    world.pass_time(30.0)
    world.facts(clusters=[])
    assert world.rollout().state is RolloutState.ABORTED
    assert world.state.active is None
    assert world.withdrawn == ["a"]
    world.facts()
    world.push("one")
    assert world.rollout().number == 2
    assert world.started() == ["a", "a"]
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.BLOCKED


# --- paused ----------------------------------------------------------------------------------------------------------


def pause(world: World, *names: str) -> None:
    world.paused = set(names)
    world.facts()
    world.settle()


def test_a_paused_cluster_is_passed_over_and_catches_up() -> None:
    world = World(wave("qa", "a", "b", limit=1))
    pause(world, "a")
    world.push("one")
    assert world.states() == {"a": "Skipped(paused)", "b": "Soaking"}
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.state.records["a"].owed == world.rollout().release.id
    assert world.started("catchup") == []
    pause(world)
    assert world.started("catchup") == ["a"]
    assert world.state.records["a"].owed is None


def test_a_wave_of_paused_clusters_waits_for_people() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    pause(world, "a")
    world.push("one")
    world.pass_time(10_000.0)
    blocked = world.rollout().blocked_by
    assert world.rollout().state is RolloutState.BLOCKED
    assert blocked is not None
    assert (blocked.kind, blocked.name) == ("paused", "a")
    assert world.started() == []
    pause(world)
    assert world.started() == ["a"]


def test_a_cluster_paused_in_the_middle_fails_nothing() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.behave("one", "slow", "a")
    world.push("one")
    pause(world, "a")
    assert world.states() == {"a": "Skipped(paused)", "b": "Soaking"}
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    world.behave("one", "good", "a")
    pause(world)
    world.settle()
    assert world.state.records["a"].owed is None
    assert world.started() == ["a", "b"]


def test_a_cluster_paused_during_the_bake_is_not_waited_for() -> None:
    world = World(wave("qa", "a", "b", limit=2, bake=60.0))
    world.push("one")
    world.pass_time(60.0)
    pause(world, "a")
    world.reach("a", False)
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_newer_release_that_reaches_a_cluster_settles_its_debt() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.reach("b", False)
    world.behave("one", "unhealthy", "b")
    world.push("one")
    world.pass_time(30.0)
    world.reach("b", True)
    assert world.state.records["b"].debt is not None
    world.behave("two", "failed", "b")
    world.push("two")
    assert world.states()["b"] == "Failed(apply)"
    assert world.state.records["b"].owed is None
    world.reach("b", False)
    world.reach("b", True)
    assert world.started("catchup") == ["b"]


def test_a_debt_of_quarantined_content_is_forgiven() -> None:
    world = World(wave("qa", "a", "b", limit=2), wave("prod", "c"))
    world.reach("b", False)
    world.behave("one", "failed", "c")
    world.push("one")
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.HALTED
    assert world.state.records["b"].owed is None
    world.reach("b", True)
    assert world.started("catchup") == []
