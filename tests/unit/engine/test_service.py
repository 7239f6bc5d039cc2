from __future__ import annotations

import pytest

from fleet.errors import Conflict, NotFound, StoreError
from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.rollout import BundleState, Commanded
from tests.unit.engine import parts
from tests.unit.engine.parts import Agent, ControlPlane, Source, Standing

pytestmark = pytest.mark.anyio


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


async def test_status_is_the_fleet_on_one_page(plane: ControlPlane) -> None:
    status = await plane.service.status()
    assert (status.fleet, status.version, status.time) == ("acme", "0.1.0", "2026-11-20T09:00:00.250Z")
    assert (status.config_revision, status.config_error) == (parts.SHA, None)
    assert [(source.url, source.sha) for source in status.sources] == [
        ("https://git.acme.example/fleet.git", parts.SHA)
    ]
    assert (status.clusters.total, status.clusters.ready) == (2, 2)
    assert [(bundle.name, bundle.state, bundle.rollout) for bundle in status.bundles] == [
        ("shop", "Blocked", "shop-17")
    ]


async def test_status_before_the_first_fleet_yaml_tells_why(plane: ControlPlane) -> None:
    plane.configuration.in_force = None
    plane.configuration.error = "fleet.yaml:3:1: not YAML"
    plane.agents.held.clear()
    status = await plane.service.status()
    assert (status.fleet, status.config_error, status.bundles) == (None, "fleet.yaml:3:1: not YAML", ())


async def test_clusters_without_an_agent_are_connecting_not_absent(plane: ControlPlane) -> None:
    del plane.agents.held["prod"]
    page = await plane.service.clusters(None, 10)
    assert [(view.name, view.state) for view in page.items] == [("prod", "Connecting"), ("qa", "Ready")]


async def test_lists_are_paged_by_name(plane: ControlPlane) -> None:
    first = await plane.service.clusters(None, 1)
    assert ([view.name for view in first.items], first.next) == (["prod"], "prod")
    second = await plane.service.clusters(first.next, 1)
    assert ([view.name for view in second.items], second.next) == (["qa"], None)


async def test_what_is_recorded_on_a_cluster_has_its_revisions(plane: ControlPlane) -> None:
    assert (await plane.service.cluster("qa")).bundles[0].revisions == {"": parts.SHA}
    assert (await plane.service.cluster("prod")).bundles[0].revisions == {}


async def test_revisions_of_a_release_that_no_rollout_holds_come_from_the_store_once(plane: ControlPlane) -> None:
    plane.rolling(active=None, previous=None)
    assert (await plane.service.cluster("qa")).bundles[0].revisions == {"": parts.SHA}
    plane.history.releases.clear()
    assert (await plane.service.cluster("qa")).bundles[0].revisions == {"": parts.SHA}


@pytest.mark.parametrize("what", ["cluster", "bundle", "rollout", "explain"])
async def test_unknown_names_are_not_found_and_tell_where_to_look(plane: ControlPlane, what: str) -> None:
    with pytest.raises(NotFound, match="`fleet "):
        await getattr(plane.service, what)("nothing-1")


async def test_the_conductors_rollout_is_newer_than_the_stored_one(plane: ControlPlane) -> None:
    plane.rolling(active=parts.rollout(version=50))
    assert (await plane.service.rollout("shop-17")).version == 50
    page = await plane.service.rollouts("shop", None, 10)
    assert [(view.id, view.version) for view in page.items] == [("shop-17", 50), ("shop-16", 7)]


async def test_rollouts_are_paged_newest_first(plane: ControlPlane) -> None:
    page = await plane.service.rollouts(None, None, 1)
    assert ([view.id for view in page.items], page.next) == (["shop-17"], "shop-17")
    rest = await plane.service.rollouts(None, page.next, 1)
    assert ([view.id for view in rest.items], rest.next) == (["shop-16"], None)


async def test_drift_is_filtered_and_paged(plane: ControlPlane) -> None:
    plane.history.drift = [parts.drift("d3", state="open"), parts.drift("d2"), parts.drift("d1", cluster="qa")]
    page = await plane.service.drifts("prod", None, False, None, 1)
    assert ([view.id for view in page.items], page.next) == (["d3"], "d3")
    assert [view.id for view in (await plane.service.drifts(None, None, True, None, 10)).items] == ["d3"]


