"""Clusters that are away, paused or join, while commits roll out to the others; why something waits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import plane_site
from tests.integration.plane import Json
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Cluster, Clusters

pytestmark = pytest.mark.real

UNKNOWN_AFTER = 3
BUNDLES = {"pair": "both", "staged": "waves"}
"""Bundle → strategy."""


@pytest.fixture(scope="module")
def module_site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    environment = {"FLEET_ENGINE_UNKNOWN_AFTER": str(UNKNOWN_AFTER)}
    with plane_site.site(tmp_path_factory.mktemp("clusters"), clusters, environment=environment) as made:
        made.document["strategies"] = plane_site.strategies(progress_deadline="30s")
        for name, strategy in BUNDLES.items():
            made.bundle(name, strategy)
        made.push({path: text for name in BUNDLES for path, text in folder(name, app("1")).items()})
        made.plane.start()
        for name in BUNDLES:
            made.plane.wait_state(name, None, "Succeeded")
        yield made


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    """With all clusters there, before and after."""
    yield module_site
    for cluster in module_site.clusters.values():
        cluster.ensure_running()
    for cluster in module_site.document["clusters"]:
        cluster.pop("paused", None)
    module_site.push()
    module_site.plane.wait_ready_clusters(2)


def state(site: Site, cluster: str) -> Json:
    found: Json = site.plane.get(f"/clusters/{cluster}")
    return found


def wait_for(site: Site, cluster: str, *states: str) -> Json:
    return site.plane.wait(lambda: state(site, cluster), lambda c: c["state"] in states, f"{cluster} {states}")


def members(rollout: Json) -> dict[str, Any]:
    return {m["cluster"]: (m["state"], m["reason"]) for wave in rollout["waves"] for m in wave["clusters"]}


def test_a_cluster_that_is_down_is_passed_over_and_catches_up(site: Site) -> None:
    plane = site.plane
    site.prod.kill_apiserver()
    lost = wait_for(site, "prod", "Unknown")
    assert lost["reason"]
    assert lost["bundles"][0]["health"] == "Unknown", "a status that is not heard any more must not stay green"
    sha = site.push(folder("pair", app("2")), "while prod is down")
    rollout = plane.wait_state("pair", sha, "Succeeded")
    assert members(rollout) == {"qa": ("Updated", None), "prod": ("Skipped", "unreachable")}
    assert site.config(site.qa, "pair") == {"version": "2"}
    explained = plane.cli("explain", "prod")
    assert any("passed over" in sentence for sentence in explained["because"])
    assert any("Unknown" in sentence for sentence in explained["because"])
    site.prod.restart_apiserver()
    wait_for(site, "prod", "Ready")
    plane.wait(lambda: site.config(site.prod, "pair"), lambda c: c == {"version": "2"}, "prod has caught up")
    plane.wait_synced("pair")


def test_a_wave_of_which_nothing_can_be_reached_opens_nothing(site: Site) -> None:
    """Rule 10: an unreachable qa wave must not open prod."""
    plane, before = site.plane, site.config(site.prod, "staged")
    mark = site.prod.audit.mark()
    site.qa.kill_apiserver()
    wait_for(site, "qa", "Unknown")
    sha = site.push(folder("staged", app("2")), "while qa is down")
    halted = plane.wait_state("staged", sha, "Halted")
    assert members(halted) == {"qa": ("Skipped", "unreachable"), "prod": ("Pending", None)}
    explained = plane.cli("explain", halted["id"])
    assert any(f"fleet retry {halted['id']}" in sentence for sentence in explained["because"])
    site.qa.restart_apiserver()
    wait_for(site, "qa", "Ready")
    assert site.writes(site.prod, mark, "staged") == []
    assert site.config(site.prod, "staged") == before
    # Not the release's fault: nothing is quarantined, and the very same goes on.
    assert plane.cli("retry", halted["id"], "--wait")["state"] == "Succeeded"
    assert site.config(site.prod, "staged") == {"version": "2"}


def test_an_api_server_that_dies_during_the_apply_is_waited_for(site: Site) -> None:
    plane = site.plane
    site.prod.pause_apiserver()
    sha = site.push(folder("pair", app("3")), "while prod hangs")
    plane.wait_rollout(
        "pair", sha, lambda r: members(r)["qa"] == ("Updated", None) and members(r)["prod"][0] == "Applying", "qa done"
    )
    site.prod.kill_apiserver()
    site.prod.restart_apiserver()
    rollout = plane.wait_state("pair", sha, "Succeeded")
    assert members(rollout) == {"qa": ("Updated", None), "prod": ("Updated", None)}
    failed = [
        event
        for event in plane.events()
        if event["rollout"] == rollout["id"] and event["type"] == "cluster.state" and event["data"]["to"] == "Failed"
    ]
    assert failed == []


def test_a_paused_cluster_gets_nothing_and_then_what_it_is_owed(site: Site) -> None:
    plane = site.plane
    prod = next(cluster for cluster in site.document["clusters"] if cluster["name"] == "prod")
    prod["paused"] = True
    sha = site.push(folder("pair", app("4")), "while prod is paused")
    mark = site.prod.audit.mark()
    rollout = plane.wait_state("pair", sha, "Succeeded")
    assert members(rollout) == {"qa": ("Updated", None), "prod": ("Skipped", "paused")}
    assert state(site, "prod")["state"] == "Paused"
    assert any("paused in fleet.yaml" in sentence for sentence in plane.cli("explain", "prod")["because"])
    # Drift there is reported, and left alone.
    patch = '{"data": {"version": "by hand"}}'
    site.prod.kubectl("-n", site.namespace("pair"), "patch", "configmap", "settings", "--type=merge", "-p", patch)
    (reported,) = plane.wait(
        lambda: plane.get("/drift?cluster=prod&bundle=pair&open=true")["items"], lambda items: items, "drift reported"
    )
    assert (reported["state"], reported["manager"]) == ("reported", "kubectl-patch")
    assert site.writes(site.prod, mark, "pair") == []
    assert site.config(site.prod, "pair") == {"version": "by hand"}
    del prod["paused"]
    site.push(message="go on")
    plane.wait(lambda: site.config(site.prod, "pair"), lambda c: c == {"version": "4"}, "prod has caught up")
    plane.wait_synced("pair")
    assert plane.get("/drift?cluster=prod&bundle=pair&open=true")["items"] == []


def test_a_wave_of_paused_clusters_waits_and_says_for_what(site: Site) -> None:
    plane = site.plane
    prod = next(cluster for cluster in site.document["clusters"] if cluster["name"] == "prod")
    prod["paused"] = True
    sha = site.push(folder("staged", app("5")), "while prod is paused")
    waiting = plane.wait_state("staged", sha, "Blocked")
    explained = plane.cli("explain", waiting["id"])
    assert (explained["waitingFor"]["kind"], explained["waitingFor"]["name"]) == ("paused", "prod")
    assert "paused: true" in explained["waitingFor"]["next"]
    del prod["paused"]
    site.push(message="go on")
    plane.wait_rollout("staged", sha, lambda r: r["state"] == "Succeeded", "the same rollout goes on")
    assert site.config(site.prod, "staged") == {"version": "5"}


def test_a_cluster_that_comes_back_empty_gets_everything_again(site: Site) -> None:
    """As after a restore of nothing: same address and certificates, all objects gone, resource versions begin anew."""
    plane = site.plane
    plane.wait_synced("pair")
    version = site.config(site.prod, "pair")
    mark = site.qa.audit.mark()
    site.prod.restart_apiserver(keep_data=False)
    plane.wait(lambda: site.config(site.prod, "pair"), lambda c: c == version, "everything again")
    plane.wait_synced("pair")
    plane.wait_synced("staged")
    assert site.deployment(site.prod, "pair")["spec"]["replicas"] == 2
    assert site.inventory(site.prod, "pair") == site.inventory(site.qa, "pair")
    assert site.asked(site.qa, mark) == [], "the other clusters notice nothing"
    sha = site.push(folder("pair", app("6")), "and goes on")
    assert members(plane.wait_state("pair", sha, "Succeeded")).keys() == {"qa", "prod"}
    assert site.config(site.prod, "pair") == {"version": "6"}


def test_rights_that_are_too_small_are_named(site: Site) -> None:
    plane, user = site.plane, f"narrow-{site.fleet}"
    allow(site.qa, user, {"apiGroups": [""], "resources": ["*"], "verbs": ["*"]})
    allow(site.qa, user, {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]})
    narrow = {"name": "narrow", "labels": {"env": "narrow"}, "kubeconfig": {"path": str(site.qa.kubeconfig_for(user))}}
    only = {"matchNames": ["narrow"]}
    site.document["clusters"].append(narrow)
    both = site.document["strategies"][2]["waves"][0]
    both["clusterSelector"] = {"matchNames": ["qa", "prod"]}
    site.document["strategies"].append({"name": "narrow", "waves": [{"name": "only", "clusterSelector": only}]})
    site.bundle("narrow", "narrow")
    sha = site.push(folder("narrow", app("1")), "a cluster with small rights")
    halted = plane.wait_state("narrow", sha, "Halted")
    ((member,),) = [wave["clusters"] for wave in halted["waves"]]
    assert (member["state"], member["reason"]) == ("Failed", "apply")
    assert 'cannot patch resource "deployments" in API group "apps"' in member["message"]
    assert user in member["message"]
    allow(site.qa, user, {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]})
    assert plane.cli("retry", halted["id"])["state"] == "Running"
    place = f"/apis/apps/v1/namespaces/{site.namespace('narrow')}/deployments/web"
    site.qa.api.wait(place, lambda found: found.get("spec", {}).get("replicas") == 2)


def allow(cluster: Cluster, user: str, rule: Json) -> None:
    """Gives a user of a cluster one more right."""
    api, place, name = cluster.api, "/apis/rbac.authorization.k8s.io/v1", f"{user}-{uuid.uuid4().hex[:8]}"
    meta = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    api.create(f"{place}/clusterroles", {**meta, "kind": "ClusterRole", "rules": [rule]})
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding = {**meta, "kind": "ClusterRoleBinding", "subjects": subjects, "roleRef": role}
    api.create(f"{place}/clusterrolebindings", binding)
