"""The testbed itself: what other tests rely on without looking."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import build, cache, fixtures, processes, reaper, toolchain
from tests.testbed.cluster import Cluster, Clusters
from tests.testbed.errors import KubectlFailed, NotReady, PortTaken, TestbedError
from tests.testbed.git_ssh import GitSsh

pytestmark = pytest.mark.real

_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60


def deployment(name: str, image: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    }


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def become_available(cluster: Cluster, namespace: str) -> Any:
    """The status of a new Deployment once its three replicas are available."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    cluster.api.create(path, deployment("web", "registry.example/web:1.0", 3))
    return cluster.api.wait(
        f"{path}/web", lambda it: it.get("status", {}).get("availableReplicas") == 3, seconds=_READY_SECONDS
    )["status"]


class TestBuild:
    def test_a_second_call_takes_everything_from_the_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {path: path.stat().st_mtime_ns for path in build.binaries("core").paths.values()}
        monkeypatch.setenv("PATH", "")
        assert {path: path.stat().st_mtime_ns for path in build.binaries("core").paths.values()} == before

    def test_programs_in_kubebuilder_assets_take_precedence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for tool in build.GROUPS["core"]:
            (tmp_path / tool.name).touch(mode=0o755)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
        assert {path.parent for path in build.binaries("core").paths.values()} == {tmp_path}

    def test_a_damaged_entry_is_not_intact(self, tmp_path: Path) -> None:
        tool = build.GROUPS["jaeger"][0]
        (tmp_path / tool.name).touch(mode=0o755)
        (tmp_path / tool.name).write_bytes(b"program")
        build._write_manifest([tool], tmp_path)
        assert build._intact(tmp_path, [tool])
        (tmp_path / tool.name).write_bytes(b"prog")
        assert not build._intact(tmp_path, [tool])

    def test_one_of_two_concurrent_builds_waits_for_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        built: list[int] = []

        def build_entry(number: int) -> None:
            with cache.locked("entry"):
                if not (cache.root() / "entry").exists():
                    with cache.publishing("entry") as work:
                        (work / "program").write_text(str(number))
                        built.append(number)

        threads = [threading.Thread(target=build_entry, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(built) == 1
        assert (cache.root() / "entry" / "program").read_text() == str(built[0])

    def test_a_failed_build_publishes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

        def fail() -> None:
            with cache.locked("entry"), cache.publishing("entry") as work:
                (work / "half").touch()
                raise TestbedError("no")

        with pytest.raises(TestbedError):
            fail()
        assert [path.name for path in cache.root().iterdir()] == ["entry.lock"]


class TestMissingParts:
    def test_a_missing_part_skips_under_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(pytest.skip.Exception, match=r"^missing part: ssh: "), fixtures.skipping():
            GitSsh(tmp_path, tmp_path)

    @pytest.mark.parametrize(
        ("text", "version"), [("go1.26.3\n", (1, 26, 3)), ("1.26", (1, 26)), ("devel +abc", ()), ("", ())]
    )
    def test_a_toolchain_version_is_read(self, text: str, version: tuple[int, ...]) -> None:
        assert toolchain.parse_version(text) == version


class TestProcesses:
    def test_the_end_of_a_program_is_told_with_its_log(self, tmp_path: Path) -> None:
        process = processes.launcher().spawn("fails", ["sh", "-c", "echo boom >&2; exit 3"], tmp_path)
        with pytest.raises(NotReady, match="ended with 3: boom"):
            process.wait_ready(lambda: False, 30)

    def test_a_taken_port_is_told_apart(self, tmp_path: Path) -> None:
        process = processes.launcher().spawn("taken", ["sh", "-c", "echo bind: address already in use"], tmp_path)
        with pytest.raises(PortTaken):
            process.wait_ready(lambda: False, 30)

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TestbedError, match="cannot be started"):
            processes.launcher().spawn("absent", [tmp_path / "absent"], tmp_path)

    def test_stop_ends_a_paused_process(self, tmp_path: Path) -> None:
        process = processes.launcher().spawn("sleeps", ["sleep", "600"], tmp_path)
        process.pause()
        process.stop()
        assert not process.alive()
        assert reaper.start_time(process.pid) != process.started

    @pytest.mark.parametrize("victim", ["parent", "reaper"])
    def test_nothing_is_left_after_kill_9(self, tmp_path: Path, victim: str) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _STARTS_A_CLUSTER, str(tmp_path / "clusters")],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as parent:
            assert parent.stdout is not None
            told = json.loads(parent.stdout.readline())
            started = {int(pid): start for pid, start in told["processes"].items()}
            assert len(started) == 5
            assert {pid: reaper.start_time(pid) for pid in started} == started
            descriptors = [os.pidfd_open(pid) for pid in started]
            os.kill(parent.pid if victim == "parent" else told["reaper"], signal.SIGKILL)
            try:
                for descriptor in descriptors:
                    assert processes.wait_pidfd(descriptor, 30)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
                parent.kill()
        assert all(reaper.start_time(pid) != start for pid, start in started.items())


