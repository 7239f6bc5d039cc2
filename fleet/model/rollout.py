"""Releases, rollouts and the state that decides about them (rollouts.md section 3).

A release is immutable and content-addressed; a rollout is one release under one frozen plan; a `BundleState` is all
that `core.rollout.step` needs to decide about one bundle. Times are seconds since the epoch, for people; durations are
accumulators in seconds of monotonic time, kept in the state so that neither a restart nor a clock jump shortens them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from fleet.model.cluster import ApplyOutcome, Assignment, DeployOptions, MemberReport, Purpose
from fleet.model.events import Event
from fleet.model.fleetfile import ApprovalGate, HealthPolicy


class RolloutState(StrEnum):
    PENDING = "Pending"
    PLANNED = "Planned"
    RUNNING = "Running"
    BLOCKED = "Blocked"
    SUPERSEDING = "Superseding"
    SUPERSEDED = "Superseded"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    HALTING = "Halting"
    HALTED = "Halted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    EXPIRED = "Expired"
    REJECTED = "Rejected"
    SUCCEEDED = "Succeeded"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        RolloutState.SUCCEEDED,
        RolloutState.SUPERSEDED,
        RolloutState.ABORTED,
        RolloutState.HALTED,
        RolloutState.ROLLED_BACK,
        RolloutState.EXPIRED,
        RolloutState.REJECTED,
    }
)


class WaveState(StrEnum):
    PENDING = "Pending"
    GATING = "Gating"
    ROLLING = "Rolling"
    BAKING = "Baking"
    VERIFYING = "Verifying"
    PASSED = "Passed"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class MemberState(StrEnum):
    PENDING = "Pending"
    APPLYING = "Applying"
    VERIFYING = "Verifying"
    SOAKING = "Soaking"
    UPDATED = "Updated"
    NOOP = "NoOp"
    SKIPPED = "Skipped"
    FAILED = "Failed"
    ERRORED = "Errored"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    ROLLBACK_FAILED = "RollbackFailed"


class GateState(StrEnum):
    PENDING = "Pending"
    WAITING = "Waiting"
    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    REJECTED = "Rejected"
    EXPIRED = "Expired"


class Release(msgspec.Struct, frozen=True):
    """A bundle at pinned commits with rendered content; never changes."""

    id: str
    """`BUNDLE-` and 12 hex digits over everything below but the author, message and times."""
    bundle: str
    content: str
    """`sha256:…` over `digests` and `options`: equal content is the same release to quarantine and to NoOp."""
    revisions: dict[str, str]
    """Source name → full SHA."""
    digests: dict[str, str]
    """Cluster → digest of its manifest set; exactly the targets."""
    options: DeployOptions = DeployOptions()
    author: str = ""
    """E-mail of the commit's author."""
    message: str = ""
    committed_at: float = 0.0
    created_at: float = 0.0


class PlannedWave(msgspec.Struct, frozen=True):
    name: str
    clusters: tuple[str, ...]
    """In the order in which they start; membership is frozen from these at the wave's start (T3)."""
    max_concurrency: int | str = 1
    bake: float = 0.0
    protected: bool = False
    gates_before: tuple[ApprovalGate, ...] = ()
    health: HealthPolicy = HealthPolicy()


class Plan(msgspec.Struct, frozen=True):
    """A strategy as it was when the release was made; frozen for the rollout's life (T1)."""

    strategy: str
    waves: tuple[PlannedWave, ...]


class Approval(msgspec.Struct, frozen=True):
    """Evidence of one answer to an approval gate."""

    by: str
    groups: tuple[str, ...]
    at: float
    accepted: bool
    comment: str = ""


class GateRun(msgspec.Struct, frozen=True):
    gate: ApprovalGate
    when: Literal["before", "during", "after"] = "before"
    state: GateState = GateState.PENDING
    waited: float = 0.0
    """Accumulated seconds in Waiting."""
    since: float | None = None
    at: float | None = None
    detail: str = ""
    answers: tuple[Approval, ...] = ()


