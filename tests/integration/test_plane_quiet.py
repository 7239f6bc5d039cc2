"""Nothing changed: nothing is written and nothing is asked for; and what is secret appears nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration import plane_site
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Clusters

pytestmark = pytest.mark.real

CANARY = "canary-in-git-93f1"
BY_HAND = "canary-by-hand-77c0"
NEXT = "canary-next-release-2d1b"
CANARIES = (CANARY, BY_HAND, NEXT)


@pytest.fixture(scope="module")
def site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with plane_site.site(tmp_path_factory.mktemp("quiet"), clusters) as made:
        made.bundle("shop")
        made.bundle("vault", "gated")
        made.push({**folder("shop", app("1")), **folder("vault", {"secret.yaml": secret(CANARY)})})
        made.plane.start()
        made.plane.wait_state("shop", None, "Succeeded")
        made.approve(made.plane.wait_state("vault", None, "Blocked")["id"])
        made.plane.wait_state("vault", None, "Succeeded")
        made.plane.wait_synced("shop")
        made.plane.wait_synced("vault")
        yield made


def secret(value: str) -> str:
    """A Secret with the value in every way in which manifests hold them."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "login"},
            "stringData": {"password": value},
            "data": {"encoded": base64.b64encode(value.encode()).decode()},
        }
    )


def marks(site: Site) -> dict[str, int]:
    return {name: cluster.audit.mark() for name, cluster in site.clusters.items()}


def assert_quiet(site: Site, since: dict[str, int]) -> None:
    for name, cluster in site.clusters.items():
        assert site.asked(cluster, since[name]) == []


# --- nothing changed -------------------------------------------------------------------------------------------------


def test_a_commit_that_changes_nothing_rendered_is_no_rollout(site: Site) -> None:
    plane, since = site.plane, marks(site)
    before = {name: plane.rollouts(name)[0]["id"] for name in ("shop", "vault")}
    reformatted = app("1")["settings.yaml"] + "\n# the same, with a word to people\n"
    sha = site.push({"README.md": "words\n", **folder("shop", {"settings.yaml": reformatted})}, "words")
    plane.wait(lambda: plane.get("/status")["configRevision"], lambda revision: revision == sha, "planned")
    # A later commit that does change something proves that the one before was looked at.
    sha = site.push(folder("shop", {"more.yaml": plane_site.settings(x="1").replace("settings", "more")}), "more")
    plane.wait_state("shop", sha, "Succeeded")
    (_, previous, *_) = plane.rollouts("shop")
    assert previous["id"] == before["shop"]
    assert plane.rollouts("vault")[0]["id"] == before["vault"]
    for name, cluster in site.clusters.items():
        assert [request.name for request in site.writes(cluster, since[name], "shop")] == ["more"]
        assert site.writes(cluster, since[name], "vault") == []


def test_a_restart_asks_nothing(site: Site) -> None:
    plane = site.plane
    plane.wait_synced("shop")
    for ending in (plane.stop, plane.kill):
        since = marks(site)
        ending()
        plane.start()
        plane.wait(plane.ready, bool, "ready")
        plane.wait_ready_clusters(2)
        plane.wait_synced("shop")
        plane.wait_synced("vault")
        assert_quiet(site, since)


def test_syncs_and_status_of_others_ask_nothing(site: Site) -> None:
    """What controllers write to status, and fetches without news, are seen and cost no request."""
    plane, since = site.plane, marks(site)
    site.qa.kubectl("-n", site.namespace("shop"), "annotate", "configmap", "settings", "other/tool=was-here")
    site.qa.kubectl("-n", site.namespace("shop"), "label", "deployment", "web", "team=a")
    site.qa.kubectl("-n", site.namespace("shop"), "delete", "pod", "--all", "--wait=false")
    plane.wait(
        lambda: site.deployment(site.qa, "shop")["status"], lambda s: s.get("readyReplicas") == 2, "pods again", 60
    )
    for _ in range(3):
        plane.sync()
    plane.wait_synced("shop")
    assert_quiet(site, since)
    assert plane.get("/drift")["items"] == []


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_appears_nowhere(site: Site) -> None:
    plane, namespace = site.plane, site.namespace("vault")
    edit = json.dumps({"stringData": {"password": BY_HAND}})
    site.prod.kubectl("-n", namespace, "patch", "secret", "login", "--type=merge", "-p", edit)
    (drift,) = plane.wait(
        lambda: plane.get("/drift?bundle=vault")["items"], lambda items: items and items[0]["healedAt"], "healed"
    )
    assert drift["manager"] == "kubectl-patch"
    assert {field["path"] for field in drift["fields"]} == {"data.password"}
    assert held(site) == CANARY

    # A refused one, whose value the server repeats in its answer, and one that is being rolled out.
    broken = yaml.safe_load(secret(NEXT)) | {"data": {"encoded": NEXT}}
    sha = site.push(folder("vault", {"secret.yaml": yaml.safe_dump(broken)}), "not base64")
    plane.wait(
        lambda: next(b for b in plane.get("/bundles")["items"] if b["name"] == "vault"),
        lambda b: b["state"] == "Degraded",
        "the bad Secret told",
    )
    sha = site.push(folder("vault", {"secret.yaml": secret(NEXT)}), "rotated")
    waiting = plane.wait_state("vault", sha, "Blocked")
    asked = [
        plane.run("diff", "vault", "--cluster", "prod", code=0).out,
        plane.run("explain", waiting["id"]).out,
        *(plane.run(*words, "-o", "json").out for words in READ),
        *(plane.run(*words).out for words in READ),
        plane.raw("GET", "/metrics"),
        plane.log(),
    ]
    for number, text in enumerate(asked):
        assert not leaks(text.encode()), f"answer {number} holds a secret"
    plane.stop()
    for path in files(plane.data_dir):
        assert not leaks(path.read_bytes()), f"{path.relative_to(plane.data_dir)} holds a secret"
    plane.start()
    site.approve(plane.wait_state("vault", sha, "Blocked")["id"])
    plane.wait_state("vault", sha, "Succeeded")
    assert held(site) == NEXT


READ = (
    ("status",),
    ("clusters",),
    ("cluster", "prod"),
    ("cluster", "prod", "--objects", "vault"),
    ("bundles",),
    ("bundle", "vault"),
    ("rollouts",),
    ("rollout", "vault-1"),
    ("drift",),
    ("events",),
    ("explain", "prod"),
    ("explain", "vault"),
)


def held(site: Site) -> str:
    """The password as it lies in prod."""
    found = site.prod.api.get(f"/api/v1/namespaces/{site.namespace('vault')}/secrets/login")
    return base64.b64decode(found["data"]["password"]).decode()


def leaks(content: bytes) -> bool:
    forms = [form for value in CANARIES for form in (value.encode(), base64.b64encode(value.encode()))]
    return any(form in content for form in forms)


def files(data_dir: Path) -> list[Path]:
    """All but the copy of what lies in Git as it is: who commits a Secret in the clear has it there in the clear."""
    return [
        path
        for path in data_dir.rglob("*")
        if path.is_file() and path.relative_to(data_dir).parts[0] not in ("git", "exports")
    ]
