"""The conductor against a store in memory: nothing is done before it is durable, and nothing durable is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import msgspec
import pytest

from fleet.errors import Conflict, NotFound, StoreError, Unavailable
from fleet.model.cluster import MemberReport
from fleet.model.fleetfile import Selector
from fleet.model.rollout import Commanded, RolloutState
from tests.unit.engine.conductor_world import Plant, approve, fleet_of, rollback, whole_run

pytestmark = pytest.mark.anyio


async def test_a_whole_run() -> None:
    plant = Plant()
    await whole_run(plant)
    assert plant.picture()["rollouts"] == {
        "shop-1": "Succeeded",
        "shop-2": "Halted",
        "shop-3": "Succeeded",
        "shop-4": "RolledBack",
    }
    assert {c.name: c.written[-1][0] for c in plant.clusters.values()} == dict.fromkeys(plant.clusters, "sha256:one")
    assert [event.seq for event in plant.told] == list(range(1, len(plant.store.log) + 1))
    assert plant.told == plant.store.log


async def test_nothing_happens_while_the_store_is_down_and_everything_afterwards() -> None:
    """Scenario 44."""
    plant = Plant()
    await plant.push("one")

    async def outage() -> None:
        plant.store.down = True
        with pytest.raises(StoreError, match="disk is full"):
            await plant.conductor.submit(plant.ready("two"))
        before = plant.conductor.state("shop")
        await plant.clock.advance(600.0)
        assert plant.conductor.state("shop") == before
        assert plant.clusters["qa1"].written == [("sha256:one", 1)]
        with pytest.raises(StoreError, match="disk is full"):
            await plant.conductor.command(Commanded(name="pause", actor="ann", rollout="shop-1"))
        plant.store.down = False
        await plant.clock.advance(8.0)
        assert plant.clusters["qa1"].written == [("sha256:one", 1), ("sha256:two", 2)]

    await plant.act(outage)


async def test_an_outage_of_the_store_counts_for_no_clock() -> None:
    plant = Plant()
    await plant.push("one")

    async def outage() -> None:
        await plant.clock.advance(6.0)
        plant.store.down = True
        await plant.clock.advance(500.0)
        plant.store.down = False
        await plant.clock.advance(8.0)
        state = plant.conductor.state("shop")
        assert state is not None
        assert state.active is not None
        assert state.active.waves[0].state == "Passed"

    await plant.act(outage)
    assert plant.clusters["prod1"].written == []


async def test_a_commit_whose_answer_was_lost_is_found_in_the_store() -> None:
    plant = Plant()

    async def lose() -> None:
        plant.store.lose_answer = True
        with pytest.raises(StoreError):
            await plant.conductor.submit(plant.ready("one"))
        assert plant.clusters["qa1"].written == []
        await plant.clock.advance(10.0)
        assert plant.clusters["qa1"].written == [("sha256:one", 1)]
        await plant.clock.advance(10.0)

    await plant.act(lose)
    assert list(plant.store.stored_rollouts) == ["shop-1"]
    assert plant.store.stored_rollouts["shop-1"].state is RolloutState.BLOCKED
    assert plant.told == plant.store.log, "those who follow the log get what was stored without an answer, too"


async def test_a_command_whose_answer_was_lost_is_carried_out_although_nothing_else_happens() -> None:
    plant = Plant()
    await plant.push("one")
    await plant.pass_time(20.0)

    async def lose() -> None:
        plant.store.lose_answer = True
        with pytest.raises(StoreError):
            await plant.conductor.command(Commanded(name="abort", actor="ann", rollout="shop-1"))
        await plant.clock.advance(2.0)
        state = plant.conductor.state("shop")
        assert state is not None
        assert (state.active, state.version) == (None, plant.store.states["shop"].version)

    await plant.act(lose)
    assert plant.told == plant.store.log


async def test_a_command_is_not_decided_on_a_state_that_is_in_doubt() -> None:
    plant = Plant()
    await plant.push("one")
    await plant.pass_time(20.0)

    async def lose() -> None:
        plant.store.lose_answer = True
        with pytest.raises(StoreError):
            await plant.conductor.command(Commanded(name="abort", actor="ann", rollout="shop-1"))
        plant.store.down = True
        with pytest.raises(StoreError, match="nothing was done"):
            await plant.conductor.command(Commanded(name="pause", actor="ann", rollout="shop-1"))
        plant.store.down = False
        with pytest.raises(Conflict, match="nothing to pause"):
            await plant.conductor.command(Commanded(name="pause", actor="ann", rollout="shop-1"))

    await plant.act(lose)
    assert plant.told == plant.store.log


async def test_evidence_that_comes_while_a_decision_is_stored_is_not_replaced_by_less() -> None:
    """After a restart: an agent says once what it sees, while the first decision is being stored."""
    plant = Plant()
    await plant.push("one")
    plant.conductor = plant._new()
    evidence = plant.clusters["qa1"].work(plant.store.rows["qa1", "shop"])

    heard: list[str] = []

    def hear() -> None:
        heard.append("qa1")
        plant.conductor.report(MemberReport(cluster="qa1", bundle="", reachable=True))
        plant.conductor.report(evidence)
        plant.conductor.report(MemberReport(cluster="qa1", bundle="", reachable=True))

    plant.store.meanwhile = hear
    await plant.conductor.restore()
    async with anyio.create_task_group() as group:
        group.start_soon(plant.conductor.run)
        plant.conductor.configure(msgspec.structs.replace(plant.fleet, name="renamed"))
        await plant.clock.settle()
        assert heard == ["qa1"]
        state = plant.conductor.state("shop")
        assert state is not None
        assert state.reports["qa1"] == evidence
        group.cancel_scope.cancel()


async def test_many_reports_of_one_moment_are_one_decision() -> None:
    plant = Plant(gates=())
    names = {f"c{n:02}": "qa" for n in range(30)}
    plant.fleet = fleet_of(names)
    plant.clusters = {}
    for name in names:
        plant.clusters[name] = type(next(iter(Plant().clusters.values())))(name, plant.store)
    ready = plant.ready("one")
    wave = msgspec.structs.replace(ready.plan.waves[0], clusters=tuple(names), max_concurrency="100%")
    plan = msgspec.structs.replace(ready.plan, waves=(wave,))

    async def roll() -> None:
        await plant.conductor.submit(msgspec.structs.replace(ready, plan=plan))
        await plant.clock.settle()

    await plant.act(roll)
    # The facts, the release with thirty intents, and one decision about thirty reports.
    assert plant.store.commits == 3


async def test_nothing_new_is_stored_when_nothing_happens() -> None:
    plant = Plant()
    await plant.push("one")
    await plant.pass_time(10.0)
    await plant.command(approve("shop-1"))
    await plant.pass_time(10.0)
    before = plant.store.commits

    async def idle() -> None:
        for _ in range(3):
            plant.hear()
            await plant.clock.advance(3600.0)
        await plant.conductor.submit(plant.ready("one"))

    await plant.act(idle)
    assert plant.store.commits == before


async def test_running_clocks_are_stored_now_and_then() -> None:
    """What a crash may cost a gate, a bake or a soak is the age of the last checkpoint."""
    plant = Plant()
    await plant.push("one")
    await plant.pass_time(10.0)
    before = plant.store.commits
    await plant.pass_time(600.0)
    waited = plant.store.states["shop"].active
    assert waited is not None
    assert waited.waves[1].gates[0].waited == 600.0
    assert plant.store.commits - before == 10


async def answers(plant: Plant, expected: type[Exception], match: str, command: Commanded) -> None:
    async def give() -> None:
        with pytest.raises(expected, match=match):
            await plant.conductor.command(command)

    await plant.act(give)


async def test_commands_that_do_not_apply_are_refused_and_told() -> None:
    plant = Plant()
    await plant.push("one")
    await answers(plant, Conflict, "does not wait for gate go", approve("shop-1"))
    refused = plant.told[-1]
    assert (refused.type, refused.actor, refused.data["name"]) == ("command", "ann", "approve")
    assert "does not wait" in refused.data["refused"]
    await answers(plant, NotFound, "no rollout shop-9", approve("shop-9"))
    await answers(plant, NotFound, "no rollout other-1", approve("other-1"))
    nowhere = Commanded(name="rollback", actor="ann", bundle="nope")
    await answers(plant, NotFound, "no bundle nope", nowhere)
    unknown = Commanded(name="rollback", actor="ann", bundle="shop", release="shop-000000000000")
    await answers(plant, NotFound, "no release shop-000000000000", unknown)
    await answers(plant, Conflict, "no cluster had a good release", rollback())


async def test_a_command_answers_with_the_rollout_as_it_stands() -> None:
    plant = Plant()
    await plant.push("one")
    await plant.pass_time(10.0)

    async def give() -> None:
        rollout = await plant.conductor.command(approve("shop-1"))
        assert rollout.id == "shop-1"
        assert rollout.state is RolloutState.RUNNING
        version = rollout.version
        stale = Commanded(name="abort", actor="ann", rollout="shop-1", expected_version=version - 1)
        with pytest.raises(Conflict, match="changed meanwhile"):
            await plant.conductor.command(stale)

    await plant.act(give)


async def test_a_conductor_that_does_not_run_says_so_in_time() -> None:
    plant = Plant()
    plant.conductor = plant._new()
    failed: list[str] = []

    async def ask(request: Callable[[], Awaitable[object]]) -> None:
        try:
            await request()
        except Unavailable as error:
            failed.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, lambda: plant.conductor.command(rollback()))
        for _ in range(plant.settings.commands):
            group.start_soon(ask, lambda: plant.conductor.command(rollback()))
        await plant.clock.advance(1000.0)
    assert len(failed) == plant.settings.commands + 1
    assert sum("wait already" in said for said in failed) == 1


async def test_clusters_without_an_assignment_are_known_by_their_agents() -> None:
    plant = Plant()
    plant.clusters["qa1"].reachable = False
    await plant.push("one")
    rollout = plant.store.stored_rollouts["shop-1"]
    assert rollout.state is RolloutState.HALTED
    assert rollout.waves[0].members[0].reason == "unreachable"


async def test_a_cluster_that_is_only_being_connected_is_not_unreachable() -> None:
    """After a start no agent is connected at first: no pending cluster is skipped, no soak begins again for it."""
    plant = Plant()
    await plant.push("one")
    plant.conductor = plant._new()
    plant.assignments.subscribe(lambda cluster: None)
    await plant.conductor.restore()
    async with anyio.create_task_group() as group:
        group.start_soon(plant.conductor.run)
        plant.conductor.report(MemberReport(cluster="qa1", bundle="shop", reachable=False))
        await plant.clock.settle()
        assert plant.conductor.state("shop") == plant.store.states["shop"]
        plant.conductor.report(MemberReport(cluster="qa1", bundle="", reachable=False))
        await plant.clock.settle()
        state = plant.conductor.state("shop")
        assert state is not None
        assert not state.reports["qa1"].reachable
        group.cancel_scope.cancel()


async def test_a_cluster_that_leaves_is_cleaned_where_fleet_yaml_says_so() -> None:
    plant = Plant(gates=())
    await plant.push("one")
    await plant.pass_time(20.0)
    plant.fleet = msgspec.structs.replace(
        plant.fleet,
        bundles=(
            msgspec.structs.replace(
                plant.fleet.bundles[0],
                deletion="delete",
                cluster_selector=Selector(match_labels={"env": "qa"}),
            ),
        ),
    )
    await plant.pass_time(1.0)
    assert plant.clusters["prod1"].written[-1] == (None, 2)
    assert set(plant.store.rows) == {("qa1", "shop")}


async def test_a_bundle_that_leaves_is_withdrawn() -> None:
    plant = Plant(gates=())
    await plant.push("one")
    await plant.pass_time(20.0)
    plant.fleet = msgspec.structs.replace(plant.fleet, bundles=())
    plant.release = None
    await plant.pass_time(1.0)
    assert plant.store.rows == {}
    assert len(plant.assignments) == 0
    assert all(cluster.written == [("sha256:one", 1)] for cluster in plant.clusters.values())


async def test_a_defect_in_one_decision_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    plant = Plant()

    async def poisoned() -> None:
        broken = plant.ready("one")
        # A release that no planner makes: its wave names a cluster with a percentage that is no number.
        wave = msgspec.structs.replace(broken.plan.waves[0], max_concurrency="many%")
        plan = msgspec.structs.replace(broken.plan, waves=(wave,))
        with pytest.raises(StoreError, match="internal error"):
            await plant.conductor.submit(msgspec.structs.replace(broken, plan=plan))
        async with anyio.create_task_group() as group:
            group.start_soon(plant.conductor.submit, plant.ready("two"))
            await plant.clock.advance(8.0)
        assert plant.clusters["qa1"].written == [("sha256:two", 1)]

    await plant.act(poisoned)
    assert "could not be decided about" in caplog.text


async def test_reports_of_unknown_bundles_are_ignored() -> None:
    plant = Plant()

    async def tell() -> None:
        plant.conductor.report(MemberReport(cluster="qa1", bundle="other", reachable=True))
        await plant.clock.settle()
        assert plant.conductor.state("other") is None
        ready = plant.ready("one")
        other = msgspec.structs.replace(ready, release=msgspec.structs.replace(ready.release, bundle="other"))
        with pytest.raises(NotFound):
            await plant.conductor.submit(other)

    await plant.act(tell)
