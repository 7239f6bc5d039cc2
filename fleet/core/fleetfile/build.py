"""From a document that was read without a problem to the frozen values of `model.fleetfile`.

Every default was filled in by the reader from `document`; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

from fleet.model.fleetfile import (
    ApprovalGate,
    Bundle,
    BundleSource,
    Cluster,
    DriftPolicy,
    Fleet,
    GitSource,
    HealthPolicy,
    KubeconfigRef,
    PrunePolicy,
    Requirement,
    Selector,
    Strategy,
    Wave,
)

Node = dict[str, Any]


def fleet(root: Node) -> Fleet:
    """The whole fleet; `root` is what Reader.read(ROOT, …) answered without a problem."""
    return Fleet(
        name=root["metadata"]["name"],
        environment_label=root["environmentLabel"],
        sources=tuple(_source(node) for node in root["sources"]),
        clusters=tuple(_cluster(node) for node in root["clusters"]),
        bundles=tuple(_bundle(node) for node in root["bundles"]),
        gates=tuple(_gate(node) for node in root["gates"]),
        strategies=tuple(_strategy(node) for node in root["strategies"]),
        secrets_path=root.get("secrets", {}).get("file", {}).get("path"),
        otlp_endpoint=root.get("telemetry", {}).get("otlp", {}).get("endpoint"),
    )


def selector(node: Node) -> Selector:
    """A selector that was read without a problem."""
    return Selector(
        match_labels=node.get("matchLabels", {}),
        match_expressions=tuple(
            Requirement(key=item["key"], operator=item["operator"], values=item.get("values", ()))
            for item in node.get("matchExpressions", ())
        ),
        match_names=node.get("matchNames", ()),
    )


def _source(node: Node) -> GitSource:
    git = node.get("git")
    if git is None:
        return GitSource(name=node["name"], url="")
    return GitSource(
        name=node["name"],
        url=git.get("url", ""),
        ref=git["ref"],
        interval=git["interval"],
        secret_ref=git.get("secretRef"),
    )


def _cluster(node: Node) -> Cluster:
    kubeconfig = node.get("kubeconfig")
    return Cluster(
        name=node["name"],
        labels=dict(node["labels"]),
        kubeconfig=KubeconfigRef(kubeconfig.get("path"), kubeconfig.get("context")) if kubeconfig is not None else None,
        secret_ref=node.get("secretRef"),
        in_cluster=node.get("inCluster", False),
        values=dict(node["values"]),
        paused=node["paused"],
    )


def _bundle(node: Node) -> Bundle:
    if "path" in node:
        sources: tuple[BundleSource, ...] = (BundleSource(name="", path=node["path"], overlay=node.get("overlay")),)
    else:
        sources = tuple(
            BundleSource(name=item.get("name", ""), path=item["path"], overlay=item.get("overlay"))
            for item in node["sources"]
        )
    chosen = node.get("clusterSelector")
    return Bundle(
        name=node["name"],
        sources=sources,
        strategy=node["strategy"],
        cluster_selector=selector(chosen) if chosen is not None else None,
        namespace=node["namespace"],
        create_namespace=node["createNamespace"],
        templates=node["templates"],
        drift=DriftPolicy(mode=node["drift"]["mode"]),
        prune=PrunePolicy(enabled=node["prune"]["enabled"], max_objects=node["prune"]["maxObjects"]),
        suspend=node["suspend"],
        deletion=node["deletion"],
        adopt=node["adopt"],
    )


def _gate(node: Node) -> ApprovalGate:
    return ApprovalGate(
        name=node["name"],
        approvers=node["approvers"],
        count=node["count"],
        timeout=node["timeout"],
        allow_author=node["allowAuthor"],
    )


def _strategy(node: Node) -> Strategy:
    return Strategy(name=node["name"], waves=tuple(_wave(wave, node["health"]) for wave in node["waves"]))


def _wave(node: Node, health: Node) -> Wave:
    own = {**health, **node["health"]}
    return Wave(
        name=node["name"],
        cluster_selector=selector(node["clusterSelector"]),
        max_concurrency=node["maxConcurrency"],
        bake=node["bake"],
        protected=node["protected"],
        gates_before=node["gates"]["before"],
        health=HealthPolicy(stable_for=own["stableFor"], progress_deadline=own["progressDeadline"]),
    )
