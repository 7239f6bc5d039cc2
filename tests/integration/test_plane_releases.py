"""What a commit may do wrong, on real clusters: refused by the server, never healthy, overtaken, invalid, empty."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml

from tests.integration import plane_site
from tests.integration.plane import Json
from tests.integration.plane_site import Site, app, deployment, folder, settings
from tests.testbed.cluster import Cluster, Clusters
from tests.testbed.errors import ApiFailed

pytestmark = pytest.mark.real

REFUSED = {
    "schema": "replicaz",
    "quantity": "quantities must match",
    "immutable": "immutable",
    "policy": "no forbidden settings here",
    "image": "web",
}
"""Bundle → a word of what the server, or the Deployment's own status, has against its second version."""


@pytest.fixture(scope="module")
def site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every bundle of this module at its first version everywhere."""
    with plane_site.site(tmp_path_factory.mktemp("releases"), clusters) as made:
        names = (*REFUSED, "overtaken", "steady", "vanishing")
        for name in names:
            made.bundle(name)
        made.push({path: text for name in names for path, text in folder(name, app("1")).items()})
        made.plane.start()
        for name in names:
            made.plane.wait_state(name, None, "Succeeded")
        yield made


# --- refused, or never healthy ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(site: Site) -> tuple[str, int]:
    """One commit that is wrong in five ways; its id, and the mark in prod's audit log from before it."""
    forbid(site.qa, site.namespace("policy"))
    mark = site.prod.audit.mark()
    hasty = plane_site.strategies(progress_deadline="2s")[0] | {"name": "hasty"}
    site.document["strategies"].append(hasty)
    next(bundle for bundle in site.bundles if bundle["name"] == "image")["strategy"] = "hasty"
    typo = yaml.safe_load(deployment())
    typo["spec"]["replicaz"] = 3
    much = yaml.safe_load(deployment())
    much["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "a lot"}}
    sha = site.push(
        {
            **folder("schema", {"web.yaml": yaml.safe_dump(typo)}),
            **folder("quantity", {"web.yaml": yaml.safe_dump(much)}),
            **folder("immutable", {"web.yaml": deployment(app="another")}),
            **folder("policy", {"settings.yaml": settings(version="2", forbidden="yes")}),
            **folder("image", app("2", image="nginx:does-not-exist")),
        },
        "wrong in every way",
    )
    return sha, mark


@pytest.mark.parametrize("bundle", REFUSED)
def test_a_bad_release_halts_in_qa(site: Site, broken: tuple[str, int], bundle: str) -> None:
    sha, mark = broken
    rollout = site.plane.wait_state(bundle, sha, "Halted")
    qa, prod = rollout["waves"]
    (member,) = qa["clusters"]
    assert (qa["state"], member["state"]) == ("Failed", "Failed")
    assert member["reason"] == ("deadline" if bundle == "image" else "apply")
    assert REFUSED[bundle] in member["message"]
    assert REFUSED[bundle] in rollout["reason"]
    assert prod["state"] == "Pending"
    assert site.writes(site.prod, mark, bundle) == []
    assert site.config(site.prod, bundle) == {"version": "1"}
    (shown,) = [b for b in site.plane.cli("bundles")["items"] if b["name"] == bundle]
    assert shown["state"] == "Degraded"
    assert REFUSED[bundle] in shown["reason"]
    failures = [
        event
        for event in site.plane.events()
        if event["rollout"] == rollout["id"] and event["type"] == "cluster.state" and event["data"]["to"] == "Failed"
    ]
    assert len(failures) == 1


def test_a_fix_after_a_halt_runs_at_once(site: Site, broken: tuple[str, int]) -> None:
    for bundle in REFUSED:
        site.plane.wait_state(bundle, broken[0], "Halted")
    sha = site.push({path: text for name in REFUSED for path, text in folder(name, app("3")).items()}, "the fix")
    for bundle in REFUSED:
        site.plane.wait_state(bundle, sha, "Succeeded")
        for cluster in site.clusters.values():
            assert site.config(cluster, bundle) == {"version": "3"}


def forbid(cluster: Cluster, namespace: str) -> None:
    """An admission policy of the cluster's owner, in force when this returns."""
    api, place = cluster.api, "/apis/admissionregistration.k8s.io/v1"
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}
    ]
    only_here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    validation = {"expression": "!has(object.data.forbidden)", "message": "no forbidden settings here"}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules, "namespaceSelector": only_here},
            "validations": [validation],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"]},
    }
    api.create(f"{place}/validatingadmissionpolicies", policy)
    api.create(f"{place}/validatingadmissionpolicybindings", binding)
    probe: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}, "data": {"forbidden": "x"}}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            api.create(f"/api/v1/namespaces/{namespace}/configmaps", probe, dryRun="All")
        except ApiFailed:
            return
        time.sleep(0.1)
    raise AssertionError("the admission policy is not in force")


