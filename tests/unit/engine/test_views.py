from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.views import bundle as bundles
from fleet.engine.views.bundle import BundleFacts, BundleStateName, bundle_view
from fleet.engine.views.cluster import ClusterView, cluster_view, count, object_view
from fleet.engine.views.drift import diff_view, drift_view
from fleet.engine.views.event import behind, event_view
from fleet.engine.views.rollout import rollout_view
from fleet.engine.views.timestamps import rfc3339
from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.events import Event
from fleet.model.rollout import BundleState, Member, MemberState, RolloutState, WaveRun, WaveState
from tests.unit.engine import parts
from tests.unit.engine.parts import NOW, WAVES, Agent, Standing, digest


def as_json(view: object) -> Any:
    return json.loads(msgspec.json.encode(view))


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(NOW) == "2026-11-20T09:00:00.250Z"
    assert rfc3339(None) is None
    assert rfc3339(0.9996) == "1970-01-01T00:00:01.000Z"


@given(st.floats(min_value=0, max_value=4e9))
def test_times_read_back_within_a_millisecond(seconds: float) -> None:
    assert math.isclose(datetime.fromisoformat(rfc3339(seconds)).timestamp(), seconds, abs_tol=0.00051)


def test_a_rollout_has_the_fields_of_the_interface() -> None:
    shown = as_json(rollout_view(parts.rollout()))
    assert {key: shown[key] for key in ("id", "bundle", "revisions", "author", "message", "state", "version")} == {
        "id": "shop-17",
        "bundle": "shop",
        "revisions": {"": parts.SHA},
        "author": "ana@acme.example",
        "message": "Raise the replicas",
        "state": "Blocked",
        "version": 42,
    }
    assert shown["blockedBy"] == {
        "kind": "gate",
        "name": "go",
        "since": "2026-11-20T08:57:00.250Z",
        "who": ["group:sre"],
        "next": "fleet approve shop-17 go",
    }
    assert shown["createdAt"] == "2026-11-20T08:53:35.250Z"
    assert shown["endedAt"] is None
    qa, prod = shown["waves"]
    assert (qa["state"], qa["bakeRemainingSeconds"]) == ("Passed", 0)
    assert qa["clusters"][0]["objects"] == {"total": 3, "applied": 3, "pruned": 0, "failed": []}
    assert prod["gates"] == [
        {"name": "go", "when": "before", "state": "Waiting", "by": None, "at": None, "detail": None}
    ]


def test_a_wave_that_has_not_begun_lists_its_planned_clusters_and_gates() -> None:
    shown = rollout_view(parts.rollout(waves=(parts.rollout().waves[0],)))
    assert [wave.name for wave in shown.waves] == ["qa", "prod"]
    assert [(member.cluster, member.state) for member in shown.waves[1].clusters] == [("prod", MemberState.PENDING)]
    assert [gate.state for gate in shown.waves[1].gates] == ["Pending"]


def test_a_baking_wave_tells_what_is_left() -> None:
    baking = WaveRun(plan=WAVES[0], state=WaveState.BAKING, baked=250.5)
    assert rollout_view(parts.rollout(waves=(baking,))).waves[0].bake_remaining_seconds == 349.5


def test_a_gate_names_who_answered_and_when() -> None:
    gating = msgspec.structs.replace(parts.rollout().waves[1], gates=(parts.approved(),))
    gate = rollout_view(parts.rollout(waves=(gating,))).waves[1].gates[0]
    assert (gate.state, gate.by, gate.at) == ("Passed", "sam@acme.example", "2026-11-20T08:59:55.250Z")


def test_failed_objects_are_named_with_their_error() -> None:
    objects = rollout_view(parts.halted()).waves[0].clusters[0].objects
    assert objects is not None
    assert [(each.object, each.error) for each in objects.failed] == [
        ("apps/Deployment shop/web", "spec.replicas: Invalid value: -1")
    ]


def seen(agent: Agent) -> ClusterView:
    return cluster_view(agent, {"shop": {"": parts.SHA}}, NOW)


