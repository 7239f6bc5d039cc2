"""The tour: six things that a fleet is there for, each done for real and each checked.

A step runs the commands a person would type and then waits until the control plane and the clusters say that it came
true. What a step returns goes into the tour's record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet.cli.demo.follow import Follower, Json, NotTrue
from fleet.cli.demo.narrator import Narrator
from fleet.cli.demo.repository import AUTHOR, IMAGES
from fleet.cli.demo.shell import Shell
from fleet.cli.demo.stage import Stage

APPROVER = "ada@shop.example"
PICTURED = ("drift", "bad commit")
"""First and last step of the picture that the README shows."""
GOOD, BAD = "1.1", "1.2-does-not-exist"
DAMAGE = "9"
"""Replicas that somebody sets by hand."""
Facts = dict[str, Any]


@dataclass(frozen=True)
class Guide:
    stage: Stage
    shell: Shell
    follower: Follower
    narrator: Narrator

    @property
    def victim(self) -> str:
        """The production cluster in which somebody works by hand."""
        return self.stage.prod[0]

    def images(self) -> dict[str, str]:
        """The image of the web Deployment in each cluster as the clusters tell it; "" where there is none."""
        return {name: self._field(name, "{.spec.template.spec.containers[0].image}") for name in self.stage.clusters}

    def replicas(self, cluster: str) -> str:
        return self._field(cluster, "{.spec.replicas}")

    def push(self, message: str | None) -> str:
        """Commits (unless `message` is None), pushes, asks for a fetch; the commit's id."""
        if message is not None:
            self.shell("git", "commit", "--quiet", "--all", "--message", message, quiet=True)
        self.shell("git", "push", "--quiet", quiet=True)
        self.follower.begin()
        self.shell("fleet", "sync", quiet=True)
        return self.stage.repository.head()

    def edit_image(self, old: str, new: str) -> None:
        self.stage.repository.set_image(old, new)
        self.narrator.command(f"$EDITOR {IMAGES}")
        changed = self.shell.ask("git", "diff", "--unified=0", "--color=always")
        self.narrator.answer("\n".join(line for line in changed.splitlines() if "newTag" in line))

    def through_qa_to_gate(self, sha: str) -> str:
        """The id of the commit's rollout, once its gate before prod waits."""
        id = str(self.follower.rollout_of(sha)["id"])
        self.follower.rollout(id, "qa passes and the gate before prod waits", _gate_waits)
        return id

    def approve(self, id: str, comment: str) -> Json:
        self.shell("fleet", "approve", id, "go", "--as", APPROVER, "--comment", comment, quiet=True)
        return self.follower.rollout(id, "the rollout succeeds", lambda rollout: rollout["state"] == "Succeeded")

    def expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise NotTrue(f"{what}: expected {wanted}, found {found}")

    def _field(self, cluster: str, path: str) -> str:
        words = ("get", "deployment", "web", "--ignore-not-found", "--output", f"jsonpath={path}")
        return self.shell.ask("kubectl", "--context", cluster, "--namespace", "shop", *words)


def steps(guide: Guide) -> Iterator[tuple[str, Callable[[], Facts]]]:
    """The steps in order, by name."""
    yield "first rollout", lambda: first_rollout(guide)
    yield "approval", lambda: approval(guide)
    yield "commit", lambda: commit(guide)
    yield "drift", lambda: drift(guide)
    yield "bad commit", lambda: bad_commit(guide)
    yield "revert", lambda: revert(guide)


def first_rollout(guide: Guide) -> Facts:
    guide.narrator.step(
        1,
        "First rollout",
        "The repository holds a small shop (Kustomize base, overlays for qa and prod) and fleet.yaml: wave qa, then "
        "wave prod behind the approval gate `go`. The first commit makes the first rollout.",
    )
    id = guide.through_qa_to_gate(guide.stage.repository.head())
    guide.shell("fleet", "clusters")
    guide.shell("fleet", "explain", id)
    wanted = {**dict.fromkeys(guide.stage.qa, _image("1.0")), **dict.fromkeys(guide.stage.prod, "")}
    guide.expect("the images", guide.images(), wanted)
    guide.narrator.done("qa runs the shop; prod waits for a person")
    return {"rollout": id}


def approval(guide: Guide) -> Facts:
    guide.narrator.step(2, "Approval", "Somebody other than the author of the commit lets it into production.")
    guide.follower.begin()
    id = str(_newest(guide)["id"])
    guide.approve(id, "qa looks good")
    guide.shell("fleet", "rollout", id)
    guide.expect("the images", guide.images(), dict.fromkeys(guide.stage.clusters, _image("1.0")))
    guide.narrator.done("all clusters run release 1.0")
    return {"rollout": id}


