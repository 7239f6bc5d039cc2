"""New releases while others run: supersede, queue, reject, no-op (rollouts.md 4: revisions)."""

from __future__ import annotations

import pytest

from fleet.core import rollout as engine
from fleet.core.rollout.lifecycle import MAX_SUPERSEDES
from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import Now, Plan, Release, ReleaseReady, RolloutState, WaveState
from tests.unit.core.rollout_world import World, digest, wave

GO = ApprovalGate("go")


def test_a_new_commit_in_qa_drains_and_starts_again_at_wave_one() -> None:
    """Scenario 28, first part."""
    world = World(wave("qa", "a", "b"), wave("prod", "c"))
    world.behave("one", "slow")
    world.push("one")
    world.push("two")
    assert world.rollout(1).state is RolloutState.SUPERSEDING
    assert world.rollout(2).state is RolloutState.PLANNED
    blocked = world.rollout(2).blocked_by
    assert blocked is not None
    assert (blocked.kind, blocked.name) == ("rollout", "shop-1")
    world.behave("one", "good")
    world.settle()
    assert world.rollout(1).state is RolloutState.SUPERSEDED
    assert world.rollout(1).successor == "shop-2"
    assert world.rollout(2).predecessor == "shop-1"
    assert world.states(1) == {"a": "Skipped(superseded)", "b": "Pending"}
    world.pass_time(90.0)
    assert world.rollout(2).state is RolloutState.SUCCEEDED
    assert world.holds() == {"a": "two", "b": "two", "c": "two"}


@pytest.mark.parametrize("how", ["unhealthy", "errored"])
def test_a_fix_does_not_wait_for_the_health_of_what_it_fixes(how: str) -> None:
    world = World(wave("qa", "a"))
    world.behave("bad", how)  # type: ignore[arg-type]
    world.push("bad")
    world.push("fix")
    assert world.states(1) == {"a": "Skipped(superseded)"}
    assert world.states(2) == {"a": "Soaking"}


def test_a_fix_after_a_halt_runs_at_once() -> None:
    world = World(wave("qa", "a"))
    world.behave("bad", "failed")
    world.push("bad")
    assert world.rollout().state is RolloutState.HALTED
    world.push("fix")
    world.pass_time(30.0)
    assert world.rollout(2).state is RolloutState.SUCCEEDED


def test_an_unreachable_cluster_does_not_hold_up_a_newer_release() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.behave("one", "slow")
    world.push("one")
    world.reach("a", False)
    world.behave("one", "good")
    world.settle()
    world.push("two")
    assert world.rollout(2).state is RolloutState.RUNNING
    world.reach("a", True)
    world.pass_time(30.0)
    assert world.holds()["b"] == "two"


def test_after_a_protected_wave_has_started_newer_releases_queue_and_the_newest_wins() -> None:
    """Scenario 28, second part."""
    world = World(wave("qa", "a"), wave("prod", "b", "c", protected=True))
    world.push("one")
    world.pass_time(30.0)
    world.push("two")
    world.push("three")
    assert world.rollout(1).state is RolloutState.RUNNING
    assert world.rollout(2).state is RolloutState.SUPERSEDED
    assert world.rollout(2).successor == "shop-3"
    assert world.rollout(1).successor == "shop-3"
    world.pass_time(60.0)
    assert world.rollout(1).state is RolloutState.SUCCEEDED
    assert world.rollout(3).state is RolloutState.RUNNING
    assert [deploy.release for deploy in world.deploys if deploy.cluster == "a"] == [
        world.rollout(1).release.id,
        world.rollout(3).release.id,
    ]


def test_a_protected_wave_that_only_waits_for_its_approval_gives_way() -> None:
    world = World(wave("qa", "a"), wave("prod", "b", protected=True, gates=(GO,)))
    world.push("one")
    world.pass_time(30.0)
    world.push("two")
    assert world.rollout(1).state is RolloutState.SUPERSEDED
    assert world.rollout(2).state is RolloutState.RUNNING


def test_commits_without_end_do_not_keep_everything_from_prod() -> None:
    """Scenario 28, third part."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    for number in range(MAX_SUPERSEDES + 3):
        world.push(f"r{number}")
    assert world.rollout(MAX_SUPERSEDES + 1).state is RolloutState.RUNNING
    for number in range(30):
        world.pass_time(20.0)
        world.push(f"s{number}")
    assert world.rollout(MAX_SUPERSEDES + 1).state is RolloutState.SUCCEEDED
    assert world.holds()["b"] is not None


def test_what_only_waits_for_people_gives_way_without_being_counted() -> None:
    world = World(wave("qa", "a"), wave("prod", "b", gates=(GO,)))
    for number in range(MAX_SUPERSEDES + 3):
        world.push(f"r{number}")
        world.pass_time(30.0)
    assert world.holds()["a"] == f"r{MAX_SUPERSEDES + 2}"


def test_a_paused_rollout_hands_its_pause_on() -> None:
    world = World(wave("qa", "a", "b"))
    world.push("one")
    world.command("pause")
    world.push("two")
    assert world.rollout(1).state is RolloutState.SUPERSEDED
    assert world.rollout(2).state is RolloutState.BLOCKED
    assert world.rollout(2).paused
    assert world.started() == ["a"]


def test_the_same_release_twice_is_one_rollout() -> None:
    world = World(wave("qa", "a"))
    release = world.push("one")
    world.pass_time(30.0)
    before = world.state
    step = engine.step(before, _ready(world, release), _now(world))
    assert not step.changed
    assert (step.deploys, step.events) == ((), ())
    assert step.state.next_number == before.next_number


def test_content_that_every_cluster_holds_is_no_rollout() -> None:
    """Equal digests end here; the head is remembered."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.behave("bad", "failed")
    world.push("one")
    world.pass_time(60.0)
    world.push("one", waves=(wave("all", "a", "b"),))
    assert world.rollout().number == 1


