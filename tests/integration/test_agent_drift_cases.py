"""Drift beyond single edits, on a real cluster: what is only reported, what must wait, fights, versions, secrets."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.model.cluster import Health
from fleet.model.drift import Drift
from tests.integration import agentry
from tests.integration.agentry import (
    Rig,
    config_map,
    definition,
    deployment,
    eventually,
    in_thread,
    manifests,
    namespace_object,
)
from tests.testbed.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Json = dict[str, Any]


def cm_path(namespace: str, name: str = "a") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def colour(cluster: Cluster, namespace: str) -> str:
    return str(cluster.api.get(cm_path(namespace))["data"]["colour"])


def paint(cluster: Cluster, namespace: str, value: str, manager: str = "kubectl-edit") -> None:
    cluster.api.patch(cm_path(namespace), {"data": {"colour": value}}, fieldManager=manager)


async def only(rig: Rig, state: str) -> Drift:
    """The one drift record there is, in a state."""
    (drift,) = [d for d in await rig.drifts(1, states=state) if d.state == state]
    return drift


async def quiet(rig: Rig, seconds: float = 0.5) -> None:
    """Until no suspicion has come for so long."""
    for _ in range(100):
        before = rig.counts.suspect
        await anyio.sleep(seconds)
        if before == rig.counts.suspect:
            return
    raise AssertionError("the suspicions never end")


async def troubled(rig: Rig) -> list[Drift]:
    """The drift records that say why they could not be healed."""
    for _ in range(1000):
        if found := [drift for drift in await rig.stored_drifts() if drift.message]:
            return found
        await anyio.sleep(0.05)
    raise AssertionError(await rig.stored_drifts())


# --- what is only reported -------------------------------------------------------------------------------------------


async def test_detect_reports_and_closes_when_somebody_else_resolves_it(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, drift_mode="detect")
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        drift = await only(rig, "reported")
        assert (drift.mode, drift.manager) == ("detect", "kubectl-edit")
        await in_thread(lambda: paint(kube_cluster, namespace, "green"))
        (again,) = await wait_fields(rig, "green")
        assert again.id == drift.id
        await in_thread(lambda: paint(kube_cluster, namespace, "red"))
        closed = await only(rig, "healed")
        assert closed.id == drift.id
        assert [r for r in await agentry.asked(kube_cluster, start) if r.writes] == []
        (end,) = await rig.hears("drift.healed")
        assert end.data["how"] == "resolved"


async def wait_fields(rig: Rig, live: str) -> list[Drift]:
    with anyio.fail_after(15):
        while True:
            found = [d for d in await rig.stored_drifts() if any(f.live == live for f in d.fields)]
            if found:
                return found
            await anyio.sleep(0.02)


async def test_a_reported_drift_outlives_a_restart_and_is_healed_once_it_may_be(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"), config_map(namespace, "b", colour="red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, drift_mode="detect")
        await rig.healthy(1)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        first = await only(rig, "reported")
        held = dict(rig.assignments[rig.cluster])
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held) as rig:
        await rig.healthy(1)
        await anyio.sleep(1)
        assert [d.id for d in await rig.stored_drifts()] == [first.id]
        await rig.assign(wanted, 2, drift_mode="correct")
        drift = await only(rig, "healed")
        assert drift.id == first.id
        assert await in_thread(lambda: colour(kube_cluster, namespace)) == "red"


async def test_what_is_resolved_while_nobody_looks_is_closed(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, drift_mode="detect")
        await rig.healthy(1)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        await only(rig, "reported")
        held = dict(rig.assignments[rig.cluster])
    await in_thread(lambda: paint(kube_cluster, namespace, "red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held) as rig:
        await only(rig, "healed")


async def test_an_object_or_a_bundle_can_ask_to_be_left_alone(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    ignored = config_map(namespace, "a", colour="red")
    ignored["metadata"]["annotations"] = {"fleet/drift": "ignore"}
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(ignored), 1)
        await rig.healthy(1)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        drift = await only(rig, "ignored")
        assert drift.fields[0].live == "blue"
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 2, drift_mode="off")
        await rig.healthy(2)
        assert await in_thread(lambda: colour(kube_cluster, namespace)) == "red"
        start = await agentry.mark(kube_cluster)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        await anyio.sleep(0.7)
        assert await agentry.written(kube_cluster, start) == []
        assert [d.state for d in await rig.stored_drifts()] == ["healed"]


@pytest.mark.parametrize("held", ["paused", "suspended"])
async def test_what_is_held_is_reported_and_healed_afterwards(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, held: str
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"), config_map(namespace, "b", x="1"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, prune=True)
        await rig.healthy(1)
        rig.configure(**{held: True})
        await anyio.sleep(0.1)
        start = await agentry.mark(kube_cluster)
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        await only(rig, "reported")
        await rig.assign(manifests(config_map(namespace, "a", colour="white")), 2, prune=True)
        await anyio.sleep(1)
        assert [r for r in await agentry.asked(kube_cluster, start) if r.writes] == []
        rig.configure()
        await rig.wait(lambda r: r.seq == 2 and r.outcome is not None and r.outcome.pruned == 1)
        assert await in_thread(lambda: colour(kube_cluster, namespace)) == "white"
        await only(rig, "healed")


async def test_a_held_cluster_reports_drift_after_a_restart(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1)
        await rig.healthy(1)
        held = dict(rig.assignments[rig.cluster])
    await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
    start = await agentry.mark(kube_cluster)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig, assignments=held, paused=True) as rig:
        await only(rig, "reported")
        await rig.healthy(1)
        assert [r for r in await agentry.asked(kube_cluster, start) if r.writes] == []
        rig.configure()
        await only(rig, "healed")


async def test_a_paused_deployment_is_shown_and_not_reverted(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    body = deployment(namespace, "web", replicas=1)
    body["spec"]["paused"] = False
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(body), 1)
        await rig.healthy(1)
        await agentry.kubectl(kube_cluster, "-n", namespace, "rollout", "pause", "deploy/web")
        drift = await only(rig, "reported")
        assert [f.path for f in drift.fields] == ["spec.paused"]
        await agentry.kubectl(kube_cluster, "-n", namespace, "rollout", "resume", "deploy/web")
        await only(rig, "healed")


# --- what must wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ConfigMap", "Deployment"])
async def test_a_terminating_object_is_made_again_when_it_is_gone(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, kind: str
) -> None:
    body = config_map(namespace, "x", a="1") if kind == "ConfigMap" else deployment(namespace, "x", replicas=1)
    path = cm_path(namespace, "x") if kind == "ConfigMap" else f"/apis/apps/v1/namespaces/{namespace}/deployments/x"
    api = kube_cluster.api
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(body), 1)
        await rig.healthy(1)
        await in_thread(lambda: api.patch(path, {"metadata": {"finalizers": ["example.com/hold"]}}))
        uid = (await in_thread(lambda: api.get(path)))["metadata"]["uid"]
        await agentry.kubectl(kube_cluster, "-n", namespace, "delete", kind, "x", "--wait=false")
        report = await rig.wait(lambda r: r.health is Health.PROGRESSING)
        assert "is being deleted" in report.health_reason
        start = await agentry.mark(kube_cluster)
        await anyio.sleep(0.7)
        assert await agentry.written(kube_cluster, start) == []
        await in_thread(lambda: api.patch(path, {"metadata": {"finalizers": None}}))
        drift = await only(rig, "healed")
        assert drift.verdict == "missing"
        assert (await in_thread(lambda: api.get(path)))["metadata"]["uid"] != uid
        await rig.healthy(1)


async def test_a_namespace_comes_back_with_everything_in_it(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    inner = f"{namespace}-x"
    api = kube_cluster.api
    objects = [config_map(inner, f"c{number}", a="1") for number in range(5)]
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(namespace_object(inner), *objects), 1)
        await rig.healthy(1)
        held = cm_path(inner, "c0")
        await in_thread(lambda: api.patch(held, {"metadata": {"finalizers": ["example.com/hold"]}}))
        await agentry.kubectl(kube_cluster, "delete", "namespace", inner, "--wait=false")
        await eventually(lambda: not api.exists(cm_path(inner, "c1")))
        start = await agentry.mark(kube_cluster)
        await anyio.sleep(2)
        refused = [r for r in await agentry.asked(kube_cluster, start) if r.writes]
        assert len(refused) < 40, "a namespace that goes away must not be asked hotly"
        await in_thread(lambda: api.patch(held, {"metadata": {"finalizers": None}}))
        await rig.drifts(6, 30)
        await rig.healthy(1)
        for number in range(5):
            assert await in_thread(partial(api.exists, cm_path(inner, f"c{number}")))
        await rig.assign(None, 2)
        await rig.wait(lambda r: r.seq == 2 and r.phase == "applied", 30)


# --- others who keep writing -----------------------------------------------------------------------------------------


async def test_a_fight_is_told_once_and_does_not_run_hot(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    opponent = {**config_map(namespace, "a", colour="blue")}
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 1)
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)

        def strike() -> None:
            if colour(kube_cluster, namespace) == "red":
                kube_cluster.api.apply(cm_path(namespace), opponent, field_manager="argocd-controller", force="true")

        with anyio.move_on_after(12):
            while not rig.said("drift.contested"):
                await in_thread(strike)
                await anyio.sleep(0.05)
        (contested,) = await rig.hears("drift.contested")
        assert contested.data["manager"] == "argocd-controller"
        requests = [r for r in await agentry.written(kube_cluster, start) if r.name == "a"]
        assert len([r for r in requests if r.writes]) <= 9, "every heal waits longer than the one before"
        with anyio.move_on_after(3):
            while True:
                await in_thread(strike)
                await anyio.sleep(0.05)
        assert len(rig.said("drift.contested")) == 1


async def test_undoing_a_rollout_is_undone(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(deployment(namespace, "web", image="nginx:1.25", replicas=1)), 1)
        await rig.healthy(1)
        await rig.assign(manifests(deployment(namespace, "web", image="nginx:1.30", replicas=1)), 2)
        await rig.healthy(2)
        await agentry.kubectl(kube_cluster, "-n", namespace, "rollout", "undo", "deploy/web")
        drift = await only(rig, "healed")
        assert (drift.manager, drift.operation) == ("kubectl", "Update")
        (change,) = drift.fields
        assert (change.wanted, change.live) == ("nginx:1.30", "nginx:1.25")
        await rig.healthy(2)


# --- recreated by others ---------------------------------------------------------------------------------------------


async def test_what_another_tool_makes_anew_is_not_taken_from_it(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    theirs = config_map(namespace, "a", colour="blue")
    theirs["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": "shop:/ConfigMap:x/a"}
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(config_map(namespace, "a", colour="red")), 1)
        await rig.healthy(1)
        rig.configure(paused=True)
        await agentry.kubectl(kube_cluster, "replace", "--force", "-f", "-", stdin=json.dumps(theirs))
        await only(rig, "reported")
        rig.configure()
        (drift,) = await troubled(rig)
        assert "is managed by Argo CD" in drift.message
        assert drift.state == "open"
        assert await in_thread(lambda: colour(kube_cluster, namespace)) == "blue"


async def test_what_is_made_anew_just_as_it_was_is_ours_again(
    kube_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    wanted = manifests(config_map(namespace, "a", colour="red"))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1, prune=True)
        await rig.healthy(1)
        rig.configure(paused=True)
        same = wanted.manifests[0].body.decode()
        await agentry.kubectl(kube_cluster, "replace", "--force", "-f", "-", stdin=same)
        await quiet(rig)
        rig.configure()
        await in_thread(lambda: paint(kube_cluster, namespace, "blue"))
        await rig.drifts(1, states="healed")
        assert await in_thread(lambda: colour(kube_cluster, namespace)) == "red"
        await rig.assign(manifests(config_map(namespace, "other", x="1")), 2, prune=True)
        await rig.wait(lambda r: r.seq == 2 and r.outcome is not None and r.outcome.pruned == 1)


# --- versions of custom resources ------------------------------------------------------------------------------------


class Things:
    """A kind of its own per test, at two versions; everything of it goes with the test."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.api = cluster.api
        self.group = f"{namespace}.example.com"
        self.namespace = namespace
        self.crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{self.group}"

    def thing(self, version: str, **spec: Any) -> Json:
        metadata = {"name": "t", "namespace": self.namespace}
        return {"apiVersion": f"{self.group}/{version}", "kind": "Thing", "metadata": metadata, "spec": spec}

    def definition(self, **versions: Any) -> Json:
        return definition(self.group, "things", "Thing", **versions)

    def path(self, version: str) -> str:
        return f"/apis/{self.group}/{version}/namespaces/{self.namespace}/things/t"

    def status(self, version: str, **status: Any) -> Json:
        return self.api.patch(f"{self.path(version)}/status", {"status": status}, fieldManager="controller")