def commit(guide: Guide) -> Facts:
    guide.narrator.step(
        3, "A commit", f"{AUTHOR[0]} changes the image, commits and pushes. `fleet sync` saves the wait for the poll."
    )
    guide.edit_image("1.0", GOOD)
    sha = guide.push(f"Web {GOOD}")
    id = guide.through_qa_to_gate(sha)
    guide.approve(id, "go ahead")
    guide.expect("the images", guide.images(), dict.fromkeys(guide.stage.clusters, _image(GOOD)))
    guide.narrator.done(
        f"{GOOD} is everywhere, {guide.follower.elapsed():.1f} s after the push, waits and approval included"
    )
    return {"rollout": id, "sha": sha}


def drift(guide: Guide) -> Facts:
    name = guide.victim
    guide.narrator.step(4, "A change by hand", f"Somebody scales the shop in {name} with kubectl, past Git.")
    wanted = guide.replicas(name)
    guide.follower.begin()
    words = ("scale", "deployment", "web", f"--replicas={DAMAGE}")
    guide.shell("kubectl", "--context", name, "--namespace", "shop", *words)

    def healed() -> Json | None:
        items = guide.stage.client.list("/drift", most=20, cluster=name)["items"]
        return next((each for each in items if each["object"]["name"] == "web" and each["state"] == "healed"), None)

    found = guide.follower.until(f"the change in {name} is found and undone", healed)
    guide.shell("fleet", "drift", "--cluster", name)
    guide.expect(f"replicas in {name}", guide.replicas(name), wanted)
    field = next((each for each in found["fields"] if each["path"] == "spec.replicas"), None)
    if field is None or str(field["live"]) != DAMAGE or str(field["wanted"]) != wanted:
        raise NotTrue(
            f"the drift record does not tell spec.replicas {wanted} → {DAMAGE}: {json.dumps(found['fields'])}"
        )
    if not str(found["manager"]).startswith("kubectl"):
        raise NotTrue(f"the drift record does not name kubectl, but {found['manager']}")
    milliseconds = 1000 * (_time(found["healedAt"]) - _time(found["detectedAt"]))
    guide.narrator.done(
        f"undone {milliseconds:.0f} ms after it was detected; who, when, old and new value are on record"
    )
    return {"cluster": name, "manager": found["manager"], "healMilliseconds": round(milliseconds, 3)}


def bad_commit(guide: Guide) -> Facts:
    guide.narrator.step(
        5,
        "A bad commit",
        "An image that cannot be pulled. It reaches qa, never becomes ready, and that is as far as it gets.",
    )
    guide.edit_image(GOOD, BAD)
    sha = guide.push(f"Web {BAD}")
    id = str(guide.follower.rollout_of(sha)["id"])
    guide.follower.rollout(id, "the rollout halts in qa", lambda rollout: rollout["state"] == "Halted")
    guide.shell("fleet", "rollout", id)
    images = guide.images()
    guide.expect("the image in qa", images[guide.stage.qa[0]], _image(BAD))
    for name in guide.stage.prod:
        guide.expect(f"the image in {name}", images[name], _image(GOOD))
    guide.shell("kubectl", "--context", guide.victim, "--namespace", "shop", "get", "deployments", "--output", "wide")
    guide.narrator.done("halted in qa; prod was not touched and still runs 1.1")
    return {"rollout": id, "sha": sha, "images": images}


def revert(guide: Guide) -> Facts:
    guide.narrator.step(
        6, "git revert", "The way back is a commit like any other: qa first, then prod, which has nothing to change."
    )
    guide.shell("git", "revert", "--no-edit", "HEAD", quiet=True)
    sha = guide.push(None)
    id = str(guide.follower.rollout_of(sha)["id"])
    rollout = guide.follower.rollout(
        id, "the revert passes qa", lambda each: _gate_waits(each) or each["state"] == "Succeeded"
    )
    if rollout["state"] != "Succeeded":
        guide.approve(id, "back to 1.1")
    guide.shell("fleet", "status")
    guide.expect("the images", guide.images(), dict.fromkeys(guide.stage.clusters, _image(GOOD)))
    guide.narrator.done("all clusters run 1.1 again")
    return {"rollout": id, "sha": sha}


def _newest(guide: Guide) -> Json:
    found: Json = guide.stage.client.list("/rollouts", most=1)["items"][0]
    return found


def _gate_waits(rollout: Json) -> bool:
    return any(gate["state"] == "Waiting" for wave in rollout["waves"] for gate in wave["gates"])


def _image(tag: str) -> str:
    return f"registry.example/shop/web:{tag}"


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
