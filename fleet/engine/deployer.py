"""Work on the bundles of one connected cluster: apply what is assigned, then prune once it is healthy.

Level-triggered: each run reads the assignment that stands at that moment. What failed for a reason that may pass is put
back with backoff; what is definitely refused waits for another assignment.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fleet.core import backoff
from fleet.core import inventory as inventories
from fleet.engine.contents import Contents
from fleet.engine.member import Member, Standing
from fleet.engine.prune import Pruned, Pruner
from fleet.engine.reconcile import Keeper, Reconciler, Result
from fleet.engine.records import Wanted
from fleet.model.cluster import Assignment, Health
from fleet.model.objects import ManifestSet

EMPTY = ManifestSet("", ())


class DeployerSettings(msgspec.Struct, frozen=True):
    """Seconds."""

    retry_base: float = 1.0
    retry_cap: float = 60.0
    prune_again: float = 30.0


class Deployer:
    """Deploys and prunes bundles; the session runs one bundle at a time through it."""

    def __init__(
        self,
        fleet: str,
        member: Member,
        contents: Contents,
        reconciler: Reconciler,
        pruner: Pruner,
        keeper: Keeper,
        settings: DeployerSettings,
        *,
        rewatch: Callable[[], None],
        again: Callable[[str, float], None],
        jitter: Callable[[], float],
        applied: Callable[[str, float], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._member = member
        self._contents = contents
        self._reconciler = reconciler
        self._pruner = pruner
        self._keeper = keeper
        self._settings = settings
        self._rewatch = rewatch
        self._again = again
        self._jitter = jitter
        self._applied = applied
        self._monotonic = monotonic

    async def work(self, bundle: str) -> None:
        """Brings one bundle as far as it can go now. Raises StoreError when nothing could be made durable."""
        standing = self._member.standings.get(bundle)
        if standing is None:
            await self._forget(bundle)
            return
        if self._member.spec.paused:
            await self._load(standing)
            self._rewatch()
            return
        if standing.phase in ("idle", "errored"):
            await self._deploy(standing)
        if standing.phase == "applied" and not standing.settled and self._may_settle(standing):
            await self._settle(standing)
        self._member.report(bundle)

    async def _load(self, standing: Standing) -> Wanted:
        if standing.wanted is None:
            digest = standing.assignment.digest
            standing.wanted = Wanted(await self._contents.get(digest) if digest is not None else EMPTY)
        return standing.wanted

    async def _deploy(self, standing: Standing) -> None:
        assignment, bundle = standing.assignment, standing.assignment.bundle
        wanted = await self._load(standing)
        standing.phase = "applying"
        standing.attempts += 1
        self._member.report(bundle)
        passes = _Pass(self._member, assignment)
        begun_at = self._monotonic()
        result = await self._reconciler.deploy(assignment, wanted, started=passes.start, watch=self._rewatch)
        self._drop_stale(bundle, wanted)
        self._rewatch()
        if self._member.standings.get(bundle) is not standing or standing.assignment != assignment:
            return  # a newer assignment came meanwhile; its key is queued
        if passes.begun:
            self._applied(result.phase, self._monotonic() - begun_at)
            self._say_finished(standing, result)
        self._conclude(standing, result)

    def _conclude(self, standing: Standing, result: Result) -> None:
        standing.phase, standing.outcome = result.phase, result.outcome
        standing.message, standing.fence = result.message, result.fence
        if result.phase == "errored":
            settings = self._settings
            wait = backoff.delay(standing.attempts, self._jitter(), base=settings.retry_base, cap=settings.retry_cap)
            self._again(standing.assignment.bundle, max(wait, result.retry_after or 0.0))

    def _say_finished(self, standing: Standing, result: Result) -> None:
        self._member.say(
            "apply.finished",
            standing.assignment.bundle,
            seq=standing.assignment.seq,
            purpose=standing.assignment.purpose,
            result=result.phase,
            attempt=standing.attempts,
            objects=result.outcome,
            message=result.message,
        )

    def _drop_stale(self, bundle: str, wanted: Wanted) -> None:
        """What the bundle no longer wants is no longer compared; it stays in the inventory until it is pruned."""
        records = self._member.records
        records.drop([i for i, _ in records.of_bundle(bundle) if i not in wanted.by_id])

    def _may_settle(self, standing: Standing) -> bool:
        """Pruning comes after a healthy apply, so that a bad release does not also take away the old one's parts."""
        return self._member.health(standing)[0] in (Health.HEALTHY, Health.SUSPENDED)

    async def _settle(self, standing: Standing) -> None:
        assignment, wanted = standing.assignment, standing.wanted
        bundle = assignment.bundle
        inventory = self._reconciler.inventories.get(bundle)
        if wanted is None or inventory is None:
            return
        stale = inventories.plan(inventory, wanted.by_id.values()).stale
        removal = assignment.digest is None
        if not stale or not (assignment.options.prune or removal):
            standing.settled = True
            if removal and not stale:
                await self._reconciler.retire(bundle)
            return
        records = self._member.records
        context = inventories.PruneContext(
            fleet=self._fleet,
            bundle=bundle,
            wanted=frozenset(wanted.by_id),
            stale=frozenset(entry.id for entry in stale),
            applied_uids=frozenset(r.baseline.uid for _, r in records.of_bundle(bundle) if r.baseline),
            occupied=frozenset(i.namespace for i, r in records.items() if r.bundle != bundle),
        )
        limit = None if removal else assignment.options.prune_max_objects
        pruned = await self._pruner.prune(inventory, context, max_objects=limit)
        await self._reconciler.shrink(assignment, pruned.gone)
        self._tell(standing, pruned)
        if pruned.failed or any(k.reason == "namespace-in-use" for k in pruned.kept):
            self._again(bundle, 0.1 if pruned.deleted else self._settings.prune_again)
            return
        standing.settled = True
        if removal:
            await self._reconciler.retire(bundle)

    def _tell(self, standing: Standing, pruned: Pruned) -> None:
        bundle = standing.assignment.bundle
        if standing.outcome is not None and pruned.deleted:
            total = standing.outcome.pruned + pruned.deleted
            standing.outcome = msgspec.structs.replace(standing.outcome, pruned=total)
        blocked = [k for k in pruned.kept if not k.forget]
        if blocked or pruned.failed:
            reasons = [k.message for k in blocked] + [f"{f.object}: {f.error}" for f in pruned.failed]
            self._member.say("prune.blocked", bundle, objects=len(reasons), reasons=reasons[:20])

    async def _forget(self, bundle: str) -> None:
        """The bundle is assigned no more and its objects are orphaned: we stop watching over them."""
        records = self._member.records
        gone = [i for i, _ in records.of_bundle(bundle)]
        await self._keeper.put_baselines(self._member.name, (), gone)
        await self._keeper.drop_inventory(self._member.name, bundle)
        self._reconciler.inventories.pop(bundle, None)
        records.drop(gone)
        self._rewatch()


class _Pass:
    """Tells the event log of a pass once it writes something."""

    def __init__(self, member: Member, assignment: Assignment) -> None:
        self._member = member
        self._assignment = assignment
        self.begun = False

    def start(self) -> None:
        self.begun = True
        assignment = self._assignment
        self._member.say(
            "apply.started", assignment.bundle, seq=assignment.seq, purpose=assignment.purpose, digest=assignment.digest
        )
