"""kill -9 of the control plane, at every phase and at random moments of rollouts on real clusters.

Whatever the moment, the next process ends in the state that an undisturbed one ends in: each cluster gets the release
once, nothing else is written in between, and no failure is counted twice.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration import plane_site
from tests.integration.plane import Json, Plane
from tests.integration.plane_site import Site, app, folder, settings
from tests.testbed.cluster import Cluster, Clusters

pytestmark = pytest.mark.real

OBJECTS = 30
"""ConfigMaps of a bundle beside those of `app`, so that an apply takes long enough to be cut in the middle."""
EVENTS = 24
"""About as many events as an undisturbed rollout has."""
QUICK, ALL = 3, 20
"""Random moments in a usual and in a deep run."""


@pytest.fixture(scope="module")
def site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with plane_site.site(tmp_path_factory.mktemp("kills"), clusters) as made:
        made.document["strategies"].append(plane_site.strategies(bake="1h")[0] | {"name": "slow"})
        made.bundle("phases", "gated")
        made.bundle("random")
        made.bundle("overtaken")
        names = ("phases", "random", "overtaken")
        made.push({path: text for name in names for path, text in content(name, "1").items()})
        made.plane.start()
        for name in names:
            first = made.plane.wait_rollout(name, None, lambda r: r["state"] in ("Succeeded", "Blocked"), "ended")
            if first["state"] == "Blocked":
                made.approve(first["id"])
            made.plane.wait_state(name, None, "Succeeded")
        yield made


def content(bundle: str, version: str, image: str = "nginx:1.25") -> dict[str, str]:
    more = {
        f"more-{n}.yaml": settings(version=version).replace("name: settings", f"name: more-{n}") for n in range(OBJECTS)
    }
    return {path: str(text) for path, text in folder(bundle, {**app(version, image), **more}).items()}


class Watched:
    """What happens to one bundle from now on."""

    def __init__(self, site: Site, bundle: str) -> None:
        self.site, self.bundle = site, bundle
        self.seq = site.plane.last_seq()
        self.versions = {name: site.version(cluster, bundle) for name, cluster in site.clusters.items()}
        self.marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}

    def states(self, name: str) -> dict[str, list[str]]:
        """Object → the versions that it took, one after another."""
        found: dict[str, list[str]] = {}
        for each in self.site.history(self.site.clusters[name], self.bundle, self.versions[name]):
            found.setdefault(each["metadata"]["name"], []).append(each["data"]["version"])
        return found

    def writes(self, name: str) -> Counter[str]:
        """Object → how often our field manager wrote it."""
        return Counter(r.name for r in self.site.writes(self.site.clusters[name], self.marks[name], self.bundle))

    def events(self, *kinds: str) -> list[Json]:
        told = self.site.plane.events(self.seq)
        return [event for event in told if event["bundle"] == self.bundle and event["type"] in kinds]

    def transitions(self) -> Counter[tuple[str, ...]]:
        """How often each change of state of a rollout, a wave or a cluster was told."""
        told = self.events("rollout.state", "wave.state", "cluster.state")
        return Counter(
            (e["rollout"], e["type"], e["wave"] or "", e["cluster"] or "", e["data"]["from"], e["data"]["to"])
            for e in told
        )

    def was_written_once(self, rollout: Json, version: str) -> None:
        """Every cluster got the release, each object went from the old to the new version and nowhere else."""
        members = {m["cluster"]: m for wave in rollout["waves"] for m in wave["clusters"]}
        digests = set()
        with ThreadPoolExecutor(len(members)) as pool:
            histories = dict(zip(self.site.clusters, pool.map(self.states, self.site.clusters), strict=True))
        for name, cluster in self.site.clusters.items():
            states = histories[name]
            assert len(states) == OBJECTS + 1
            assert all(taken == [version] for taken in states.values()), states
            assert self.site.config(cluster, self.bundle) == {"version": version}
            seq, digest = self.site.inventory(cluster, self.bundle)
            assert seq == members[name]["seq"]
            digests.add(digest)
        assert len(digests) == 1


def outcome(rollout: Json) -> Json:
    """What a rollout came to, without times and names."""
    waves = []
    for wave in rollout["waves"]:
        members = [(m["cluster"], m["state"], m["reason"], m["attempts"], m["objects"]) for m in wave["clusters"]]
        waves.append((wave["name"], wave["state"], [gate["state"] for gate in wave["gates"]], members))
    return {"state": rollout["state"], "reason": rollout["reason"], "waves": waves}


def kill_at(plane: Plane, since: int, when: Callable[[Json], bool]) -> Json:
    """Kills the process at the first event after `since` for which `when` holds."""
    with plane.following(since) as events:
        for event in events:
            if when(event):
                plane.kill()
                return event
    raise AssertionError(f"no such event came\n{plane.log_tail()}")


def reaches(kind: str, to: str, *, wave: str | None = None) -> Callable[[Json], bool]:
    return lambda e: e["type"] == kind and e["data"].get("to") == to and wave in (None, e["wave"])


def of(bundle: str, when: Callable[[Json], bool]) -> Callable[[Json], bool]:
    return lambda e: e["bundle"] == bundle and when(e)


# --- a rollout that succeeds -----------------------------------------------------------------------------------------


PHASES: dict[str, Callable[[Json], bool]] = {
    "rendered": lambda e: e["type"] == "release.rendered",
    "intent for qa": reaches("cluster.state", "Applying", wave="qa"),
    "qa applied": reaches("cluster.state", "Verifying", wave="qa"),
    "qa baking": reaches("wave.state", "Baking", wave="qa"),
    "gate waiting": reaches("rollout.state", "Blocked"),
    "intent for prod": reaches("cluster.state", "Applying", wave="prod"),
    "prod applied": reaches("cluster.state", "Verifying", wave="prod"),
    "succeeded": reaches("rollout.state", "Succeeded"),
}


def test_one_rollout_killed_at_every_phase(site: Site) -> None:
    plane, watched = site.plane, Watched(site, "phases")
    reference = plane.rollouts("phases")[0]
    sha = site.push(content("phases", "2"), "two")
    seq = watched.seq
    for phase, when in PHASES.items():
        if phase == "intent for prod":
            waiting = plane.wait_state("phases", sha, "Blocked")
            site.approve(waiting["id"])
        seq = kill_at(plane, seq, of("phases", when))["seq"]
        plane.start()
    rollout = plane.wait_state("phases", sha, "Succeeded")
    assert outcome(rollout) == outcome(reference)
    watched.was_written_once(rollout, "2")
    assert [number for number in watched.transitions().values() if number > 1] == []
    for name in site.clusters:
        assert max(watched.writes(name).values()) <= 2, "once more what was answered and not stored yet"


def test_killed_in_the_middle_of_an_apply(site: Site) -> None:
    """Some objects of many are written, and nothing of that is stored yet."""
    plane, watched = site.plane, Watched(site, "phases")
    reference = plane.rollouts("phases")[0]
    sha = site.push(content("phases", "3"), "three")
    first_write(site.qa, site.namespace("phases"), "3")
    plane.kill()
    written = [name for name, states in watched.states("qa").items() if states == ["3"]]
    plane.start()
    site.approve(plane.wait_state("phases", sha, "Blocked")["id"])
    rollout = plane.wait_state("phases", sha, "Succeeded")
    assert outcome(rollout) == outcome(reference)
    watched.was_written_once(rollout, "3")
    assert 0 < len(written) <= OBJECTS + 1
    assert max(watched.writes("qa").values()) <= 2
    assert max(watched.writes("prod").values()) == 1


def first_write(cluster: Cluster, namespace: str, version: str, seconds: float = 30) -> None:
    """Back as soon as any ConfigMap of the namespace has the version."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        items = cluster.api.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]
        if any(item["data"].get("version") == version for item in items):
            return
    raise AssertionError(f"nothing was written to {cluster.name}")


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < QUICK else (pytest.mark.deep,)) for n in range(ALL)])
def test_killed_at_a_random_moment(site: Site, seed: int) -> None:
    plane, choice, version = site.plane, random.Random(seed), f"r{seed}"
    reference = plane.rollouts("random")[0]
    watched = Watched(site, "random")
    events_before, extra = choice.randrange(EVENTS), choice.uniform(0.0, 0.3)
    sha = site.push(content("random", version), version)
    with plane.following(watched.seq) as events:
        for _ in range(events_before):
            if reaches("rollout.state", "Succeeded")(next(events)):
                break
    time.sleep(extra)
    plane.restart()
    rollout = plane.wait_state("random", sha, "Succeeded")
    assert outcome(rollout) == outcome(reference)
    watched.was_written_once(rollout, version)
    assert [told for told, number in watched.transitions().items() if number > 1] == []
    for name in site.clusters:
        assert max(watched.writes(name).values()) <= 2


