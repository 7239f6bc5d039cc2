"""What people and programs do to objects behind our back, on a real cluster: healed at once, or left alone rightly.

Every way of editing that drift.md names, on the kinds where it matters; each heal may cost one dry-run and one write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.model.drift import Drift
from tests.integration import agentry
from tests.integration.agentry import Rig, config_map, deployment, in_thread, manifests, service
from tests.testbed.audit import Request
from tests.testbed.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Json = dict[str, Any]


@dataclass(frozen=True)
class Edit:
    """One change to an object of its own. `paths` of None: it is no drift, and must stay as it is."""

    title: str
    kind: str
    do: Callable[[Place], Any]
    paths: Sequence[str] | None
    manager: str | None = None
    verdict: str = "modified"
    writes: int = 1
    """Of ours: 2 where what stands in the way is taken over first."""


@dataclass(frozen=True)
class Place:
    """One object of the test."""

    cluster: Cluster
    namespace: str
    kind: str
    name: str

    @property
    def path(self) -> str:
        return f"/{PLURALS[self.kind].format(self.namespace)}/{self.name}"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def live(self) -> Json:
        return self.cluster.api.get(self.path)

    def patch(self, body: Any, how: str = "strategic-merge", manager: str = "kubectl-edit", sub: str = "") -> Json:
        return self.cluster.api.patch(self.path + (f"/{sub}" if sub else ""), body, kind=how, fieldManager=manager)

    def body(self, **fields: Any) -> Json:
        """The object as somebody else would write it."""
        live = self.live()
        metadata = {"name": self.name, "namespace": self.namespace}
        return {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, **fields}


PLURALS = {
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "Secret": "api/v1/namespaces/{}/secrets",
    "Service": "api/v1/namespaces/{}/services",
}


def kubectl(*arguments: str) -> Callable[[Place], Any]:
    """kubectl with NAME for the object's name."""
    return lambda place: place.kubectl(*(argument.replace("NAME", place.name) for argument in arguments))


def patch(
    body: Any, how: str = "strategic-merge", manager: str = "kubectl-edit", sub: str = ""
) -> Callable[[Place], Any]:
    return lambda place: place.patch(body, how, manager, sub)


def wipe_ownership(place: Place) -> Any:
    return place.patch({"metadata": {"managedFields": [{}]}}, "merge", "some-backup-tool")


def recreate_with(**fields: Any) -> Callable[[Place], Any]:
    return lambda place: place.kubectl("replace", "--force", "-f", "-", stdin=json.dumps(place.body(**fields)))


def client_side_apply(**fields: Any) -> Callable[[Place], Any]:
    return lambda place: place.kubectl("apply", "-f", "-", stdin=json.dumps(place.body(**fields)))


def apply_as(manager: str, **fields: Any) -> Callable[[Place], Any]:
    return lambda place: place.cluster.api.apply(place.path, place.body(**fields), field_manager=manager, force="true")


def wiped_and_changed(place: Place) -> Any:
    wipe_ownership(place)
    return place.patch({"data": {"colour": "sly"}})


def replace_at(path: str, value: Any) -> list[Json]:
    return [{"op": "replace", "path": path, "value": value}]


CONTAINER = "/spec/template/spec/containers/0"
INIT = "/spec/template/spec/initContainers"
APP = "spec.template.spec.containers[name=app]"
SWAPPED = [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]
ANYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]