# --- overtaken -------------------------------------------------------------------------------------------------------


def test_a_newer_commit_supersedes_what_is_in_qa(site: Site) -> None:
    slow = plane_site.strategies(bake="1h")[0] | {"name": "slow"}
    site.document["strategies"].append(slow)
    (bundle,) = [bundle for bundle in site.bundles if bundle["name"] == "overtaken"]
    before = site.version(site.prod, "overtaken")
    bundle["strategy"] = "slow"
    second = site.push(folder("overtaken", app("2")), "second")
    baking = site.plane.wait_rollout("overtaken", second, lambda r: r["waves"][0]["state"] == "Baking", "qa baking")
    bundle["strategy"] = "waves"
    third = site.push(folder("overtaken", app("3")), "third")
    last = site.plane.wait_state("overtaken", third, "Succeeded")
    given_way = site.plane.rollout(baking["id"])
    assert (given_way["state"], given_way["successor"]) == ("Superseded", last["id"])
    assert [wave["state"] for wave in last["waves"]] == ["Passed", "Passed"]
    seen = [o["data"]["version"] for o in site.history(site.prod, "overtaken", before) if "version" in o["data"]]
    assert seen == ["3"], "the overtaken release must never have been in prod"


# --- invalid, empty --------------------------------------------------------------------------------------------------


def test_an_invalid_fleet_file_changes_nothing_and_is_shown(site: Site) -> None:
    plane = site.plane
    before = plane.get("/status")
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    text = yaml.safe_dump(site.document, sort_keys=False).replace("clusterSelector:", "clusterSelectr:", 1)
    site.push(folder("steady", app("2")), "a typo", fleet=text)
    status = plane.wait(lambda: plane.cli("status"), lambda s: s["configError"], "the error in `fleet status`")
    assert "clusterSelectr" in status["configError"]
    assert "clusterSelector" in status["configError"]
    assert status["configRevision"] == before["configRevision"]
    assert "clusterSelectr" in plane.run("status").out
    assert any(event["type"] == "config.rejected" for event in plane.events())
    assert {b["name"]: b["rollout"] for b in status["bundles"]} == {b["name"]: b["rollout"] for b in before["bundles"]}
    for name, cluster in site.clusters.items():
        assert site.asked(cluster, marks[name]) == []
    sha = site.push(message="mended")
    plane.wait_state("steady", sha, "Succeeded")
    assert plane.get("/status")["configError"] is None


@pytest.mark.parametrize("left", ["nothing", "a comment"])
def test_an_emptied_folder_is_an_error_and_deletes_nothing(site: Site, left: str) -> None:
    plane = site.plane
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    before = plane.rollouts("vanishing")[0]["id"]
    emptied = {"settings.yaml": None, "web.yaml": None} | ({"left.yaml": "# all gone\n"} if left != "nothing" else {})
    site.push(folder("vanishing", emptied), "emptied")
    shown = plane.wait(
        lambda: plane.cli("bundle", "vanishing"), lambda b: b["state"] == "Degraded", "the error of the empty folder"
    )
    assert "apps/vanishing" in shown["reason"]
    assert plane.rollouts("vanishing")[0]["id"] == before
    for name, cluster in site.clusters.items():
        assert site.asked(cluster, marks[name]) == []
        assert site.config(cluster, "vanishing") is not None
    site.push(folder("vanishing", {**app("1"), "left.yaml": None} if left != "nothing" else app("1")), "back again")
    plane.wait_synced("vanishing")
    assert plane.rollouts("vanishing")[0]["id"] == before, "the same content is no rollout"
