"""Planning over working trees, with the real renderer: releases, sharing, claims; errors stay with a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.engine.planner import Planned, Planner, Snapshot
from fleet.errors import NotFound, SourceError, StoreError
from fleet.git.trees import FolderTree
from fleet.model.fleetfile import (
    ApprovalGate,
    Bundle,
    BundleSource,
    Cluster,
    Fleet,
    GitSource,
    HealthPolicy,
    PrunePolicy,
    Selector,
    Strategy,
    Wave,
)
from fleet.model.objects import ManifestSet, ObjectId
from fleet.render.renderer import Renderer

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000.0
QA = [Cluster(name=f"qa-{n}", labels={"env": "qa"}, values={"n": n}) for n in range(2)]
PROD = [Cluster(name=f"prod-{n}", labels={"env": "prod"}, values={"n": n}) for n in range(3)]
WAVES = (
    Wave(name="qa", cluster_selector=Selector(match_labels={"env": "qa"}), bake=600.0),
    Wave(
        name="prod",
        cluster_selector=Selector(match_labels={"env": "prod"}),
        max_concurrency="50%",
        protected=True,
        gates_before=("go",),
        health=HealthPolicy(stable_for=5.0),
    ),
)


def config_map(name: str, value: str = "1", namespace: str = "") -> str:
    place = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}{place}}}\ndata: {{a: '{value}'}}\n---\n"


def bundle(name: str, path: str | None = None, overlay: str | None = None, **options: Any) -> Bundle:
    sources = options.pop("sources", (BundleSource(name="", path=path or f"apps/{name}", overlay=overlay),))
    return Bundle(name=name, sources=sources, strategy="standard", **({"namespace": name} | options))


def fleet(*bundles: Bundle, clusters: list[Cluster] | None = None) -> Fleet:
    return Fleet(
        name="acme",
        sources=(GitSource(name="other", url="/srv/other"),),
        clusters=tuple(clusters if clusters is not None else [*QA, *PROD]),
        bundles=bundles,
        gates=(ApprovalGate(name="go"),),
        strategies=(Strategy(name="standard", waves=WAVES),),
    )


class Kept:
    """Manifest sets by digest; `broken` makes it refuse, `refused` only sets with that object."""

    def __init__(self) -> None:
        self.sets: dict[str, ManifestSet] = {}
        self.broken = False
        self.refused: str | None = None

    async def put(self, manifests: ManifestSet) -> None:
        if self.broken or any(str(item.id) == self.refused for item in manifests.manifests):
            raise StoreError("the disk is full")
        self.sets[manifests.digest] = manifests

    async def load(self, digest: str) -> ManifestSet:
        if digest not in self.sets:
            raise NotFound(digest)
        return self.sets[digest]

    def bodies(self, digest: str) -> dict[str, dict[str, Any]]:
        return {str(item.id): json.loads(item.body) for item in self.sets[digest].manifests}


class Bench:
    """A planner over a working tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept = Kept()
        self.renderer = Renderer()
        self.planner = Planner(self.renderer, self.kept, lambda: NOW)

    def write(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(content)

    async def plan(self, wanted: Fleet, **sources: Snapshot) -> dict[str, Planned]:
        snapshots = {"": Snapshot("f" * 40, FolderTree(self.root)), **sources}
        return {planned.bundle: planned for planned in await self.planner.plan(wanted, snapshots)}

    def of(self, planned: Planned, cluster: str) -> dict[str, dict[str, Any]]:
        assert planned.error is None
        assert planned.release is not None
        return self.kept.bodies(planned.release.digests[cluster])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_release_is_pinned_and_its_plan_frozen(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    planned = (await bench.plan(fleet(bundle("shop", prune=PrunePolicy(True, 3)))))["shop"]
    release, plan = planned.release, planned.plan
    assert release is not None
    assert plan is not None
    assert planned.changed
    assert release.revisions == {"": "f" * 40}
    assert sorted(release.digests) == ["prod-0", "prod-1", "prod-2", "qa-0", "qa-1"]
    assert release.id.startswith("shop-")
    assert len(release.id) == len("shop-") + 12
    assert release.content.startswith("sha256:")
    assert (release.options.prune, release.options.prune_max_objects, release.options.namespace) == (True, 3, "shop")
    assert release.created_at == NOW
    assert [(wave.name, wave.clusters) for wave in plan.waves] == [
        ("qa", ("qa-0", "qa-1")),
        ("prod", ("prod-0", "prod-1", "prod-2")),
    ]
    assert plan.waves[0].bake == 600.0
    assert (plan.waves[1].max_concurrency, plan.waves[1].protected) == ("50%", True)
    assert plan.waves[1].gates_before == (ApprovalGate(name="go"),)
    assert plan.waves[1].health.stable_for == 5.0
    # One content for all clusters, rendered once.
    assert len(set(release.digests.values())) == bench.renderer.cache.rendered == 1


async def test_equal_content_is_no_new_release(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    wanted = fleet(bundle("shop"))
    first = (await bench.plan(wanted))["shop"]
    bench.write({"README.md": "new", "apps/shop/notes.txt": "new", "apps/shop/a.yaml": "# comment\n" + config_map("a")})
    snapshot = Snapshot("e" * 40, FolderTree(bench.root))
    [second] = await bench.planner.plan(wanted, {"": snapshot})
    assert not second.changed
    assert second.release == first.release
    bench.write({"apps/shop/a.yaml": config_map("a", "2")})
    third = (await bench.plan(wanted))["shop"]
    assert third.changed
    assert third.release is not None
    assert first.release is not None
    assert third.release.content != first.release.content
    bench.write({"apps/shop/a.yaml": config_map("a")})
    back = (await bench.plan(wanted))["shop"]
    assert back.changed
    assert back.release is not None
    assert back.release.content == first.release.content


async def test_options_and_targets_are_part_of_the_content(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    seen = set()
    for options in ({}, {"adopt": "always"}, {"prune": PrunePolicy(True)}):
        release = (await bench.plan(fleet(bundle("shop", **options))))["shop"].release
        assert release is not None
        seen.add((release.content, release.id))
    fewer = (await bench.plan(fleet(bundle("shop"), clusters=[*QA, PROD[0]])))["shop"].release
    assert fewer is not None
    assert fewer.content not in {content for content, _ in seen}
    assert len(seen) == 3


async def test_unchanged_input_costs_no_render(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a"), "apps/base/b.yaml": config_map("b")})
    wanted = fleet(bundle("shop"), bundle("base"))
    for _ in range(3):
        await bench.plan(wanted)
    assert bench.renderer.cache.rendered == 2
    bench.write({"apps/shop/a.yaml": config_map("a", "2")})
    planned = await bench.plan(wanted)
    assert (planned["shop"].changed, planned["base"].changed) == (True, False)
    assert bench.renderer.cache.rendered == 3


async def test_content_is_kept_again_when_an_old_one_returns(bench: Bench) -> None:
    wanted = fleet(bundle("shop"))
    for value in ("1", "2", "1"):
        bench.kept.sets.clear()
        bench.write({"apps/shop/a.yaml": config_map("a", value)})
        planned = (await bench.plan(wanted))["shop"]
        assert bench.of(planned, "qa-0")["ConfigMap shop/a"]["data"] == {"a": value}


async def test_overlays_by_cluster_in_the_folder_and_in_the_source(bench: Bench) -> None:
    bench.write(
        {
            "apps/shop/a.yaml": config_map("a"),
            "apps/shop/clusters/qa-0/a.yaml": config_map("a", "here"),
            "clusters/qa-0/a.yaml": config_map("a", "not this one"),
            "clusters/qa-1/a.yaml": config_map("a", "there"),
        }
    )
    planned = (await bench.plan(fleet(bundle("shop", overlay="clusters/{{ cluster.name }}"))))["shop"]
    values = {name: bench.of(planned, name)["ConfigMap shop/a"]["data"]["a"] for name in ("qa-0", "qa-1", "prod-0")}
    assert values == {"qa-0": "here", "qa-1": "there", "prod-0": "1"}
    assert bench.renderer.cache.rendered == 3


async def test_an_overlay_named_outright_must_exist(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    planned = (await bench.plan(fleet(bundle("shop", overlay="extra"))))["shop"]
    assert planned.error == "there is no overlay folder apps/shop/extra in the repository of fleet.yaml at ffffffffffff"


async def test_an_overlay_cannot_lead_out_by_a_label(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    evil = [msgspec.structs.replace(cluster, labels={"env": "qa", "d": "../../.."}) for cluster in QA]
    planned = (await bench.plan(fleet(bundle("shop", overlay="{{ cluster.labels.d }}"), clusters=evil)))["shop"]
    assert planned.error is not None
    assert "leads out" in planned.error


async def test_templates_make_content_per_cluster(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a", "{{ cluster.labels.env }}")})
    planned = (await bench.plan(fleet(bundle("shop", templates=True))))["shop"]
    assert bench.of(planned, "qa-0")["ConfigMap shop/a"]["data"] == {"a": "qa"}
    assert bench.of(planned, "prod-2")["ConfigMap shop/a"]["data"] == {"a": "prod"}
    assert planned.release is not None
    assert len(set(planned.release.digests.values())) == bench.renderer.cache.rendered == 2


async def test_an_error_stays_with_its_bundle_and_what_was_planned_stays(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a"), "apps/base/b.yaml": config_map("b")})
    wanted = fleet(
        bundle("shop"), bundle("base"), bundle("gone"), bundle("remote", sources=(BundleSource("other", "x"),))
    )
    planned = await bench.plan(wanted)
    assert planned["gone"].error == "there is no folder apps/gone in the repository of fleet.yaml at ffffffffffff"
    assert planned["remote"].error == "source other could not be read yet"
    bench.write({"apps/shop/a.yaml": "a: [\n"})
    broken = await bench.plan(wanted)
    assert broken["shop"].error is not None
    assert broken["shop"].error.startswith("apps/shop/a.yaml:2:1")
    assert broken["base"] == msgspec.structs.replace(planned["base"], changed=False)
    bench.write({"apps/shop/a.yaml": config_map("a")})
    mended = (await bench.plan(wanted))["shop"]
    assert not mended.changed
    assert mended.release == planned["shop"].release


async def test_a_tree_that_fails_fails_its_bundles_alone(bench: Bench) -> None:
    class Failing:
        async def hashes(self, paths: object) -> dict[str, str]:
            raise SourceError("the mirror is damaged")

        async def folder(self, paths: object) -> Path:
            raise AssertionError

    bench.write({"apps/shop/a.yaml": config_map("a")})
    wanted = fleet(bundle("shop"), bundle("remote", sources=(BundleSource("other", "x"),)))
    planned = await bench.plan(wanted, other=Snapshot("d" * 40, Failing()))
    assert planned["remote"].error == "the mirror is damaged"
    # It is worth another try; a file that is wrong is not.
    assert planned["remote"].transient
    assert planned["shop"].error is None
    bench.write({"apps/shop/a.yaml": "a: [\n"})
    broken = (await bench.plan(wanted))["shop"]
    assert broken.error is not None
    assert not broken.transient


async def test_a_release_that_was_not_taken_is_given_again(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    wanted = fleet(bundle("shop"))
    first = (await bench.plan(wanted))["shop"]
    bench.planner.retract("shop")
    again = (await bench.plan(wanted))["shop"]
    assert again.changed
    assert again.release == first.release
    assert not (await bench.plan(wanted))["shop"].changed


async def test_content_that_cannot_be_kept_ends_the_planning(bench: Bench) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a")})
    bench.kept.broken = True
    with pytest.raises(StoreError, match="disk is full"):
        await bench.plan(fleet(bundle("shop")))
    bench.kept.broken = False
    assert (await bench.plan(fleet(bundle("shop"))))["shop"].changed


async def test_a_bundle_of_two_sources_is_pinned_to_both(bench: Bench, tmp_path: Path) -> None:
    bench.write({"apps/shop/a.yaml": config_map("a"), "other/x/b.yaml": config_map("b")})
    sources = (BundleSource("", "apps/shop"), BundleSource("other", "x"))
    snapshot = Snapshot("d" * 40, FolderTree(tmp_path / "other"))
    planned = (await bench.plan(fleet(bundle("shop", sources=sources)), other=snapshot))["shop"]
    assert planned.release is not None
    assert planned.release.revisions == {"": "f" * 40, "other": "d" * 40}
    assert {"ConfigMap shop/a", "ConfigMap shop/b"} < bench.of(planned, "qa-0").keys()


async def test_two_bundles_may_not_claim_one_object(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n"), "apps/b/x.yaml": config_map("x", namespace="n")})
    bench.write({"apps/c/y.yaml": config_map("y")})
    planned = await bench.plan(fleet(bundle("a"), bundle("b"), bundle("c")))
    assert planned["a"].error == (
        "bundle b claims ConfigMap n/x on prod-0, prod-1, prod-2 and 2 more, too; an object belongs to one bundle"
    )
    assert planned["b"].error is not None
    assert "bundle a claims" in planned["b"].error
    assert planned["c"].error is None


async def test_who_holds_an_object_keeps_it(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n"), "apps/b/y.yaml": config_map("y", namespace="n")})
    wanted = fleet(bundle("b"), bundle("a"))
    await bench.plan(wanted)
    bench.write({"apps/b/y.yaml": config_map("y", namespace="n") + config_map("x", namespace="n")})
    planned = await bench.plan(wanted)
    assert planned["a"].error is None
    assert planned["b"].error is not None
    # An object may move when both bundles change together.
    bench.write({"apps/a/x.yaml": config_map("z", namespace="n")})
    moved = await bench.plan(wanted)
    assert (moved["a"].error, moved["b"].error) == (None, None)


async def test_who_holds_an_object_keeps_it_over_a_restart(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n"), "apps/b/y.yaml": config_map("y", namespace="n")})
    wanted = fleet(bundle("b"), bundle("a"))
    before = await bench.plan(wanted)
    bench.write({"apps/b/y.yaml": config_map("y", namespace="n") + config_map("x", namespace="n")})
    # Also what cannot be rendered any more stays claimed, and what left the store claims nothing.
    bench.write({"apps/a/z.yaml": "a: [\n"})
    digests = {name: planned.release.digests for name, planned in before.items() if planned.release is not None}
    bench.planner = Planner(Renderer(), bench.kept, lambda: NOW)
    await bench.planner.restore({**digests, "gone": {"qa-0": "sha256:gone"}}, bench.kept.load)
    planned = await bench.plan(wanted)
    assert planned["b"].error is not None
    assert "bundle a claims ConfigMap n/x" in planned["b"].error
    (bench.root / "apps/a/z.yaml").unlink()
    assert (await bench.plan(wanted))["a"].error is None


async def test_content_that_is_older_than_what_is_kept_claims_nothing(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n")})
    await bench.planner.restore({"a": {"qa-0": "sha256:gone"}}, bench.kept.load)
    assert (await bench.plan(fleet(bundle("a"))))["a"].error is None


async def test_the_claimant_of_an_object_is_who_has_it_in_its_newest_content(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n"), "apps/b/y.yaml": config_map("y", namespace="n")})
    wanted = fleet(bundle("a"), bundle("b"))
    moving = ObjectId("", "ConfigMap", "n", "x")
    assert bench.planner.claimant("qa-0", moving) is None
    await bench.plan(wanted)
    assert bench.planner.claimant("qa-0", moving) == "a"
    assert bench.planner.claimant("elsewhere", moving) is None
    bench.write({"apps/a/x.yaml": config_map("z", namespace="n"), "apps/b/x.yaml": config_map("x", namespace="n")})
    planned = (await bench.plan(wanted))["b"]
    assert bench.planner.claimant("qa-0", moving) == "b"
    # A rename, after which the former bundle is gone from fleet.yaml.
    await bench.plan(fleet(bundle("b")))
    assert bench.planner.claimant("qa-0", moving) == "b"
    assert bench.planner.claimant("qa-0", ObjectId("", "ConfigMap", "n", "z")) is None
    # The next process knows it before it plans.
    assert planned.release is not None
    again = Planner(Renderer(), bench.kept, lambda: NOW)
    await again.restore({"b": planned.release.digests}, bench.kept.load, set(planned.release.digests.values()))
    assert again.claimant("qa-0", moving) == "b"


async def test_a_planning_that_ends_in_the_middle_gives_all_its_releases_again(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x"), "apps/b/y.yaml": config_map("y")})
    wanted = fleet(bundle("a"), bundle("b"))
    await bench.plan(wanted)
    bench.write({"apps/a/x.yaml": config_map("x", "2"), "apps/b/y.yaml": config_map("y", "2")})
    await bench.plan(wanted)
    # Content that was rendered before is kept only when its release is concluded.
    bench.write({"apps/a/x.yaml": config_map("x"), "apps/b/y.yaml": config_map("y")})
    bench.kept.refused = "ConfigMap b/y"
    with pytest.raises(StoreError):
        await bench.plan(wanted)
    bench.kept.refused = None
    again = await bench.plan(wanted)
    assert (again["a"].changed, again["b"].changed) == (True, True)


async def test_a_bundle_that_left_fleet_yaml_claims_nothing(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x", namespace="n"), "apps/b/x.yaml": config_map("x", namespace="n")})
    await bench.plan(fleet(bundle("a")))
    assert (await bench.plan(fleet(bundle("b"))))["b"].error is None


async def test_a_shared_namespace_is_created_by_the_first(bench: Bench) -> None:
    bench.write({"apps/a/x.yaml": config_map("x"), "apps/b/y.yaml": config_map("y"), "apps/c/z.yaml": config_map("z")})
    shared = {"namespace": "team"}
    planned = await bench.plan(
        fleet(bundle("a", create_namespace=False, **shared), bundle("b", **shared), bundle("c", **shared))
    )
    having = [name for name, item in planned.items() if "Namespace team" in bench.of(item, "qa-0")]
    assert having == ["b"]


async def test_a_namespace_that_another_bundle_describes_is_left_to_it(bench: Bench) -> None:
    described = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {tier: gold}}\n"
    bench.write({"apps/a/x.yaml": config_map("x"), "apps/z/n.yaml": described})
    planned = await bench.plan(fleet(bundle("a", namespace="team"), bundle("z", namespace="default")))
    assert "Namespace team" not in bench.of(planned["a"], "qa-0")
    assert bench.of(planned["z"], "qa-0")["Namespace team"]["metadata"]["labels"]["tier"] == "gold"
    # Two that describe it are a conflict like any other.
    bench.write({"apps/a/n.yaml": described.replace("gold", "silver")})
    again = await bench.plan(fleet(bundle("a", namespace="team"), bundle("z", namespace="default")))
    assert again["a"].error is not None
    assert "Namespace team" in again["a"].error


async def test_paths_count_from_the_folder_of_fleet_yaml(bench: Bench) -> None:
    bench.write({"fleet/apps/shop/a.yaml": config_map("a"), "apps/shop/a.yaml": config_map("wrong")})
    planner = Planner(bench.renderer, bench.kept, lambda: NOW, root="fleet")
    [planned] = await planner.plan(fleet(bundle("shop")), {"": Snapshot("f" * 40, FolderTree(bench.root))})
    assert "ConfigMap shop/a" in bench.of(planned, "qa-0")