EDITS = [
    # values and marks, by every common tool
    Edit(
        "kubectl patch",
        "ConfigMap",
        kubectl("patch", "cm", "NAME", "-p", '{"data":{"colour":"blue"}}'),
        ["data.colour"],
        "kubectl-patch",
    ),
    Edit("kubectl edit that removes a key", "ConfigMap", patch({"data": {"colour": None}}), ["data"]),
    Edit(
        "kubectl label of a label of ours",
        "ConfigMap",
        kubectl("label", "--overwrite", "cm", "NAME", "team=evil"),
        ["metadata.labels.team"],
        "kubectl-label",
    ),
    Edit(
        "kubectl label that removes what we watch by",
        "ConfigMap",
        kubectl("label", "cm", "NAME", "fleet/bundle-"),
        ["metadata.labels[fleet/bundle]"],
    ),
    Edit(
        "kubectl annotate that removes our mark",
        "ConfigMap",
        kubectl("annotate", "cm", "NAME", "fleet/tracking-id-"),
        ["metadata.annotations"],
    ),
    Edit("kubectl label of a new label", "ConfigMap", kubectl("label", "cm", "NAME", "mine=1"), None),
    Edit("a key that is not ours", "ConfigMap", patch({"data": {"other": "x"}}), None),
    Edit("kubectl delete", "ConfigMap", kubectl("delete", "cm", "NAME"), [], verdict="missing"),
    Edit(
        "kubectl apply of something else",
        "ConfigMap",
        client_side_apply(data={"colour": "x"}),
        ["data.colour"],
        "kubectl-client-side-apply",
    ),
    Edit(
        "server-side apply by another tool",
        "ConfigMap",
        apply_as("another-tool", data={"colour": "pink"}),
        ["data.colour"],
        "another-tool",
    ),
    Edit("ownership wiped and a value changed", "ConfigMap", wiped_and_changed, ["data.colour"]),
    # workloads
    Edit(
        "kubectl set image",
        "Deployment",
        kubectl("set", "image", "deploy/NAME", "app=evil:1"),
        [f"{APP}.image"],
        "kubectl-set",
    ),
    Edit("kubectl scale", "Deployment", kubectl("scale", "deploy/NAME", "--replicas=4"), ["spec.replicas"], "kubectl"),
    Edit("kubectl rollout restart", "Deployment", kubectl("rollout", "restart", "deploy/NAME"), None),
    Edit("kubectl set env of a new variable", "Deployment", kubectl("set", "env", "deploy/NAME", "NEW=1"), None),
    Edit(
        "kubectl set env of one of ours",
        "Deployment",
        kubectl("set", "env", "deploy/NAME", "-c", "app", "A=9"),
        [f"{APP}.env[name=A].value"],
    ),
    Edit("another order of env", "Deployment", patch(replace_at(f"{CONTAINER}/env", SWAPPED), "json"), [f"{APP}.env"]),
    # P-17
    Edit(
        "another order of init containers",
        "Deployment",
        patch([{"op": "move", "from": f"{INIT}/0", "path": f"{INIT}/1"}], "json"),
        ["spec.template.spec.initContainers"],
    ),
    # row 11: a plain apply would leave both containers
    Edit("a container renamed", "Deployment", patch(replace_at(f"{CONTAINER}/name", "app2"), "json"), [APP], writes=2),
    # row 12: a plain apply, and a dry-run, is refused with 422 Duplicate value
    Edit(
        "a port of a container renumbered",
        "Deployment",
        patch(replace_at(f"{CONTAINER}/ports/0/containerPort", 81), "json"),
        [f"{APP}.ports[containerPort=80]"],
        writes=2,
    ),
    # P-18
    Edit(
        "annotations through the status",
        "Deployment",
        patch({"metadata": {"annotations": {"note": "sneaky"}}}, "merge", "sneaky", "status"),
        ["metadata.annotations.note"],
        "sneaky",
    ),
    Edit("kubectl delete of a workload", "Deployment", kubectl("delete", "deploy", "NAME"), [], verdict="missing"),
    # other kinds
    Edit(
        "a port of a service renumbered",
        "Service",
        patch(replace_at("/spec/ports/0/port", 81), "json"),
        ["spec.ports[port=80]", "spec.ports[port=81,protocol=TCP]"],
        writes=2,
    ),
    Edit(
        "another selector",
        "Service",
        patch({"spec": {"selector": {"app": "evil"}}}),
        ["spec.selector.app"],
        "kubectl-edit",
    ),
    # R1: our only field is taken, and our managedFields entry goes with it
    Edit("rights added", "Role", patch({"rules": ANYTHING}, "merge"), ["rules"], "kubectl-edit"),
    # I4: what the manifest leaves out is not ours
    Edit("ingress added to a policy without any", "NetworkPolicy", patch({"spec": {"ingress": [{}]}}), None),
    Edit("another secret", "Secret", patch({"data": {"key": "ZXZpbA=="}}), ["data.key"], "kubectl-edit"),
]