@pytest.fixture
def things(kube_cluster: Cluster, namespace: str) -> Iterator[Things]:
    made = Things(kube_cluster, namespace)
    yield made
    if kube_cluster.api.exists(made.crd):
        kube_cluster.api.delete(made.crd)


PLAIN = {"a": {"type": "string"}}
DEFAULTED = {"a": {"type": "string"}, "b": {"type": "string", "default": "x"}}


async def test_writes_through_another_version(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, things: Things
) -> None:
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(things.definition(v1=PLAIN, v1beta1=PLAIN), things.thing("v1beta1", a="1")), 1)
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        await in_thread(lambda: things.status("v1", phase="one"))  # P-5
        await anyio.sleep(0.7)
        assert await agentry.written(kube_cluster, start) == []
        await in_thread(lambda: things.api.patch(things.path("v1"), {"spec": {"a": "2"}}, fieldManager="ui"))  # P-6
        drift = await only(rig, "healed")
        assert [(f.path, f.wanted, f.live) for f in drift.fields] == [("spec.a", "1", "2")]
        assert (await in_thread(lambda: things.api.get(things.path("v1"))))["spec"] == {"a": "1"}


async def test_lost_ownership_is_no_drift_and_taken_back_at_most_once(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, things: Things
) -> None:
    """P-7, P-8: a version that adds a default makes the server drop managedFields at every write through it."""
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        wanted = manifests(things.definition(v1=DEFAULTED, v1beta1=PLAIN), things.thing("v1beta1", a="1"))
        await rig.assign(wanted, 1)
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        for number in range(5):
            await in_thread(partial(things.status, "v1", phase=f"p{number}"))
            await anyio.sleep(0.4)
        live = await in_thread(lambda: things.api.get(things.path("v1beta1")))
        requests = [r for r in await agentry.written(kube_cluster, start) if r.name == "t"]
        assert not live["metadata"].get("managedFields")
        assert len([r for r in requests if r.writes]) <= 1, requests
        assert len([r for r in requests if r.dry_run]) <= 1, requests
        assert await rig.stored_drifts() == ()


