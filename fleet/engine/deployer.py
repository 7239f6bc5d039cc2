"""Work on the bundles of one connected cluster: apply what is assigned, then prune once it is healthy.

Level-triggered: each run reads the assignment that stands at that moment, and a pass whose assignment was replaced ends
early. What failed for a reason that may pass is put back with backoff; what is definitely refused waits for another
assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from fleet.core import backoff
from fleet.core import inventory as inventories
from fleet.engine.clusterinventory import Fenced
from fleet.engine.contents import Contents
from fleet.engine.halt import Halt
from fleet.engine.member import Member, Standing, Wait
from fleet.engine.prune import Pruned, Pruner
from fleet.engine.reconcile import Keeper, Reconciler, Result
from fleet.engine.records import Wanted
from fleet.model.cluster import Assignment, Health, Inventory
from fleet.model.objects import ManifestSet, ObjectId

EMPTY = ManifestSet("", ())
TOLD = 20
"""Reasons that an event names."""
OWNERLESS = ("catchup", "heal", "remove", "rollback")
"""Purposes of assignments that no rollout waits for when they fail: an undo goes on after its rollout has ended."""


class DeployerSettings(msgspec.Struct, frozen=True):
    """Seconds."""

    retry_base: float = 1.0
    retry_cap: float = 60.0
    prune_again: float = 30.0
    current: float = 600.0
    """How long a stage that others depend on may take to become Current."""
    wait_again: float = 5.0
    """Between two looks at such a stage; a change of health is looked at at once."""


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
        claimed: Callable[[ObjectId], str | None],
    ) -> None:
        """`claimed`: the bundle that is to hold an object here, though it may not be assigned yet."""
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
        self._claimed = claimed

    async def work(self, bundle: str, halt: Halt) -> None:
        """Brings one bundle as far as it can go now.

        Raises StoreError when something could not be made durable, or what the cluster raised; to be run again then.
        """
        standing = self._member.standings.get(bundle)
        if standing is None:
            await self._forget(bundle)
            return
        wanted = await self._load(standing)
        assignment = standing.assignment
        if not self._is_of(standing, assignment):
            return  # assigned no more, or anew: its key is queued
        try:
            if self._member.may_write(standing):
                await self._advance(standing, wanted, halt)
            else:
                await self._compare(standing, wanted)
        except Fenced as error:
            # Found while looking or pruning; a pass turns it into its result by itself.
            if not self._is_of(standing, assignment):
                return
            standing.phase, standing.message, standing.fence = "errored", str(error), error.seq
            self._retry(standing, None)
        self._member.report(bundle)

    async def _load(self, standing: Standing) -> Wanted:
        if standing.wanted is None:
            digest = standing.assignment.digest
            wanted = Wanted(await self._contents.get(digest) if digest is not None else EMPTY)
            if standing.assignment.digest != digest:
                return await self._load(standing)
            standing.wanted = wanted
        return standing.wanted

    async def _compare(self, standing: Standing, wanted: Wanted) -> None:
        """Nothing may be written: whether what is there is what is assigned, for drift to be reported against it."""
        assignment = standing.assignment
        if standing.phase == "applying":
            standing.phase = "idle"
        result = await self._reconciler.standing(assignment, wanted)
        self._rewatch()
        if self._is_of(standing, assignment) and standing.phase == "idle" and result is not None:
            self._conclude(standing, result)

    async def _advance(self, standing: Standing, wanted: Wanted, halt: Halt) -> None:
        assignment = standing.assignment
        if standing.phase == "applied":
            stands = await self._still_stands(standing, wanted)
            if not self._is_of(standing, assignment):
                return
            if not stands:
                standing.phase = "idle"
        # `applying` without a pass: it waits for one of its stages.
        if standing.phase in ("idle", "applying", "errored") or self._is_retried(standing):
            await self._deploy(standing, wanted, halt)
        if standing.phase == "applied" and not standing.settled and self._may_settle(standing):
            with halt.interruptible():
                await self._settle(standing, wanted)

    async def _still_stands(self, standing: Standing, wanted: Wanted) -> bool:
        return await self._reconciler.standing(standing.assignment, wanted) is not None

    async def _deploy(self, standing: Standing, wanted: Wanted, halt: Halt) -> None:
        assignment, bundle = standing.assignment, standing.assignment.bundle
        standing.phase = "applying"
        standing.attempts += 1
        self._member.report(bundle)
        begun_at = self._monotonic()
        try:
            result = await self._reconciler.deploy(assignment, wanted, halt, watch=self._rewatch)
        finally:
            # Whatever happened: a pass without a conclusion is to be run again, if its assignment still stands.
            if standing.phase == "applying":
                standing.phase = "idle"
        if result is None or not self._is_of(standing, assignment):
            return  # the key is queued again by whoever replaced the assignment, or halted the pass
        await self._drop_stale(bundle, wanted)
        if not self._is_of(standing, assignment):
            return
        self._rewatch()
        result = self._accumulate(standing, result, begun_at)
        if result.waits is not None:
            standing.attempts -= 1
            standing.phase, standing.outcome, standing.message = "applying", result.outcome, result.message
            self._again(bundle, self._settings.wait_again)
            return
        begun_at = standing.wait.since if standing.wait is not None else begun_at
        standing.wait = None
        if result.begun:
            self._applied(result.phase, self._monotonic() - begun_at)
        self._conclude(standing, result)

    def _accumulate(self, standing: Standing, result: Result, begun_at: float) -> Result:
        """The result of all passes since the first that had to wait; a failure when it has waited for too long."""
        wait, stage = standing.wait, result.waits
        outcome = result.outcome
        if wait is not None:
            changed = outcome.changed + wait.changed
            outcome = msgspec.structs.replace(outcome, changed=changed)
        if stage is None:
            return msgspec.structs.replace(result, outcome=outcome)
        since = wait.since if wait is not None and wait.stage == stage else begun_at
        standing.wait = Wait(stage, since, outcome.changed)
        if self._monotonic() - since < self._settings.current:
            return msgspec.structs.replace(result, outcome=outcome)
        failed = tuple(msgspec.structs.replace(f, kind="definite") for f in outcome.failed)
        outcome = msgspec.structs.replace(outcome, failed=failed)
        return msgspec.structs.replace(result, phase="failed", outcome=outcome, waits=None)

    def _is_of(self, standing: Standing, assignment: Assignment) -> bool:
        present = self._member.standings.get(assignment.bundle)
        return present is standing and standing.assignment == assignment

    def _conclude(self, standing: Standing, result: Result) -> None:
        standing.phase, standing.outcome = result.phase, result.outcome
        standing.message, standing.fence = result.message, result.fence
        standing.landed = standing.landed or result.phase == "applied"
        if result.phase == "errored":
            self._retry(standing, result.retry_after)
        elif self._is_retried(standing):
            cap = self._settings.retry_cap
            standing.message += f"; tried again every {cap:g}s"
            self._again(standing.assignment.bundle, max(cap, result.retry_after or 0.0))

    def _is_retried(self, standing: Standing) -> bool:
        """Whether a definite failure is tried again, slowly: nobody else acts upon it.

        A release that fails on its way is left as it is: its rollout decides what becomes of the cluster.
        """
        return standing.phase == "failed" and (standing.landed or standing.assignment.purpose in OWNERLESS)

    def _retry(self, standing: Standing, at_least: float | None) -> None:
        settings = self._settings
        wait = backoff.delay(standing.attempts, self._jitter(), base=settings.retry_base, cap=settings.retry_cap)
        self._again(standing.assignment.bundle, max(wait, at_least or 0.0))

    async def _drop_stale(self, bundle: str, wanted: Wanted) -> None:
        """What the bundle no longer wants is no longer compared; it stays in the inventory until it is pruned."""
        records = self._member.records
        stale = [i for i, _ in records.of_bundle(bundle) if i not in wanted.by_id]
        if stale:
            await self._keeper.put_baselines(self._member.name, (), stale)
            self._drop(bundle, stale)

    def _drop(self, bundle: str, object_ids: Iterable[ObjectId]) -> None:
        """Forgets objects, except those that another bundle has taken over meanwhile."""
        records = self._member.records
        known = ((i, records.get(i)) for i in object_ids)
        records.drop([i for i, record in known if record is not None and record.bundle == bundle])

    # --- pruning ---------------------------------------------------------------------------------------------------

    def _may_settle(self, standing: Standing) -> bool:
        """Pruning comes after a healthy apply, so that a bad release does not also take away the old one's parts."""
        return self._member.health(standing)[0] in (Health.HEALTHY, Health.SUSPENDED)

    async def _settle(self, standing: Standing, wanted: Wanted) -> None:
        assignment = standing.assignment
        bundle = assignment.bundle
        removal = assignment.digest is None
        inventory = self._reconciler.inventories.get(bundle) or Inventory(bundle, 0, None)
        stale = inventories.plan(inventory, wanted.by_id.values()).stale
        if stale and (assignment.options.prune or removal):
            pruned = await self._prune(standing, wanted, inventory, removal)
            if not self._is_of(standing, assignment):
                return
            if pruned.failed or any(k.reason in ("namespace-in-use", "claimed") for k in pruned.kept):
                self._again(bundle, 0.1 if pruned.deleted else self._settings.prune_again)
                return
        if removal and bundle in self._reconciler.inventories:
            await self._reconciler.retire(bundle)
        if self._is_of(standing, assignment):
            standing.settled = True

    async def _prune(self, standing: Standing, wanted: Wanted, inventory: Inventory, removal: bool) -> Pruned:
        assignment, records = standing.assignment, self._member.records
        bundle = assignment.bundle
        stale = frozenset(e.id for e in inventory.entries if e.id not in wanted.by_id)
        others = self._wanted_by_others(bundle)
        context = inventories.PruneContext(
            fleet=self._fleet,
            bundle=bundle,
            wanted=frozenset(wanted.by_id),
            stale=stale,
            applied_uids=frozenset(r.baseline.uid for _, r in records.of_bundle(bundle) if r.baseline),
            occupied=frozenset(i.namespace for i, r in records.items() if r.bundle != bundle)
            | frozenset(i.namespace for i in others),
            claimed=self._claims(bundle, stale, others),
        )
        limit = None if removal else assignment.options.prune_max_objects
        pruned = await self._pruner.prune(inventory, context, max_objects=limit)
        await self._reconciler.shrink(assignment, pruned.gone)
        self._tell(standing, pruned)
        return pruned

    def _wanted_by_others(self, bundle: str) -> dict[ObjectId, str]:
        """What the other bundles that are assigned here want, be it applied yet or not."""
        standings = {name: s.wanted for name, s in self._member.standings.items() if name != bundle}
        return {i: name for name, wanted in standings.items() if wanted is not None for i in wanted.by_id}

    def _claims(self, bundle: str, stale: frozenset[ObjectId], others: dict[ObjectId, str]) -> dict[ObjectId, str]:
        """The bundles to which objects move from this one: deleted here they would be made anew there, and empty."""
        heirs = {i: others.get(i) or self._claimed(i) for i in stale}
        return {i: heir for i, heir in heirs.items() if heir is not None and heir != bundle}

    def _tell(self, standing: Standing, pruned: Pruned) -> None:
        if standing.outcome is not None and pruned.deleted:
            total = standing.outcome.pruned + pruned.deleted
            standing.outcome = msgspec.structs.replace(standing.outcome, pruned=total)
        reasons = [k.message for k in pruned.kept if not k.forget]
        reasons += [f"{f.object}: {f.error}" for f in pruned.failed]
        told, standing.blocked = standing.blocked, tuple(sorted(reasons))
        if reasons and standing.blocked != told:
            self._member.say("prune.blocked", standing.assignment.bundle, objects=len(reasons), reasons=reasons[:TOLD])

    async def _forget(self, bundle: str) -> None:
        """The bundle is assigned no more and its objects are orphaned: we stop watching over them."""
        records = self._member.records
        gone = [i for i, _ in records.of_bundle(bundle)]
        await self._keeper.put_baselines(self._member.name, (), gone)
        await self._keeper.drop_inventory(self._member.name, bundle)
        if bundle in self._member.standings:
            return  # assigned again meanwhile: its key is queued
        self._reconciler.inventories.pop(bundle, None)
        self._drop(bundle, gone)
        self._rewatch()
