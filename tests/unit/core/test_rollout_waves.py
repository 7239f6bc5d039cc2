"""Waves: order, concurrency, evidence, bake, verdicts (rollouts.md 4: order and concurrency, failures)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleet.core.rollout import aged
from fleet.core.rollout.evidence import GRACE
from fleet.core.rollout.rollback import DEADLINE
from fleet.core.rollout.wave import BLOCKED_TIMEOUT, concurrency
from fleet.model.cluster import DeployOptions, Health, MemberReport
from fleet.model.fleetfile import HealthPolicy
from fleet.model.rollout import MemberState, Reported, RolloutState, WaveState
from tests.unit.core.rollout_world import World, digest, wave


def two_waves() -> World:
    return World(wave("qa", "qa1", bake=600.0), wave("prod", "prod1", "prod2", limit=1))


def test_a_commit_reaches_prod_only_after_qa_has_baked() -> None:
    world = two_waves()
    world.push("one")
    assert world.started() == ["qa1"]
    assert world.member("qa1").state is MemberState.SOAKING
    world.pass_time(30.0)
    assert world.run("qa").state is WaveState.BAKING
    world.pass_time(599.0)
    assert world.started() == ["qa1"]
    world.pass_time(1.0)
    assert world.started() == ["qa1", "prod1"]
    world.pass_time(30.0)
    assert world.started() == ["qa1", "prod1", "prod2"]
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.state.active is None
    assert world.state.proven == {"qa": world.rollout().release.id, "prod": world.rollout().release.id}
    assert {r.last_good.digest for r in world.state.records.values() if r.last_good} == {digest("one")}
    assert world.holds() == {"qa1": "one", "prod1": "one", "prod2": "one"}


def test_every_transition_is_told_in_order() -> None:
    world = World(wave("qa", "qa1", bake=60.0))
    world.push("one")
    world.pass_time(90.0)
    told = [
        (e.type, e.data.get("to")) for e in world.events if e.type in ("rollout.state", "wave.state", "cluster.state")
    ]
    assert told == [
        ("rollout.state", "Planned"),
        ("rollout.state", "Running"),
        ("wave.state", "Gating"),
        ("wave.state", "Rolling"),
        ("cluster.state", "Applying"),
        ("cluster.state", "Verifying"),
        ("cluster.state", "Soaking"),
        ("cluster.state", "Updated"),
        ("wave.state", "Baking"),
        ("wave.state", "Verifying"),
        ("wave.state", "Passed"),
        ("rollout.state", "Succeeded"),
    ]
    assert {event.rollout for event in world.events} == {"shop-1"}


@pytest.mark.parametrize(("limit", "expected"), [(2, 2), (1, 1), ("10%", 1), ("50%", 2), ("100%", 4), (9, 4)])
def test_no_more_than_max_concurrency_are_in_flight(limit: int | str, expected: int) -> None:
    world = World(wave("qa", "a", "b", "c", "d", limit=limit))
    world.push("one")
    assert len(world.started()) == expected
    while world.rollout().state is RolloutState.RUNNING:
        flying = [m for m in world.run("qa").members if m.state in (MemberState.APPLYING, MemberState.SOAKING)]
        assert len(flying) <= expected
        world.pass_time(30.0)
    assert world.started() == ["a", "b", "c", "d"]


def test_percentages_round_down_to_at_least_one() -> None:
    assert [concurrency("10%", n) for n in (1, 3, 19, 20, 30)] == [1, 1, 1, 2, 3]
    assert concurrency(7, 3) == 7


def test_old_health_counts_for_nothing() -> None:
    """Scenario 8: the previous revision is healthy in the cache while the new one is being applied."""
    world = World(wave("qa", "qa1"))
    world.push("one")
    world.pass_time(60.0)
    world.behave("two", "slow")
    world.push("two")
    old = MemberReport("qa1", "shop", True, seq=1, digest=digest("one"), phase="applied", health=Health.HEALTHY)
    world.decide(Reported(old))
    world.pass_time(100.0)
    assert world.member("qa1").state is MemberState.APPLYING
    other = MemberReport("qa1", "shop", True, seq=2, digest=digest("one"), phase="applied", health=Health.HEALTHY)
    world.decide(Reported(other))
    assert world.member("qa1").state is MemberState.APPLYING


def test_a_cluster_that_holds_it_already_and_is_healthy_is_noop_and_is_not_started() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one")
    world.pass_time(60.0)
    world.push("two", same_on={"a": "one"})
    assert world.states() == {"a": "NoOp", "b": "Soaking"}
    assert world.started() == ["a", "b", "b"]
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    good = world.state.records["a"].last_good
    assert good is not None
    assert good.release == world.rollout().release.id


def test_with_stale_health_it_is_verified_again() -> None:
    """Scenario 7: the digest is recorded, but nobody has seen it healthy."""
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one")
    world.pass_time(60.0)
    world.behave("one", "unhealthy", "a")
    world.settle()
    world.push("two", same_on={"a": "one"})
    assert world.started() == ["a", "b", "a", "b"]
    assert world.states()["a"] == "Verifying"


def test_other_options_with_the_same_manifests_are_deployed() -> None:
    world = World(wave("qa", "a"))
    world.push("one")
    world.pass_time(60.0)
    world.push("one", options=DeployOptions(drift_mode="detect"))
    assert world.deploys[-1].options.drift_mode == "detect"
    assert world.deploys[-1].seq == 2


def test_a_wave_of_noops_is_not_baked() -> None:
    world = World(wave("qa", "a", bake=600.0), wave("prod", "b"))
    world.push("one")
    world.pass_time(1000.0)
    world.push("two", same_on={"a": "one"})
    assert world.run("qa").state is WaveState.PASSED
    assert world.states() == {"a": "NoOp", "b": "Soaking"}


def test_flapping_health_succeeds_only_after_an_unbroken_soak() -> None:
    """Scenario 21."""
    world = World(wave("qa", "a"))
    world.push("one")
    for _ in range(3):
        world.pass_time(29.0)
        world.behave("one", "unhealthy")
        world.settle()
        assert world.member("a").state is MemberState.VERIFYING
        world.behave("one", "good")
        world.settle()
    assert world.member("a").soaked == 0.0
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_an_unhealthy_cluster_fails_at_the_deadline_and_not_before() -> None:
    """Scenario 11 for the action `halt`: quarantined, prod untouched, the reason told."""
    world = two_waves()
    world.behave("bad", "unhealthy")
    world.push("bad")
    world.pass_time(299.0)
    assert world.member("qa1").state is MemberState.VERIFYING
    world.pass_time(1.0)
    rollout = world.rollout()
    assert rollout.state is RolloutState.HALTED
    assert world.states() == {"qa1": "Failed(health)"}
    assert "qa1: health" in rollout.reason
    assert world.run("qa").state is WaveState.FAILED
    assert list(world.state.quarantined) == [rollout.release.content]
    assert world.started() == ["qa1"]
    world.behave("bad", "good")
    world.settle()
    assert world.states() == {"qa1": "Failed(health)"}
    assert world.rollout().state is RolloutState.HALTED


def test_it_counts_as_healthy_when_it_recovers_before_the_deadline() -> None:
    world = two_waves()
    world.behave("one", "unhealthy")
    world.push("one")
    world.pass_time(299.0)
    world.behave("one", "good")
    world.settle()
    world.pass_time(31.0)
    assert world.member("qa1").state is MemberState.UPDATED


def test_a_definite_apply_error_fails_at_once_with_the_servers_words() -> None:
    world = World(wave("qa", "a", "b", limit=1))
    world.behave("bad", "failed", "a")
    world.push("bad")
    assert world.states() == {"a": "Failed(apply)", "b": "Pending"}
    assert world.rollout().state is RolloutState.HALTED
    assert "admission denied the Deployment" in world.rollout().reason
    assert world.state.quarantined


def test_what_is_in_flight_when_a_wave_fails_is_drained() -> None:
    world = World(wave("qa", "a", "b", "c", "d", limit=3))
    world.behave("bad", "failed", "a")
    world.behave("bad", "slow", "b")
    world.push("bad")
    assert world.rollout().state is RolloutState.HALTING
    assert world.states() == {"a": "Failed(apply)", "b": "Applying", "c": "Skipped(halted)", "d": "Pending"}
    world.behave("bad", "good", "b")
    world.settle()
    assert world.rollout().state is RolloutState.HALTED
    assert world.states()["b"] == "Skipped(halted)"
    assert world.state.active is None


def test_transient_errors_are_retried_and_count_for_nothing() -> None:
    """Scenario 15, first half."""
    world = World(wave("qa", "a"))
    world.behave("one", "errored")
    world.push("one")
    world.pass_time(200.0)
    assert world.states() == {"a": "Errored(apply)"}
    assert world.rollout().state is RolloutState.RUNNING
    world.behave("one", "good")
    world.settle()
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert not world.state.quarantined


def test_errors_to_the_deadline_halt_without_quarantine() -> None:
    """Scenario 15, second half: infrastructure, not the release."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.behave("one", "errored")
    world.push("one")
    world.pass_time(300.0)
    assert world.states() == {"a": "Errored(apply)"}
    assert world.rollout().state is RolloutState.HALTED
    assert "503" in world.rollout().reason
    assert world.state.quarantined == {}
    assert world.started() == ["a"]


