"""Four real clusters: drift healed, a commit fanned out, rest, restart; each beside the bare loop, in one run."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loadtest.real import bare, workload
from loadtest.real.plane import Plane, manifest_files
from loadtest.real.wire import Wire, each
from loadtest.result import Figure, Result, median, percentile
from tests.testbed.cluster import Cluster, start_clusters
from tests.testbed.git import Repository

NAMESPACE = "load"
EDITOR = "somebody-else"
CLUSTERS = 4


class Watcher:
    """Sees every change of a namespace in all clusters, as a third party would."""

    def __init__(self) -> None:
        self.revisions: dict[tuple[int, str, str], str | None] = {}
        self._changed = asyncio.Event()

    async def run(self, number: int, wire: Wire, kind: str, namespace: str) -> None:
        async for event in wire.watch(kind, namespace):
            live = event["object"]
            self.revisions[number, kind, live["metadata"]["name"]] = workload.revision_of(live)
            self._changed.set()

    async def until(self, wanted: Any, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not wanted():
                self._changed.clear()
                await self._changed.wait()


async def run(short: bool) -> Result:
    repeats = {"edits": 40 if short else 200, "commits": 2 if short else 7, "rest": 10 if short else 60}
    result = Result("real", {"clusters": CLUSTERS, "objects_per_cluster": 110, **repeats})
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as name:
        directory = Path(name)
        print("starting four clusters", flush=True)
        with start_clusters(CLUSTERS, directory / "clusters", controllers=True) as clusters:
            wires = [Wire(cluster.kubeconfig) for cluster in clusters]
            try:
                await _measure(result, repeats, directory, list(clusters), wires)
            finally:
                for wire in wires:
                    await wire.aclose()
    return result


async def _measure(
    result: Result, repeats: dict[str, int], directory: Path, clusters: list[Cluster], wires: list[Wire]
) -> None:
    repository = _repository(directory, clusters)
    for wire in wires:
        await wire.create_namespace(bare.NAMESPACE)
    await each(wires, workload.objects(bare.NAMESPACE, workload.FIRST), bare.MANAGER, bare.IN_FLIGHT)
    plane = Plane(directory, repository.path)
    try:
        print("first rollout", flush=True)
        await plane.start()
        await plane.until(plane.settled, "the first rollout")
        await _rest(result, repeats["rest"], plane, clusters, wires)
        async with _watching(wires, ("ConfigMap",)) as watchers:
            await _drift(result, repeats["edits"], clusters, wires, watchers)
        async with _watching(wires, ("ConfigMap", "Deployment")) as watchers:
            await _fanout(result, repeats["commits"], plane, repository, clusters, watchers)
        result.figures["rss_mib"] = Figure(plane.rss_mib(), 160)
        await _restart(result, plane, clusters)
        await plane.stop()
    finally:
        plane.close()


@asynccontextmanager
async def _watching(wires: list[Wire], kinds: tuple[str, ...]) -> AsyncIterator[dict[str, Watcher]]:
    watchers = {namespace: Watcher() for namespace in (NAMESPACE, bare.NAMESPACE)}
    tasks = [
        asyncio.create_task(watchers[namespace].run(number, wire, kind, namespace))
        for namespace in watchers
        for number, wire in enumerate(wires)
        for kind in kinds
    ]
    await asyncio.sleep(1)
    try:
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _rest(result: Result, seconds: int, plane: Plane, clusters: list[Cluster], wires: list[Wire]) -> None:
    print(f"at rest for {seconds}s, then 50 status updates a second for {seconds}s", flush=True)
    await asyncio.sleep(5)
    marks = await _marks(clusters)
    used = plane.cpu()
    await asyncio.sleep(seconds)
    idle = (plane.cpu() - used) / seconds * 100
    used = plane.cpu()
    await _churn(wires, seconds)
    churning = (plane.cpu() - used) / seconds * 100
    result.figures["idle_writes"] = Figure(await _touched(clusters, marks), 0)
    result.figures["idle_cpu_percent"] = Figure(idle, 1)
    result.figures["status_churn_cpu_percent"] = Figure(churning - idle, 1)


async def _churn(wires: list[Wire], seconds: int) -> None:
    """Status updates of managed Deployments, 50 a second over all clusters, by nobody's controller."""
    started = time.monotonic()
    for number in range(50 * seconds):
        wire, name = wires[number % len(wires)], f"web-{number % workload.DEPLOYMENTS}"
        condition = {"type": "Churn", "status": "True", "reason": f"n{number}", "message": ""}
        body = {"status": {"conditions": [condition]}}
        path = f"{wire.url('Deployment', NAMESPACE, name)}/status"
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        async with wire.session.patch(path, data=json.dumps(body), headers=headers) as answer:
            await answer.read()
            answer.raise_for_status()
        await asyncio.sleep(max(0.0, started + (number + 1) / 50 - time.monotonic()))


