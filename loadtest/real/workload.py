"""What is deployed: 100 ConfigMaps and 10 Deployments a cluster, each carrying the revision it was made of."""

from __future__ import annotations

from typing import Any

CONFIG_MAPS = 100
DEPLOYMENTS = 10
FIRST = "r0"


def objects(namespace: str, revision: str) -> list[dict[str, Any]]:
    return [config_map(namespace, number, revision) for number in range(CONFIG_MAPS)] + [
        deployment(namespace, number, revision) for number in range(DEPLOYMENTS)
    ]


def config_map(namespace: str, number: int, revision: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"settings-{number:03}", "namespace": namespace},
        "data": {"revision": revision, "text": "x" * 200},
    }


def deployment(namespace: str, number: int, revision: str) -> dict[str, Any]:
    labels = {"app": f"web-{number}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"web-{number}", "namespace": namespace, "annotations": {"revision": revision}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "nginx:1.25"}]},
            },
        },
    }


def revision_of(live: dict[str, Any]) -> str | None:
    """The revision that a live object carries."""
    if live["kind"] == "ConfigMap":
        return (live.get("data") or {}).get("revision")
    return (live["metadata"].get("annotations") or {}).get("revision")
