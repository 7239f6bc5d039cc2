"""What the drift decisions assume of API servers: take-overs heal exactly, duplicates are refused there too."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.core import normalize, ownership
from fleet.core.drift import compare, explain, takeover, verdict
from fleet.errors import InvalidInput
from fleet.model.cluster import Baseline
from tests.testbed.cluster import Cluster
from tests.unit.core.live import as_live

pytestmark = pytest.mark.real

MANAGER = "fleet-acme"
KEY = b"k" * 16

Body = dict[str, Any]


class Managed:
    """One object that we apply to a real server, with its baseline, and what others do to it."""

    def __init__(self, cluster: Cluster, path: str, desired: Body) -> None:
        self.api = cluster.api
        self.path = f"{path}/{desired['metadata']['name']}"
        self.desired = desired
        self.baseline = self.heal()

    def heal(self) -> Baseline:
        self.baseline = self._remember(self.api.apply(self.path, self.desired, field_manager=MANAGER, force="true"))
        return self.baseline

    def dry_run(self) -> tuple[int, Body]:
        query = {"fieldManager": MANAGER, "force": "true", "dryRun": "All"}
        content_type = "application/apply-patch+yaml"
        status, text = self.api.raw("PATCH", self.path, self.desired, query=query, content_type=content_type)
        return status, json.loads(text)

    def compared(self) -> tuple[Body, Body]:
        """The live object and the answer to a dry-run against that very state (controllers write between)."""
        for _ in range(10):
            live, (status, answer) = self.live(), self.dry_run()
            assert status == 200, answer
            if answer["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]:
                return live, answer
        raise AssertionError("the object never came to rest")

    def edit(self, patch: Any, kind: str = "json", manager: str = "kubectl-patch") -> Body:
        return self.api.patch(self.path, patch, kind=kind, fieldManager=manager)

    def live(self) -> Body:
        return self.api.get(self.path)

    def judged(self) -> verdict.Verdict:
        return verdict.judge(self.baseline, as_live(self.live()), "MODIFIED", manager=MANAGER, key=KEY)

    def take_over(self, *, after_duplicate: bool = False) -> takeover.TakeOver | None:
        """Decides on the live object and sends the patch; again when a controller wrote in between, as 409 tells."""
        owned = ownership.unpack(self.baseline.fields)
        for _ in range(10):
            taken = takeover.take_over(self.live(), manager=MANAGER, owned=owned, after_duplicate=after_duplicate)
            if taken is None or self.send(taken) != 409:
                return taken
        raise AssertionError("the object never came to rest")

    def send(self, taken: takeover.TakeOver) -> int:
        """Sends a take-over; the status, 200 or 409."""
        query = {"fieldManager": takeover.maintenance_manager(MANAGER)}
        content_type = "application/merge-patch+json"
        status, text = self.api.raw("PATCH", self.path, json.loads(taken.patch), query=query, content_type=content_type)
        assert status in (200, 409), text
        return status

    def managers(self) -> set[str]:
        return {entry["manager"] for entry in self.live()["metadata"]["managedFields"]}

    def _remember(self, answer: Body) -> Baseline:
        wanted = normalize.manifest(self.desired)
        presence = ownership.presence_only(self.desired)
        return verdict.remember(wanted, "b", as_live(answer), manager=MANAGER, key=KEY, presence_only=presence)


@pytest.fixture
def deployment(kube_cluster: Cluster, namespace: str) -> Managed:
    container: Body = {
        "name": "app",
        "image": "registry.example/app:1",
        "ports": [{"name": "http", "containerPort": 80}],
    }
    container |= {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "securityContext": {}}
    pod = {"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}
    spec: Body = {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}}
    spec["template"] = {"metadata": {"labels": {"app": "x"}}, "spec": pod}
    desired: Body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}
    return Managed(kube_cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments", desired)


@pytest.fixture
def service(kube_cluster: Cluster, namespace: str) -> Managed:
    spec = {"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80}]}
    desired = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": spec}
    return Managed(kube_cluster, f"/api/v1/namespaces/{namespace}/services", desired)


_APP = "/spec/template/spec/containers/0"


def test_a_renamed_container_is_restored_exactly(deployment: Managed) -> None:
    deployment.edit([{"op": "replace", "path": f"{_APP}/name", "value": "app2"}])
    assert deployment.judged() == verdict.Suspect("fields")
    assert deployment.take_over() is not None
    deployment.heal()
    names = [container["name"] for container in deployment.live()["spec"]["template"]["spec"]["containers"]]
    assert names == ["app"]
    assert {"kubectl-patch", takeover.maintenance_manager(MANAGER)}.isdisjoint(deployment.managers())
    assert not isinstance(deployment.judged(), verdict.Suspect)
    assert not compare.confirm(*deployment.compared())


def test_a_renumbered_port_of_a_service_is_restored_although_the_server_refuses_the_apply(service: Managed) -> None:
    service.edit([{"op": "replace", "path": "/spec/ports/0/port", "value": 81}])
    assert service.judged() == verdict.Suspect("fields")
    status, answer = service.dry_run()
    assert (status, "Duplicate value" in answer["message"]) == (422, True)
    assert service.take_over() is not None
    service.heal()
    assert [port["port"] for port in service.live()["spec"]["ports"]] == [80]


def test_a_port_of_a_container_is_restored_inside_its_item(deployment: Managed) -> None:
    deployment.edit([{"op": "replace", "path": f"{_APP}/ports/0/containerPort", "value": 81}])
    assert deployment.take_over() is not None
    deployment.heal()
    ports = deployment.live()["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert [port["containerPort"] for port in ports] == [80]


def test_a_sidecar_beside_our_container_is_no_drift_until_the_server_calls_it_a_duplicate(service: Managed) -> None:
    service.edit([{"op": "add", "path": "/spec/ports/-", "value": {"name": "more", "port": 90}}])
    assert not isinstance(service.judged(), verdict.Suspect)
    assert service.take_over() is None
    service.desired["spec"]["ports"].append({"name": "more", "port": 91})
    assert service.dry_run()[0] == 422
    assert service.take_over(after_duplicate=True) is not None
    service.heal()
    assert sorted(port["port"] for port in service.live()["spec"]["ports"]) == [80, 91]


def test_a_stale_take_over_is_refused(deployment: Managed) -> None:
    deployment.edit([{"op": "replace", "path": f"{_APP}/name", "value": "app2"}])
    owned = ownership.unpack(deployment.baseline.fields)
    taken = takeover.take_over(deployment.live(), manager=MANAGER, owned=owned)
    assert taken is not None
    deployment.edit({"metadata": {"labels": {"later": "x"}}}, kind="merge")
    assert deployment.send(taken) == 409


def test_reset_managed_fields_are_no_drift_and_others_may_fill_our_empty_structs(deployment: Managed) -> None:
    deployment.edit({"metadata": {"managedFields": [{}]}}, kind="merge", manager="reset")
    lost = deployment.judged()
    assert isinstance(lost, verdict.Unchanged)
    assert lost.ownership_lost
    deployment.heal()
    pod: Body = {"containers": [{"name": "app", "securityContext": {"runAsUser": 1}}]}
    pod["volumes"] = [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]
    deployment.edit({"spec": {"template": {"spec": pod}}}, kind="strategic-merge")
    assert isinstance(deployment.judged(), verdict.Unchanged)
    assert not compare.confirm(*deployment.compared())


def test_reordered_env_is_drift_with_both_orders_told(deployment: Managed) -> None:
    env = deployment.live()["spec"]["template"]["spec"]["containers"][0]["env"]
    deployment.edit([{"op": "replace", "path": f"{_APP}/env", "value": env[::-1]}])
    assert deployment.judged() == verdict.Suspect("fields")
    live, answer = deployment.compared()
    assert compare.confirm(live, answer)
    (change,) = explain.explain(as_live(live), live, answer, manager=MANAGER).fields
    assert change.path == "spec.template.spec.containers[name=app].env"
    assert (change.wanted, change.live) == (["A", "B"], ["B", "A"])
    deployment.heal()
    assert [item["name"] for item in deployment.live()["spec"]["template"]["spec"]["containers"][0]["env"]] == [
        "A",
        "B",
    ]


def test_what_kubectl_applied_before_us_leaves_with_git_once_it_is_absorbed(
    kube_cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    body: Body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1", "b": "2"}}
    legacy = copy.deepcopy(body)
    legacy["metadata"]["annotations"] = {explain.LAST_APPLIED: json.dumps(body)}
    kube_cluster.api.create(path, legacy, fieldManager="kubectl-client-side-apply")
    managed = Managed(kube_cluster, path, body)
    taken = takeover.absorb(managed.live(), manager=MANAGER)
    assert taken is not None
    assert managed.send(taken) == 200
    del managed.desired["data"]["b"]
    managed.heal()
    live = managed.live()
    assert live["data"] == {"a": "1"}
    assert "annotations" not in live["metadata"]
    assert managed.managers() == {MANAGER}


def _twice(field: str, *keys: str) -> Iterator[tuple[str, Body]]:
    """A pod spec with two items of one key in a list, and one with two of different keys."""
    base: Body = {"containers": [{"name": "c", "image": "registry.example/c:1"}]}
    item: Body = dict.fromkeys(keys, "x") | _FILL.get(field, {})
    owner = base if field in _POD else base["containers"][0]
    for name, change in (("equal", {}), ("different", {keys[0]: 81 if item[keys[0]] == 80 else "/y"})):
        items = [item, item | change]
        if field == "containers":
            items = [{"image": "registry.example/c:1"} | i for i in items]
        target = copy.deepcopy(base) if owner is base else {**base, "containers": [{**owner, field: items}]}
        if owner is base:
            target[field] = items
        yield name, target


_POD = ("containers", "initContainers", "volumes", "imagePullSecrets", "hostAliases", "topologySpreadConstraints")
_FILL: dict[str, Body] = {
    "ports": {"containerPort": 80, "protocol": "TCP"},
    "volumes": {"emptyDir": {}},
    "hostAliases": {"ip": "10.0.0.1"},
    "initContainers": {"image": "registry.example/c:1"},
    "topologySpreadConstraints": {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"},
}


@pytest.mark.parametrize(
    ("field", "keys"),
    [
        ("containers", ("name",)),
        ("initContainers", ("name",)),
        ("volumes", ("name",)),
        ("imagePullSecrets", ("name",)),
        ("hostAliases", ("ip",)),
        ("topologySpreadConstraints", ("topologyKey", "whenUnsatisfiable")),
        ("env", ("name",)),
        ("ports", ("containerPort", "protocol")),
        ("volumeMounts", ("mountPath",)),
        ("volumeDevices", ("devicePath",)),
    ],
)
def test_what_we_refuse_as_a_duplicate_the_server_cannot_take(
    kube_cluster: Cluster, namespace: str, field: str, keys: tuple[str, ...]
) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/x"
    query = {"fieldManager": MANAGER, "dryRun": "All"}
    for name, pod in _twice(field, *keys):
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}
        _, text = kube_cluster.api.raw("PATCH", path, body, query=query, content_type="application/apply-patch+yaml")
        duplicate = "duplicate entries for key" in text
        assert duplicate == (name == "equal"), text
        if duplicate:
            with pytest.raises(InvalidInput, match=field):
                normalize.normalize(body)
        else:
            normalize.normalize(body)