async def _drift(
    result: Result, edits: int, clusters: list[Cluster], wires: list[Wire], watchers: dict[str, Watcher]
) -> None:
    print(f"{edits} edits by another manager, ours and the bare loop's in turns", flush=True)
    samples: dict[str, list[float]] = {NAMESPACE: [], bare.NAMESPACE: []}
    dice = random.Random(1)
    loop = _bare("heal", clusters)
    try:
        await asyncio.to_thread(_expect_ready, loop)
        for number in range(edits):
            for namespace, watcher in watchers.items():
                cluster, name = dice.randrange(len(wires)), f"settings-{dice.randrange(workload.CONFIG_MAPS):03}"
                samples[namespace].append(await _edit(wires[cluster], cluster, namespace, name, watcher, number))
                await asyncio.sleep(0.02)
    finally:
        loop.kill()
        loop.wait()
    ours, limit = samples[NAMESPACE], samples[bare.NAMESPACE]
    result.samples["drift_heal_seconds"], result.samples["drift_heal_limit_seconds"] = ours, limit
    for name, of, target in (("median", median, 2.5), ("p95", lambda v: percentile(v, 95), 5.0)):
        result.figures[f"drift_heal_{name}_seconds"] = Figure(of(ours), limit=of(limit))
        result.figures[f"drift_heal_{name}_ratio"] = Figure(of(ours) / of(limit), target)


async def _edit(wire: Wire, cluster: int, namespace: str, name: str, watcher: Watcher, number: int) -> float:
    """Seconds from the PATCH being sent until the healed object is seen by a third party."""
    key = (cluster, "ConfigMap", name)
    watcher.revisions[key] = None
    started = time.perf_counter()
    await wire.patch("ConfigMap", namespace, name, {"data": {"revision": f"edited-{number}"}}, EDITOR)
    await watcher.until(lambda: watcher.revisions[key] == workload.FIRST)
    return time.perf_counter() - started


