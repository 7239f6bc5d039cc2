"""Namespaces: what is filled in, what is left to discovery, and when a Namespace is added."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.render.namespaces import Scopes


def body(api_version: str, kind: str, name: str = "x", namespace: str | None = None) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace is not None else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def crd(group: str, kind: str, scope: str) -> dict[str, Any]:
    spec = {"group": group, "names": {"kind": kind}, "scope": scope}
    return body("apiextensions.k8s.io/v1", "CustomResourceDefinition") | {"spec": spec}


def placed(item: dict[str, Any], *others: dict[str, Any]) -> str | None:
    namespace = Scopes([item, *others]).place(item, "shop")["metadata"].get("namespace")
    assert namespace is None or isinstance(namespace, str)
    return namespace


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (body("v1", "ConfigMap"), "shop"),
        (body("v1", "ConfigMap", namespace=""), "shop"),
        (body("v1", "ConfigMap", namespace="other"), "other"),
        (body("apps/v1", "Deployment"), "shop"),
        (body("v1", "Namespace"), None),
        (body("rbac.authorization.k8s.io/v1", "ClusterRole", namespace="wrong"), None),
        (body("example.com/v1", "Unknown"), None),
        (body("example.com/v1", "Unknown", namespace="other"), "other"),
        (body("example.com/v1", "ConfigMap"), None),
    ],
)
def test_namespaces_of_known_and_unknown_kinds(item: dict[str, Any], expected: str | None) -> None:
    assert placed(item) == expected


def test_a_definition_in_the_set_tells_the_scope() -> None:
    item = body("example.com/v1", "Shop")
    assert placed(item, crd("example.com", "Shop", "Namespaced")) == "shop"
    assert placed(item, crd("example.com", "Shop", "Cluster")) is None
    assert placed(item, crd("other.com", "Shop", "Namespaced")) is None


@pytest.mark.parametrize("spec", [None, [], {"group": 1}, {"names": []}, {"names": {"kind": []}, "scope": "Cluster"}])
def test_a_broken_definition_is_left_to_the_server(spec: Any) -> None:
    broken = body("apiextensions.k8s.io/v1", "CustomResourceDefinition") | {"spec": spec}
    assert placed(body("example.com/v1", "Shop"), broken) is None


def test_a_namespace_is_added_once_and_never_pruned() -> None:
    items = [body("v1", "ConfigMap", namespace="shop")]
    scopes = Scopes(items)
    added = scopes.missing(items, "shop")
    assert added == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": {"fleet/prune": "disabled"}},
    }
    assert scopes.missing([*items, added], "shop") is None


@pytest.mark.parametrize("namespace", ["default", "kube-system"])
def test_the_servers_own_namespaces_are_not_added(namespace: str) -> None:
    items = [body("v1", "ConfigMap", namespace=namespace)]
    assert Scopes(items).missing(items, namespace) is None


def test_no_namespace_for_objects_that_live_elsewhere() -> None:
    items = [body("v1", "ConfigMap", namespace="other"), body("v1", "Namespace", "other")]
    assert Scopes(items).missing(items, "shop") is None
    unknown = [*items, body("example.com/v1", "Unknown")]
    assert Scopes(unknown).missing(unknown, "shop") is not None
