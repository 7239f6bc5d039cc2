"""Approval gates and people's commands (rollouts.md 4: gates, operator)."""

from __future__ import annotations

import pytest

from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import GateState, MemberState, RolloutState, WaveState
from tests.unit.core.rollout_world import World, wave

GO = ApprovalGate("go", timeout=86400.0)


def gated(gate: ApprovalGate = GO, *, author: str = "") -> World:
    world = World(wave("qa", "qa1"), wave("prod", "prod1", gates=(gate,)))
    world.push("one", author=author)
    world.pass_time(30.0)
    return world


def test_prod_waits_for_an_approval_that_names_who_and_what_to_type() -> None:
    world = gated(ApprovalGate("go", approvers=("group:sre",)))
    rollout = world.rollout()
    assert rollout.state is RolloutState.BLOCKED
    blocked = rollout.blocked_by
    assert blocked is not None
    assert (blocked.kind, blocked.name, blocked.who) == ("gate", "go", ("group:sre",))
    assert blocked.next == "fleet approve shop-1 go"
    assert blocked.since == 1_000_030.0
    assert world.run("prod").state is WaveState.GATING
    assert world.command("approve", gate="go", groups=("sre",), comment="ship it").refused is None
    assert world.started() == ["qa1", "prod1"]
    run = world.run("prod").gates[0]
    assert run.state is GateState.PASSED
    assert [(a.by, a.accepted, a.comment) for a in run.answers] == [("ann", True, "ship it")]
    world.pass_time(30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED


@pytest.mark.parametrize(
    ("approvers", "actor", "groups", "accepted"),
    [
        ((), "ann", (), True),
        ((), "", (), False),
        (("ann",), "ann", (), True),
        (("user:ann",), "ann", (), True),
        (("user:bob", "group:sre"), "ann", ("dev", "sre"), True),
        (("group:sre",), "ann", ("dev",), False),
        (("group:sre",), "sre", (), False),
        (("group:sre",), "group:sre", (), False),
        (("bob",), "ann", (), False),
    ],
)
def test_only_approvers_may_answer(
    approvers: tuple[str, ...], actor: str, groups: tuple[str, ...], *, accepted: bool
) -> None:
    world = gated(ApprovalGate("go", approvers=approvers))
    for name in ("reject", "approve"):
        if not accepted:
            step = world.command(name, gate="go", actor=actor, groups=groups)
            assert step.refused is not None
            assert "may not answer gate go" in step.refused
            assert world.run("prod").gates[0].answers == ()
    if accepted:
        assert world.command("approve", gate="go", actor=actor, groups=groups).refused is None
        assert world.run("prod").state is WaveState.ROLLING


def test_several_approvals_are_of_several_people() -> None:
    world = gated(ApprovalGate("go", count=2))
    assert world.command("approve").refused is None
    assert world.command("approve").refused is None
    assert len(world.run("prod").gates[0].answers) == 1
    assert world.run("prod").state is WaveState.GATING
    assert world.command("approve", actor="bob").refused is None
    assert world.run("prod").state is WaveState.ROLLING
    assert world.command("approve", actor="bob").refused is None
    assert len(world.run("prod").gates[0].answers) == 2


def test_an_approval_before_the_gate_asks_is_refused() -> None:
    world = World(wave("qa", "qa1"), wave("prod", "prod1", gates=(GO,)))
    world.push("one")
    step = world.command("approve", gate="go")
    assert step.refused is not None
    assert "does not wait for gate go now" in step.refused
    assert step.events[0].data == {"name": "approve", "refused": step.refused}
    world.pass_time(30.0)
    assert world.run("prod").state is WaveState.GATING
    step = world.command("approve", gate="nope")
    assert step.refused is not None
    assert "its gates: go" in step.refused


def test_an_author_is_warned_or_where_identities_are_verified_refused() -> None:
    """Scenario 23, last part."""
    world = gated(author="Ann@acme.example")
    step = world.command("approve", actor="ann@acme.example", strict_author=True)
    assert step.refused is not None
    assert "author" in step.refused
    step = world.command("approve", actor="ann@acme.example")
    assert step.refused is None
    assert step.warning is not None
    assert world.run("prod").state is WaveState.ROLLING


def test_an_author_may_approve_where_the_gate_allows_it() -> None:
    world = gated(ApprovalGate("go", allow_author=True), author="ann")
    step = world.command("approve", actor="ann", strict_author=True)
    assert (step.refused, step.warning) == (None, None)


def test_a_rejection_ends_the_rollout_halted_and_quarantines_nothing() -> None:
    world = gated()
    world.command("reject", gate="go", comment="not on friday")
    assert world.rollout().state is RolloutState.HALTED
    assert "rejected by ann: not on friday" in world.rollout().reason
    assert world.run("prod").gates[0].state is GateState.REJECTED
    assert world.started() == ["qa1"]
    assert not world.state.quarantined
    step = world.command("approve", "shop-1", gate="go")
    assert step.refused is not None
    assert "Halted" in step.refused


def test_a_gate_that_nobody_answers_expires_and_frees_the_lock() -> None:
    """Scenario 23, first part."""
    world = gated()
    world.pass_time(86399.0)
    assert world.rollout().state is RolloutState.BLOCKED
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.EXPIRED
    assert world.run("prod").gates[0].state is GateState.EXPIRED
    assert world.state.active is None
    assert world.started() == ["qa1"]
    good = world.state.records["qa1"].last_good
    assert good is not None
    world.push("two")
    assert world.rollout().state is RolloutState.RUNNING


def test_the_wait_of_a_gate_survives_a_restart_and_a_jump_of_the_wall_clock() -> None:
    world = gated()
    world.pass_time(80000.0)
    world.command("approve", gate="nope")
    world.drift("qa1")
    world.wall += 1e6
    world.crash()
    world.settle()
    assert world.run("prod").gates[0].waited == 80000.0
    world.pass_time(6399.0)
    assert world.rollout().state is RolloutState.BLOCKED
    world.pass_time(1.0)
    assert world.rollout().state is RolloutState.EXPIRED


def test_an_approval_of_a_superseded_release_is_void() -> None:
    """Scenario 23, second part; a push voids the approval."""
    world = gated(ApprovalGate("go", count=2))
    world.command("approve", gate="go")
    world.push("two")
    first = world.run("prod", 1).gates[0]
    assert first.state is GateState.PENDING
    assert first.detail == "void: superseded by shop-2"
    step = world.command("approve", "shop-1", gate="go", actor="bob")
    assert step.refused is not None
    assert "Superseded" in step.refused
    world.pass_time(30.0)
    assert world.run("prod", 2).gates[0].answers == ()
    assert world.rollout(2).state is RolloutState.BLOCKED


# --- pause, resume, abort --------------------------------------------------------------------------------------------


def test_pause_starts_nothing_more_and_lets_what_flies_land() -> None:
    """Scenario 41, first part."""
    world = World(wave("qa", "a", "b"))
    world.push("one")
    before = world.rollout().version
    for _ in range(2):
        assert world.command("pause").refused is None
    assert world.rollout().version > before
    blocked = world.rollout().blocked_by
    assert blocked is not None
    assert (blocked.kind, blocked.next) == ("paused", "fleet resume shop-1")
    world.pass_time(1000.0)
    assert world.states() == {"a": "Updated", "b": "Pending"}
    for _ in range(2):
        assert world.command("resume").refused is None
    assert world.states() == {"a": "Updated", "b": "Soaking"}
    assert world.rollout().state is RolloutState.RUNNING


def test_a_paused_rollout_keeps_baking_and_does_not_pass_a_gate_into_rolling() -> None:
    world = World(wave("qa", "a", bake=100.0), wave("prod", "b", gates=(GO,)))
    world.push("one")
    world.pass_time(30.0)
    world.command("pause")
    world.pass_time(100.0)
    assert world.run("qa").state is WaveState.PASSED
    assert world.command("approve").refused is None
    assert world.run("prod").state is WaveState.GATING
    world.command("resume")
    assert world.run("prod").state is WaveState.ROLLING


def test_abort_drains_and_keeps_what_is_there() -> None:
    world = World(wave("qa", "a", "b", limit=2))
    world.behave("one", "slow", "a")
    world.push("one")
    assert world.command("abort", comment="wrong branch").refused is None
    assert world.command("abort").refused is None
    assert world.rollout().state is RolloutState.ABORTING
    world.behave("one", "good", "a")
    world.settle()
    assert world.rollout().state is RolloutState.ABORTED
    assert world.rollout().reason == "aborted by ann: wrong branch"
    assert world.states() == {"a": "Skipped(aborted)", "b": "Skipped(aborted)"}
    assert world.run("qa").state is WaveState.SKIPPED
    step = world.command("retry", "shop-1")
    assert step.refused is not None
    assert "push a commit" in step.refused


def test_a_stale_version_is_refused() -> None:
    world = World(wave("qa", "a", "b"))
    world.push("one")
    version = world.rollout().version
    assert world.command("pause", expected_version=version).refused is None
    step = world.command("abort", expected_version=version)
    assert step.refused is not None
    assert "changed meanwhile" in step.refused
    assert step.state == world.state
    assert world.rollout().paused


def test_commands_on_what_is_over_name_what_there_is() -> None:
    world = World(wave("qa", "a"))
    world.push("one")
    world.pass_time(30.0)
    world.push("two")
    world.pass_time(30.0)
    step = world.command("pause", "shop-1")
    assert step.refused is not None
    assert "shop-2 (Succeeded)" in step.refused
    step = world.command("pause", "shop-2")
    assert step.refused is not None
    assert "nothing to pause" in step.refused


# --- retry -----------------------------------------------------------------------------------------------------------


def halted() -> World:
    world = World(wave("qa", "a", "b", limit=2, bake=60.0), wave("prod", "c"))
    world.behave("one", "failed", "b")
    world.push("one")
    assert world.rollout().state is RolloutState.HALTED
    return world


def test_retry_goes_on_with_what_halted_and_lifts_the_quarantine() -> None:
    world = halted()
    assert world.state.quarantined
    world.behave("one", "good", "b")
    assert world.command("retry", "shop-1").refused is None
    assert not world.state.quarantined
    assert world.rollout().state is RolloutState.RUNNING
    assert world.member("b").attempts == 2
    world.pass_time(30.0 + 60.0 + 30.0)
    assert world.rollout().state is RolloutState.SUCCEEDED
    assert world.ended["shop-1"].reason == ""
    assert [deploy.seq for deploy in world.deploys if deploy.cluster == "b"] == [1, 2]


def test_retry_that_fails_again_is_quarantined_again() -> None:
    world = halted()
    world.command("retry", "shop-1")
    assert world.rollout().state is RolloutState.HALTED
    assert world.state.quarantined


def test_retry_is_refused_once_there_is_a_successor() -> None:
    world = halted()
    world.push("two")
    step = world.command("retry", "shop-1")
    assert step.refused is not None
    world.pass_time(300.0)
    step = world.command("retry", "shop-1")
    assert step.refused is not None
    assert world.rollout(1).successor == "shop-2"


def test_retry_of_an_expired_rollout_asks_again() -> None:
    world = gated()
    world.pass_time(86400.0)
    assert world.command("retry", "shop-1").refused is None
    assert world.rollout().state is RolloutState.BLOCKED
    assert world.run("prod").gates[0].state is GateState.WAITING
    assert world.run("prod").gates[0].waited == 0.0
    assert world.command("approve").refused is None
    assert world.member("prod1").state is MemberState.SOAKING


def test_every_transition_of_a_gate_is_told() -> None:
    both = (GO, ApprovalGate("cab", timeout=100.0))
    world = World(wave("qa", "qa1", gates=both))
    world.push("one")
    world.command("approve", gate="go")
    world.pass_time(100.0)
    assert world.rollout().state is RolloutState.EXPIRED
    assert world.command("retry", "shop-1").refused is None
    world.push("two")
    told = [(e.rollout, e.data["gate"], e.data["from"], e.data["to"]) for e in world.events if e.type == "gate.state"]
    assert told == [
        ("shop-1", "go", "Pending", "Waiting"),
        ("shop-1", "cab", "Pending", "Waiting"),
        ("shop-1", "go", "Waiting", "Passed"),
        ("shop-1", "cab", "Waiting", "Expired"),
        ("shop-1", "go", "Passed", "Waiting"),
        ("shop-1", "cab", "Expired", "Waiting"),
        ("shop-1", "go", "Waiting", "Pending"),
        ("shop-1", "cab", "Waiting", "Pending"),
        ("shop-2", "go", "Pending", "Waiting"),
        ("shop-2", "cab", "Pending", "Waiting"),
    ]
