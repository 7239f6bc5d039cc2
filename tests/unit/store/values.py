"""Small but complete values to store."""

from __future__ import annotations

import hashlib
import json

from fleet.model.cluster import Assignment, Baseline, Health, MemberReport
from fleet.model.drift import Drift, DriftState, FieldChange
from fleet.model.events import Event
from fleet.model.objects import Manifest, ManifestSet, ObjectId
from fleet.model.rollout import (
    BundleState,
    ClusterRecord,
    Commit,
    HistoryEntry,
    Member,
    Plan,
    PlannedWave,
    Release,
    Rollout,
    RolloutState,
    WaveRun,
)

WAVE = PlannedWave("qa", ("qa-1", "qa-2"), max_concurrency="50%")
PLAN = Plan("standard", (WAVE,))


def release(number: int = 1, bundle: str = "shop", digest: str | None = None) -> Release:
    content = digest or f"sha256:{number:064x}"
    return Release(
        id=f"{bundle}-{number:012x}",
        bundle=bundle,
        content=content,
        revisions={"apps": f"{number:040x}"},
        digests={"qa-1": content, "qa-2": content},
        author="ada@acme.example",
        message=f"change {number}",
        created_at=1000.0 + number,
    )


def rollout(number: int = 1, bundle: str = "shop", state: RolloutState = RolloutState.RUNNING) -> Rollout:
    return Rollout(
        id=f"{bundle}-{number}",
        bundle=bundle,
        number=number,
        release=release(number, bundle),
        plan=PLAN,
        state=state,
        waves=(WaveRun(WAVE, members=tuple(Member(c, release(number).content) for c in WAVE.clusters)),),
        created_at=1000.0 + number,
        trace_id=f"{number:032x}",
    )


def state(bundle: str = "shop", version: int = 1, active: Rollout | None = None) -> BundleState:
    entry = HistoryEntry("shop-000000000001", "sha256:c", "sha256:d", 5.0)
    return BundleState(
        bundle=bundle,
        version=version,
        active=active,
        records={"qa-1": ClusterRecord(seq=3, recorded=entry, last_good=entry, owed="shop-2")},
        paused_clusters=frozenset({"qa-2"}),
    )


def report() -> MemberReport:
    return MemberReport("qa-1", "shop", reachable=True, seq=3, health=Health.HEALTHY)


def commit(version: int = 1, *, bundle: str = "shop", number: int = 1) -> Commit:
    active = rollout(number, bundle)
    return Commit(
        state=state(bundle, version, active),
        expected_version=version - 1,
        releases=(active.release,),
        rollouts=(active,),
        assignments=(Assignment("qa-1", bundle, active.release.id, active.release.content, version, active.id, "qa"),),
        events=(event(bundle=bundle), event("wave.state", bundle=bundle)),
    )


def event(kind: str = "rollout.state", bundle: str = "shop", **data: object) -> Event:
    return Event(
        kind, 12.5, bundle, f"{bundle}-1", "qa", "qa-1", "ada", dict(data) or {"from": "Planned", "to": "Running"}
    )


def manifest(name: str = "web", kind: str = "ConfigMap", text: str = "hello", group: str = "") -> Manifest:
    body = json.dumps({"data": {"text": text}, "kind": kind, "metadata": {"name": name}}).encode()
    return Manifest(ObjectId(group, kind, "shop", name), "v1", body, hashlib.blake2b(body, digest_size=16).digest())


def manifests(*members: Manifest) -> ManifestSet:
    return ManifestSet("sha256:" + hashlib.sha256(b"".join(m.digest for m in members)).hexdigest(), members)


def baseline(name: str = "web", kind: str = "ConfigMap", group: str = "") -> Baseline:
    return Baseline(
        id=ObjectId(group, kind, "shop", name),
        bundle="shop",
        manifest=hashlib.blake2b(name.encode(), digest_size=16).digest(),
        uid="uid-" + name,
        generation=2,
        projection=b"p" * 16,
        entry=b"e" * 8,
        fields=b"fields of every object",
        resource_version="77",
    )


def drift(number: int = 1, status: DriftState = "open", cluster: str = "prod-1", bundle: str = "shop") -> Drift:
    return Drift(
        id=f"d{number}",
        cluster=cluster,
        bundle=bundle,
        object=ObjectId("apps", "Deployment", "shop", "web"),
        version="v1",
        verdict="modified",
        state=status,
        mode="correct",
        detected_at=100.0 + number,
        manager="kubectl-edit",
        fields=(FieldChange("spec.replicas", 3, 5, "kubectl-edit"),),
    )
