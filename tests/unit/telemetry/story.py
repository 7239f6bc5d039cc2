"""The event log of a rollout, as the engine writes it, and a log in memory to read it from."""

from __future__ import annotations

import msgspec

from fleet.model.events import Event
from fleet.model.rollout import Plan, PlannedWave, Release, Rollout, RolloutState

PLAN = Plan("standard", (PlannedWave("qa", ("qa-1",)), PlannedWave("prod", ("prod-1",))))


def rollout(number: int = 1, predecessor: str | None = None) -> Rollout:
    release = Release(
        id=f"shop-{number:012x}",
        bundle="shop",
        content=f"sha256:{number}",
        revisions={"apps": "3f2a"},
        digests={"qa-1": "sha256:q", "prod-1": "sha256:p"},
        author="ada@acme.example",
    )
    return Rollout(
        id=f"shop-{number}",
        bundle="shop",
        number=number,
        release=release,
        plan=PLAN,
        state=RolloutState.RUNNING,
        created_at=1000.0,
        trace_id=f"{number:032x}",
        predecessor=predecessor,
    )


class Log:
    """An event log and what else the follower reads; fails or loses power where a test says."""

    def __init__(self, *rollouts: Rollout) -> None:
        self.entries: list[Event] = []
        self.rollouts = {r.id: r for r in rollouts}
        self.documents: dict[str, tuple[str, bytes]] = {}

    def add(self, kind: str, time: float, *, number: int = 1, wave: str | None = None, cluster: str | None = None,
            actor: str = "system", **data: object) -> None:  # fmt: skip
        data = {name.rstrip("_"): value for name, value in data.items()}
        entry = Event(kind, time, "shop", f"shop-{number}", wave, cluster, actor, data)
        self.entries.append(msgspec.structs.replace(entry, seq=len(self.entries) + 1))

    async def events(self, since: int, limit: int) -> tuple[Event, ...]:
        return tuple(self.entries[since : since + limit])

    async def rollout(self, rollout_id: str, /) -> Rollout | None:
        return self.rollouts.get(rollout_id)

    async def document(self, name: str) -> tuple[str, bytes] | None:
        return self.documents.get(name)

    async def put_document(self, name: str, revision: str, body: bytes) -> None:
        self.documents[name] = (revision, body)


def early(log: Log) -> None:
    log.add("source.fetched", 998.0, source="apps", sha="3f2a", seconds=1.0)
    log.add(
        "release.rendered", 999.5, release=rollout().release.id, spans=[{"name": "render", "start": 998, "end": 999.5}]
    )


def qa(log: Log, *, healthy: bool = True) -> None:
    """A whole rollout through qa, from its first event to the end of that wave."""
    log.add("rollout.state", 1000.0, from_="Pending", to="Planned")
    log.add("rollout.state", 1001.0, from_="Planned", to="Running")
    log.add("wave.state", 1001.0, wave="qa", from_="Pending", to="Rolling")
    log.add("cluster.state", 1002.0, wave="qa", cluster="qa-1", from_="Pending", to="Applying", seq=3)
    log.add("apply.started", 1002.0, wave="qa", cluster="qa-1", seq=3, purpose="forward")
    objects = {"total": 110, "applied": 110, "changed": 10, "pruned": 1, "failed": []}
    log.add("apply.finished", 1004.0, wave="qa", cluster="qa-1", seq=3, result="applied", attempt=2, objects=objects)
    log.add("cluster.state", 1004.5, wave="qa", cluster="qa-1", from_="Applying", to="Verifying", seq=3)
    if not healthy:
        log.add("cluster.state", 1600.0, wave="qa", cluster="qa-1", from_="Verifying", to="Failed", seq=3,
                reason="health", message="Deployment shop/web: ImagePullBackOff")  # fmt: skip
        log.add("wave.state", 1600.0, wave="qa", from_="Rolling", to="Failed", reason="qa-1 failed (health)")
        log.add("rollout.state", 1600.0, from_="Running", to="Halted", reason="wave qa failed")
        return
    log.add("cluster.state", 1005.0, wave="qa", cluster="qa-1", from_="Verifying", to="Soaking", seq=3)
    log.add("cluster.state", 1065.0, wave="qa", cluster="qa-1", from_="Soaking", to="Updated", seq=3)
    log.add("wave.state", 1065.0, wave="qa", from_="Rolling", to="Baking")
    log.add("health.changed", 1100.0, cluster="qa-1", from_="Healthy", to="Progressing")
    log.add("wave.state", 1665.0, wave="qa", from_="Baking", to="Verifying")
    log.add("wave.state", 1666.0, wave="qa", from_="Verifying", to="Passed")


def prod(log: Log) -> None:
    """The rest: a gate and one cluster, then the end."""
    log.add("wave.state", 1666.0, wave="prod", from_="Pending", to="Gating")
    log.add("gate.state", 1666.0, wave="prod", gate="go", from_="Pending", to="Waiting", approvals=0)
    log.add("command", 1999.0, actor="eve", name="reject", refused="eve may not answer gate go")
    log.add("command", 2000.0, actor="bob", name="approve")
    log.add("gate.state", 2000.0, wave="prod", actor="bob", gate="go", from_="Waiting", to="Passed",
            approvals=1, detail="approved by bob")  # fmt: skip
    log.add("wave.state", 2000.0, wave="prod", from_="Gating", to="Rolling")
    log.add("cluster.state", 2000.0, wave="prod", cluster="prod-1", from_="Pending", to="Applying", seq=9)
    log.add("cluster.state", 2003.0, wave="prod", cluster="prod-1", from_="Applying", to="Verifying", seq=9)
    log.add("cluster.state", 2063.0, wave="prod", cluster="prod-1", from_="Verifying", to="Updated", seq=9)
    log.add("wave.state", 2063.0, wave="prod", from_="Rolling", to="Verifying")
    log.add("wave.state", 2063.0, wave="prod", from_="Verifying", to="Passed")
    log.add("rollout.state", 2063.0, from_="Running", to="Succeeded")
