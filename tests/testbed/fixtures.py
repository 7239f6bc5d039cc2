"""The pytest side of the testbed: clusters and a Jaeger that a run shares, a namespace and Git servers for each test.

Loaded by `pytest_plugins = ["tests.testbed.fixtures"]`. A part that cannot be had on this machine skips the tests that
need it; the reason names the part. `FLEET_TESTBED_CLUSTERS` sets how many clusters a run starts with (2).
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.testbed import processes
from tests.testbed.cluster import Cluster, Clusters, start_clusters
from tests.testbed.errors import ApiFailed, PartMissing
from tests.testbed.git import Repository
from tests.testbed.git_https import GitHttps
from tests.testbed.git_ssh import GitSsh
from tests.testbed.jaeger import Jaeger

_DEFAULT_CLUSTERS = "2"


@contextlib.contextmanager
def skipping() -> Iterator[None]:
    """Turns PartMissing into a skip whose reason begins with the part's name."""
    try:
        yield
    except PartMissing as missing:
        pytest.skip(f"missing part: {missing}")


@pytest.fixture(scope="session", autouse=True)
def reaper(request: pytest.FixtureRequest) -> None:
    """Starts the owner of all servers before the first test of a run with real parts: it is no test's leftover."""
    if any(item.get_closest_marker("real") for item in request.session.items):
        with contextlib.suppress(PartMissing):  # told by the tests that need it
            processes.launcher()


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """Clusters with controllers, shared by the whole run; a test that needs more calls `clusters.ensure(4)`.

    A test may break one on purpose: the next test finds it running again, but with the objects that are left.
    """
    with skipping():
        count = int(os.environ.get("FLEET_TESTBED_CLUSTERS", _DEFAULT_CLUSTERS))
        running = start_clusters(count, tmp_path_factory.mktemp("clusters"))
    with running:
        yield running


@pytest.fixture
def kube_cluster(clusters: Clusters) -> Cluster:
    """The first of the shared clusters, running."""
    clusters[0].ensure_running()
    return clusters[0]


@pytest.fixture
def namespace(clusters: Clusters, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that no other test uses, in every cluster that runs now; its deletion is not waited for."""
    title = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = f"{title or 'test'}-{uuid.uuid4().hex[:8]}"
    used = list(clusters)
    for cluster in used:
        cluster.ensure_running()
        cluster.create_namespace(name)
    yield name
    for cluster in used:
        # A test may have left the server dead or empty: what is gone need not be deleted.
        with contextlib.suppress(ApiFailed, OSError):
            cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def own_clusters(tmp_path: Path) -> Iterator[Callable[..., Clusters]]:
    """Starts clusters for this test alone: `own_clusters(2, controllers=True)`; without controllers by default."""
    with contextlib.ExitStack() as stack:

        def start(count: int = 1, *, controllers: bool = False, apiserver_flags: Sequence[str] = ()) -> Clusters:
            directory = tmp_path / f"clusters-{uuid.uuid4().hex[:8]}"
            with skipping():
                started = start_clusters(count, directory, controllers=controllers, apiserver_flags=apiserver_flags)
            return stack.enter_context(started)

        yield start


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty bare repository, `git/shop.git`; `git_https` and `git_ssh` serve it as `shop.git`."""
    return Repository.create(tmp_path / "git" / "shop.git")


@pytest.fixture
def git_https(repository: Repository, tmp_path: Path) -> Iterator[GitHttps]:
    """Serves the folder of `repository` over HTTPS."""
    with GitHttps(repository.path.parent, tmp_path / "git-https") as server:
        yield server


@pytest.fixture
def git_ssh(repository: Repository, tmp_path: Path) -> Iterator[GitSsh]:
    """Serves the folder of `repository` over SSH."""
    with skipping():
        server = GitSsh(repository.path.parent, tmp_path / "git-ssh")
    with server:
        yield server


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """A Jaeger for the whole run; built when first needed."""
    with skipping():
        server = Jaeger(tmp_path_factory.mktemp("jaeger"))
    with server:
        yield server