def an_object(kind: str, namespace: str, name: str) -> Json:
    body: Json
    match kind:
        case "ConfigMap":
            body = config_map(namespace, name, colour="red")
            body["metadata"]["labels"] = {"team": "ours"}
        case "Secret":
            body = agentry.secret(namespace, name, key="ours")
        case "Service":
            body = service(namespace, name)
        case "Deployment":
            env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
            ports = [{"name": "http", "containerPort": 80}]
            body = deployment(namespace, name, replicas=1, env=env, ports=ports, securityContext={})
            body["metadata"]["annotations"] = {"note": "ours"}
            pod = body["spec"]["template"]["spec"]
            pod["initContainers"] = [{"name": "i1", "image": "busybox:1"}, {"name": "i2", "image": "busybox:1"}]
            pod["volumes"] = [{"name": "v", "emptyDir": {}}]
        case "Role":
            rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
            body = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "rules": rules}
        case _:
            spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
            body = {"apiVersion": "networking.k8s.io/v1", "kind": kind, "spec": spec}
    return {**body, "metadata": {"name": name, "namespace": namespace, **body.get("metadata", {})}}


def essence(live: Json) -> Json:
    """What must be the same before and after; servers and controllers write the rest."""
    metadata = live["metadata"]
    foreign = ("deployment.kubernetes.io", "kubectl.kubernetes.io")
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(foreign)}
    spec = {k: v for k, v in live.get("spec", {}).items() if k not in ("clusterIP", "clusterIPs")}
    rest = {k: v for k, v in live.items() if k not in ("status", "metadata", "spec")}
    return {**rest, "spec": spec, "labels": metadata.get("labels"), "annotations": annotations}


async def quiet(rig: Rig, seconds: float = 0.5) -> None:
    """Until no watch event has come for so long."""
    counts = rig.counts
    for _ in range(100):
        before = (counts.echo, counts.unchanged, counts.suspect, counts.ignored)
        await anyio.sleep(seconds)
        if before == (counts.echo, counts.unchanged, counts.suspect, counts.ignored):
            return
    raise AssertionError("the watch events never end")


async def test_every_edit_is_healed_once_or_left_alone(kube_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    places = [Place(kube_cluster, namespace, edit.kind, f"e{number}") for number, edit in enumerate(EDITS)]
    wanted = manifests(*(an_object(place.kind, namespace, place.name) for place in places))
    async with agentry.running(tmp_path / "data", kube_cluster.kubeconfig) as rig:
        await rig.assign(wanted, 1)
        await rig.healthy(1)
        await quiet(rig)
        before = [await in_thread(place.live) for place in places]
        start = await agentry.mark(kube_cluster)
        edited: list[Json] = []
        for edit, place in zip(EDITS, places, strict=True):
            await in_thread(partial(edit.do, place))
            edited.append({} if edit.paths is not None else await in_thread(place.live))
        await rig.drifts(sum(edit.paths is not None for edit in EDITS))
        await quiet(rig)
        drifts = {drift.object.name: drift for drift in await rig.stored_drifts()}
        requests = await agentry.written(kube_cluster, start)
        after = [await in_thread(place.live) for place in places]
    wrong: list[str] = []
    for number, edit in enumerate(EDITS):
        mine = [request for request in requests if request.name == f"e{number}"]
        try:
            left = before[number] if edit.paths is not None else edited[number]
            assert essence(after[number]) == essence(left)
            judge(edit, drifts.get(f"e{number}"), mine)
        except AssertionError as error:
            wrong.append(f"{edit.title}: {error}")
    assert not wrong, "\n\n".join(wrong)


def judge(edit: Edit, drift: Drift | None, requests: Sequence[Request]) -> None:
    dry_runs = [request for request in requests if request.dry_run]
    writes = [request for request in requests if request.writes]
    if edit.paths is None:
        assert drift is None
        assert writes == []
        return
    assert drift is not None
    assert (drift.state, drift.verdict, drift.count) == ("healed", edit.verdict, 1)
    assert edit.manager in (None, drift.manager), drift.manager
    assert [path for path in edit.paths if path not in [change.path for change in drift.fields]] == [], drift.fields
    assert len(dry_runs) <= 1, requests
    assert len([r for r in writes if r.code < 300]) == edit.writes, requests
