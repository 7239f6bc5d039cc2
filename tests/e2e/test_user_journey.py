"""A new user with two kubeconfigs, as the README tells them: init, validate, serve, push, approve, edit, revert.

Everything is typed: `python -m fleet`, git and kubectl in processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.plane import Plane, run_fleet
from tests.testbed import build, git
from tests.testbed.cluster import Cluster, Clusters

pytestmark = pytest.mark.real

MANIFESTS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: hello}
data: {greeting: hello}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "nginx:1.25"}]
"""


class Desk:
    """The user's machine: a clone of the team's repository, kubeconfigs, and the control plane."""

    def __init__(self, directory: Path, clusters: dict[str, Cluster], namespace: str) -> None:
        self.directory = directory
        self.clusters = clusters
        self.namespace = namespace
        self.tree = directory / "acme"
        self.remote = git.Repository.create(directory / "remote" / "acme.git")
        self.plane = Plane(directory / "server", self.remote.path, environment={"FLEET_ENGINE_UNKNOWN_AFTER": "4"})
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(merged(clusters)))

    def fleet(self, *arguments: str, code: int = 0) -> Any:
        """An offline command in the tree; its JSON."""
        ran = run_fleet((*arguments, "-o", "json"), {"KUBECONFIG": str(self.kubeconfig)}, self.tree)
        assert ran.code == code, ran.err
        return json.loads(ran.out)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.tree, env=git.environment(), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def push(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", message)
        self.git("push", "--quiet", "origin", "HEAD:main")
        self.plane.sync()
        return self.git("rev-parse", "HEAD")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.tree / name
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))

    def replicas(self, cluster: str) -> int:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"
        return int(self.clusters[cluster].api.get(path)["spec"]["replicas"])

    def image(self, cluster: str) -> str:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"
        return str(self.clusters[cluster].api.get(path)["spec"]["template"]["spec"]["containers"][0]["image"])

    def kubectl_edit(self, cluster: str, what: str, old: str, new: str) -> None:
        """`kubectl edit`, with a script for an editor."""
        script = (
            f"import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text().replace({old!r}, {new!r}))"
        )
        editor = self.directory / "editor"
        editor.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}" "$1"\n')
        editor.chmod(0o700)
        arguments = [f"--kubeconfig={self.clusters[cluster].kubeconfig}", "-n", self.namespace, "edit", what]
        environment = {"KUBE_EDITOR": str(editor), "HOME": str(self.directory), "PATH": "/usr/bin:/bin"}
        subprocess.run(
            [build.binaries("core")["kubectl"], *arguments],
            env=environment,
            capture_output=True,
            check=True,
            timeout=30,
        )