def test_a_revert_is_a_release_and_noop_where_it_is_equal() -> None:
    """Scenario 29."""
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.pass_time(60.0)
    world.behave("bad", "failed")
    world.push("bad")
    assert world.rollout(2).state is RolloutState.HALTED
    world.push("one")
    world.pass_time(60.0)
    assert world.rollout(3).state is RolloutState.SUCCEEDED
    assert world.states(3) == {"a": "Updated", "b": "NoOp"}
    assert world.started("rollback") == []


def test_a_revert_before_anything_was_applied_supersedes() -> None:
    world = World(wave("qa", "a", gates=(GO,)))
    world.push("one")
    world.command("approve")
    world.pass_time(30.0)
    world.push("two")
    world.push("one")
    assert world.rollout(2).state is RolloutState.SUPERSEDED
    world.command("approve", "shop-3")
    assert world.rollout(3).state is RolloutState.SUCCEEDED
    assert world.states(3) == {"a": "NoOp"}


def test_what_is_pushed_again_while_it_runs_takes_the_queue_back() -> None:
    world = World(wave("qa", "a", protected=True), wave("prod", "b"))
    world.push("one")
    world.push("two")
    world.push("one")
    assert world.rollout(2).state is RolloutState.SUPERSEDED
    assert world.state.waiting is None
    world.pass_time(60.0)
    assert world.rollout().number == 2
    assert world.rollout(1).state is RolloutState.SUCCEEDED


def test_quarantined_content_is_rejected_whatever_commit_brings_it() -> None:
    """Scenario 17, first part; scenario 42: a replay changes nothing."""
    world = World(wave("qa", "a"))
    world.behave("bad", "failed")
    world.push("bad")
    world.push("good")
    world.pass_time(30.0)
    world.push("bad")
    rollout = world.rollout(3)
    assert rollout.state is RolloutState.REJECTED
    assert "quarantined" in rollout.reason
    assert rollout.ended_at is not None
    assert world.state.active is None
    world.push("bad")
    assert world.rollout().number == 3
    assert world.holds() == {"a": "good"}


def test_quarantined_content_is_recognised_with_another_set_of_clusters() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.behave("bad", "failed")
    world.push("bad")
    world.push("good")
    world.pass_time(60.0)
    world.push("bad", waves=(wave("qa", "a"), wave("prod", "b", "c")))
    assert world.rollout(3).state is RolloutState.REJECTED


def test_a_release_never_changes_what_runs_has_the_sha_of_its_first_wave() -> None:
    """Scenario 9."""
    world = World(wave("qa", "a", bake=60.0), wave("prod", "b", protected=True))
    first = world.push("one")
    world.pass_time(90.0)
    world.push("two")
    world.pass_time(30.0)
    assert world.rollout(1).release == first
    assert world.deploys[1].digest == digest("one")


def test_a_suspended_bundle_starts_nothing_forward() -> None:
    world = World(wave("qa", "a", "b"))
    world.push("one")
    world.suspended = True
    world.facts()
    world.pass_time(60.0)
    assert world.states() == {"a": "Updated", "b": "Pending"}
    blocked = world.rollout().blocked_by
    assert blocked is not None
    assert (blocked.kind, blocked.name) == ("paused", "suspend")
    world.push("two")
    assert world.rollout(1).state is RolloutState.BLOCKED
    assert world.rollout(2).state is RolloutState.PLANNED
    world.suspended = False
    world.facts()
    assert world.rollout(1).state is RolloutState.SUPERSEDED
    assert world.rollout(2).state is RolloutState.RUNNING


def test_one_trace_from_names_alone() -> None:
    world = World(wave("qa", "a"))
    world.push("one")
    rollout = world.rollout()
    assert rollout.trace_id == engine.trace_id("acme", "shop-1", rollout.release.id)
    assert len(rollout.trace_id) == 32
    assert engine.trace_id("acme", "shop-2", rollout.release.id) != rollout.trace_id


def test_aborting_what_waits_leaves_the_running_one_alone() -> None:
    world = World(wave("qa", "a", protected=True), wave("prod", "b"))
    world.push("one")
    world.push("two")
    assert world.command("abort", "shop-2").refused is None
    assert world.rollout(2).state is RolloutState.ABORTED
    world.pass_time(60.0)
    assert world.rollout(1).state is RolloutState.SUCCEEDED
    assert world.run("prod", 1).state is WaveState.PASSED


def _ready(world: World, release: Release) -> ReleaseReady:

    return ReleaseReady(release, Plan("standard", world.waves))


def _now(world: World) -> Now:

    return Now(world.wall, 0.0)