# --- rollouts that end otherwise -------------------------------------------------------------------------------------


def test_a_failure_is_counted_once(site: Site) -> None:
    plane, watched = site.plane, Watched(site, "random")
    bundle = next(each for each in site.bundles if each["name"] == "random")
    site.document["strategies"].append(plane_site.strategies(progress_deadline="2s")[0] | {"name": "hasty"})
    bundle["strategy"] = "hasty"
    sha = site.push(content("random", "bad", image="nginx:does-not-exist"), "bad")
    event = kill_at(plane, watched.seq, of("random", reaches("cluster.state", "Verifying")))
    plane.start()
    kill_at(plane, event["seq"], of("random", reaches("cluster.state", "Failed")))
    plane.start()
    rollout = plane.wait_state("random", sha, "Halted")
    assert [wave["state"] for wave in rollout["waves"]] == ["Failed", "Pending"]
    failed = [told for told in watched.events("cluster.state", "wave.state") if told["data"]["to"] == "Failed"]
    assert [told["type"] for told in failed] == ["cluster.state", "wave.state"]
    assert watched.writes("prod") == Counter()
    bundle["strategy"] = "waves"
    sha = site.push(content("random", "good"), "good")
    plane.wait_state("random", sha, "Succeeded")


def test_killed_while_it_rolls_back(site: Site) -> None:
    plane = site.plane
    before = plane.wait_state("random", None, "Succeeded")
    at_first = site.config(site.prod, "random")
    sha = site.push(content("random", "left"), "left")
    plane.wait_state("random", sha, "Succeeded")
    watched = Watched(site, "random")
    plane.post("/bundles/random/rollback", {"as": "alice"})
    kill_at(plane, watched.seq, reaches("cluster.state", "RollingBack"))
    plane.start()
    rollout = plane.wait_state("random", None, "RolledBack")
    assert at_first is not None
    watched.was_written_once(rollout, at_first["version"])
    assert rollout["release"] == before["release"]
    assert [told for told, number in watched.transitions().items() if number > 1] == []


def test_killed_while_it_gives_way(site: Site) -> None:
    plane, watched = site.plane, Watched(site, "overtaken")
    bundle = next(each for each in site.bundles if each["name"] == "overtaken")
    bundle["strategy"] = "slow"
    second = site.push(content("overtaken", "2"), "two")
    given_way = plane.wait_rollout("overtaken", second, lambda r: r["waves"][0]["state"] == "Baking", "qa baking")
    bundle["strategy"] = "waves"
    third = site.push(content("overtaken", "3"), "three")
    kill_at(plane, watched.seq, reaches("rollout.state", "Superseding"))
    plane.start()
    rollout = plane.wait_state("overtaken", third, "Succeeded")
    assert plane.rollout(given_way["id"])["state"] == "Superseded"
    assert all(taken == ["3"] for taken in watched.states("prod").values())
    assert all(taken == ["2", "3"] for taken in watched.states("qa").values())
    assert [told for told, number in watched.transitions().items() if number > 1] == []
    assert [m["attempts"] for wave in rollout["waves"] for m in wave["clusters"]] == [1, 1]
