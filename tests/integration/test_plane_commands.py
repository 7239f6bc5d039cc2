"""Steering rollouts on real clusters through the command line: what each command does, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.integration import plane_site
from tests.integration.plane import Json
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Clusters

pytestmark = pytest.mark.real

BUNDLES = {"held": "slow", "rejected": "gated", "aborted": "gated", "returned": "waves", "resting": "waves"}
"""Bundle → strategy."""


@pytest.fixture(scope="module")
def site(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every bundle of this module at its first version everywhere."""
    with plane_site.site(tmp_path_factory.mktemp("commands"), clusters) as made:
        made.document["strategies"].append(plane_site.strategies(bake="1500ms")[0] | {"name": "slow"})
        for name, strategy in BUNDLES.items():
            made.bundle(name, strategy)
        made.push({path: text for name in BUNDLES for path, text in folder(name, app("1")).items()})
        made.plane.start()
        for name, strategy in BUNDLES.items():
            if strategy == "gated":
                made.approve(at_gate(made, name)["id"])
        for name in BUNDLES:
            made.plane.wait_state(name, None, "Succeeded")
        yield made


def at_gate(site: Site, bundle: str, revision: str | None = None) -> Json:
    """The newest rollout once it waits for the approval of prod."""
    return site.plane.wait_rollout(
        bundle, revision, lambda r: r["blockedBy"] is not None and r["blockedBy"]["kind"] == "gate", "at the gate"
    )


def versions(site: Site, bundle: str) -> dict[str, str]:
    found = {name: site.config(cluster, bundle) for name, cluster in site.clusters.items()}
    return {name: data["version"] for name, data in found.items() if data is not None}


def test_pause_and_resume(site: Site) -> None:
    plane = site.plane
    sha = site.push(folder("held", app("2")), "held in qa")
    rollout = plane.wait_rollout("held", sha, lambda r: r["waves"][0]["state"] == "Baking", "qa baking")
    paused = plane.cli("pause", rollout["id"], "--comment", "wait for the release notes", "--as", "alice")
    assert paused["paused"]
    plane.cli("pause", rollout["id"])  # twice is once
    # The bake of work in flight goes on; nothing is started after it.
    plane.wait_rollout("held", sha, lambda r: r["waves"][0]["state"] == "Passed", "qa passed while paused")
    explained = plane.cli("explain", rollout["id"])
    assert explained["waitingFor"]["kind"] == "paused"
    assert explained["waitingFor"]["next"] == f"fleet resume {rollout['id']}"
    assert versions(site, "held") == {"qa": "2", "prod": "1"}
    stale = plane.run("resume", rollout["id"], "--if-version", "1", code=5)
    assert "changed meanwhile" in stale.err
    assert versions(site, "held") == {"qa": "2", "prod": "1"}
    ended = plane.cli(*explained["waitingFor"]["next"].split()[1:], "--wait")
    assert ended["state"] == "Succeeded"
    assert versions(site, "held") == {"qa": "2", "prod": "2"}
    refused = plane.run("pause", rollout["id"], code=5)
    assert "Succeeded" in refused.err
    said = [e for e in plane.events() if e["type"] == "command" and e["rollout"] == rollout["id"]]
    assert [(e["data"]["name"], e["actor"]) for e in said[:1]] == [("pause", "alice")]


def test_a_rejected_gate_halts_and_retry_asks_again(site: Site) -> None:
    plane = site.plane
    sha = site.push(folder("rejected", app("2")), "to be rejected")
    rollout = at_gate(site, "rejected", sha)
    mark = site.prod.audit.mark()
    plane.cli("reject", rollout["id"], "go", "--comment", "error rate in qa", "--as", "bob")
    halted = plane.wait_state("rejected", sha, "Halted")
    assert "rejected by bob" in halted["reason"]
    assert "error rate in qa" in halted["reason"]
    assert halted["waves"][1]["gates"][0]["state"] == "Rejected"
    assert site.writes(site.prod, mark, "rejected") == []
    explained = plane.cli("explain", rollout["id"])
    assert any(f"fleet retry {rollout['id']}" in sentence for sentence in explained["because"])
    plane.cli("retry", rollout["id"], "--as", "bob")
    again = at_gate(site, "rejected", sha)
    assert again["id"] == rollout["id"]
    assert plane.cli("approve", rollout["id"], "go", "--as", "carol", "--wait")["state"] == "Succeeded"
    assert versions(site, "rejected") == {"qa": "2", "prod": "2"}


def test_abort_keeps_what_was_applied(site: Site) -> None:
    plane = site.plane
    sha = site.push(folder("aborted", app("2")), "to be aborted")
    rollout = at_gate(site, "aborted", sha)
    mark = site.prod.audit.mark()
    assert plane.cli("abort", rollout["id"], "--wait", "--comment", "wrong day")["state"] == "Aborted"
    assert versions(site, "aborted") == {"qa": "2", "prod": "1"}
    for command in (("abort",), ("approve", "go"), ("retry",)):
        name, *gate = command
        answered = plane.run(name, rollout["id"], *gate, code=0 if name == "abort" else 5)
        assert "Aborted" in answered.out + answered.err
    assert site.writes(site.prod, mark, "aborted") == []
    # The next commit begins in qa again.
    sha = site.push(folder("aborted", app("3")), "the next")
    rollout = at_gate(site, "aborted", sha)
    plane.cli("approve", rollout["id"], "go", "--as", "carol", "--wait")
    assert versions(site, "aborted") == {"qa": "3", "prod": "3"}