async def test_a_version_that_is_served_no_more_is_unknown_and_never_missing(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, things: Things
) -> None:
    """P-10: objects stored at a version that was dropped cannot be read; nothing may be deleted or made anew."""
    both = things.definition(v1beta1=PLAIN, v1=PLAIN)
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(things.thing("v1", a="1"), both), 1, prune=True)
        await rig.healthy(1)
        uid = (await in_thread(lambda: things.api.get(things.path("v1"))))["metadata"]["uid"]
        only_v1 = things.definition(v1=PLAIN)

        def drop() -> None:
            things.api.patch(f"{things.crd}/status", {"status": {"storedVersions": ["v1"]}})
            live = things.api.get(things.crd)
            live["spec"]["versions"] = only_v1["spec"]["versions"]
            things.api.update(things.crd, live)

        rig.configure(paused=True)
        await in_thread(drop)
        await eventually(lambda: things.api.raw("GET", things.path("v1"))[0] == 500)
        await anyio.sleep(1)
        assert all(d.object.kind != "Thing" for d in await rig.stored_drifts())
        rig.configure()  # the definition is healed, and with it the object can be read again
        await eventually(lambda: things.api.get(things.path("v1"))["metadata"]["uid"] == uid)
        assert all(d.object.kind != "Thing" for d in await rig.stored_drifts())
        await rig.healthy(1)