def test_a_cluster_has_the_fields_of_the_interface() -> None:
    assert as_json(seen(Agent("qa", {"env": "qa"}))) == {
        "name": "qa",
        "labels": {"env": "qa"},
        "state": "Ready",
        "reason": None,
        "observedAt": "2026-11-20T08:59:59.850Z",
        "ageSeconds": 0.4,
        "kubernetes": "v1.36.3",
        "watches": 7,
        "objects": 3,
        "bundles": [
            {
                "bundle": "shop",
                "wanted": digest("0a"),
                "recorded": digest("0a"),
                "revisions": {"": parts.SHA},
                "sync": "Synced",
                "health": "Healthy",
                "drifted": 0,
            }
        ],
    }


@pytest.mark.parametrize("state", [ClusterState.UNKNOWN, ClusterState.CONNECTING, ClusterState.UNAUTHORIZED])
def test_a_cluster_that_is_not_heard_never_stays_green(state: ClusterState) -> None:
    shown = seen(Agent("qa", state=state)).bundles[0]
    assert (shown.sync, shown.health) == (Sync.UNKNOWN, Health.UNKNOWN)
    standing = object_view(parts.ObjectStanding(), observed=False)
    assert (standing.sync, standing.health, standing.drift) == (Sync.UNKNOWN, Health.UNKNOWN, "unknown")


def test_clusters_are_counted_by_state() -> None:
    views = [
        seen(Agent("a")),
        seen(Agent("b", state=ClusterState.UNKNOWN)),
        seen(Agent("c", state=ClusterState.PAUSED, bundles=(Standing(drifted=2),))),
        seen(Agent("d", state=ClusterState.CONNECTING)),
    ]
    assert as_json(count(views)) == {"total": 4, "ready": 1, "unknown": 1, "paused": 1, "drifted": 1}


def facts(state: BundleState | None, *agents: Agent, problem: str | None = None) -> BundleFacts:
    fleet = parts.fleet()
    clusters = {agent.name: seen(agent) for agent in agents}
    return BundleFacts(fleet.bundles[0], ("qa", "prod"), state, clusters, problem)


QA, PROD = Agent("qa"), Agent("prod", bundles=(Standing(wanted=digest("0e"), recorded=digest("0e")),))
OUT = Agent("prod", bundles=(Standing(wanted=digest("0b"), recorded=digest("0b")),))
DONE = parts.rollout(
    state=RolloutState.SUCCEEDED,
    blocked_by=None,
    waves=(
        parts.rollout().waves[0],
        WaveRun(
            plan=WAVES[1],
            state=WaveState.PASSED,
            members=(Member(cluster="prod", digest=digest("0b"), state=MemberState.UPDATED),),
        ),
    ),
)


def test_a_rollout_under_way_is_counted_by_its_members() -> None:
    view = bundle_view(facts(BundleState("shop", active=parts.rollout()), QA, PROD))
    assert (view.state, view.rollout, view.reason) == (BundleStateName.BLOCKED, "shop-17", "shop-17 waits for gate go")
    assert as_json(view.clusters) == {
        "total": 2,
        "updated": 1,
        "pending": 1,
        "failed": 0,
        "unknown": 0,
        "drifted": 0,
    }


def test_a_finished_rollout_leaves_the_bundle_synced() -> None:
    view = bundle_view(facts(BundleState("shop", previous=DONE), QA, OUT))
    assert (view.state, view.reason, view.clusters.updated) == (BundleStateName.SYNCED, None, 2)


@pytest.mark.parametrize(
    ("agents", "state", "reason"),
    [
        ((QA, msgspec.structs.replace(OUT, state=ClusterState.UNKNOWN)), "Unknown", "1 of 2 clusters are not heard"),
        ((QA,), "Unknown", "1 of 2 clusters are not heard"),
        ((QA, Agent("prod", bundles=())), "RollingOut", "1 of 2 clusters still catch up"),
        (
            (QA, Agent("prod", bundles=(Standing(health=Health.DEGRADED),))),
            "Degraded",
            "1 of 2 clusters failed or are degraded",
        ),
    ],
)
def test_a_settled_bundle_tells_what_is_wrong(agents: tuple[Agent, ...], state: str, reason: str) -> None:
    view = bundle_view(facts(BundleState("shop", previous=DONE), *agents))
    assert (view.state, view.reason) == (state, reason)


