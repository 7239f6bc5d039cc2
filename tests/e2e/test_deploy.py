"""deploy/ on a real cluster: what docs/operations.md tells to apply is accepted, and grants what it says, no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.cli.demo import repository
from tests.reference import fenced
from tests.testbed import build
from tests.testbed.cluster import Cluster, start_clusters
from tests.testbed.fixtures import skipping

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
SECONDS = 120


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module alone: what is applied here is for the whole cluster."""
    with skipping():
        started = start_clusters(["prod-eu1"], tmp_path_factory.mktemp("deploy"))
    with started:
        yield started[0]


@pytest.fixture(scope="module")
def granted(member: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of secrets with the kubeconfig that docs/operations.md tells how to make."""
    folder = tmp_path_factory.mktemp("secrets")
    blocks = list(fenced(ROOT / "docs/operations.md", ""))
    applied = next(block for block in blocks if "apply -k deploy/member" in block)
    login = next(block for block in blocks if "set-credentials" in block)
    _shell(member, applied, ROOT)
    member.kubectl("wait", "--for=jsonpath={.rules[0]}", "clusterrole/fleet-member", f"--timeout={SECONDS}s")
    token = ("wait", "--for=jsonpath={.data.token}", "secret/fleet-token", f"--timeout={SECONDS}s")
    member.kubectl("--namespace", "fleet-system", *token, timeout=SECONDS)
    _shell(member, login, folder)
    return folder


def test_the_control_plane_runs_under_the_restricted_policy(member: Cluster) -> None:
    rendered = _kustomize("deploy/base")
    member.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=rendered)
    wait = ("wait", "--for=condition=Available", "deployment/fleet", f"--timeout={SECONDS}s")
    member.kubectl("--namespace", "fleet", *wait, timeout=SECONDS)
    pods = json.loads(member.kubectl("--namespace", "fleet", "get", "pods", "--output", "json"))["items"]
    assert len(pods) == 1
    assert pods[0]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert not any("serviceAccountToken" in json.dumps(volume) for volume in pods[0]["spec"]["volumes"])


def test_the_account_may_do_what_a_usual_application_needs(granted: Path, tmp_path: Path) -> None:
    done = _doctor(tmp_path, granted, _shop())
    assert (done.returncode, done.stderr) == (0, "")
    findings = json.loads(done.stdout)
    rights = [each for each in _findings(findings) if each["check"] == "rights"]
    assert [each["level"] for each in rights] == ["ok"]


def test_what_it_may_not_do_is_named_with_verb_and_kind(granted: Path, tmp_path: Path) -> None:
    role = {"apps/shop/role.yaml": _CLUSTER_ROLE}
    done = _doctor(tmp_path, granted, role)
    assert done.returncode == 1
    rights = [each for each in _findings(json.loads(done.stdout)) if each["check"] == "rights"]
    assert [each["level"] for each in rights] == ["error"]
    assert "clusterroles.rbac.authorization.k8s.io" in rights[0]["message"]
    assert "create" in rights[0]["message"]


@pytest.mark.parametrize(
    "question",
    [
        "create clusterrolebindings.rbac.authorization.k8s.io",
        "patch nodes",
        "delete customresourcedefinitions.apiextensions.k8s.io",
        "create pods --subresource=exec",
        "impersonate users",
    ],
)
def test_the_account_is_no_administrator(member: Cluster, granted: Path, question: str) -> None:
    done = subprocess.run(
        [_program("kubectl"), f"--kubeconfig={granted / 'kc-prod-eu1'}", "auth", "can-i", *question.split()],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={"HOME": str(granted)},
    )
    assert done.stdout.strip() == "no"


def test_member_all_adds_everything(member: Cluster, granted: Path) -> None:
    rendered = _kustomize("deploy/member-all")
    answer = member.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered
    )
    assert "clusterrole.rbac.authorization.k8s.io/fleet-member-everything" in answer


def test_in_cluster_mounts_the_token_and_binds_the_role(tmp_path: Path) -> None:
    folder = tmp_path / "overlay"
    folder.mkdir()
    relative = {name: os.path.relpath(ROOT / "deploy" / name, folder) for name in ("base", "member", "in-cluster")}
    (folder / "kustomization.yaml").write_text(
        f"resources: [{relative['base']}, {relative['member']}]\ncomponents: [{relative['in-cluster']}]\n"
    )
    rendered = _kustomize(str(folder))
    assert "automountServiceAccountToken: true" in rendered
    assert "name: fleet-control-plane" in rendered


_CLUSTER_ROLE = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
"""


def _shop() -> dict[str, str]:
    base = repository.SHOP / "apps/shop/base"
    return {f"apps/shop/{path.name}": path.read_text() for path in sorted(base.glob("*.yaml"))}


def _doctor(folder: Path, secrets: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`fleet doctor -o json` for one bundle of these files on the cluster of that kubeconfig."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "fleet.yaml").write_text(
        "apiVersion: fleet/v1\nkind: Fleet\nmetadata: {name: acme}\n"
        f"secrets: {{file: {{path: {json.dumps(str(secrets))}}}}}\n"
        "clusters: [{name: prod-eu1, secretRef: kc-prod-eu1}]\n"
        "bundles: [{name: shop, path: apps/shop, namespace: shop, strategy: at-once}]\n"
        "strategies: [{name: at-once, waves: [{name: all, clusterSelector: {}}]}]\n"
    )
    path = f"{_program('kustomize').parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "fleet", "doctor", str(folder), "-o", "json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PATH": path, "FLEET_SERVER": "http://127.0.0.1:9"},
    )


def _findings(answer: object) -> list[dict[str, str]]:
    assert isinstance(answer, dict)
    return [each for each in answer["findings"] if each["subject"] == "prod-eu1"]


def _shell(cluster: Cluster, script: str, directory: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={
            "PATH": f"{_program('kubectl').parent}:{os.environ['PATH']}",
            "HOME": str(cluster.directory),
            "KUBECONFIG": str(cluster.kubeconfig),
        },
    )
    assert (done.returncode, done.stderr) == (0, "")


def _kustomize(folder: str) -> str:
    command = [str(_program("kustomize")), "build", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout


def _program(name: str) -> Path:
    return build.binaries("core")[name]
