"""Commits to rollouts: the real planner, configuration and conductor over a store in memory that refuses at will."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import pytest

from fleet.aio.clock import RealClock
from fleet.core import fleetfile
from fleet.engine import control
from fleet.engine.agents import Agents
from fleet.engine.assignments import Assignments
from fleet.engine.conductor import Conductor, ConductorSettings
from fleet.engine.configuration import Configuration
from fleet.engine.contents import Contents
from fleet.engine.eventlog import EventLog
from fleet.engine.planner import Planner, Snapshot
from fleet.engine.session import Shared
from fleet.engine.sources import Sources
from fleet.errors import NotFound, StoreError
from fleet.git.trees import FolderTree
from fleet.model.cluster import Baseline
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet, GitSource
from fleet.model.objects import ManifestSet, ObjectId
from fleet.model.rollout import Commit
from fleet.render.renderer import Renderer
from tests.unit.engine.conductor_world import MemoryStore

pytestmark = pytest.mark.anyio

FLEET = """
apiVersion: fleet/v1
kind: Fleet
metadata: {name: acme}
clusters:
  - {name: qa, labels: {env: qa}, kubeconfig: {context: qa}}
bundles:
  - {name: a, path: apps/a, namespace: n, createNamespace: false, strategy: all}
  - {name: b, path: apps/b, namespace: n, createNamespace: false, strategy: all}
  - {name: c, path: apps/c, namespace: n, createNamespace: false, strategy: all}
strategies:
  - name: all
    waves: [{name: qa, clusterSelector: {matchLabels: {env: qa}}}]
"""


class Store(MemoryStore):
    """Refuses, or fails otherwise, the first rollout of a bundle that `failures` names."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, Exception] = {}
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.sets: dict[str, ManifestSet] = {}

    async def commit(self, commit: Commit) -> Sequence[Event]:
        if commit.rollouts and commit.state.bundle in self.failures:
            raise self.failures.pop(commit.state.bundle)
        return await super().commit(commit)

    async def put_document(self, name: str, revision: str, body: bytes) -> None:
        self.documents[name] = (revision, body)

    async def document(self, name: str) -> tuple[str, bytes] | None:
        return self.documents.get(name)

    async def put_manifests(self, manifests: ManifestSet) -> None:
        self.sets[manifests.digest] = manifests

    async def manifests(self, digest: str) -> ManifestSet:
        if digest not in self.sets:
            raise NotFound(digest)
        return self.sets[digest]

    async def put_drift(self, drift: Drift) -> None:
        raise AssertionError

    async def put_baselines(self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()) -> None:
        raise AssertionError


class Repository:
    """The repository of fleet.yaml as a folder: what Sources and its mirror answer of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.revision = "1" * 40

    def snapshots(self) -> Mapping[str, Snapshot]:
        return {control.OWN: Snapshot(self.revision, FolderTree(self.root))}

    async def read(self, sha: str, path: str, limit: int) -> bytes:
        return (self.root / path).read_bytes()

    def want(self, sources: Sequence[GitSource]) -> None:
        pass

    async def run(self) -> None:
        await anyio.sleep_forever()


async def until(condition: Callable[[], bool]) -> None:
    """Waits under the deadline of its caller."""
    for _ in itertools.repeat(None):
        if condition():
            return
        await anyio.sleep(0.005)


class NoAgents:
    def configure(self, fleet: Fleet, shared: Shared | None) -> None:
        pass

    async def run(self) -> None:
        await anyio.sleep_forever()


class NoSecrets:
    def configure(self, fleet: Fleet) -> None:
        pass


class Plane:
    """One process over a store and a repository."""

    def __init__(self, store: Store, repository: Repository) -> None:
        clock = RealClock()
        log = EventLog(store)
        contents = Contents(store)
        self.planner = Planner(Renderer(), contents, clock.wall)
        self.conductor = Conductor(
            store,
            Assignments(),
            log.stored,
            clock=clock,
            settings=ConductorSettings(retry_base=0.0, retry_cap=0.0),
            jitter=lambda: 0.0,
        )
        self.configuration = Configuration(store, repository, "fleet.yaml", log.emit, clock.wall)
        self.control = control.Control(
            control.Parts(
                own=GitSource(control.OWN, "folder"),
                configuration=self.configuration,
                sources=cast("Sources", repository),
                planner=self.planner,
                contents=contents,
                conductor=self.conductor,
                agents=cast("Agents", NoAgents()),
                log=log,
                secrets=NoSecrets(),
                shared=lambda fleet: cast("Shared", None),
                clock=clock,
            )
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.control.run, name="control")
            with anyio.fail_after(30):
                yield
            group.cancel_scope.cancel()

    async def rolling(self, *bundles: str, number: int = 1) -> None:
        """Returns once the bundles have a rollout of that number."""
        for bundle in bundles:
            await until(partial(self._beyond, bundle, number))

    def _beyond(self, bundle: str, number: int) -> bool:
        state = self.conductor.state(bundle)
        return state is not None and state.next_number > number


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    for name in ("a", "b", "c"):
        folder = tmp_path / "apps" / name
        folder.mkdir(parents=True)
        folder.joinpath("x.yaml").write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n")
    return Repository(tmp_path)


@pytest.mark.parametrize("failure", [StoreError("the disk is full"), RuntimeError("a defect")])
async def test_a_release_that_could_not_be_stored_keeps_no_other_from_being(
    repository: Repository, failure: Exception
) -> None:
    store = Store()
    plane = Plane(store, repository)
    async with plane.running():
        store.failures = {"a": failure}
        plane.control.changed(control.OWN)
        await plane.rolling("b", "c", "a")
    assert not store.failures
    assert {rollout.number for rollout in store.stored_rollouts.values()} == {1}


async def test_planning_goes_on_after_a_defect(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is started again, and what had moved before counts still."""
    plane = Plane(Store(), repository)
    calls = 0

    async def read(sha: str, path: str, limit: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a defect")
        return await Repository.read(repository, sha, path, limit)

    monkeypatch.setattr(repository, "read", read)
    async with plane.running():
        plane.control.changed(control.OWN)
        await plane.rolling("a", "b", "c")
    assert calls == 2


async def test_the_next_process_knows_who_holds_what(repository: Repository) -> None:
    store = Store()
    first = Plane(store, repository)
    async with first.running():
        first.control.changed(control.OWN)
        await first.rolling("a", "b", "c")
    second = Plane(store, repository)
    async with second.running():
        # No source was read yet.
        held = ObjectId("", "ConfigMap", "n", "a")
        await until(lambda: second.planner.claimant("qa", held) == "a")
        repository.root.joinpath("apps/b/more.yaml").write_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
        )
        second.control.changed(control.OWN)
        await until(lambda: second.control.problem("b") is not None)
    assert "bundle a claims ConfigMap n/a" in str(second.control.problem("b"))
    assert second.control.problem("a") is None


async def test_fleet_yaml_is_read_beside_the_event_loop(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed_in: list[threading.Thread] = []
    parse = fleetfile.parse

    def noting(body: bytes | str, *, file: str = "fleet.yaml") -> fleetfile.Parsed:
        parsed_in.append(threading.current_thread())
        return parse(body, file=file)

    monkeypatch.setattr(fleetfile, "parse", noting)
    plane = Plane(Store(), repository)
    assert await plane.configuration.judge("1" * 40) is not None
    assert await plane.configuration.restore() is not None
    assert len(parsed_in) == 2
    assert threading.main_thread() not in parsed_in