def test_an_apply_that_never_ends_is_given_up_without_quarantine() -> None:
    world = World(wave("qa", "a"))
    world.behave("one", "slow")
    world.push("one")
    world.pass_time(300.0)
    assert world.states() == {"a": "Errored(deadline)"}
    assert world.rollout().state is RolloutState.HALTED
    assert not world.state.quarantined


def test_contact_lost_after_the_apply_fails_at_the_deadline() -> None:
    """Scenario 34."""
    world = World(wave("qa", "a", health=HealthPolicy(stable_for=100.0, progress_deadline=300.0)))
    world.push("one")
    world.pass_time(50.0)
    world.reach("a", False)
    assert world.states() == {"a": "Verifying"}
    world.pass_time(249.0)
    assert world.rollout().state is RolloutState.RUNNING
    world.pass_time(1.0)
    assert world.states() == {"a": "Failed(lost)"}
    assert world.rollout().state is RolloutState.HALTED


def test_contact_lost_before_the_apply_ended_is_an_error_not_a_failure() -> None:
    world = World(wave("qa", "a"))
    world.behave("one", "slow")
    world.push("one")
    world.reach("a", False)
    world.pass_time(300.0)
    assert world.states() == {"a": "Errored(unreachable)"}
    assert not world.state.quarantined