def merged(clusters: dict[str, Cluster]) -> dict[str, Any]:
    """The clusters' kubeconfigs as one with a context each, as people have it."""
    whole: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    for name, cluster in clusters.items():
        one = yaml.safe_load(cluster.kubeconfig.read_text())
        whole["clusters"].append({"name": name, "cluster": one["clusters"][0]["cluster"]})
        whole["users"].append({"name": name, "user": one["users"][0]["user"]})
        whole["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
    return whole


@pytest.fixture
def desk(clusters: Clusters, namespace: str, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, {"acme-qa": clusters[0], "acme-prod": clusters[1]}, namespace)
    with made.plane:
        yield made


def test_from_two_kubeconfigs_to_a_reverted_commit(desk: Desk) -> None:
    plane = desk.plane
    subprocess.run(
        ["git", "clone", "--quiet", str(desk.remote.path), str(desk.tree)],
        env=git.environment(),
        check=True,
        capture_output=True,
    )

    # fleet init, edit, fleet validate
    made = desk.fleet("init", "--from-kubeconfig", str(desk.kubeconfig))
    assert made["clusters"] == ["acme-qa", "acme-prod"]
    assert desk.fleet("validate")["valid"]
    desk.edit("fleet.yaml", "namespace: hello", f"namespace: {desk.namespace}")
    desk.edit("fleet.yaml", "stableFor: 30s, progressDeadline: 10m", "stableFor: 500ms, progressDeadlin: 20s")
    desk.edit("fleet.yaml", "bake: 1m", "bake: 500ms")
    (problem,) = desk.fleet("validate", code=1)["errors"]
    assert (problem["message"], problem["suggestion"]) == ("unknown key `progressDeadlin`", "progressDeadline")
    desk.edit("fleet.yaml", "progressDeadlin:", "progressDeadline:")
    (desk.tree / "apps/hello/configmap.yaml").write_text(MANIFESTS)
    assert desk.fleet("validate")["valid"]
    (planned,) = desk.fleet("plan")["bundles"]
    assert [wave["name"] for wave in planned["waves"]] == ["qa", "prod"]
    desk.git("add", "-A")
    desk.git("commit", "--quiet", "-m", "A fleet")
    desk.git("push", "--quiet", "origin", "HEAD:main")
    checked = desk.fleet("doctor")
    assert checked["ok"], checked

    # fleet serve: the commit reaches qa and waits for the approval
    plane.start()
    waiting = plane.wait_state("hello", None, "Blocked")
    assert desk.replicas("acme-qa") == 2
    assert not desk.clusters["acme-prod"].api.exists(f"/apis/apps/v1/namespaces/{desk.namespace}/deployments/web")
    explained = json.loads(plane.shell("explain", waiting["id"], "-o", "json").out)
    assert (explained["waitingFor"]["kind"], explained["waitingFor"]["name"]) == ("gate", "go")
    command = explained["waitingFor"]["next"].split()
    assert command == ["fleet", "approve", waiting["id"], "go"]
    done = json.loads(plane.shell(*command[1:], "--as", "lead@example.com", "--wait", "-o", "json").out)
    assert done["state"] == "Succeeded"
    assert desk.replicas("acme-prod") == 2

    # a git push goes the same way
    desk.edit("apps/hello/configmap.yaml", "nginx:1.25", "nginx:1.26")
    sha = desk.push("Newer nginx")
    rollout = plane.wait_state("hello", sha, "Blocked")
    assert (desk.image("acme-qa"), desk.image("acme-prod")) == ("nginx:1.26", "nginx:1.25")
    assert (rollout["author"], rollout["message"]) == ("author@example.com", "Newer nginx")
    plane.shell("approve", rollout["id"], "go", "--wait", "--as", "lead@example.com")
    assert desk.image("acme-prod") == "nginx:1.26"

    # kubectl edit in prod is undone at once
    desk.kubectl_edit("acme-prod", "deployment/web", "replicas: 2", "replicas: 5")
    (drift,) = plane.wait(
        lambda: json.loads(plane.shell("drift", "--cluster", "acme-prod", "-o", "json").out)["items"],
        lambda items: items and items[0]["state"] == "healed",
        "the edit healed",
    )
    assert desk.replicas("acme-prod") == 2
    assert (drift["verdict"], drift["manager"], drift["operation"]) == ("modified", "kubectl-edit", "Update")
    assert [(f["path"], f["wanted"], f["live"]) for f in drift["fields"]] == [("spec.replicas", 2, 5)]
    assert "kubectl-edit" in plane.shell("drift").out
    plane.shell("drift", "--open", "--exit-code")

    # git revert goes through the waves
    desk.git("revert", "--no-edit", "HEAD")
    desk.git("push", "--quiet", "origin", "HEAD:main")
    plane.shell("sync")
    sha = desk.git("rev-parse", "HEAD")
    rollout = plane.wait_state("hello", sha, "Blocked")
    assert (desk.image("acme-qa"), desk.image("acme-prod")) == ("nginx:1.25", "nginx:1.26")
    plane.shell("approve", rollout["id"], "go", "--wait", "--as", "lead@example.com")
    assert desk.image("acme-prod") == "nginx:1.25"
    assert plane.stop() == 0
