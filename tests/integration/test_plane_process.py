"""The process of the control plane: its end, its data directory lost, shared, full or read-only, its restarts."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration import plane_site
from tests.integration.plane import ApiRefused, Json, Plane
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Clusters

pytestmark = pytest.mark.real

BAKE = 2.0
"""Seconds."""
DISK = "32m"

needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=10, check=False).returncode != 0,
    reason="unshare: private mounts are not allowed here",
)


@pytest.fixture(scope="module")
def site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with plane_site.site(tmp_path_factory.mktemp("process"), clusters) as made:
        made.document["strategies"].append(plane_site.strategies(bake=f"{BAKE}s")[0] | {"name": "baked"})
        made.bundle("shop")
        made.push(folder("shop", app("1")))
        made.plane.start()
        made.plane.wait_state("shop", None, "Succeeded")
        yield made


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(site: Site, number: signal.Signals) -> None:
    """Also with open streams, and in the middle of a rollout."""
    plane, version = site.plane, number.name
    seq = plane.last_seq()
    with plane.following(seq) as events:
        sha = site.push(folder("shop", app(version)), version)
        next(events)
        plane.process.send(number)
        assert plane.ended(10.0, f"after {number.name}") == 0
        assert list(events) is not None, "the stream ends with the process"
    assert "Traceback" not in plane.log()
    plane.start()
    plane.wait_state("shop", sha, "Succeeded")
    assert [event["seq"] for event in plane.events()] == list(range(1, plane.last_seq() + 1))


def test_a_second_control_plane_is_refused(site: Site, tmp_path: Path) -> None:
    with Plane(tmp_path, site.repository.path, data_dir=site.plane.data_dir) as second:
        second.launch()
        assert second.ended(30.0, "although another one works") == 1
        said = second.log()
    assert f"(process {site.plane.process.pid})" in said
    assert str(site.plane.data_dir) in said
    assert "Traceback" not in said
    assert site.plane.ready()


def test_a_bake_is_not_shortened_by_a_restart(site: Site) -> None:
    plane = site.plane
    site.bundles[0]["strategy"] = "baked"
    sha = site.push(folder("shop", app("baked")), "baked")
    plane.wait_rollout("shop", sha, lambda r: r["waves"][0]["bakeRemainingSeconds"] < BAKE * 0.7, "a part of the bake")
    plane.restart()
    baking = plane.wait_rollout("shop", sha, lambda r: r["waves"][0]["state"] == "Baking", "still baking")
    assert site.config(site.prod, "shop") != {"version": "baked"}
    assert plane.wait_state("shop", sha, "Succeeded")["id"] == baking["id"]
    begun, ended = bake_of(plane, baking["id"])
    assert ended - begun >= BAKE
    assert site.config(site.prod, "shop") == {"version": "baked"}
    site.bundles[0]["strategy"] = "waves"


def bake_of(plane: Plane, rollout: str) -> tuple[float, float]:
    """When the bake of qa began and ended, in seconds since the epoch."""
    told = [e for e in plane.events() if e["rollout"] == rollout and e["type"] == "wave.state" and e["wave"] == "qa"]
    times = {e["data"]["to"]: datetime.fromisoformat(e["time"]).timestamp() for e in told}
    return times["Baking"], times["Passed"]


# --- the data directory ----------------------------------------------------------------------------------------------


def test_a_lost_data_directory_adopts_what_is_there(site: Site) -> None:
    """The inventories in the clusters are ahead of a database that begins at nothing."""
    plane = site.plane
    site.push(folder("shop", app("kept")), "kept")
    plane.wait_state("shop", None, "Succeeded")
    plane.wait(lambda: site.config(site.prod, "shop"), lambda c: c == {"version": "kept"}, "kept in prod")
    assert plane.stop() == 0
    before = {name: standing(site, name) for name in site.clusters}
    shutil.rmtree(plane.data_dir)
    plane.start()
    rollout = plane.wait_state("shop", None, "Succeeded")
    assert rollout["id"] == "shop-1"
    plane.wait_synced("shop")
    for name, cluster in site.clusters.items():
        was, now = before[name], standing(site, name)
        assert now["objects"] == was["objects"], "adoption changes nothing"
        assert now["inventory"][0] > was["inventory"][0]
        assert now["inventory"][1] == was["inventory"][1]
        assert site.config(cluster, "shop") == {"version": "kept"}
    assert {m["state"] for wave in rollout["waves"] for m in wave["clusters"]} == {"Updated"}
    # And it is the owner again: drift is healed, and what leaves the bundle is pruned.
    site.prod.kubectl("-n", site.namespace("shop"), "scale", "deployment", "web", "--replicas=4")
    plane.wait(lambda: site.deployment(site.prod, "shop"), lambda d: d["spec"]["replicas"] == 2, "healed")
    sha = site.push(folder("shop", {"settings.yaml": None}), "without settings")
    plane.wait_state("shop", sha, "Succeeded")
    plane.wait(lambda: site.config(site.prod, "shop"), lambda c: c is None, "pruned")


def standing(site: Site, name: str) -> Json:
    """What a cluster holds of the bundle: objects with uid and resourceVersion, and the inventory."""
    cluster, place = site.clusters[name], f"namespaces/{site.namespace('shop')}"
    config = cluster.api.get(f"/api/v1/{place}/configmaps/settings")["metadata"]
    web = cluster.api.get(f"/apis/apps/v1/{place}/deployments/web")["metadata"]
    objects = {"settings": (config["uid"], config["resourceVersion"]), "web": (web["uid"], web["generation"])}
    return {"objects": objects, "inventory": site.inventory(cluster, "shop")}


@needs_mounts
def test_a_full_disk_is_told_and_nothing_is_lost(clusters: Clusters, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    before = (f"mount -t tmpfs -o size={DISK} tmpfs {disk}",)
    with plane_site.site(tmp_path / "site", clusters, data_dir=disk / "data", before=before) as site:
        plane = site.plane
        site.bundle("shop", "gated")
        site.push(folder("shop", app("1")))
        plane.start()
        waiting = plane.wait_state("shop", None, "Blocked")
        fill(plane.inside("ballast"))
        mark = site.prod.audit.mark()
        # Nothing that cannot be stored is done: the approval is refused, and prod stays as it was.
        with pytest.raises(ApiRefused) as refused:
            site.approve(waiting["id"])
        assert refused.value.status >= 500
        assert "full" in refused.value.body
        site.push(folder("shop", app("2")), "while the disk is full")
        shown = plane.wait(lambda: plane.get("/status")["sources"][0], lambda s: s["error"], "the source's error")
        assert shown["errorSince"]
        assert site.writes(site.prod, mark) == []
        assert plane.rollout(waiting["id"])["state"] == "Blocked"
        # What is released is kept in place all the while.
        site.qa.kubectl("-n", site.namespace("shop"), "scale", "deployment", "web", "--replicas=5")
        plane.wait(lambda: site.deployment(site.qa, "shop"), lambda d: d["spec"]["replicas"] == 2, "healed")
        # Space comes back: the same process goes on.
        plane.inside("ballast").unlink()
        site.sync()
        sha = site.repository.head()
        newer = plane.wait_state("shop", sha, "Blocked")
        site.approve(newer["id"])
        plane.wait_state("shop", sha, "Succeeded")
        assert site.config(site.prod, "shop") == {"version": "2"}
        told = plane.wait(plane.events, lambda es: any(e["type"] == "drift.healed" for e in es), "the repair stored")
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        assert plane.stop() == 0


def fill(ballast: Path) -> None:
    """Takes all the space there is, also what small writes would find between the blocks."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    assert shutil.disk_usage(ballast.parent).free == 0


@needs_mounts
def test_a_read_only_data_directory_is_told(site: Site, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    before = (f"mount -t tmpfs -o size=8m tmpfs {disk}", f"mkdir {disk}/data", f"mount -o remount,ro {disk}")
    with Plane(tmp_path / "site", site.repository.path, data_dir=disk / "data", before=before) as plane:
        plane.launch()
        assert plane.ended(30.0, "although it can store nothing") == 1
        said = plane.log()
    assert "Read-only file system" in said
    assert str(disk / "data") in said
    assert "Traceback" not in said