async def test_an_object_that_grew_too_large_is_not_asked_hotly(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, things: Things
) -> None:
    """P-11: the server drops managedFields to fit it in, and refuses our apply for good."""
    many = {f"key-{number:05d}": "x" * 30 for number in range(15_000)}
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(things.definition(), things.thing("v1", **many)), 1)
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        grown = {"spec": {"key-00000": "changed", "more": "y" * 750_000}}
        await in_thread(lambda: things.api.patch(things.path("v1"), grown, fieldManager="grower"))
        (drift,) = await troubled(rig)
        assert "too large" in drift.message
        await anyio.sleep(2)
        requests = [r for r in await agentry.written(kube_cluster, start) if r.name == "t"]
        assert len(requests) <= 6, requests


async def test_replicas_that_nobody_states_may_be_scaled(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    body = deployment(namespace, "web")
    del body["spec"]["replicas"]
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(body), 1)
        await rig.healthy(1)
        start = await agentry.mark(kube_cluster)
        await agentry.kubectl(kube_cluster, "-n", namespace, "scale", "deploy/web", "--replicas=3")
        await anyio.sleep(1)
        assert await agentry.written(kube_cluster, start) == []
        assert await rig.stored_drifts() == ()


@pytest.mark.parametrize("memory", ["kept", "lost"])
async def test_replicas_that_leave_git_stay_as_they_are(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, memory: str
) -> None:
    """P-16: without a hand-over the server would put the default of one in place of five."""
    free = deployment(namespace, "web")
    del free["spec"]["replicas"]
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    async with agentry.running(tmp_path / "one", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(deployment(namespace, "web", replicas=5)), 1)
        await rig.healthy(1)
        if memory == "kept":
            await rig.assign(manifests(free), 2)
            await rig.healthy(2)
    async with agentry.running(tmp_path / "two", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(free), 3)
        await rig.healthy(3)
        assert (await in_thread(partial(kube_cluster.api.get, path)))["spec"]["replicas"] == 5
        start = await agentry.mark(kube_cluster)
        await agentry.kubectl(kube_cluster, "-n", namespace, "scale", "deploy/web", "--replicas=3")
        await anyio.sleep(0.7)
        assert await agentry.written(kube_cluster, start) == []
        assert await rig.stored_drifts() == ()