_STARTS_A_CLUSTER = """
import json, sys
from pathlib import Path
from tests.testbed import processes
from tests.testbed.cluster import start_clusters

cluster = start_clusters(1, Path(sys.argv[1]))[0]
told = {each.pid: each.started for each in cluster.processes().values()}
print(json.dumps({"processes": told, "reaper": processes.launcher().pid}), flush=True)
sys.stdin.read()
"""


class TestWorkloads:
    def test_a_deployment_becomes_available(self, kube_cluster: Cluster, namespace: str) -> None:
        status = become_available(kube_cluster, namespace)
        assert {each["type"]: each["status"] for each in status["conditions"]}["Available"] == "True"

    @pytest.mark.parametrize(
        ("image", "reason"),
        [
            ("registry.example/does-not-exist:1.0", "ImagePullBackOff"),
            ("registry.example/web:bad", "ImagePullBackOff"),
            ("registry.example/web:crash-1", "CrashLoopBackOff"),
        ],
    )
    def test_a_bad_image_fails_and_a_good_one_mends_it(
        self, kube_cluster: Cluster, namespace: str, image: str, reason: str
    ) -> None:
        api, path = kube_cluster.api, f"/apis/apps/v1/namespaces/{namespace}/deployments"
        pods = f"/api/v1/namespaces/{namespace}/pods"
        api.create(path, deployment("web", image, 1))
        seen = api.wait(pods, lambda it: bool(_waiting(it)), seconds=_READY_SECONDS)
        assert _waiting(seen) == [reason]
        assert _ready(seen) == ["False"]
        assert "availableReplicas" not in api.get(f"{path}/web")["status"]
        api.patch(f"{path}/web", deployment("web", "registry.example/web:1.1", 1), kind="strategic-merge")
        api.wait(
            f"{path}/web",
            lambda it: it["status"].get("availableReplicas") == 1 and it["status"].get("replicas") == 1,
            seconds=_READY_SECONDS,
        )

    def test_a_job_completes_and_a_claim_is_bound(self, kube_cluster: Cluster, namespace: str) -> None:
        kube_cluster.kubectl("create", "job", "once", "--image=registry.example/once:1", f"--namespace={namespace}")
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        kube_cluster.api.create(claims, claim)
        kube_cluster.api.wait(f"{claims}/data", lambda it: it["status"].get("phase") == "Bound", seconds=_READY_SECONDS)
        kube_cluster.api.wait(
            f"/apis/batch/v1/namespaces/{namespace}/jobs/once",
            lambda it: it.get("status", {}).get("succeeded") == 1,
            seconds=_READY_SECONDS,
        )


