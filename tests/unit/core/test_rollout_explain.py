"""Why a rollout stands where it stands, in words that name who can do what."""

from __future__ import annotations

from fleet.core import rollout as engine
from fleet.core.rollout import Explanation
from fleet.model.fleetfile import ApprovalGate
from fleet.model.rollout import Rollout
from tests.unit.core.rollout_world import SimulatedCluster, World, wave


def explained(world: World, rollout: Rollout | None = None) -> Explanation:
    state = engine.aged(world.state, world.elapsed)
    return engine.explain(rollout or state.active or world.rollout(), state, world.wall)


def test_a_gate_names_its_approvers_what_is_missing_and_the_command() -> None:
    world = World(wave("prod", "a", gates=(ApprovalGate("go", approvers=("group:sre", "ann"), count=2),)))
    world.push("one")
    world.command("approve")
    world.pass_time(180.0)
    told = explained(world)
    assert told.state == "Blocked"
    assert told.waiting_for is not None
    assert told.because == (
        "wave prod waits for approval go by group:sre or ann (1 of 2 still missing) since 3m: "
        "`fleet approve shop-1 go`",
    )


def test_what_is_under_way_is_told_with_what_is_left() -> None:
    world = World(wave("qa", "a", "b", "c", "d", limit=4))
    world.behave("one", "unhealthy", "b")
    world.behave("one", "errored", "c")
    world.behave("one", "slow", "d")
    world.push("one")
    world.pass_time(20.0)
    world.drift("a")
    told = explained(world)
    assert told.waiting_for is None
    assert told.because == (
        "wave qa: 0 of 4 clusters done, 4 under way",
        "a is healthy for 0 of 30 s",
        "b is not healthy yet (unhealthy); in 280 s it counts as failed",
        "c is tried again for 280 s more: 503 from the API server",
        "d is being applied since 20 s, 280 s are left",
    )


def test_a_bake_names_who_holds_it_up() -> None:
    world = World(wave("qa", "a", "b", limit=2, bake=600.0))
    world.push("one")
    world.pass_time(130.0)
    world.behave("one", "unhealthy", "b")
    world.settle()
    world.pass_time(60.0)
    world.drift("a")
    assert explained(world).because == (
        "wave qa bakes: 0 of 600 s seen healthy",
        "b is not seen healthy (unhealthy); in 240 s it counts as failed",
    )


def test_pauses_unreachable_clusters_and_debts() -> None:
    world = World(wave("qa", "a", "b", "c", limit=3))
    world.reach("a", False)
    world.reach("b", False)
    world.push("one")
    world.pass_time(30.0)
    assert explained(world).because[0] == (
        "cluster b can not be reached since 0s; after 1h the rollout halts: `fleet explain b`"
    )
    world.command("pause")
    assert explained(world).because[0] == "shop-1 is paused since 0s: `fleet resume shop-1`"
    world.command("resume")
    world.reach("b", True)
    world.pass_time(30.0)
    assert engine.explain_cluster("a", world.state) == (
        f"a was passed over; it gets {world.rollout().release.id} when it can be reached again",
    )
    assert engine.explain_cluster("b", world.state) == ()


def test_what_is_over_tells_why_and_what_to_do() -> None:
    world = World(wave("qa", "a"))
    world.behave("bad", "failed")
    world.push("bad")
    world.pass_time(120.0)
    told = explained(world)
    assert told.because == (
        "it ended Halted 2m ago: wave qa failed: a: apply (admission denied the Deployment)",
        "`fleet retry shop-1` goes on with it; a new commit starts a new rollout",
    )
    world.push("good")
    assert explained(world, world.rollout(1)).because[1] == "shop-2 came after it"
    world.pass_time(30.0)
    world.push("bad")
    assert explained(world).because[-1] == "a commit that changes the manifests starts a new rollout"


def test_what_waits_tells_for_whom_and_why_that_does_not_give_way() -> None:
    world = World(wave("qa", "a", protected=True), wave("prod", "b", gates=(ApprovalGate("go"),)))
    world.push("one")
    world.pass_time(30.0)
    world.push("two")
    assert explained(world, world.rollout(2)).because == (
        "it waits for shop-1 (Blocked) to end",
        "shop-1 has started a protected wave, and finishes before anything newer starts",
        "shop-1 waits for gate go: `fleet approve shop-1 go`",
    )
    assert "shop-2 waits for it to end" in explained(world, world.rollout(1)).because


def test_a_rollback_tells_how_long_it_has_left() -> None:
    world = World(wave("qa", "a"))
    one = world.push("one")
    world.pass_time(30.0)
    world.push("two")
    world.pass_time(30.0)
    world.behave("one", "slow")
    world.rollback(one)
    world.pass_time(100.0)
    assert "800 s are left" in explained(world).because[-1]


def test_a_newcomer_is_told_what_it_waits_for() -> None:
    world = World(wave("qa", "a"), wave("prod", "b"))
    world.push("one")
    world.clusters["c"] = SimulatedCluster("c")
    world.facts()
    world.push("one", waves=(wave("qa", "a"), wave("prod", "b", "c")))
    assert engine.explain_cluster("c", world.state) == ("it gets shop once wave prod of shop-1 has passed",)
