"""A fleet in miniature: a Git repository with fleet.yaml and bundles, real clusters for qa and prod, a control plane.

Each site has a fleet, namespaces and a data directory of its own, so that several share the clusters of a test run. A
bundle `shop` lives in the folder apps/shop and in the namespace `SITE-shop` of every cluster.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.integration.plane import ApiRefused, Json, Plane
from tests.testbed.audit import Request
from tests.testbed.cluster import Cluster
from tests.testbed.errors import ApiFailed
from tests.testbed.git import Content, Repository

STABLE = "300ms"
BAKE = "300ms"
GATES = [{"name": "go", "type": "approval", "allowAuthor": True}]


def strategies(progress_deadline: str = "60s", *, stable: str = STABLE, bake: str = BAKE) -> list[Json]:
    """`waves`: qa, then prod; `gated`: the same with the approval `go` before prod; `both`: all at once."""
    health = {"stableFor": stable, "progressDeadline": progress_deadline}
    qa = {"name": "qa", "clusterSelector": {"matchLabels": {"env": "qa"}}, "bake": bake}
    prod = {"name": "prod", "clusterSelector": {"matchLabels": {"env": "prod"}}}
    return [
        {"name": "waves", "health": health, "waves": [qa, prod]},
        {"name": "gated", "health": health, "waves": [qa, {**prod, "gates": {"before": ["go"]}}]},
        {"name": "both", "health": health, "waves": [{"name": "all", "clusterSelector": {}, "maxConcurrency": 2}]},
    ]


class Site:
    """`plane` is not started yet. `qa` and `prod` are the clusters of these names in fleet.yaml."""

    def __init__(self, directory: Path, qa: Cluster, prod: Cluster, **plane: Any) -> None:
        self.fleet = f"s{uuid.uuid4().hex[:8]}"
        self.directory = directory
        self.clusters: dict[str, Cluster] = {"qa": qa, "prod": prod}
        self.qa, self.prod = qa, prod
        self.repository = Repository.create(directory / "git" / "fleet.git")
        self.bundles: list[Json] = []
        self.document: Json = {
            "apiVersion": "fleet/v1",
            "kind": "Fleet",
            "metadata": {"name": self.fleet},
            "clusters": [
                {"name": name, "labels": {"env": name}, "kubeconfig": {"path": str(cluster.kubeconfig)}}
                for name, cluster in self.clusters.items()
            ],
            "bundles": self.bundles,
            "gates": GATES,
            "strategies": strategies(),
        }
        self.plane = Plane(directory, plane.pop("source", self.repository.path), **plane)

    # --- Git ---------------------------------------------------------------------------------------------------------

    def bundle(self, name: str, strategy: str = "waves", **keys: Any) -> Json:
        """Adds a bundle to fleet.yaml, which `push` commits."""
        added = {
            "name": name,
            "path": f"apps/{name}",
            "namespace": self.namespace(name),
            "strategy": strategy,
            "prune": {"enabled": True},
            **keys,
        }
        self.bundles.append(added)
        return added

    def namespace(self, bundle: str) -> str:
        return f"{self.fleet}-{bundle}"

    def push(
        self,
        files: Mapping[str, Content] | None = None,
        message: str = "change",
        *,
        fleet: str | None = None,
        author: str = "Test Author <author@example.com>",
    ) -> str:
        """A commit of these files and of fleet.yaml (or the text `fleet` instead), told to the control plane."""
        text = yaml.safe_dump(self.document, sort_keys=False) if fleet is None else fleet
        sha = self.repository.commit({"fleet.yaml": text, **(files or {})}, message, author=author)
        self.sync()
        return sha

    def sync(self) -> None:
        """`fleet sync`, where somebody listens; one that cannot be stored fetches all the same."""
        with contextlib.suppress(OSError, ApiRefused):
            self.plane.sync()

    def approve(self, rollout: str) -> None:
        self.plane.post(f"/rollouts/{rollout}/approve", {"gate": "go", "as": "release-manager"})

    # --- clusters ----------------------------------------------------------------------------------------------------

    def config(self, cluster: Cluster, bundle: str, name: str = "settings") -> dict[str, str] | None:
        """The data of a ConfigMap of the bundle; None when it does not exist."""
        path = f"/api/v1/namespaces/{self.namespace(bundle)}/configmaps/{name}"
        if not cluster.api.exists(path):
            return None
        return dict(cluster.api.get(path).get("data", {}))

    def deployment(self, cluster: Cluster, bundle: str, name: str = "web") -> Json:
        return cluster.api.get(f"/apis/apps/v1/namespaces/{self.namespace(bundle)}/deployments/{name}")

    def inventory(self, cluster: Cluster, bundle: str) -> tuple[int, str]:
        """(seq, digest) of the bundle as the cluster holds them."""
        found = cluster.api.get(f"/api/v1/namespaces/fleet-system/configmaps/inventory.{self.fleet}.{bundle}")
        return int(found["data"]["seq"]), found["data"]["digest"]

    def writes(self, cluster: Cluster, since: int, bundle: str | None = None) -> list[Request]:
        """What our field manager wrote since a mark, dry-runs not counted; of one bundle's objects, or all of it."""
        namespace = None if bundle is None else self.namespace(bundle)
        return cluster.audit.requests(since=since, writes=True, manager=f"fleet-{self.fleet}", namespace=namespace)

    def asked(self, cluster: Cluster, since: int) -> list[Request]:
        """Every write and every dry-run of ours since a mark."""
        found = cluster.audit.requests(since=since, manager=f"fleet-{self.fleet}")
        return [request for request in found if request.writes or request.dry_run]

    def history(self, cluster: Cluster, bundle: str, since: str, resource: str = "configmaps") -> list[Json]:
        """Every state that the objects of one kind had since a resourceVersion, as the server's own watch tells it."""
        query = {"watch": "true", "resourceVersion": since, "timeoutSeconds": "1", "labelSelector": "fleet/bundle"}
        status, text = cluster.api.raw("GET", f"/api/v1/namespaces/{self.namespace(bundle)}/{resource}", query=query)
        assert status == 200, text
        return [json.loads(line)["object"] for line in text.splitlines()]

    def version(self, cluster: Cluster, bundle: str, resource: str = "configmaps") -> str:
        """The resourceVersion of now, for `history`."""
        listed = cluster.api.get(f"/api/v1/namespaces/{self.namespace(bundle)}/{resource}")
        return str(listed["metadata"]["resourceVersion"])

    def close(self) -> None:
        self.plane.close()
        for cluster in self.clusters.values():
            for bundle in self.bundles:
                # A test may have left the server dead: what it holds then need not be deleted.
                with contextlib.suppress(ApiFailed, OSError):
                    cluster.api.delete(f"/api/v1/namespaces/{self.namespace(bundle['name'])}")


@contextlib.contextmanager
def site(directory: Path, clusters: Sequence[Cluster], **plane: Any) -> Iterator[Site]:
    """A site on the first two clusters, which run; ends with its control plane, whose log a failure shows."""
    qa, prod = clusters[0], clusters[1]
    qa.ensure_running()
    prod.ensure_running()
    made = Site(directory, qa, prod, **plane)
    with contextlib.closing(made), made.plane:
        yield made


def settings(**data: str) -> str:
    """A ConfigMap `settings`."""
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data})


def deployment(image: str = "nginx:1.25", replicas: int = 2, name: str = "web", **labels: str) -> str:
    chosen = labels or {"app": name}
    return yaml.safe_dump(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": chosen},
                "template": {
                    "metadata": {"labels": chosen},
                    "spec": {"containers": [{"name": "web", "image": image}]},
                },
            },
        }
    )


def app(version: str, image: str = "nginx:1.25") -> dict[str, str]:
    """The files of a bundle of a ConfigMap and a Deployment, without their folder."""
    return {"settings.yaml": settings(version=version), "web.yaml": deployment(image)}


def folder(bundle: str, files: Mapping[str, Content]) -> dict[str, Content]:
    return {f"apps/{bundle}/{name}": content for name, content in files.items()}