class Member(msgspec.Struct, frozen=True):
    """One cluster within a wave."""

    cluster: str
    digest: str
    state: MemberState = MemberState.PENDING
    reason: str | None = None
    message: str = ""
    attempts: int = 0
    seq: int = 0
    previous: str | None = None
    """Release recorded on the cluster before this rollout touched it."""
    started_at: float | None = None
    ended_at: float | None = None
    verifying: float = 0.0
    """Accumulated seconds since the apply was done (progressDeadline)."""
    soaked: float = 0.0
    """Unbroken observed-healthy seconds (stableFor)."""
    drift_restarts: int = 0
    outcome: ApplyOutcome | None = None
    applying: float = 0.0
    """Accumulated seconds since the intent until the apply is done; for RollingBack, until the end."""
    bake_lost: float = 0.0
    """Seconds of the wave's `bake_clock` that do not count for this cluster (not seen healthy, or before a repair)."""
    unwell: float = 0.0
    """Unbroken seconds of not being healthy since the wave began to bake."""
    former: HistoryEntry | None = None
    """What the cluster held before this rollout touched it, and gets back if it does not apply; None: nothing."""
    debt: HistoryEntry | None = None
    """What was owed to the cluster then."""


class WaveRun(msgspec.Struct, frozen=True):
    plan: PlannedWave
    state: WaveState = WaveState.PENDING
    gates: tuple[GateRun, ...] = ()
    members: tuple[Member, ...] = ()
    baked: float = 0.0
    """Accumulated observed-healthy seconds: of the cluster that has the fewest."""
    bake_clock: float = 0.0
    """Accumulated seconds since the wave began to bake."""
    started_at: float | None = None
    ended_at: float | None = None


class BlockedBy(msgspec.Struct, frozen=True):
    kind: Literal["gate", "window", "budget", "unreachable", "paused", "dependency", "rollout"]
    name: str
    since: float
    who: tuple[str, ...] = ()
    next: str = ""
    """The command to type."""


class Rollout(msgspec.Struct, frozen=True):
    id: str
    """`BUNDLE-NUMBER`."""
    bundle: str
    number: int
    release: Release
    plan: Plan
    state: RolloutState = RolloutState.PENDING
    reason: str = ""
    """Why it ended or stands, in one sentence."""
    blocked_by: BlockedBy | None = None
    paused: bool = False
    waves: tuple[WaveRun, ...] = ()
    actor: str = "system"
    """Who asked for it: system for a commit, a person for a rollback."""
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    trace_id: str = ""
    """32 hex digits, derived from (fleet, rollout id, release)."""
    predecessor: str | None = None
    successor: str | None = None
    version: int = 0
    """Grows with every change; what If-Match compares."""
    kind: Literal["forward", "rollback"] = "forward"
    """A rollback has one wave without gates, named `rollback`, and ends RolledBack or Halted."""
    stuck: float = 0.0
    """Accumulated seconds in Blocked(unreachable)."""


class HistoryEntry(msgspec.Struct, frozen=True):
    release: str
    content: str
    digest: str | None
    """None: everything of the bundle was removed."""
    at: float
    options: DeployOptions = DeployOptions()
    number: int = 0
    """Of the rollout that put it there; orders entries whatever the wall clock did."""


class ClusterRecord(msgspec.Struct, frozen=True):
    """What we know we put on one cluster, for one bundle."""

    seq: int = 0
    recorded: HistoryEntry | None = None
    """What we last applied."""
    last_good: HistoryEntry | None = None
    """The newest release that passed its wave's gates here."""
    owed: str | None = None
    """Release id that the cluster must still get (it was skipped or unreachable, or joined)."""
    debt: HistoryEntry | None = None
    """What is owed, whole; set exactly when `owed` is."""
    earlier: tuple[HistoryEntry, ...] = ()
    """What was last_good before, newest first, bounded; where a rollback goes when last_good itself is left."""
    claimed: bool = False
    """Whether the cluster has carried out an intent of this store, or was given a number beyond another one's."""
    fence: int = 0
    """The number of another control plane that took the cluster over from us; 0: there is none."""


class Joining(msgspec.Struct, frozen=True):
    """A cluster that joined while a rollout of the same content runs: it is owed `entry` once its wave has passed."""

    entry: HistoryEntry
    wave: str
    rollout: str


