"""`fleet doctor` against a real API server: rights by RBAC, the clock, and a server that is not there."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fleet.cli.main import app
from tests.testbed.cluster import Cluster

pytestmark = pytest.mark.real

FLEET = """
apiVersion: fleet/v1
kind: Fleet
metadata: {name: doctor}
clusters:
  - {name: qa, labels: {env: qa}, kubeconfig: {path: KUBECONFIG}}
bundles:
  - {name: shop, path: apps/shop, namespace: shop, strategy: all}
strategies:
  - {name: all, waves: [{name: all, clusterSelector: {}}]}
"""
MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: acme.example/v1
kind: Widget
metadata: {name: one}
"""


def doctor(tmp_path: Path, kubeconfig: Path) -> tuple[Result, dict[tuple[str, str], Any]]:
    """The result, and its findings by (check, level)."""
    (tmp_path / "apps/shop").mkdir(parents=True)
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("KUBECONFIG", str(kubeconfig)))
    (tmp_path / "apps/shop/all.yaml").write_text(MANIFESTS)
    environment = {"FLEET_SERVER": "http://127.0.0.1:1", "FLEET_DATA_DIR": str(tmp_path / "none")}
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "-o", "json"], env=environment, prog_name="fleet")
    found = json.loads(result.stdout)
    assert found["ok"] == (result.exit_code == 0)
    return result, {(each["check"], each["level"]): each for each in found["findings"] if each["subject"] == "qa"}


def test_an_administrator_may_do_everything(kube_cluster: Cluster, tmp_path: Path) -> None:
    result, found = doctor(tmp_path, kube_cluster.kubeconfig)
    assert result.exit_code == 0
    assert found["reachable", "ok"]["message"].startswith("Kubernetes v1.")
    assert ("clock", "ok") in found
    assert "Widget is not served" in found["kinds", "warning"]["message"]
    assert not any(level == "error" for _, level in found)


def test_missing_rights_are_named(kube_cluster: Cluster, tmp_path: Path) -> None:
    result, found = doctor(tmp_path, kube_cluster.kubeconfig_for("nobody-in-particular"))
    assert result.exit_code == 1
    assert found["rights", "error"]["message"].startswith("may not ")
    text = json.loads(result.stdout)["findings"]
    missing = [each["message"] for each in text if each["check"] == "rights"]
    assert "may not get, list, watch configmaps in the whole cluster" in missing
    assert "may not create, patch, delete configmaps in namespace shop" in missing
    assert found["clock", "warning"]["message"].startswith("could not be read")


def test_a_server_that_is_not_there(kube_cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    config = kube_cluster.kubeconfig.read_text().replace(kube_cluster.url, f"https://127.0.0.1:{port}")
    (tmp_path / "kubeconfig").write_text(config)
    result, found = doctor(tmp_path, tmp_path / "kubeconfig")
    assert result.exit_code == 1
    assert list(found) == [("reachable", "error")]
