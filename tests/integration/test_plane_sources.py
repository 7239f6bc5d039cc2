"""Git that fails under a running control plane: shown with its age, nothing pruned, over as soon as it is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.integration import plane_site
from tests.integration.plane import Json
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Clusters
from tests.testbed.git import Repository
from tests.testbed.git_https import GitHttps

pytestmark = pytest.mark.real

USER, PASSWORD = "fleet", "canary-password-of-git"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, GitHttps]]:
    """A second repository, behind HTTPS with credentials; its server."""
    directory = tmp_path_factory.mktemp("https")
    repository = Repository.create(directory / "root" / "apps.git")
    with GitHttps(directory / "root", directory / "server") as server:
        server.require(USER, PASSWORD)
        yield repository, server


@pytest.fixture(scope="module")
def site(
    clusters: Clusters, manifests: tuple[Repository, GitHttps], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Bundle `own` lives beside fleet.yaml, bundle `remote` in the repository behind HTTPS."""
    repository, server = manifests
    directory = tmp_path_factory.mktemp("sources")
    own = (directory / "git" / "fleet.git").as_uri()
    with plane_site.site(directory, clusters, source=own, environment={"FLEET_GIT_RESOLVE_TIMEOUT": "2"}) as made:
        credentials(directory, server, PASSWORD)
        made.document["secrets"] = {"provider": "file", "file": {"path": str(directory / "secrets")}}
        git = {"url": server.url("apps.git"), "secretRef": "git", "interval": "1s"}
        made.document["sources"] = [{"name": "apps", "git": git}]
        made.bundle("own")
        remote = made.bundle("remote")
        del remote["path"]
        remote["sources"] = [{"name": "apps", "path": "remote"}]
        repository.commit({f"remote/{name}": text for name, text in app("1").items()}, "first")
        made.push(folder("own", app("1")))
        made.plane.start()
        for name in ("own", "remote"):
            made.plane.wait_state(name, None, "Succeeded")
        yield made


def credentials(directory: Path, server: GitHttps, password: str) -> None:
    """The secret `git` in the folder of secrets."""
    folder = directory / "secrets"
    folder.mkdir(exist_ok=True)
    secret = {"username": USER, "password": password, "ca": server.ca.read_text()}
    (folder / "git").write_text(yaml.safe_dump(secret))


def source(site: Site, name: str) -> Json:
    return next(each for each in site.plane.get("/status")["sources"] if each["name"] == name)


def failing(site: Site, name: str, *words: str) -> Json:
    """What `fleet status` shows of a source, once it is in an error that says all these words."""
    site.sync()
    seen = site.plane.wait(
        lambda: source(site, name),
        lambda s: s["error"] is not None and all(word in s["error"] for word in words),
        f"source {name} failing with {words}",
    )
    assert datetime.fromisoformat(seen["errorSince"]) >= datetime.fromisoformat(seen["fetchedAt"])
    assert seen["error"][:40] in site.plane.run("status").out
    assert PASSWORD not in seen["error"] + site.plane.log()
    return seen


def test_a_server_that_hangs_refuses_and_comes_back(site: Site, manifests: tuple[Repository, GitHttps]) -> None:
    plane, (repository, server) = site.plane, manifests
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    last = source(site, "apps")["sha"]
    for fault, words in ((server.hang, ("2 s",)), (server.refuse, ("connect",)), (server.fail, ("503",))):
        server.mend()
        fault()
        assert failing(site, "apps", *words)["sha"] == last, "the last commit stays in force"
    # Meanwhile the other source is as quick as ever.
    sha = site.push(folder("own", app("2")), "while the other server is down")
    plane.wait_state("own", sha, "Succeeded")
    server.mend()
    server.require(USER, "another-password")
    failing(site, "apps", "credentials")
    for name, cluster in site.clusters.items():
        assert site.writes(cluster, marks[name], "remote") == []
        assert site.config(cluster, "remote") == {"version": "1"}
    # The credentials are rotated on both sides: read anew, nothing is restarted.
    credentials(site.directory, server, "another-password")
    sha = repository.commit({f"remote/{name}": text for name, text in app("2").items()}, "second")
    site.sync()
    plane.wait_state("remote", sha, "Succeeded")
    mended = source(site, "apps")
    assert (mended["error"], mended["errorSince"], mended["sha"]) == (None, None, sha)
    told = [e["data"]["source"] for e in plane.events() if e["type"] == "source.failed"]
    assert set(told) == {"apps"}
    assert len(told) <= 5, "each error is told once, not with every attempt"


def test_a_repository_that_is_moved_away_is_no_empty_one(site: Site) -> None:
    """Also over a restart: fleet.yaml and the manifests are in the data directory."""
    plane, here = site.plane, site.repository.path
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    away = here.with_name("away.git")
    here.rename(away)
    site.sync()
    failing(site, "", str(here))
    plane.restart()
    plane.wait_ready_clusters(2)
    seen = plane.wait(lambda: source(site, ""), lambda s: s["error"], "still away after the restart")
    assert seen["errorSince"]
    plane.wait(lambda: plane.get("/bundles")["items"], lambda bs: len(bs) == 2, "both bundles known")
    for name, cluster in site.clusters.items():
        assert site.asked(cluster, marks[name]) == []
        assert site.config(cluster, "own") is not None
        # What is released is kept in place all the while.
        cluster.kubectl("-n", site.namespace("own"), "delete", "configmap", "settings")
        plane.wait(partial(site.config, cluster, "own"), lambda c: c is not None, "healed")
    away.rename(here)
    sha = site.push(folder("own", app("back")), "back again")
    plane.wait_state("own", sha, "Succeeded")


def test_a_branch_that_is_deleted_is_no_empty_one(site: Site, manifests: tuple[Repository, GitHttps]) -> None:
    plane, (repository, _) = site.plane, manifests
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    head = repository.head()
    repository.delete_branch("main")
    failing(site, "apps", "main")
    for name, cluster in site.clusters.items():
        assert site.asked(cluster, marks[name]) == []
    assert head is not None
    repository.git("update-ref", "refs/heads/main", head)
    site.sync()
    plane.wait(lambda: source(site, "apps"), lambda s: s["error"] is None, "the branch is back")


def test_a_force_push_is_a_commit_like_any_other(site: Site, manifests: tuple[Repository, GitHttps]) -> None:
    repository, _ = manifests
    sha = repository.rewrite({f"remote/{name}": text for name, text in app("rewritten").items()})
    site.sync()
    site.plane.wait_state("remote", sha, "Succeeded")
    assert site.config(site.prod, "remote") == {"version": "rewritten"}