async def test_objects_of_a_cluster_that_is_not_heard_are_unknown(plane: ControlPlane) -> None:
    assert [each.health for each in (await plane.service.objects("qa", "shop")).items] == [Health.HEALTHY]
    plane.agents.held["qa"] = Agent("qa", state=ClusterState.UNKNOWN)
    assert [each.sync for each in (await plane.service.objects("qa", "shop")).items] == [Sync.UNKNOWN]


async def test_explain_a_rollout_names_who_can_act_and_the_command(plane: ControlPlane) -> None:
    view = await plane.service.explain("shop-17")
    assert (view.subject, view.state) == ("rollout shop-17", "Blocked")
    assert view.waiting_for is not None
    assert (view.waiting_for.who, view.waiting_for.next) == (("group:sre",), "fleet approve shop-17 go")
    assert any("go" in sentence for sentence in view.because)


async def test_explain_a_cluster_that_waits_for_its_wave(plane: ControlPlane) -> None:
    view = await plane.service.explain("prod")
    assert (view.subject, view.cluster) == ("cluster prod", "prod")
    assert view.because[0] == "shop-17 has not come to it yet: wave prod is Gating"
    assert view.waiting_for is not None
    assert view.waiting_for.name == "go"


async def test_explain_a_cluster_that_is_lost(plane: ControlPlane) -> None:
    lost = Agent("qa", state=ClusterState.UNKNOWN, reason="connection refused", observed_at=parts.NOW - 200)
    plane.agents.held["qa"] = lost
    view = await plane.service.explain("qa")
    assert view.because == ("it is Unknown: connection refused; last heard 3m ago",)


async def test_explain_a_quiet_cluster_says_so(plane: ControlPlane) -> None:
    assert (await plane.service.explain("qa")).because == (
        "it is watched, every bundle on it is as released, and no rollout waits for it",
    )


async def test_explain_a_bundle(plane: ControlPlane) -> None:
    view = await plane.service.explain("shop")
    assert (view.subject, view.state) == ("bundle shop", "Blocked")
    assert view.because[0] == "shop-17 waits for gate go"


async def test_ready_needs_a_fleet_a_first_look_at_every_source_and_the_database(plane: ControlPlane) -> None:
    assert await plane.service.unready() == ()
    plane.configuration.in_force = None
    plane.sources.held = [Source(name="apps", sha=None)]
    plane.history.failure = StoreError("disk I/O error")
    assert await plane.service.unready() == (
        "no valid fleet.yaml was read yet",
        "source apps was not asked yet",
        "the database does not answer",
    )


async def test_a_source_that_cannot_be_fetched_does_not_hold_readiness_up(plane: ControlPlane) -> None:
    plane.sources.held = [Source(), Source(name="apps", sha=None, error="host unreachable", since=parts.NOW - 60)]
    assert await plane.service.unready() == ()


async def test_commands_reach_the_conductor_and_answer_the_rollout(plane: ControlPlane) -> None:
    command = Commanded(name="approve", actor="sam", rollout="shop-17", gate="go", expected_version=42)
    assert (await plane.service.command(command)).version == 43
    assert plane.conductor.commands == [command]
    with pytest.raises(Conflict, match="version 42 now, not 41"):
        await plane.service.command(Commanded(name="pause", actor="sam", rollout="shop-17", expected_version=41))


async def test_a_rollback_of_an_unknown_bundle_reaches_nobody(plane: ControlPlane) -> None:
    with pytest.raises(NotFound, match="`fleet bundles`"):
        await plane.service.command(Commanded(name="rollback", actor="sam", bundle="other"))
    assert plane.conductor.commands == []


async def test_sync_nudges_and_is_in_the_event_log(plane: ControlPlane) -> None:
    plane.sources.held = [Source(), Source(name="apps")]
    page = await plane.service.sync("apps", "sam")
    assert [source.name for source in page.items] == ["apps"]
    assert plane.sources.nudged == ["apps"]
    assert [(event.type, event.actor, event.data) for event in plane.history.log] == [
        ("command", "sam", {"name": "sync", "source": "apps"})
    ]
    with pytest.raises(NotFound):
        await plane.service.sync("nowhere", "sam")
    assert len(plane.history.log) == 1


async def test_a_standing_of_a_bundle_that_left_is_still_told(plane: ControlPlane) -> None:
    plane.agents.held["qa"] = Agent("qa", bundles=(Standing(), Standing(bundle="gone")))
    plane.conductor.states["gone"] = BundleState("gone")
    assert [each.bundle for each in (await plane.service.cluster("qa")).bundles] == ["shop", "gone"]