class TestAccess:
    def test_rbac_holds_for_a_certificate_and_for_a_token(self, kube_cluster: Cluster, namespace: str) -> None:
        kubectl = build.binaries("core")["kubectl"]
        token = kube_cluster.service_account_token(namespace, "robot")
        for kubeconfig in (
            kube_cluster.kubeconfig_for("nobody", ["readers"]),
            kube_cluster.access.token("robot", token),
        ):
            can = subprocess.run(
                [kubectl, f"--kubeconfig={kubeconfig}", "auth", "can-i", "create", "configmaps"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert can.stdout.strip() == "no", can.stderr

    def test_kubectl_tells_what_the_server_said(self, kube_cluster: Cluster, namespace: str) -> None:
        with pytest.raises(KubectlFailed, match="NotFound"):
            kube_cluster.kubectl("get", "configmap", "absent", f"--namespace={namespace}")


class TestAudit:
    def test_requests_are_counted_by_kind(self, kube_cluster: Cluster, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        before = kube_cluster.audit.mark()
        kube_cluster.api.apply(f"{path}/a", config_map("a", key="1"), field_manager="counted", dryRun="All")
        for value in ("1", "2", "3"):
            kube_cluster.api.apply(f"{path}/a", config_map("a", key=value), field_manager="counted")
        kube_cluster.api.get(f"{path}/a")
        count = kube_cluster.audit.count
        mine = {"since": before, "namespace": namespace, "user_agent": "testbed"}
        assert count(**mine, verb="patch") == 4
        assert count(**mine, writes=True) == 3
        assert count(**mine, dry_run=True) == 1
        assert count(**mine, manager="counted") == 4
        assert count(**mine, verb="get") == 1
        assert count(**mine) == 5
        assert count(since=kube_cluster.audit.mark(), namespace=namespace, user_agent="testbed") == 0


class TestFaults:
    def test_a_paused_server_answers_nothing_and_a_resumed_one_does(self, kube_cluster: Cluster) -> None:
        kube_cluster.pause_apiserver()
        try:
            quick = kube_cluster.access.api("quick", ["system:masters"], timeout=0.5)
            assert not quick.ready()
        finally:
            kube_cluster.resume_apiserver()
        assert kube_cluster.api.ready()

    def test_a_killed_server_refuses_and_works_again_for_the_next_test(
        self, kube_cluster: Cluster, namespace: str
    ) -> None:
        kube_cluster.kill_apiserver()
        with pytest.raises(ConnectionRefusedError):
            kube_cluster.api.get("/version")
        kube_cluster.ensure_running()
        become_available(kube_cluster, namespace)

    def test_a_cluster_that_lost_its_data_runs_workloads(self, own_clusters: Callable[..., Clusters]) -> None:
        cluster = own_clusters(1, controllers=True)[0]
        cluster.restart_apiserver(keep_data=False)
        become_available(cluster, "default")

    def test_a_restart_keeps_or_loses_the_data_on_the_same_port(self, own_clusters: Callable[..., Clusters]) -> None:
        cluster = own_clusters(1)[0]
        url = cluster.url
        path = "/api/v1/namespaces/default/configmaps"
        cluster.api.create(path, config_map("kept"))
        cluster.restart_apiserver(keep_data=True)
        assert cluster.api.exists(f"{path}/kept")
        cluster.restart_apiserver(keep_data=False)
        assert not cluster.api.exists(f"{path}/kept")
        assert cluster.url == url

    def test_a_watch_from_before_a_compaction_is_gone(self, own_clusters: Callable[..., Clusters]) -> None:
        cluster = own_clusters(1, apiserver_flags=["--watch-cache=false"])[0]
        path = "/api/v1/namespaces/default/configmaps"
        before = cluster.api.create(path, config_map("first"))["metadata"]["resourceVersion"]
        for name in ("later", "last"):  # a watch that begins at the very revision of the compaction is still served
            cluster.api.create(path, config_map(name))
        cluster.compact_etcd()
        event = cluster.api.get(path, watch="1", resourceVersion=before, timeoutSeconds="5")
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def _waiting(pods: dict[str, Any]) -> list[str]:
    statuses = [status for pod in pods.get("items", ()) for status in pod["status"].get("containerStatuses", ())]
    return [status["state"]["waiting"]["reason"] for status in statuses if "waiting" in status["state"]]


def _ready(pods: dict[str, Any]) -> list[str]:
    conditions = [condition for pod in pods["items"] for condition in pod["status"]["conditions"]]
    return [condition["status"] for condition in conditions if condition["type"] == "Ready"]