def test_rollback_returns_at_once_and_the_release_stays_away(site: Site) -> None:
    plane = site.plane
    sha = site.push(folder("returned", app("2")), "to be left")
    left = plane.wait_state("returned", sha, "Succeeded")
    back = plane.cli("rollback", "returned", "--wait", "--as", "alice", "--comment", "slow checkout")
    assert back["state"] == "RolledBack"
    assert versions(site, "returned") == {"qa": "1", "prod": "1"}
    # The same content does not come back by itself, also not by another commit.
    marks = {name: cluster.audit.mark() for name, cluster in site.clusters.items()}
    sha = site.push({"README.md": "nothing new\n"}, "unrelated")
    plane.wait(lambda: plane.get("/status")["sources"], lambda s: s[0]["sha"] == sha, "the commit fetched")
    site.push(folder("resting", app("2")), "another bundle")
    plane.wait(lambda: plane.rollouts("resting")[0], lambda r: r["id"] == "resting-2", "planned again")
    assert plane.rollouts("returned")[0]["id"] == back["id"]
    for name, cluster in site.clusters.items():
        assert site.writes(cluster, marks[name], "returned") == []
    sha = site.push(folder("returned", app("3")), "the next")
    assert plane.wait_state("returned", sha, "Succeeded")["id"] not in (left["id"], back["id"])
    assert versions(site, "returned") == {"qa": "3", "prod": "3"}


def test_rollback_to_a_release_on_one_cluster(site: Site) -> None:
    plane = site.plane
    first = plane.wait_state("resting", None, "Succeeded")
    sha = site.push(folder("resting", app("7")), "seven")
    plane.wait_state("resting", sha, "Succeeded")
    back = plane.cli("rollback", "resting", "--to", first["release"], "--cluster", "prod", "--wait")
    assert back["state"] == "RolledBack"
    assert versions(site, "resting")["qa"] == "7"
    assert versions(site, "resting")["prod"] != "7"
    unknown = plane.run("rollback", "resting", "--to", "resting-000000000000", code=1)
    assert "no release" in unknown.err


def test_what_does_not_exist_is_said(site: Site) -> None:
    plane = site.plane
    for arguments in (("rollout", "nope-1"), ("pause", "nope-1"), ("bundle", "nope"), ("cluster", "nope")):
        assert "no " in plane.run(*arguments, code=1).err
    assert "no source" in plane.run("sync", "nope", code=1).err
    plane.run("explain", "nope", code=1)
    plane.run("rollback", "nope", code=1)
    plane.run("approve", "resting-1", code=2)
    plane.run("status", "--token", "wrong", code=4)
    plane.run("status", "--server", "http://127.0.0.1:9", code=3)


LOOKS: dict[tuple[str, ...], set[str]] = {
    ("status",): {"fleet", "version", "time", "configRevision", "configError", "sources", "clusters", "bundles"},
    ("clusters",): {"items", "next"},
    ("cluster", "prod"): {"name", "labels", "state", "observedAt", "ageSeconds", "kubernetes", "watches", "bundles"},
    ("cluster", "prod", "--objects", "resting"): {"items", "next"},
    ("bundles",): {"items", "next"},
    ("bundle", "resting"): {"name", "namespace", "strategy", "state", "release", "revisions", "suspended", "clusters"},
    ("rollouts",): {"items", "next"},
    ("rollouts", "--bundle", "resting", "--limit", "1"): {"items", "next"},
    ("rollout", "resting-1"): {"id", "state", "blockedBy", "author", "message", "traceId", "version", "waves"},
    ("drift",): {"items", "next"},
    ("diff", "resting", "--cluster", "qa"): {"bundle", "cluster", "objects"},
    ("explain", "resting-1"): {"subject", "state", "waitingFor", "because", "cluster"},
    ("explain", "qa"): {"subject", "state", "waitingFor", "because", "cluster"},
    ("sync",): {"items", "next"},
}
"""What only looks, with keys that its JSON must have."""


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_what_looks_answers_in_every_format(site: Site, command: tuple[str, ...]) -> None:
    plane = site.plane
    assert plane.cli(*command).keys() >= LOOKS[command]
    assert yaml.safe_load(plane.run(*command, "-o", "yaml").out).keys() >= LOOKS[command]
    text = plane.run(*command, "--no-color").out
    assert text.strip()
    assert "\x1b" not in text


def test_events_are_lines_without_holes(site: Site) -> None:
    plane = site.plane
    lines = [json.loads(line) for line in plane.run("events", "-o", "json").out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0].keys() == {"seq", "time", "type", "bundle", "rollout", "wave", "cluster", "actor", "data"}
    assert {"source.fetched", "config.accepted", "release.created", "rollout.state", "wave.state"} <= {
        line["type"] for line in lines
    }
    later = plane.run("events", "--since", str(lines[-2]["seq"])).out.splitlines()
    assert len(later) >= 1
