"""The one actor that decides about rollouts: decide → persist → act.

Everything reaches it as the latest state of something (a report of a cluster, a release of a bundle, the facts of
fleet.yaml) in a box per bundle, or as a command that waits for its answer. For a bundle with something in its box, or
whose time has come, it makes one decision, stores it in one transaction, and only then hands the assignments to the
agents and the events to their readers. What could not be stored is not acted on: the box stays full and the decision is
made again. A crash at any point therefore leaves either the state before or the state after, and the agents are told
again what is assigned to them when the next process starts.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import msgspec

from fleet.aio.clock import Clock, RealClock
from fleet.core import rollout as engine
from fleet.core.backoff import delay
from fleet.engine.assignments import Assignments
from fleet.engine.box import Answer, Box, Inbox
from fleet.engine.conductor_ports import Store
from fleet.engine.decisions import Decision, facts_of, reports_of
from fleet.errors import Conflict, FleetError, NotFound, StoreError, Unavailable
from fleet.model.cluster import MemberReport
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet
from fleet.model.rollout import (
    BundleState,
    Commanded,
    ReleaseReady,
    Rollout,
    Step,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

MISSED = 500
"""Events that are read at once of those that were stored without an answer."""


class ConductorSettings(msgspec.Struct, frozen=True):
    """Seconds, unless said otherwise."""

    commands: int = 64
    """Commands that may wait for their turn."""
    answer_timeout: float = 30.0
    """How long a command, or a release that is handed in, waits for its decision."""
    store_timeout: float = 60.0
    """One call of the store; longer than its own deadlines, so that it is the store who tells what is wrong."""
    checkpoint: float = 60.0
    """Age at which running clocks are stored although nothing happened: what a crash may cost a bake."""
    retry_base: float = 0.25
    retry_cap: float = 15.0
    """Bounds of the pause after the store failed, or a decision did."""


class Conductor:
    """`run` is the actor; everything else only fills its boxes. For one event loop.

    `told` gets the events of every stored decision, with their sequence numbers; where an answer of the store was lost,
    all that is new in the log.
    """

    def __init__(
        self,
        store: Store,
        assignments: Assignments,
        told: Callable[[Sequence[Event]], None],
        *,
        clock: Clock | None = None,
        settings: ConductorSettings | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._assignments = assignments
        self._told = told
        self._clock = clock or RealClock()
        self._settings = settings or ConductorSettings()
        self._jitter = jitter
        self._bundles: dict[str, Box] = {}
        self._reachable: dict[str, bool] = {}
        self._fleet: Fleet | None = None
        self._commands: deque[Answer] = deque()
        self._bell = anyio.Event()
        self._restored = False
        self._seq = 0
        """Of the newest event that was told."""

    # --- what others call --------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Loads what was decided before this process began; raises StoreError. Agents may read assignments after it."""
        states = await self._store.bundle_states()
        self._assignments.load(await self._store.assignments())
        self._seq = await self._store.last_seq()
        now = self._clock.monotonic()
        for state in states:
            unseen = msgspec.structs.replace(state, reports={}, listening=0.0)
            self._bundles[state.bundle] = Box(unseen, now)
        self._restored = True
        if self._fleet is not None:
            self._take_over(self._fleet)

    def configure(self, fleet: Fleet) -> None:
        """The fleet.yaml in force; what it says about clusters, pauses and suspension acts at once."""
        self._fleet = fleet
        if self._restored:
            self._take_over(fleet)
            self._ring()

    async def submit(self, ready: ReleaseReady) -> None:
        """Hands in the newest release of a bundle; returns once what it leads to is stored.

        Raises NotFound for a bundle that fleet.yaml does not have, and StoreError or Unavailable when it is not stored
        yet: it stays in the box then, and is decided about later. Handing in the same again changes nothing.
        """
        bundle = self._bundles.get(ready.release.bundle)
        if bundle is None:
            raise NotFound(f"no bundle {ready.release.bundle}")
        bundle.inbox.release = ready
        answer = Answer()
        bundle.submitted.append(answer)
        self._ring()
        await self._wait(answer, f"release {ready.release.id} is not decided about yet")

    def report(self, report: MemberReport) -> None:
        """What an agent sees; never waits. A report with an empty bundle tells only whether its cluster is there.

        An agent that has not connected yet in this process knows nothing against its cluster, so that what it says of
        a bundle counts only after it has said so of the cluster, or has reached it.
        """
        if not report.bundle:
            self._reachable[report.cluster] = report.reachable
            for bundle in self._bundles.values():
                bundle.inbox.add(reports_of([(report.cluster, report.reachable)], bundle.state))
        elif not report.reachable and report.cluster not in self._reachable:
            return
        elif (found := self._bundles.get(report.bundle)) is not None:
            found.inbox.hear({report.cluster: report})
        self._ring()

    async def command(self, command: Commanded) -> Rollout:
        """Carries out what a person asks; returns the rollout as it stands after that.

        Raises Conflict when it does not apply to the present state (the words say what would), NotFound for a rollout,
        bundle or release that does not exist, StoreError when it could not be stored and so was not done, and
        Unavailable when too many wait or no answer came in time.
        """
        if len(self._commands) >= self._settings.commands:
            raise Unavailable(f"{len(self._commands)} commands wait already; try again")
        answer = Answer(command)
        self._commands.append(answer)
        self._ring()
        await self._wait(answer, "the command was not carried out in time")
        if answer.rollout is None:
            raise AssertionError("a command was answered without a rollout")
        return answer.rollout

    def state(self, bundle: str) -> BundleState | None:
        """What is decided and seen about a bundle, with its clocks as of now; None when there never was such a one."""
        found = self._bundles.get(bundle)
        if found is None:
            return None
        elapsed = found.elapsed(self._clock.monotonic())
        return engine.aged(found.state, elapsed) if found.state.active is not None and elapsed > 0 else found.state

    # --- the actor ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Decides until cancelled."""
        if not self._restored:
            await self.restore()
        while True:
            bell = self._bell
            while self._commands:
                await self._answer(self._commands.popleft())
            now = self._clock.monotonic()
            for bundle in tuple(self._bundles.values()):
                if bundle.due(now):
                    await self._decide(bundle)
            await self._clock.wait(bell, self._pause())

    def _ring(self) -> None:
        self._bell.set()
        self._bell = anyio.Event()

    def _pause(self) -> float | None:
        """Seconds until a clock runs out; None: only news can change anything."""
        now = self._clock.monotonic()
        looks = [
            0.0 if b.due(now) else at - now for b in self._bundles.values() if (at := b.next_look(now)) is not None
        ]
        return max(0.0, min(looks)) if looks else None

    async def _decide(self, bundle: Box) -> None:
        """One decision about all that waits for a bundle; what fails is tried again."""
        try:
            if bundle.doubt is not None:
                await self._settle_doubt(bundle)
            await self._turn(bundle)
        except Conflict as error:
            log.warning("bundle %s: %s; reading it again", bundle.state.bundle, error)
            await self._reload(bundle)
        except StoreError as error:
            self._put_off(bundle, error)
        # The supervised edge: a defect in the decision about one bundle must not stop the decisions about others.
        except Exception as error:
            log.exception("bundle %s could not be decided about", bundle.state.bundle)
            self._put_off(bundle, StoreError(f"internal error: {type(error).__name__}"))

    async def _turn(self, bundle: Box) -> None:
        taken, answers = bundle.inbox.snapshot(), list(bundle.submitted)
        decision, now = self._begin(bundle)
        decision.take(taken)
        await self._conclude(bundle, decision, now, taken)
        for answer in answers:
            bundle.submitted.remove(answer)
            answer.give()

    def _begin(self, bundle: Box) -> tuple[Decision, float]:
        now = self._clock.monotonic()
        return Decision(bundle.state, self._clock.wall(), bundle.elapsed(now)), now

    async def _conclude(self, bundle: Box, decision: Decision, now: float, taken: Inbox | None = None) -> None:
        """Stores a decision (about what was `taken`) and acts on it.

        Raises StoreError or Conflict, and nothing was done then; after a StoreError it may be stored all the same.
        """
        old = now - bundle.stored_at >= self._settings.checkpoint
        if decision.changed or (old and decision.wake_after is not None):
            try:
                events = await self._stored(self._store.commit(decision.commit()))
            except StoreError as error:
                bundle.doubt = error
                raise
            bundle.state, bundle.stored_at = decision.durable(), now
            self._assignments.publish(decision.assignments, decision.withdrawn)
            self._tell(events)
        else:
            bundle.state = decision.state
        due = None if decision.wake_after is None else now + decision.wake_after
        bundle.decided(now, None if due is None else min(due, bundle.stored_at + self._settings.checkpoint))
        if taken is not None:
            bundle.inbox.remove(taken)
        # What an agent said while this was being stored is newer, and it says it once.
        bundle.inbox.add(reports_of(self._reachable.items(), bundle.state))

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            self._seq = max(self._seq, events[-1].seq)
            self._told(events)

    async def _stored(self, call: Awaitable[T]) -> T:
        """Whether a call that ran out of time was carried out is not known; the next one finds out by its version."""
        try:
            with anyio.fail_after(self._settings.store_timeout):
                return await call
        except TimeoutError:
            raise StoreError(f"the database gave no answer within {self._settings.store_timeout:g} s") from None

    def _put_off(self, bundle: Box, error: FleetError) -> None:
        now, settings = self._clock.monotonic(), self._settings
        pause = delay(bundle.failures + 1, self._jitter(), base=settings.retry_base, cap=settings.retry_cap)
        bundle.failed(now, now + pause)
        log.error("bundle %s: %s; again in %.1f s", bundle.state.bundle, error, pause)
        for answer in bundle.submitted:
            answer.give(error=error)
        bundle.submitted.clear()

    async def _settle_doubt(self, bundle: Box) -> None:
        """Whether the last decision was stored, or not, is in the store. Raises StoreError; Conflict when it was."""
        states = await self._stored(self._store.bundle_states())
        stored = next((state.version for state in states if state.bundle == bundle.state.bundle), 0)
        if stored != bundle.state.version:
            raise Conflict(f"version {stored} is stored, and {bundle.state.version} was known")
        bundle.doubt = None

    async def _reload(self, bundle: Box) -> None:
        """Somebody else decided, or a commit succeeded whose answer was lost: the store has the word."""
        try:
            states = {state.bundle: state for state in await self._stored(self._store.bundle_states())}
            assignments = await self._stored(self._store.assignments())
            while missed := await self._stored(self._store.events(self._seq, MISSED)):
                self._tell(missed)
        except StoreError as error:
            bundle.doubt = error
            self._put_off(bundle, error)
            return
        bundle.doubt = None
        name, seen = bundle.state.bundle, bundle.state
        stored = states.get(name, BundleState(bundle=name))
        bundle.state = msgspec.structs.replace(stored, reports=seen.reports, listening=seen.listening)
        now = self._clock.monotonic()
        bundle.decided(now, now)
        self._assignments.load(assignments)

    # --- commands ----------------------------------------------------------------------------------------------------

    async def _answer(self, answer: Answer) -> None:
        if answer.abandoned or answer.command is None:
            return
        try:
            answer.give(await self._carry_out(answer.command))
        except FleetError as error:
            answer.give(error=error)
        # The supervised edge: whoever gave the command is told, and the actor goes on.
        except Exception:
            log.exception("command %s could not be decided about", answer.command.name)
            answer.give(error=Unavailable("internal error: the command was not carried out; the log has the details"))

    async def _carry_out(self, command: Commanded) -> Rollout:
        bundle = self._addressed(command)
        if bundle.due(self._clock.monotonic()) or bundle.doubt is not None:
            await self._decide(bundle)
        if bundle.doubt is not None:
            raise StoreError(f"{bundle.doubt}; nothing was done")
        if command.name == "rollback":
            command = await self._with_target(bundle, command)
        decision, now = self._begin(bundle)
        step = decision.step(command)
        if step.refused is not None:
            await self._refuse(command, step)
        try:
            await self._conclude(bundle, decision, now)
        except Conflict:
            await self._reload(bundle)
            raise
        except StoreError as error:
            self._put_off(bundle, error)
            raise
        rollout = decision.find(None if command.name == "rollback" else command.rollout)
        if rollout is None:
            raise NotFound(f"no rollout {command.rollout}")
        return rollout

    def _addressed(self, command: Commanded) -> Box:
        name = command.bundle or (command.rollout or "").rpartition("-")[0]
        bundle = self._bundles.get(name)
        if bundle is None:
            what = f"bundle {command.bundle}" if command.bundle else f"rollout {command.rollout}"
            raise NotFound(f"no {what}; `fleet rollouts` lists what there is")
        return bundle

    async def _with_target(self, bundle: Box, command: Commanded) -> Commanded:
        """A rollback with the release that it returns to, which only the store still knows as a whole."""
        name = bundle.state.bundle
        wanted = engine.principal(bundle.state, command)
        release = None if wanted is None else await self._stored(self._store.release(wanted))
        if command.release is not None and (release is None or release.bundle != name):
            raise NotFound(f"bundle {name} has no release {command.release}; `fleet rollouts` lists what there was")
        return msgspec.structs.replace(command, bundle=name, target=release)

    async def _refuse(self, command: Commanded, step: Step) -> None:
        """Leaves an entry in the event log, also of what was not done; always raises."""
        self._tell(await self._stored(self._store.append(step.events)))
        if command.rollout is not None and await self._stored(self._store.rollout(command.rollout)) is None:
            raise NotFound(f"no rollout {command.rollout}; `fleet rollouts` lists what there is")
        raise Conflict(step.refused or "the command does not apply")

    # --- help for the above ------------------------------------------------------------------------------------------

    async def _wait(self, answer: Answer, late: str) -> None:
        """Raises what the answer says, or Unavailable when there is none in time."""
        try:
            await self._clock.wait(answer.done, self._settings.answer_timeout)
        finally:
            answer.abandoned = not answer.done.is_set()
        if answer.abandoned:
            raise Unavailable(f"{late} ({self._settings.answer_timeout:g} s)")
        if answer.error is not None:
            raise answer.error

    def _take_over(self, fleet: Fleet) -> None:
        """Facts for every bundle of a fleet.yaml, and for those that are not in it any more."""
        alive = frozenset(cluster.name for cluster in fleet.clusters)
        known = {bundle.name: bundle for bundle in fleet.bundles}
        for name in known.keys() - self._bundles.keys():
            self._bundles[name] = Box(BundleState(bundle=name))
        for name, bundle in self._bundles.items():
            wanted = known.get(name)
            bundle.inbox.facts = facts_of(fleet, wanted, alive)

    @property
    def waiting(self) -> int:
        """Bundles and commands that wait for a decision."""
        return len(self._commands) + sum(bool(bundle.inbox) for bundle in self._bundles.values())