# --- unreachable -----------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_down_at_the_start_is_skipped_and_catches_up() -> None:
    """Scenario 33, first part."""
    world = World(wave("qa", "a", "b", limit=2))
    world.reach("b", False)
    world.push("one")
    assert world.states() == {"a": "Soaking", "b": "Skipped(unreachable)"}
    assert world.state.records.get("b") is None
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.state.records["b"].owed == world.rollout().release.id
    world.reach("b", True)
    assert world.started("catchup") == ["b"]
    record = world.state.records["b"]
    assert record.owed is None
    assert record.last_good is not None
    assert record.last_good.digest == digest("one")


def test_a_catch_up_that_is_not_healthy_stays_owed() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.reach("b", False)
    world.behave("one", "unhealthy", "b")
    world.push("one")
    world.pass_time(30.0)
    world.reach("b", True)
    world.reach("b", False)
    world.reach("b", True)
    assert world.started("catchup") == ["b"]
    assert world.state.records["b"].owed is not None
    assert world.state.records["b"].last_good is None


def test_more_unreachable_than_may_be_skipped_block_and_then_halt() -> None:
    """Scenario 33, second part."""
    world = World(wave("qa", "a", "b", "c", limit=3))
    world.reach("a", False)
    world.reach("b", False)
    world.push("one")
    world.pass_time(30.0)
    assert world.states() == {"a": "Skipped(unreachable)", "b": "Pending", "c": "Updated"}
    blocked = world.rollout().blocked_by
    assert world.rollout().state is RolloutState.BLOCKED
    assert blocked is not None
    assert (blocked.kind, blocked.name) == ("unreachable", "b")
    world.pass_time(BLOCKED_TIMEOUT - 1)
    assert world.rollout().state is RolloutState.BLOCKED
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.HALTED
    assert not world.state.quarantined