async def _fanout(
    result: Result,
    commits: int,
    plane: Plane,
    repository: Repository,
    clusters: list[Cluster],
    watchers: dict[str, Watcher],
) -> None:
    print(f"{commits} commits that change 110 objects on each cluster", flush=True)
    ours: list[float] = []
    cpu: list[float] = []
    limit: list[float] = []
    limit_cpu: list[float] = []
    loop = _bare("fanout", clusters)
    try:
        await asyncio.to_thread(_expect_ready, loop)
        for number in range(1, commits + 1):
            revision = f"r{number}"
            answer = await asyncio.to_thread(_ask, loop, revision)
            limit.append(answer["seconds"])
            limit_cpu.append(answer["cpu"])
            await plane.until(plane.settled, "the rollout before")
            await asyncio.sleep(2)
            used, started = plane.cpu(), time.perf_counter()
            _commit(repository, revision)
            await plane.sync()
            watcher = watchers[NAMESPACE]
            total = CLUSTERS * (workload.CONFIG_MAPS + workload.DEPLOYMENTS)
            await watcher.until(lambda: sum(r == revision for r in watcher.revisions.values()) == total)  # noqa: B023
            ours.append(time.perf_counter() - started)
            cpu.append(plane.cpu() - used)
    finally:
        loop.kill()
        loop.wait()
    result.samples["fanout_seconds"], result.samples["fanout_limit_seconds"] = ours, limit
    result.samples["fanout_cpu_seconds"], result.samples["fanout_limit_cpu_seconds"] = cpu, limit_cpu
    allowed = 1.5 * median(limit) + 0.3
    result.figures["fanout_seconds"] = Figure(median(ours), allowed, limit=median(limit))
    result.figures["fanout_ratio"] = Figure(median(ours) / median(limit), allowed / median(limit))
    result.figures["fanout_cpu_seconds"] = Figure(median(cpu), 0.8, limit=median(limit_cpu))


async def _restart(result: Result, plane: Plane, clusters: list[Cluster]) -> None:
    print("restart", flush=True)
    await plane.until(plane.settled, "the last rollout")
    await asyncio.sleep(3)
    marks = await _marks(clusters)
    await plane.stop()
    await plane.start()
    await plane.until(plane.settled, "everything to be seen again")
    await asyncio.sleep(5)
    result.figures["restart_writes"] = Figure(await _touched(clusters, marks), 0)


# --- parts -----------------------------------------------------------------------------------------------------------


def _repository(directory: Path, clusters: list[Cluster]) -> Repository:
    repository = Repository.create(directory / "fleet.git")
    rows = "\n".join(
        f"  - {{name: {cluster.name}, labels: {{env: load}}, kubeconfig: {{path: {cluster.kubeconfig}}}}}"
        for cluster in clusters
    )
    fleet = f"""apiVersion: fleet/v1
kind: Fleet
metadata: {{name: bench}}
clusters:
{rows}
bundles:
  - {{name: load, path: load, namespace: {NAMESPACE}, strategy: all}}
strategies:
  - name: all
    health: {{stableFor: 1s, progressDeadline: 2m}}
    waves:
      - {{name: all, clusterSelector: {{}}, maxConcurrency: {CLUSTERS}}}
"""
    objects = manifest_files(workload.objects(NAMESPACE, workload.FIRST))
    repository.commit({"fleet.yaml": fleet, "load/objects.yaml": objects}, "first")
    return repository


def _commit(repository: Repository, revision: str) -> None:
    repository.commit({"load/objects.yaml": manifest_files(workload.objects(NAMESPACE, revision))}, revision)


def _bare(mode: str, clusters: list[Cluster]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "loadtest.real.bare", mode, *(str(cluster.kubeconfig) for cluster in clusters)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _expect_ready(loop: subprocess.Popen[str]) -> None:
    assert loop.stdout is not None
    if loop.stdout.readline().strip() != "ready":
        raise RuntimeError("the bare loop did not start")


def _ask(loop: subprocess.Popen[str], revision: str) -> dict[str, float]:
    assert loop.stdin is not None
    assert loop.stdout is not None
    loop.stdin.write(f"{revision}\n")
    loop.stdin.flush()
    answer: dict[str, float] = json.loads(loop.stdout.readline())
    return answer


async def _marks(clusters: list[Cluster]) -> list[int]:
    return [await asyncio.to_thread(cluster.audit.mark) for cluster in clusters]


async def _touched(clusters: list[Cluster], marks: list[int]) -> int:
    """Writes and dry-runs of ours since the marks, from the API servers' audit logs."""
    count = 0
    for cluster, mark in zip(clusters, marks, strict=True):
        requests = await asyncio.to_thread(cluster.audit.requests, since=mark, user_agent="fleet/")
        count += sum(request.writes or request.dry_run for request in requests)
    return count
