"""Who works on what on one cluster: bundles and suspect objects go as keys through two queues to a few workers each.

Level-triggered: a key says that something is to be looked at, the worker reads what when its turn comes. A bundle and
the suspects of that bundle exclude each other: suspects wait until its pass is over, a pass waits for the examinations
under way. What fails is put back with backoff; nothing is given up, and one key's defect stops no other.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from fleet.aio.keyedqueue import KeyedQueue
from fleet.core import backoff
from fleet.engine.halt import Halt
from fleet.errors import FleetError, InvalidInput, Rejected, Unauthorized
from fleet.model.objects import ObjectId

_log = logging.getLogger(__name__)

LASTING = ("definite", "immutable", "duplicate", "forbidden")
"""Refusals that another try meets again, until somebody changes something."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """Counts, and seconds."""

    bundles: int = 8
    """Bundles that are worked on at the same time; a pass may wait for a while."""
    suspects: int = 8
    queue: int = 100_000
    """Keys that may wait in each of the two queues."""
    retry_base: float = 0.5
    retry_cap: float = 60.0


class Jobs(Protocol):
    """What there is to be done."""

    async def work_on(self, bundle: str, halt: Halt) -> None:
        """Brings a bundle as far as it can go now."""

    async def examine(self, object_id: ObjectId) -> None:
        """Looks at a suspect."""

    def bundle_of(self, object_id: ObjectId) -> str | None:
        """The bundle that a suspect belongs to; None when there is nothing to look at any more."""

    def is_loaded(self, bundle: str) -> bool:
        """Whether the bundle's content is known; its key is queued otherwise."""

    def review(self, bundle: str) -> Iterable[ObjectId]:
        """Objects to be looked at again after the bundle's assignment changed."""


class Overflow(FleetError):
    """More keys wait than may; the session starts anew, which looks at everything again."""


class Workers:
    """The queues of one connected cluster, and the workers on them."""

    def __init__(self, cluster: str, jobs: Jobs, settings: WorkerSettings, jitter: Callable[[], float]) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._settings = settings
        self._jitter = jitter
        self._bundles: KeyedQueue[str] = KeyedQueue(settings.queue)
        self._suspects: KeyedQueue[ObjectId] = KeyedQueue(settings.queue)
        self._failures: Counter[str | ObjectId] = Counter()
        self._passes: dict[str, Halt] = {}
        """Bundles that are being worked on."""
        self._waiting: dict[str, set[ObjectId]] = {}
        """Suspects of bundles that are being worked on, or whose content is not known yet."""
        self._examined = _Examined()
        self._review: set[str] = set()

    def start(self, group: TaskGroup) -> None:
        for number in range(self._settings.bundles):
            group.start_soon(self._work_on_bundles, name=f"bundles {number} of {self._cluster}")
        for number in range(self._settings.suspects):
            group.start_soon(self._examine_suspects, name=f"suspects {number} of {self._cluster}")

    def put(self, bundle: str, seconds: float = 0.0) -> None:
        """Looks at a bundle once so much time has passed. Raises Overflow."""
        if not self._bundles.put_after(bundle, seconds):
            raise Overflow(f"{self._settings.queue} bundles wait already")

    def put_suspect(self, object_id: ObjectId, seconds: float = 0.0) -> None:
        """Raises Overflow."""
        if not self._suspects.put_after(object_id, seconds):
            raise Overflow(f"{self._settings.queue} objects wait already")

    def supersede(self, bundle: str) -> None:
        """The assignment of a bundle changed, or whether it may be written: what is under way for it ends early."""
        running = self._passes.get(bundle)
        if running is not None:
            running.call()
        self._review.add(bundle)
        self.put(bundle)

    def forget_others(self, known: Callable[[ObjectId], bool]) -> None:
        """Drops what is remembered of objects that are not known any more."""
        for key in [k for k in self._failures if isinstance(k, ObjectId) and not known(k)]:
            del self._failures[key]

    # --- workers ---

    async def _work_on_bundles(self) -> None:
        while True:
            bundle = await self._bundles.get()
            try:
                await self._bundle(bundle)
            finally:
                self._bundles.done(bundle)

    async def _examine_suspects(self) -> None:
        while True:
            object_id = await self._suspects.get()
            try:
                await self._suspect(object_id)
            finally:
                self._suspects.done(object_id)

    async def _bundle(self, bundle: str) -> None:
        halt = self._passes[bundle] = Halt()
        try:
            await self._examined.wait_none(bundle)
            failed = await self._guard(bundle, self._jobs.work_on(bundle, halt))
            if failed is not None:
                self.put(bundle, failed)
        finally:
            del self._passes[bundle]
            suspects = self._waiting.pop(bundle, set())
            if bundle in self._review:
                self._review.discard(bundle)
                suspects.update(self._jobs.review(bundle))
            for object_id in suspects:
                self.put_suspect(object_id)

    async def _suspect(self, object_id: ObjectId) -> None:
        bundle = self._jobs.bundle_of(object_id)
        if bundle is None:
            return
        if bundle in self._passes or not self._jobs.is_loaded(bundle):
            self._waiting.setdefault(bundle, set()).add(object_id)
            return
        with self._examined.one_of(bundle):
            failed = await self._guard(object_id, self._jobs.examine(object_id))
        if failed is not None:
            self.put_suspect(object_id, failed)

    async def _guard(self, key: str | ObjectId, work: Awaitable[None]) -> float | None:
        """Does one piece of work; one that fails says after how many seconds it is to be tried again."""
        settings = self._settings
        try:
            await work
        except (Unauthorized, Overflow):
            raise
        except FleetError as error:
            self._failures[key] += 1
            attempt = self._failures[key]
            wait = backoff.delay(attempt, self._jitter(), base=settings.retry_base, cap=settings.retry_cap)
            if isinstance(error, InvalidInput) or (isinstance(error, Rejected) and error.kind in LASTING):
                wait = settings.retry_cap
            wait = max(wait, getattr(error, "retry_after", None) or 0.0)
            _log.warning("%s: %s: %s; again in %.1fs", self._cluster, key, error, wait)
            return wait
        # A defect that one object brings to light must not stop the whole cluster, again after every reconnect.
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.subgroup(Unauthorized) is not None:
                raise
            self._failures[key] += 1
            wait = settings.retry_cap
            _log.exception("%s: %s failed %d times; again in %.1fs", self._cluster, key, self._failures[key], wait)
            return wait
        self._failures.pop(key, None)
        return None


class _Examined:
    """How many suspects of each bundle are being examined, and the end of that."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._ended = anyio.Event()

    @contextmanager
    def one_of(self, bundle: str) -> Iterator[None]:
        self._running[bundle] += 1
        try:
            yield
        finally:
            self._running[bundle] -= 1
            if not self._running[bundle]:
                del self._running[bundle]
                self._ended.set()
                self._ended = anyio.Event()

    async def wait_none(self, bundle: str) -> None:
        """Ends with the last of them; every one is bounded by the deadlines of its few requests."""
        while self._running[bundle]:
            await self._ended.wait()