async def test_a_definition_is_healed_as_a_whole(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, things: Things
) -> None:
    """P-20: `versions` of a CRD is atomic."""
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(things.definition()), 1)
        await rig.healthy(1)
        column = {"name": "A", "type": "string", "jsonPath": ".spec.a"}
        change = [{"op": "add", "path": "/spec/versions/0/additionalPrinterColumns", "value": [column]}]
        await in_thread(lambda: things.api.patch(things.crd, change, kind="json", fieldManager="kubectl-edit"))
        drift = await only(rig, "healed")
        assert drift.manager == "kubectl-edit"
        live = await in_thread(lambda: things.api.get(things.crd))
        assert "additionalPrinterColumns" not in live["spec"]["versions"][0]


# --- secrets ---------------------------------------------------------------------------------------------------------

CANARY = "canary-4711-do-not-leak"


async def test_values_of_secrets_stay_where_they_are(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    theirs = f"{CANARY}-theirs"
    data = tmp_path / "data"
    async with agentry.running(data, kube_cluster.kubeconfig) as rig:
        await rig.assign(manifests(agentry.secret(namespace, "s", key=CANARY)), 1)
        await rig.healthy(1)
        edit = {"stringData": {"key": theirs}}
        await in_thread(
            lambda: kube_cluster.api.patch(
                f"/api/v1/namespaces/{namespace}/secrets/s", edit, fieldManager="kubectl-edit"
            )
        )
        (drift,) = await rig.drifts(1)
        assert [(f.path, f.wanted, f.live, f.manager) for f in drift.fields] == [
            ("data.key", "(secret)", "(secret)", "kubectl-edit")
        ]
        bad = agentry.secret(namespace, "s", key=f"{CANARY}-new")
        bad["type"] = "kubernetes.io/tls"
        await rig.assign(manifests(bad), 2)
        report = await rig.wait(lambda r: r.seq == 2 and r.phase == "failed")
        told = json.dumps([repr(e.data) for e in rig.events]) + repr(rig.reports) + repr(await rig.stored_drifts())
        told += report.message + caplog.text
    stored = b"".join(file.read_bytes() for file in data.iterdir() if file.is_file())
    for spelling in (CANARY, base64.b64encode(CANARY.encode()).decode()[:28]):
        assert spelling not in told
        assert spelling.encode() not in stored