def test_a_blocked_rollout_goes_on_when_the_cluster_is_back() -> None:
    world = World(wave("qa", "a", "b", limit=3))
    world.reach("a", False)
    world.reach("b", False)
    world.push("one")
    world.pass_time(3000.0)
    world.reach("b", True)
    assert world.rollout().state is RolloutState.RUNNING
    assert world.rollout().stuck == 0.0
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_wave_of_which_nothing_can_be_reached_opens_nothing() -> None:
    """Scenario 33, third part."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.reach("a", False)
    world.push("one")
    assert world.rollout().state is RolloutState.HALTED
    assert "updated no cluster" in world.rollout().reason
    assert world.started() == []


def test_a_silent_cluster_is_waited_for_before_it_counts_as_unreachable() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.push("one", settle=False)
    assert world.states() == {"a": "Pending", "b": "Pending"}
    world.pass_time(GRACE - 1)
    assert world.rollout().state is RolloutState.RUNNING
    world.decide(Reported(world.clusters["a"].report()))
    assert world.states() == {"a": "Applying", "b": "Pending"}
    world.elapsed += 1.0
    world.decide(Reported(world.clusters["a"].report()))
    assert world.states()["b"] == "Skipped(unreachable)"


# --- bake ------------------------------------------------------------------------------------------------------------


def test_bake_counts_only_time_in_which_every_cluster_was_seen_healthy() -> None:
    world = World(wave("qa", "a", "b", limit=2, bake=600.0))
    world.push("one")
    world.pass_time(30.0 + 200.0)
    world.behave("one", "unhealthy", "a")
    world.settle()
    world.pass_time(100.0)
    world.behave("one", "good", "a")
    world.settle()
    assert world.run("qa").baked == 200.0
    world.pass_time(399.0)
    assert world.run("qa").state is WaveState.BAKING
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_what_is_left_of_a_bake_is_seen_between_decisions() -> None:
    world = World(wave("qa", "a", bake=600.0))
    world.push("one")
    world.pass_time(30.0)
    assert world.run("qa").state is WaveState.BAKING
    shown = aged(world.state, 100.0).active
    assert shown is not None
    assert shown.waves[0].baked == 100.0
    assert world.run("qa").baked == 0.0


def test_drift_during_the_bake_restarts_that_clusters_clock() -> None:
    """Scenario 39."""
    world = World(wave("qa", "a", "b", limit=2, bake=600.0))
    world.push("one")
    world.pass_time(30.0 + 500.0)
    world.drift("a")
    assert world.run("qa").baked == 0.0
    world.pass_time(599.0)
    assert world.run("qa").state is WaveState.BAKING
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_repair_counts_although_the_cluster_is_not_healthy_and_the_control_plane_restarts() -> None:
    """The agent counts from 0 again after the restart."""
    world = World(wave("qa", "a", bake=600.0))
    world.push("one")
    world.pass_time(30.0 + 500.0)
    world.behave("one", "unhealthy", "a")
    world.clusters["a"].restarts = 1
    step = world.decide(Reported(world.clusters["a"].report()))
    assert step.changed
    world.crash()
    world.behave("one", "good", "a")
    world.settle()
    world.pass_time(599.0)
    assert world.run("qa").state is WaveState.BAKING
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_drift_during_the_soak_restarts_it() -> None:
    world = World(wave("qa", "a"))
    world.push("one")
    world.pass_time(29.0)
    world.drift("a")
    world.pass_time(29.0)
    assert world.member("a").state is MemberState.SOAKING
    world.pass_time(1.0)
    assert world.member("a").state is MemberState.UPDATED


def test_a_cluster_that_stays_unwell_during_the_bake_fails_the_wave() -> None:
    world = World(wave("qa", "a", bake=600.0), wave("prod", "b"))
    world.push("one")
    world.pass_time(130.0)
    world.behave("one", "unhealthy")
    world.settle()
    world.pass_time(299.0)
    assert world.rollout().state is RolloutState.RUNNING
    world.pass_time(1.0)
    assert world.states() == {"a": "Failed(health)"}
    assert world.rollout().state is RolloutState.HALTED
    assert world.state.records["a"].last_good is None


def test_health_is_read_again_at_the_instant_of_promotion() -> None:
    """Scenario 25: healthy until the bake ends, not healthy when the wave would pass."""
    world = World(wave("qa", "a", bake=600.0), wave("prod", "b"))
    world.push("one")
    world.pass_time(30.0)
    world.elapsed, world.wall = 600.0, world.wall + 600.0
    world.behave("one", "unhealthy", "a")
    world.decide(Reported(world.clusters["a"].report()))
    assert world.run("qa").state is WaveState.VERIFYING
    assert world.started() == ["a"]
    world.behave("one", "good", "a")
    world.settle()
    assert world.run("qa").state is WaveState.PASSED
    assert world.started() == ["a", "b"]


def test_neither_a_restart_nor_a_jump_of_the_wall_clock_shortens_a_bake() -> None:
    """Scenario 45."""
    world = World(wave("qa", "a", bake=3600.0))
    world.push("one")
    world.pass_time(30.0 + 1800.0)
    world.decide(Reported(world.clusters["a"].report()))
    world.wall += 6 * 3600.0
    world.crash()
    world.wall += 2 * 3600.0
    assert world.run("qa").baked == 1800.0
    world.pass_time(60.0)
    world.settle()
    world.pass_time(1799.0)
    assert world.run("qa").state is WaveState.BAKING
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_soak_goes_on_after_a_restart_where_it_stood() -> None:
    world = World(wave("qa", "a", health=HealthPolicy(stable_for=100.0, progress_deadline=300.0)))
    world.push("one")
    world.pass_time(60.0)
    world.decide(Reported(world.clusters["a"].report()))
    world.crash()
    world.pass_time(20.0)
    assert world.member("a").soaked == 60.0
    world.settle()
    world.pass_time(39.0)
    assert world.member("a").state is MemberState.SOAKING
    world.pass_time(1.0)
    assert world.member("a").state is MemberState.UPDATED


def test_an_agent_that_has_just_started_has_not_seen_anything_ill() -> None:
    """After a restart it looks at the bundle first, then at the objects: neither is evidence against the release."""
    world = World(wave("qa", "a", health=HealthPolicy(stable_for=100.0, progress_deadline=300.0)))
    world.push("one")
    world.pass_time(60.0)
    healthy = world.clusters["a"].report()
    world.decide(Reported(healthy))
    world.crash()
    world.behave("one", "slow")
    for phase in ("idle", "applied", "applying"):
        world.decide(Reported(replace(healthy, phase=phase, health=Health.UNKNOWN)))
        world.pass_time(5.0)
        assert (world.member("a").state, world.member("a").soaked) == (MemberState.SOAKING, 60.0)
    world.pass_time(GRACE)
    assert world.member("a").state is MemberState.VERIFYING, "it had long enough to look"


def test_a_cluster_that_knows_a_higher_seq_gets_a_higher_one() -> None:
    """A database restored from a backup: the inventory in the cluster refuses what is older (I10)."""
    world = World(wave("qa", "a"))
    world.clusters["a"].fence = 41
    world.push("one")
    assert [deploy.seq for deploy in world.deploys] == [1, 42]
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


def test_a_clock_that_stands_still_after_a_restart_is_not_looked_at_again_and_again() -> None:
    """A cluster that soaks beyond the deadline, and one rolling back at the end of its time, both unheard of."""
    world = World(wave("qa", "a", health=HealthPolicy(stable_for=400.0, progress_deadline=300.0)))
    one = world.push("one")
    world.pass_time(350.0)
    world.decide(Reported(world.clusters["a"].report()))
    world.crash()
    assert world.member("a").state is MemberState.SOAKING
    assert world.wake == GRACE
    world.settle()
    world.pass_time(400.0)
    world.behave("two", "unhealthy")
    world.push("two")
    world.behave("one", "slow")
    world.rollback(one)
    world.pass_time(DEADLINE - 1.0)
    world.decide(Reported(world.clusters["a"].report()))
    world.crash()
    assert world.wake == GRACE
    world.pass_time(GRACE)
    assert world.member("a").state is MemberState.ROLLING_BACK
    assert world.wake == 1.0
