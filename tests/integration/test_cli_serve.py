"""The whole way as its user goes it: `fleet serve` in a process of its own, and the other commands beside it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.testbed.cluster import Clusters

pytestmark = pytest.mark.real

PATIENCE = 120.0
"""Seconds after which something that should happen counts as failed; nothing here takes that long."""
FLEET = """
apiVersion: fleet/v1
kind: Fleet
metadata: {name: cli}
clusters:
  - {name: qa, labels: {env: qa}, kubeconfig: {path: QA}}
  - {name: prod, labels: {env: prod}, kubeconfig: {path: PROD}}
bundles:
  - {name: shop, path: apps/shop, namespace: NAMESPACE, createNamespace: false, strategy: qa-then-prod}
strategies:
  - name: qa-then-prod
    health: {stableFor: 0s, progressDeadline: 60s}
    waves:
      - {name: qa, clusterSelector: {matchLabels: {env: qa}}}
      - {name: prod, clusterSelector: {matchLabels: {env: prod}}, gates: {before: [go]}}
gates:
  - {name: go, type: approval, allowAuthor: true}
"""
SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: LEVEL}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {key: CANARY-ONE}
"""


class Desk(msgspec.Struct, frozen=True):
    """Where a person sits: a working tree, and the command line with a server."""

    tree: Path
    environment: dict[str, str]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "fleet", *args]
        return subprocess.run(
            argv, env=self.environment, capture_output=True, timeout=PATIENCE, text=True, check=False, cwd=self.tree
        )

    def ask(self, *args: str, exit: int = 0) -> Any:
        done = self.run(*args, "-o", "json")
        assert done.returncode == exit, f"fleet {' '.join(args)}: {done.stderr}"
        return json.loads(done.stdout)

    def commit(self, level: str) -> None:
        (self.tree / "apps/shop").mkdir(parents=True, exist_ok=True)
        (self.tree / "apps/shop/all.yaml").write_text(SETTINGS.replace("LEVEL", level))
        identity = ["-c", "user.name=Ana", "-c", "user.email=ana@acme.example"]
        for command in (["add", "-A"], [*identity, "commit", "-q", "-m", f"Level {level}"]):
            subprocess.run(["git", *command], cwd=self.tree, env=self.environment, check=True)

    def events(self) -> Iterator[Any]:
        """The log from its beginning, as it grows; ends after PATIENCE seconds."""
        argv = [sys.executable, "-m", "fleet", "events", "--follow", "-o", "json"]
        with subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, text=True) as follower:
            watchdog = threading.Timer(PATIENCE, follower.kill)
            watchdog.start()
            try:
                assert follower.stdout is not None
                for line in follower.stdout:
                    yield json.loads(line)
            finally:
                watchdog.cancel()
                watchdog.join()
                follower.terminate()

    def until(self, **wanted: str) -> Any:
        """The first event with these values, among its own and those of its data."""
        for event in self.events():
            if wanted.items() <= {**event, **event["data"]}.items():
                return event
        raise AssertionError(f"the event log ended without {wanted}")


@contextmanager
def serving(desk: Desk) -> Iterator[Any]:
    """What `fleet serve` says about itself, while it runs."""
    argv = [sys.executable, "-m", "fleet", "-o", "json", "serve", "--fleet", str(desk.tree), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        argv, env=desk.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told, process.communicate(timeout=PATIENCE)[1]
            desk.environment["FLEET_SERVER"] = json.loads(told)["url"]
            yield json.loads(told) | {"pid": process.pid}
        finally:
            process.send_signal(signal.SIGTERM)
            log = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, log
    assert "CANARY" not in log


@pytest.fixture
def desk(clusters: Clusters, namespace: str, tmp_path: Path) -> Desk:
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "FLEET_DATA_DIR": str(tmp_path / "state"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    desk = Desk(tmp_path / "acme", environment)
    subprocess.run(["git", "init", "-q", "-b", "main", str(desk.tree)], env=environment, check=True)
    places = {"QA": str(clusters[0].kubeconfig), "PROD": str(clusters[1].kubeconfig), "NAMESPACE": namespace}
    text = FLEET
    for mark, value in places.items():
        text = text.replace(mark, value)
    (desk.tree / "fleet.yaml").write_text(text)
    return desk


def test_a_commit_goes_through_the_waves_by_the_command_line(desk: Desk, clusters: Clusters, namespace: str) -> None:
    desk.commit("info")
    with serving(desk) as served:
        token = Path(served["tokenFile"])
        assert stat.S_IMODE(token.stat().st_mode) == 0o600

        second = desk.run("serve", "--fleet", str(desk.tree), "--listen", "127.0.0.1:0")
        assert second.returncode != 0
        assert str(served["pid"]) in second.stderr

        desk.until(type="rollout.state", to="Blocked")
        explained = desk.ask("explain", "shop-1")
        assert explained["waitingFor"]["next"] == "fleet approve shop-1 go"
        assert desk.ask("status")["bundles"][0]["state"] == "Blocked"

        done = desk.ask("approve", "shop-1", "go", "--as", "sam@acme.example", "--wait")
        assert (done["state"], [wave["state"] for wave in done["waves"]]) == ("Succeeded", ["Passed", "Passed"])
        assert done["waves"][1]["gates"][0]["by"] == "sam@acme.example"
        assert desk.ask("status")["bundles"][0]["clusters"]["updated"] == 2

        objects = desk.ask("cluster", "prod", "--objects", "shop")["items"]
        assert {(each["kind"], each["sync"], each["health"]) for each in objects} == {
            ("ConfigMap", "Synced", "Healthy"),
            ("Secret", "Synced", "Healthy"),
        }
        assert {each["change"] for each in desk.ask("diff", "shop", "--cluster", "prod")["objects"]} <= {"none"}

        patch = json.dumps({"data": {"level": "debug"}})
        clusters[1].kubectl("patch", "configmap", "settings", "-n", namespace, "--type=merge", "-p", patch)
        desk.until(type="drift.healed", cluster="prod")
        (drift,) = desk.ask("drift", "--cluster", "prod")["items"]
        assert (drift["state"], drift["manager"]) == ("healed", "kubectl-patch")
        assert [(field["path"], field["wanted"], field["live"]) for field in drift["fields"]] == [
            ("data.level", "info", "debug")
        ]
        assert desk.run("drift", "--open", "--exit-code").returncode == 0

        desk.commit("warning")
        desk.ask("sync")
        desk.until(type="rollout.state", rollout="shop-2", to="Blocked")
        rejected = desk.ask("reject", "shop-2", "go", "--as", "sam@acme.example")
        assert rejected["state"] in ("Halting", "Halted")
        desk.until(type="rollout.state", rollout="shop-2", to="Halted")
        assert desk.run("approve", "shop-2", "go", "--as", "sam@acme.example").returncode == 5

        back = desk.ask("rollback", "shop", "--as", "sam@acme.example", "--wait")
        assert back["state"] == "RolledBack"
        seqs = [json.loads(line)["seq"] for line in desk.run("events", "-o", "json").stdout.splitlines()]
        assert seqs == list(range(1, len(seqs) + 1))
        database = b"".join(path.read_bytes() for path in token.parent.glob("*.db*"))
        assert b"CANARY" not in database