def test_a_halted_rollout_keeps_the_bundle_degraded() -> None:
    view = bundle_view(facts(BundleState("shop", previous=parts.halted()), QA, PROD))
    assert (view.state, view.reason) == ("Degraded", "shop-16 ended Halted: qa failed in wave qa: apply")
    assert (view.clusters.failed, view.clusters.pending) == (1, 1)


def test_a_bundle_that_cannot_be_rendered_is_not_synced() -> None:
    view = bundle_view(facts(BundleState("shop", previous=DONE), QA, OUT, problem="apps/shop/a.yaml:3: not YAML"))
    assert (view.state, view.reason) == (BundleStateName.DEGRADED, "apps/shop/a.yaml:3: not YAML")


def test_a_bundle_without_releases_is_unknown() -> None:
    view = bundle_view(facts(None, Agent("qa", bundles=()), Agent("prod", bundles=())))
    assert (view.state, view.reason, view.rollout) == ("Unknown", "nothing was released yet", None)


MEMBERS = st.lists(st.sampled_from(list(MemberState)), min_size=2, max_size=2)
AGENTS = st.builds(
    lambda state, sync, health, held: (state, sync, health, held),
    st.sampled_from(list(ClusterState)),
    st.sampled_from(list(Sync)),
    st.sampled_from(list(Health)),
    st.booleans(),
)


@given(MEMBERS, st.lists(AGENTS, min_size=2, max_size=2), st.sampled_from(list(RolloutState)))
def test_every_cluster_is_counted_exactly_once(
    members: list[MemberState],
    agents: list[tuple[ClusterState, Sync, Health, bool]],
    state: RolloutState,
) -> None:
    waves = tuple(
        WaveRun(plan=plan, members=(Member(cluster=plan.name, digest=digest("0a"), state=member),))
        for plan, member in zip(WAVES, members, strict=True)
    )
    going = parts.rollout(waves=waves, state=state, blocked_by=None)
    held = BundleState("shop", previous=going) if state.terminal else BundleState("shop", active=going)
    shown = [
        Agent(name, state=cluster, bundles=(Standing(sync=sync, health=health),) if has else ())
        for name, (cluster, sync, health, has) in zip(("qa", "prod"), agents, strict=True)
    ]
    known = facts(held, *shown)
    counts = bundles.count(known)
    assert counts.updated + counts.pending + counts.failed + counts.unknown == counts.total == 2
    name, reason = bundles.judge(known, counts)
    assert (name is BundleStateName.SYNCED) == (reason is None)


def test_drift_has_the_fields_of_the_interface() -> None:
    assert as_json(drift_view(parts.drift())) == {
        "id": "d1",
        "cluster": "prod",
        "bundle": "shop",
        "object": {"group": "apps", "version": "v1", "kind": "Deployment", "namespace": "shop", "name": "web"},
        "verdict": "modified",
        "state": "healed",
        "mode": "correct",
        "detectedAt": "2026-11-20T08:59:00.250Z",
        "healedAt": "2026-11-20T08:59:00.350Z",
        "changedAt": "2026-11-20T08:59:00Z",
        "manager": "kubectl-edit",
        "operation": "Update",
        "count": 1,
        "fields": [{"path": "spec.replicas", "wanted": 3, "live": 5, "manager": "kubectl-edit"}],
    }


def test_a_difference_names_objects_with_their_version() -> None:
    shown = as_json(diff_view("shop", "prod", [parts.Difference()]))
    assert shown["objects"] == [
        {
            "object": "apps/v1/Deployment shop/web",
            "change": "change",
            "fields": [{"path": "spec.replicas", "wanted": 3, "live": 5, "manager": "kubectl-edit"}],
        }
    ]


def test_an_event_has_the_fields_of_the_interface() -> None:
    event = Event(
        type="rollout.state",
        time=NOW,
        bundle="shop",
        rollout="shop-17",
        wave="qa",
        data={"from": "Running", "to": "Blocked"},
        seq=912,
    )
    assert as_json(event_view(event)) == {
        "seq": 912,
        "time": "2026-11-20T09:00:00.250Z",
        "type": "rollout.state",
        "bundle": "shop",
        "rollout": "shop-17",
        "wave": "qa",
        "cluster": None,
        "actor": "system",
        "data": {"from": "Running", "to": "Blocked"},
    }
    assert behind(900, NOW).data == {"restartFrom": 900}
