"""What becomes of a rendered object before it is digested: drift.md 1.1 "Normalise before apply"."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import normalize
from fleet.errors import InvalidInput
from fleet.model.objects import ObjectId
from tests.unit.core.live import as_live

PEM = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").decode()


def _object(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": "n"}, **fields}


def _deployment(**pod: Any) -> dict[str, Any]:
    return _object("apps/v1", "Deployment", spec={"template": {"spec": pod}})


def test_what_belongs_to_the_server_is_dropped() -> None:
    body = _object("apps/v1", "Deployment", spec={"replicas": 2}, status={"replicas": 7})
    body["metadata"] |= {
        "managedFields": [],
        "creationTimestamp": None,
        "resourceVersion": "7",
        "uid": "u",
        "generation": 3,
        "selfLink": "/x",
        "labels": {"a": "b", "gone": None},
        "annotations": None,
    }
    before = copy.deepcopy(body)
    assert normalize.normalize(body) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": "n", "labels": {"a": "b"}, "annotations": {}},
        "spec": {"replicas": 2},
    }
    assert body == before


def test_string_data_becomes_data_and_wins_over_it() -> None:
    body = _object("v1", "Secret", data={"a": "b2xk", "c": "Yw=="}, stringData={"a": "new", "nothing": None})
    assert normalize.normalize(body)["data"] == {"a": "bmV3", "c": "Yw=="}
    assert "stringData" not in normalize.normalize(body)


def test_null_keys_of_data_are_dropped_and_other_nulls_stay() -> None:
    assert normalize.normalize(_object("v1", "ConfigMap", data={"a": "1", "b": None}))["data"] == {"a": "1"}
    assert normalize.normalize(_object("a.example/v1", "Widget", data={"b": None}))["data"] == {"b": None}
    assert normalize.normalize(_object("apps/v1", "Deployment", spec={"replicas": None}))["spec"] == {"replicas": None}


@pytest.mark.parametrize("rules", [[], None])
def test_empty_rules_of_an_aggregated_role_are_left_to_its_controller(rules: list[Any] | None) -> None:
    aggregated = _object("rbac.authorization.k8s.io/v1", "ClusterRole", rules=rules, aggregationRule={"x": []})
    plain = _object("rbac.authorization.k8s.io/v1", "ClusterRole", rules=rules)
    assert "rules" not in normalize.normalize(aggregated)
    assert "rules" in normalize.normalize(plain)


@pytest.mark.parametrize(("bundle", "kept"), [("", False), ("Cg==", False), ("\n", False), ("%%", False), (PEM, True)])
def test_a_bundle_without_certificates_is_left_to_who_injects_it(bundle: str, kept: bool) -> None:
    webhooks = _object(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        webhooks=[{"name": "a", "clientConfig": {"caBundle": bundle, "url": "https://x"}}],
    )
    service = _object("apiregistration.k8s.io/v1", "APIService", spec={"caBundle": bundle, "group": "g"})
    conversion = {"webhook": {"clientConfig": {"caBundle": bundle}}, "strategy": "Webhook"}
    definition = _object("apiextensions.k8s.io/v1", "CustomResourceDefinition", spec={"conversion": conversion})
    seen = (
        normalize.normalize(webhooks)["webhooks"][0]["clientConfig"],
        normalize.normalize(service)["spec"],
        normalize.normalize(definition)["spec"]["conversion"]["webhook"]["clientConfig"],
    )
    assert [("caBundle" in config) for config in seen] == [kept] * 3
    assert webhooks["webhooks"][0]["clientConfig"]["caBundle"] == bundle


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            _deployment(containers=[{"name": "a"}, {"name": "a"}]),
            "spec.template.spec.containers: two items with name a",
        ),
        (
            _deployment(containers=[{"name": "a", "env": [{"name": "E", "value": "1"}, {"name": "E"}]}]),
            r"containers\[a\].env: two items with name E",
        ),
        (
            _deployment(initContainers=[{"name": "i", "ports": [{"containerPort": 53}, {"containerPort": 53.0}]}]),
            "containerPort 53, protocol TCP",
        ),
        (_deployment(volumes=[{"name": "v"}, {"name": "v"}]), "volumes: two items with name v"),
        (_object("v1", "Service", spec={"ports": [{"port": 53}, {"port": 53, "protocol": "TCP"}]}), "spec.ports"),
        (
            _object("batch/v1", "CronJob", spec={"jobTemplate": {"spec": {"template": {"spec": {"containers": [1]}}}}}),
            "every item must be a mapping",
        ),
        (_object("v1", "ConfigMap") | {"metadata": {"name": "x", "finalizers": ["a", "a"]}}, "finalizers"),
        (_object("v1", "ConfigMap") | {"metadata": {"name": "x", "labels": {"a": 1}}}, "metadata.labels.*`a`"),
        (_object("v1", "Secret", stringData={"a": 1}), "stringData.*`a`"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}}, "metadata.name"),
        ({"apiVersion": "v1", "metadata": {"name": "x"}}, "kind is missing"),
        ({"kind": "ConfigMap", "metadata": {"name": "x"}}, "apiVersion is missing"),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, "metadata is missing"),
    ],
)
def test_what_a_server_would_answer_with_500_is_refused_with_its_place(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        normalize.normalize(body)


@pytest.mark.parametrize(
    "body",
    [
        _object("v1", "Service", spec={"ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}),
        _object("a.example/v1", "Widget", spec={"containers": [{"name": "a"}, {"name": "a"}]}),
        _deployment(tolerations=[{"key": "a"}, {"key": "a"}]),
        _deployment(containers=None),
    ],
)
def test_what_only_looks_like_a_duplicate_is_taken(body: dict[str, Any]) -> None:
    assert normalize.normalize(body)["spec"] == body["spec"]


def test_normalising_is_idempotent() -> None:
    body = _object("v1", "Secret", stringData={"a": "b"}, status={})
    once = normalize.normalize(body)
    assert normalize.normalize(once) == once


def test_the_stamp_names_bundle_and_object_and_keeps_what_was_there() -> None:
    body = _object("apps/v1", "Deployment")
    body["metadata"]["labels"] = {"app": "x"}
    stamped = normalize.stamp(body, fleet="acme", bundle="shop")
    assert stamped["metadata"]["labels"] == {"app": "x", "fleet/bundle": "shop"}
    assert stamped["metadata"]["annotations"] == {"fleet/tracking-id": "acme:shop:apps/Deployment:n/x"}
    assert body["metadata"]["labels"] == {"app": "x"}
    assert normalize.names_itself(as_live(stamped))
    assert normalize.tracked(as_live(stamped)) == normalize.Tracking(
        "acme", "shop", ObjectId("apps", "Deployment", "n", "x")
    )


def test_a_copied_mark_does_not_name_its_carrier() -> None:
    stamped = normalize.stamp(_object("v1", "ConfigMap"), fleet="acme", bundle="shop")
    stamped["metadata"]["namespace"] = "elsewhere"
    assert not normalize.names_itself(as_live(stamped))
    assert not normalize.names_itself(as_live(_object("v1", "ConfigMap")))


_NAMES = st.text("abc:.-", min_size=1, max_size=8)
_PLAIN = st.text("abc.-", min_size=1, max_size=8)


@given(_PLAIN, _PLAIN, st.just("") | _PLAIN, _PLAIN, st.just("") | _PLAIN, _NAMES)
def test_a_tracking_id_reads_back(fleet: str, bundle: str, group: str, kind: str, namespace: str, name: str) -> None:
    object_id = ObjectId(group, kind, namespace, name)
    mark = normalize.tracking(normalize.tracking_id(fleet, bundle, object_id))
    assert mark == normalize.Tracking(fleet, bundle, object_id)


@pytest.mark.parametrize(
    "text", [None, "", "a", "a:b:c", "a:b:c:d", "a:b:/:n/x", ":b:/K:n/x", "a:b:g/K:n/", "app:g/K:n/x"]
)
def test_marks_of_others_are_none_of_ours(text: str | None) -> None:
    assert normalize.tracking(text) is None


def test_a_manifest_is_canonical_and_its_digest_depends_on_content_only() -> None:
    first = normalize.manifest({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "n": 1.0})
    second = normalize.manifest({"n": 1, "metadata": {"name": "x"}, "kind": "ConfigMap", "apiVersion": "v1"})
    assert first == second
    assert first.body == b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"n":1}'
    assert (len(first.digest), first.version, first.id) == (16, "v1", ObjectId("", "ConfigMap", "", "x"))
    with pytest.raises(InvalidInput, match="ConfigMap x: nan"):
        normalize.manifest({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "n": float("nan")})


def test_a_set_is_sorted_and_refuses_one_object_twice() -> None:
    names = ("b", "a", "c")
    items = [normalize.manifest({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n}}) for n in names]
    forward, backward = normalize.manifest_set(items), normalize.manifest_set(reversed(items))
    assert forward == backward
    assert [item.id.name for item in forward.manifests] == ["a", "b", "c"]
    assert forward.digest.startswith("sha256:")
    assert normalize.manifest_set(items[:2]).digest != forward.digest
    with pytest.raises(InvalidInput, match="ConfigMap b is defined twice"):
        normalize.manifest_set([*items, items[0]])


def test_a_manifest_is_placed_where_discovery_says_it_belongs() -> None:
    body = {"apiVersion": "a.example/v1", "kind": "Widget", "metadata": {"name": "x"}}
    loose = normalize.manifest(normalize.stamp(body, fleet="acme", bundle="shop"))
    placed = normalize.place(loose, "n", fleet="acme", bundle="shop")
    assert placed.id == ObjectId("a.example", "Widget", "n", "x")
    assert normalize.names_itself(as_live(json.loads(placed.body)))
    assert normalize.place(placed, "other", fleet="acme", bundle="shop") is placed
