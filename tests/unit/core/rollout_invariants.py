"""The invariants of rollouts.md 3, held against every decision from the outside.

Nothing here uses the engine's own notions: what was healthy for how long, who is in flight, what is allowed, is worked
out again from states, reports and time.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleet.model.cluster import Health
from fleet.model.rollout import (
    BundleState,
    Commanded,
    Deploy,
    GateRun,
    GateState,
    Member,
    MemberState,
    Rollout,
    RolloutEvent,
    Step,
    WaveRun,
    WaveState,
)

FLYING = {
    MemberState.APPLYING,
    MemberState.VERIFYING,
    MemberState.SOAKING,
    MemberState.ROLLING_BACK,
    MemberState.ERRORED,
}
GOOD = {MemberState.UPDATED, MemberState.NOOP}
OVER = {WaveState.PASSED, WaveState.SKIPPED}


class Invariants:
    """Call it after every decision, with the seconds that passed before it."""

    def __init__(self) -> None:
        self.releases: dict[str, object] = {}
        self.healthy: dict[tuple[str, str], float] = {}
        """(rollout, cluster) → unbroken seconds in which the cluster was seen healthy with what it was given."""
        self.baked: dict[tuple[str, str], float] = {}
        """(rollout, cluster) → seconds seen healthy since it was Updated, and since the last repair."""
        self.repairs: dict[str, int] = {}
        self.purposes: dict[str, str] = {}
        """Cluster → why it was given what it is assigned."""
        self.landed: set[tuple[str, int]] = set()
        """(cluster, seq) of every intent that a cluster carried out, as far as it can be."""

    def __call__(self, before: BundleState, event: RolloutEvent | None, step: Step, elapsed: float) -> None:
        after = step.state
        if step.refused is not None:
            assert after == before
            assert not step.deploys
            return
        self.observe(before, elapsed)
        self.releases_never_change(after)
        self.intents_are_in_the_records(before, after, step)
        self.waves_in_order_with_their_gates(before, after, step)
        self.nothing_quarantined_starts(before, after, event, step)
        self.nothing_lands_unwatched(after, step)
        self.bounded_flight(after)
        self.verdicts_have_evidence(before, after, step)
        self.verdicts_are_final(before, after, event, step)
        self.gates_pass_by_people(before, after, event, step)
        self.good_is_only_what_was_seen_good(before, after)
        self.something_is_awaited(after, step)

    # --- what was seen -----------------------------------------------------------------------------------------------

    def observe(self, before: BundleState, elapsed: float) -> None:
        for rollout, _, member in members(before):
            key = (rollout.id, member.cluster)
            if self._repairs(before, member.cluster) > self.repairs.get(member.cluster, 1 << 30):
                self.healthy[key] = self.baked[key] = 0.0
            if healthy(before, member):
                self.healthy[key] = self.healthy.get(key, 0.0) + elapsed
                if member.state in GOOD:
                    self.baked[key] = self.baked.get(key, 0.0) + elapsed
            elif known(before, member.cluster):
                self.healthy[key] = 0.0
        for cluster in before.reports:
            self.repairs[cluster] = self._repairs(before, cluster)

    @staticmethod
    def _repairs(state: BundleState, cluster: str) -> int:
        report = state.reports.get(cluster)
        return 0 if report is None else report.drift_restarts

    # --- I1 to I16 ---------------------------------------------------------------------------------------------------

    def releases_never_change(self, after: BundleState) -> None:
        """I4."""
        for rollout in rollouts(after):
            assert self.releases.setdefault(rollout.id, rollout.release) == rollout.release

    @staticmethod
    def intents_are_in_the_records(before: BundleState, after: BundleState, step: Step) -> None:
        """I9, I10, I11: every intent is part of the state it comes with, and nothing else moves a cluster."""
        last: dict[str, Deploy] = {}
        for deploy in step.deploys:
            previous = last[deploy.cluster].seq if deploy.cluster in last else _seq(before, deploy.cluster)
            assert deploy.seq > previous
            last[deploy.cluster] = deploy
        for cluster, record in after.records.items():
            assert record.seq >= _seq(before, cluster)
            assert (record.owed is None) == (record.debt is None)
            if cluster in step.withdrawn:
                assert record.recorded is None
            elif cluster in last:
                recorded = record.recorded
                assert recorded is not None
                intent = last[cluster]
                assert (record.seq, recorded.digest) == (intent.seq, intent.digest)
            else:
                known_before = before.records.get(cluster)
                assert record.seq == _seq(before, cluster)
                assert record.recorded == (known_before.recorded if known_before else None)

    @staticmethod
    def waves_in_order_with_their_gates(before: BundleState, after: BundleState, step: Step) -> None:
        """I1, I5: only the rollout that holds the lock starts, only in its current wave, only behind passed gates."""
        known = {rollout.id: rollout for rollout in (*rollouts(after), *step.ended)}
        for deploy in step.deploys:
            if deploy.purpose != "forward":
                continue
            rollout = known[deploy.rollout]
            index = next(i for i, run in enumerate(rollout.waves) if run.plan.name == deploy.wave)
            assert all(run.state in OVER for run in rollout.waves[:index])
            for run in rollout.waves[: index + 1]:
                assert all(gate.state is GateState.PASSED for gate in run.gates)
            assert deploy.digest == rollout.release.digests[deploy.cluster]
            flew = any(r.id == rollout.id and m.cluster == deploy.cluster for r, _, m in members(before) if flies(m))
            # What flies already is sent again with a higher number where the cluster's fence asks for it.
            assert flew or not (after.suspended or deploy.cluster in after.paused_clusters)
            report = after.reports.get(deploy.cluster)
            assert report is not None
            assert report.reachable

    @staticmethod
    def nothing_quarantined_starts(
        before: BundleState, after: BundleState, event: RolloutEvent | None, step: Step
    ) -> None:
        """I6; a retry is a person's will."""
        if isinstance(event, Commanded) and event.name == "retry":
            return
        for deploy in step.deploys:
            recorded = after.records[deploy.cluster].recorded
            if deploy.purpose in ("forward", "catchup") and recorded is not None:
                assert recorded.content not in before.quarantined

    def nothing_lands_unwatched(self, after: BundleState, step: Step) -> None:
        """I6: an intent that was not carried out stands only while a rollout watches it, or as a catch-up that may."""
        self.purposes.update((deploy.cluster, deploy.purpose) for deploy in step.deploys)
        for cluster, report in after.reports.items():
            if report.reachable and report.phase in ("applied", "failed"):
                self.landed.add((cluster, report.seq))
        flying = {m.cluster for r, _, m in members(after) if r == after.active and flies(m)}
        for cluster, record in after.records.items():
            recorded, purpose = record.recorded, self.purposes.get(cluster)
            if recorded is None or cluster in flying or (cluster, record.seq) in self.landed:
                continue
            assert purpose != "forward", f"{cluster} may still apply what no rollout waits for"
            assert purpose != "catchup" or recorded.content not in after.quarantined

    @staticmethod
    def bounded_flight(after: BundleState) -> None:
        """I2."""
        if after.active is None or after.active.kind == "rollback":
            return
        for run in after.active.waves:
            limit = run.plan.max_concurrency
            counted = sum(m.reason != "paused" for m in run.members)
            bound = max(1, counted * int(limit[:-1]) // 100) if isinstance(limit, str) else limit
            flying = [m for m in run.members if flies(m)]
            # Pausing a cluster shrinks the base of a percentage under what flies already.
            assert len(flying) <= max(bound, len(run.members) * int(limit[:-1]) // 100 if isinstance(limit, str) else 0)

    def verdicts_have_evidence(self, before: BundleState, after: BundleState, step: Step) -> None:
        """I8, I15: Updated after an unbroken soak at this seq and digest; Passed after the bake of every cluster."""
        was = {(r.id, m.cluster): m for r, _, m in members(before)}
        for rollout in (*rollouts(after), *step.ended):
            for run in rollout.waves:
                for member in run.members:
                    earlier = was.get((rollout.id, member.cluster))
                    became = earlier is None or earlier.state is not member.state or earlier.seq != member.seq
                    if became and member.state in GOOD:
                        assert healthy(after, member), "succeeded without being seen healthy"
                    if became and member.state is MemberState.UPDATED:
                        soaked = self.healthy.get((rollout.id, member.cluster), 0.0)
                        assert soaked >= run.plan.health.stable_for - 1e-3
                self._baked_long_enough(before, after, rollout, run)

    def _baked_long_enough(self, before: BundleState, after: BundleState, rollout: Rollout, run: WaveRun) -> None:
        earlier = next((r for r in rollouts(before) if r.id == rollout.id), None)
        state = next((w.state for w in earlier.waves if w.plan.name == run.plan.name), None) if earlier else None
        if run.state is not WaveState.PASSED or state is WaveState.PASSED or rollout.kind == "rollback":
            return
        counted = [m for m in run.members if m.state in GOOD and m.cluster not in after.paused_clusters]
        assert counted, "passed without a cluster that proves it"
        for member in counted:
            assert healthy(after, member), "passed while a cluster is not healthy"
            if any(m.state is MemberState.UPDATED for m in run.members):
                assert self.baked.get((rollout.id, member.cluster), 0.0) >= run.plan.bake - 1e-3

    @staticmethod
    def verdicts_are_final(before: BundleState, after: BundleState, event: RolloutEvent | None, step: Step) -> None:
        """I12: what ended stays as it ended, but for its link to a successor; only `retry` takes it up again."""
        ended = before.previous
        if ended is None or (isinstance(event, Commanded) and event.name == "retry"):
            return
        assert after.active is None or after.active.id != ended.id
        for rollout in (*step.ended, *((after.previous,) if after.previous else ())):
            if rollout.id == ended.id:
                assert (rollout.state, rollout.waves, rollout.ended_at) == (ended.state, ended.waves, ended.ended_at)

    @staticmethod
    def gates_pass_by_people(before: BundleState, after: BundleState, event: RolloutEvent | None, step: Step) -> None:
        """I13."""
        if isinstance(event, Commanded):
            return
        passed = {(r.id, run.plan.name, g.gate.name) for r in rollouts(before) for run, g in _gates(r) if _passed(g)}
        for rollout in (*rollouts(after), *step.ended):
            for run, gate in _gates(rollout):
                if _passed(gate):
                    assert (rollout.id, run.plan.name, gate.gate.name) in passed

    @staticmethod
    def good_is_only_what_was_seen_good(before: BundleState, after: BundleState) -> None:
        """I7, second half: an apply that succeeded makes nothing good."""
        for cluster, record in after.records.items():
            earlier = before.records.get(cluster)
            if record.last_good is None or (earlier is not None and earlier.last_good == record.last_good):
                continue
            if cluster in after.paused_clusters:
                continue  # it was seen healthy before it was paused; nobody looks at it now
            report = after.reports[cluster]
            assert (report.phase, report.health) == ("applied", Health.HEALTHY)
            # The next rollout may have started with the same decision, with the next number.
            assert report.digest == record.last_good.digest
            assert report.seq in (record.seq, _seq(before, cluster))

    @staticmethod
    def something_is_awaited(after: BundleState, step: Step) -> None:
        """I16."""
        if after.active is not None:
            assert not after.active.state.terminal
            assert after.active.blocked_by is not None or step.wake_after is not None, after.active.state
        if after.waiting is not None:
            assert after.waiting.blocked_by is not None
        if step.wake_after is not None:
            assert step.wake_after >= 0.0


def rollouts(state: BundleState) -> Iterator[Rollout]:
    yield from (r for r in (state.active, state.waiting, state.previous) if r is not None)


def members(state: BundleState) -> Iterator[tuple[Rollout, WaveRun, Member]]:
    for rollout in rollouts(state):
        for run in rollout.waves:
            for member in run.members:
                yield rollout, run, member


def healthy(state: BundleState, member: Member) -> bool:
    report = state.reports.get(member.cluster)
    if report is None or not report.reachable or report.phase != "applied":
        return False
    return (report.seq, report.digest, report.health) == (member.seq, member.digest, Health.HEALTHY)


def flies(member: Member) -> bool:
    return member.state in FLYING and member.ended_at is None


def known(state: BundleState, cluster: str) -> bool:
    return cluster in state.reports


def _seq(state: BundleState, cluster: str) -> int:
    record = state.records.get(cluster)
    return 0 if record is None else record.seq


def _gates(rollout: Rollout) -> Iterator[tuple[WaveRun, GateRun]]:
    for run in rollout.waves:
        for gate in run.gates:
            yield run, gate


def _passed(gate: GateRun) -> bool:
    return gate.state is GateState.PASSED