class BundleState(msgspec.Struct, frozen=True):
    """Everything that decisions about one bundle depend on; one row in the store, replaced as a whole."""

    bundle: str
    version: int = 0
    next_number: int = 1
    active: Rollout | None = None
    """Holds the bundle's lock; not terminal."""
    waiting: Rollout | None = None
    """Waits for the lock; the newest release wins the single place."""
    previous: Rollout | None = None
    """The last that ended, for `retry` and `explain`."""
    head: str | None = None
    """Content of the newest release seen, so that the same one is not started twice."""
    records: dict[str, ClusterRecord] = {}
    quarantined: dict[str, str] = {}
    """Content digest → reason; such content is never started automatically."""
    proven: dict[str, str] = {}
    """Wave name → id of the newest release proven there."""
    reports: dict[str, MemberReport] = {}
    """Cluster → latest report; not persisted, empty after a restart until agents report again."""
    paused_clusters: frozenset[str] = frozenset()
    suspended: bool = False
    fleet: str = ""
    """Name of the fleet; part of what trace ids derive from."""
    clusters: frozenset[str] | None = None
    """Clusters that the bundle goes to by fleet.yaml; None before that was told for the first time."""
    deletion: Literal["orphan", "delete"] = "orphan"
    """What becomes of the objects where the bundle does not belong any more."""
    joining: dict[str, Joining] = {}
    condemned: dict[str, dict[str, str]] = {}
    """Quarantined content → its digest per cluster, of the newest few: tells the same content for other clusters."""
    supersedes: int = 0
    """Rollouts in a row that were superseded while they could have gone on."""
    listening: float = 0.0
    """Seconds that this process has waited for reports; not persisted, as reports are not."""


class Now(msgspec.Struct, frozen=True):
    """The time of one decision."""

    wall: float
    """Seconds since the epoch, only for people, approvals and windows."""
    elapsed: float
    """Seconds of monotonic time since the previous decision about this bundle in this process; 0 after a restart."""


# --- events: what can happen to a bundle -----------------------------------------------------------------------------


class ReleaseReady(msgspec.Struct, frozen=True, tag=True):
    release: Release
    plan: Plan


class Reported(msgspec.Struct, frozen=True, tag=True):
    report: MemberReport


class Commanded(msgspec.Struct, frozen=True, tag=True):
    """A person's command on a rollout (or on the bundle, for `rollback`)."""

    name: Literal["approve", "reject", "pause", "resume", "abort", "retry", "rollback"]
    actor: str
    groups: tuple[str, ...] = ()
    rollout: str | None = None
    gate: str | None = None
    comment: str = ""
    release: str | None = None
    clusters: tuple[str, ...] = ()
    expected_version: int | None = None
    bundle: str | None = None
    """What a rollback is about; other commands may leave it out."""
    target: Release | None = None
    """The release that a rollback returns to; looked up by the conductor, never given by a caller."""
    strict_author: bool = False
    """Whether identities are verified, so that the author check refuses instead of warning."""


class FactsChanged(msgspec.Struct, frozen=True, tag=True):
    """Live facts of fleet.yaml: they act at once, also on a running rollout."""

    clusters: frozenset[str]
    """Clusters that the bundle goes to."""
    paused: frozenset[str]
    suspended: bool
    deletion: Literal["orphan", "delete"] | None = None
    """None: as before (the bundle itself left fleet.yaml)."""
    alive: frozenset[str] | None = None
    """Every cluster of the fleet; one that left it can not be cleaned. None: the same as `clusters`."""
    fleet: str | None = None


class Ticked(msgspec.Struct, frozen=True, tag=True):
    """Time passed."""


RolloutEvent = ReleaseReady | Reported | Commanded | FactsChanged | Ticked


# --- what a decision yields ------------------------------------------------------------------------------------------


class Deploy(msgspec.Struct, frozen=True, tag=True):
    """Assign content to a cluster: an intent that is durable before anything is sent."""

    cluster: str
    release: str
    digest: str | None
    seq: int
    purpose: Purpose
    rollout: str
    wave: str | None
    options: DeployOptions


class Step(msgspec.Struct, frozen=True):
    """A decision: the next state, what to do, what to tell, when to look again."""

    state: BundleState
    deploys: tuple[Deploy, ...] = ()
    events: tuple[Event, ...] = ()
    ended: tuple[Rollout, ...] = ()
    """Rollouts that left the state with this step (they are stored, and no longer decided about)."""
    wake_after: float | None = None
    """Seconds until a Ticked is due; None: only an event can change anything."""
    withdrawn: tuple[str, ...] = ()
    """Clusters that are no longer assigned anything of this bundle."""
    changed: bool = True
    """False: only clocks and reports moved on, which need not be stored at once."""
    refused: str | None = None
    """Why a command does not apply, and what would; the state is unchanged."""
    warning: str | None = None


class Commit(msgspec.Struct, frozen=True):
    """Everything that one decision changes, stored in one transaction before anything is done about it."""

    state: BundleState
    expected_version: int
    releases: tuple[Release, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    withdrawn: tuple[tuple[str, str], ...] = ()
    """(cluster, bundle) pairs that are no longer assigned anything."""
    events: tuple[Event, ...] = ()
