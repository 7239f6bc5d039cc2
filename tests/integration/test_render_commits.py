"""From commits to releases: real Git, real kustomize, folders that refer to folders, and what is not done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet.engine.planner import Planned, Planner, Snapshot
from fleet.engine.preview import KeptSets, preview
from fleet.git import mirror
from fleet.model.fleetfile import Bundle, BundleSource, Cluster, Fleet, GitSource, Selector, Strategy, Wave
from fleet.render.kustomize import KustomizeSettings
from fleet.render.renderer import Renderer, RenderSettings
from tests.testbed import build
from tests.testbed.git import Repository, Symlink

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CLUSTERS = tuple(
    Cluster(name=name, labels={"env": env}) for name, env in (("qa-1", "qa"), ("qa-2", "qa"), ("prod-1", "prod"))
)
STRATEGY = Strategy(name="all", waves=(Wave(name="all", cluster_selector=Selector()),))
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: 'VALUE'}\n"
SHOP = {
    "apps/base/kustomization.yaml": "resources: [web.yaml, ../../lib/common]\n",
    "apps/base/web.yaml": CONFIG.replace("VALUE", "1"),
    "lib/common/kustomization.yaml": "resources: [common.yaml]\n",
    "lib/common/common.yaml": CONFIG.replace("VALUE", "c").replace("web", "common"),
    "apps/shop/kustomization.yaml": "resources: [../base]\n",
    "apps/shop/overlays/prod/kustomization.yaml": "resources: [../../../base]\nnameSuffix: -prod\n",
    "docs/README.md": "hello\n",
}


def fleet(path: str = "apps/shop", overlay: str | None = "overlays/{{ cluster.labels.env }}", **options: Any) -> Fleet:
    source = BundleSource(name="", path=path, overlay=overlay)
    bundle = Bundle(name="shop", sources=(source,), strategy="all", namespace="shop", **options)
    return Fleet(name="acme", clusters=CLUSTERS, bundles=(bundle,), strategies=(STRATEGY,))


class World:
    """A repository, its mirror and a planner."""

    def __init__(self, repository: Repository, data: Path) -> None:
        self.repository = repository
        self.data = data
        self.mirror = mirror.GitMirrors(data).mirror(GitSource("", str(repository.path)), None)
        self.sets = KeptSets()
        program = str(build.binaries("core")["kustomize"])
        self.renderer = Renderer(RenderSettings(kustomize=KustomizeSettings(program=program)))
        self.planner = Planner(self.renderer, self.sets, lambda: 0.0)

    async def snapshot(self) -> Snapshot:
        sha = await self.mirror.resolve()
        await self.mirror.fetch(sha)
        return Snapshot(sha, self.mirror.tree(sha), await self.mirror.info(sha))

    async def plan(self, wanted: Fleet) -> Planned:
        [planned] = await self.planner.plan(wanted, {"": await self.snapshot()})
        return planned

    async def data_of(self, planned: Planned, cluster: str) -> dict[str, str]:
        """Name → value of the ConfigMaps of a cluster."""
        assert planned.error is None
        assert planned.release is not None
        found = await self.sets.get(planned.release.digests[cluster])
        return {item.id.name: json.loads(item.body)["data"]["a"] for item in found.manifests if item.id.namespace}

    def exports(self) -> set[str]:
        return {path.name for path in (self.data / "exports").iterdir()}


@pytest.fixture
def world(repository: Repository, tmp_path: Path) -> World:
    return World(repository, tmp_path / "data")


async def test_folders_that_roots_refer_to_are_followed(world: World) -> None:
    head = world.repository.commit(SHOP, "first", author="Bob <bob@acme.example>")
    planned = await world.plan(fleet())
    assert await world.data_of(planned, "qa-1") == {"web": "1", "common": "c"}
    assert await world.data_of(planned, "prod-1") == {"web-prod": "1", "common-prod": "c"}
    assert planned.release is not None
    assert (planned.release.revisions, planned.release.author) == ({"": head}, "bob@acme.example")
    assert planned.release.message == "first"
    assert planned.release.digests["qa-1"] == planned.release.digests["qa-2"]
    # What nothing refers to was never written to disk.
    assert not list((world.data / "exports").rglob("README.md"))


async def test_a_commit_elsewhere_costs_no_export_and_no_render(world: World) -> None:
    world.repository.commit(SHOP)
    await world.plan(fleet())
    rendered, exports = world.renderer.cache.rendered, world.exports()
    world.repository.commit({"docs/README.md": "changed\n"})
    planned = await world.plan(fleet())
    assert not planned.changed
    assert (world.renderer.cache.rendered, world.exports()) == (rendered, exports)


async def test_a_change_in_a_folder_that_is_referred_to_counts(world: World) -> None:
    world.repository.commit(SHOP)
    await world.plan(fleet())
    exports = world.exports()
    world.repository.commit({"lib/common/common.yaml": CONFIG.replace("VALUE", "new").replace("web", "common")})
    planned = await world.plan(fleet())
    assert planned.changed
    assert (await world.data_of(planned, "prod-1"))["common-prod"] == "new"
    # The folders are known by now: each of the two inputs is exported in one go.
    assert len(world.exports() - exports) == 1


async def test_a_reference_that_is_dropped_is_forgotten(world: World) -> None:
    world.repository.commit(SHOP)
    await world.plan(fleet())
    world.repository.commit(
        {
            "apps/base/kustomization.yaml": "resources: [web.yaml]\n",
            "lib/common/common.yaml": None,
            "lib/common/kustomization.yaml": None,
        }
    )
    planned = await world.plan(fleet())
    assert await world.data_of(planned, "qa-1") == {"web": "1"}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            {"apps/base/kustomization.yaml": "resources: [../../gone]\n"},
            "refers to gone, which is not there in the rep",
        ),
        ({"apps/base/kustomization.yaml": "resources: [../../../out]\n"}, "leads out of the source"),
        ({"apps/base/kustomization.yaml": "resources: ['https://example.com/x']\n"}, "is remote"),
        ({"apps/base/evil": Symlink("/etc/passwd")}, "the symlink .*evil leads out"),
        ({"apps/base/web.yaml": "a: [\n"}, "web.yaml"),
    ],
)
async def test_what_is_wrong_in_a_commit_is_said_and_a_fix_passes(
    world: World, files: dict[str, Any], what: str
) -> None:
    world.repository.commit(SHOP)
    first = await world.plan(fleet())
    world.repository.commit(files)
    broken = await world.plan(fleet())
    assert broken.error is not None
    assert broken.release is None
    assert re.search(what, broken.error), broken.error
    world.repository.revert()
    mended = await world.plan(fleet())
    assert (mended.release, mended.changed) == (first.release, False)


async def test_a_revert_is_the_same_content(world: World) -> None:
    world.repository.commit(SHOP)
    first = await world.plan(fleet())
    world.repository.commit({"apps/base/web.yaml": CONFIG.replace("VALUE", "2")})
    second = await world.plan(fleet())
    world.repository.revert()
    third = await world.plan(fleet())
    assert first.release is not None
    assert second.release is not None
    assert third.release is not None
    assert third.changed
    assert first.release.content == third.release.content != second.release.content
    assert third.release.id != first.release.id


async def test_two_revisions_compared(world: World) -> None:
    world.repository.commit(SHOP)
    before = await world.plan(fleet())
    world.repository.commit({"apps/base/web.yaml": CONFIG.replace("VALUE", "2")})
    after = await world.plan(fleet())
    found = await preview([before], [after], world.sets, names=("old", "new"))
    [bundle] = found.bundles
    assert [group.clusters for group in bundle.groups] == [("prod-1",), ("qa-1", "qa-2")]
    assert bundle.groups[1].change[0].object == "v1/ConfigMap shop/web"
    assert bundle.warnings == ()
    assert (await preview([after], [after], world.sets, names=("a", "b"))).empty
