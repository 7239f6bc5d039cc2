"""Every watch event of one cluster passes here, synchronously: ours or not, our echo, unchanged, or suspect.

Nothing is decided about drift: a suspect's identity goes to the session's queue and one dry-run tells. Events that
change nothing cost no task, no log line and no database row. While an apply of an object is in flight its events are
held back (the newest only) until the answer is the baseline. What a list does not hold is only suspected to be missing:
the list may be older than an apply that was answered since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import msgspec

from fleet.core import health, ownership
from fleet.core.drift import verdict
from fleet.engine.records import Record, Records
from fleet.errors import InvalidInput
from fleet.model.cluster import Baseline, Health
from fleet.model.objects import LiveObject, Manifest, ObjectId, Resource

Change = Literal["ADDED", "MODIFIED", "DELETED"]


class Listener(Protocol):
    """Who is told what the events mean."""

    def suspect(self, object_id: ObjectId, reason: str) -> None:
        """Something may be wrong with an object: look at it."""

    def health_changed(self, bundle: str) -> None:
        """The health of one object of the bundle is another one."""

    def disowned(self, object_id: ObjectId) -> bool:
        """An object's values are ours and its field ownership is not any more; whether to look at it for that."""

    def clean(self, object_id: ObjectId) -> None:
        """An object that was drifted is as we left it again."""


class Kinds(Protocol):
    """Keeps account of how well each kind is observed (`engine.watches`)."""

    def alive(self, resource: Resource) -> None: ...
    def listed(self, resource: Resource) -> None: ...
    def lost(self, resource: Resource, error: Exception) -> None: ...


class Counters(Protocol):
    """Watch events by what they came to; plain numbers, because this is the hot path."""

    ignored: int
    echo: int
    unchanged: int
    suspect: int


class _Held:
    """An object with applies in flight, and its newest event since they began."""

    __slots__ = ("appliers", "newest")

    def __init__(self) -> None:
        self.appliers = 0
        self.newest: tuple[Change, LiveObject] | None = None


class Observer:
    """The sink of all reflectors of one cluster."""

    def __init__(
        self,
        records: Records,
        manager: str,
        key: bytes,
        listener: Listener,
        counters: Counters,
        touch: Callable[[], None],
    ) -> None:
        """`key`: the installation's fingerprint key. `touch`: notes a sign of life of the cluster."""
        self._records = records
        self._manager = manager
        self._key = key
        self._listener = listener
        self._counters = counters
        self._touch = touch
        self._suspects: dict[ObjectId, LiveObject] = {}
        self._held: dict[ObjectId, _Held] = {}
        self.kinds: Kinds | None = None
        """Bound by the session before the first reflector runs."""

    # --- what reflectors call ---

    def page(self, resource: Resource, objects: Sequence[LiveObject]) -> None:
        self._touch()
        for live in objects:
            self._take("ADDED", live, listing=True)

    def listed(self, resource: Resource, present: frozenset[ObjectId]) -> None:
        self._touch()
        for object_id, record in self._records.of_kind(resource.group_kind):
            if object_id not in present and record.baseline is not None and object_id not in self._held:
                self._suspects.pop(object_id, None)
                # What was seen in a former session is no evidence: the kind counts as observed from here on.
                if record.health is not Health.MISSING:
                    self._set_health(record, Health.UNKNOWN, f"{_named(object_id)} is not listed")
                self._suspect(object_id, "not listed")
        if self.kinds is not None:
            self.kinds.listed(resource)

    def seen(self, change: Change, live: LiveObject) -> None:
        self._touch()
        self._take(change, live, listing=False)

    def alive(self, resource: Resource) -> None:
        self._touch()
        if self.kinds is not None:
            self.kinds.alive(resource)

    def lost(self, resource: Resource, error: Exception) -> None:
        if self.kinds is not None:
            self.kinds.lost(resource, error)

    # --- what appliers call ---

    @contextmanager
    def holding(self, object_id: ObjectId) -> Iterator[None]:
        """While an apply of the object is in flight; events that came meanwhile are judged against the new baseline."""
        held = self._held.setdefault(object_id, _Held())
        held.appliers += 1
        try:
            yield
        finally:
            held.appliers -= 1
            if not held.appliers:
                del self._held[object_id]
                if held.newest is not None:
                    change, live = held.newest
                    self._take(change, live, listing=False)

    def answered(self, manifest: Manifest, bundle: str, live: LiveObject) -> Baseline:
        """The answer to an apply, or the live object after a dry-run without difference, is the new baseline."""
        body = ownership.decode(live)
        record = self._records.ensure(manifest.id, bundle, manifest.version)
        record.baseline = verdict.remember(
            manifest,
            bundle,
            live,
            manager=self._manager,
            key=self._key,
            presence_only=ownership.presence_only(msgspec.json.decode(manifest.body)),
            body=body,
            previous=record.baseline,
        )
        record.doubtful = False
        self._suspects.pop(manifest.id, None)
        self._clean(manifest.id, record)
        self._assess(record, body)
        return record.baseline

    def looked(self, object_id: ObjectId, live: LiveObject | None) -> None:
        """What a GET answered about an object; None: it does not exist. Only its health is taken from it."""
        record = self._records.get(object_id)
        if record is None:
            return
        if live is None:
            self._set_health(record, Health.MISSING, f"{_named(object_id)} does not exist")
        else:
            self._assess(record, ownership.decode(live))

    def take_suspect(self, object_id: ObjectId) -> LiveObject | None:
        """The newest state of a suspect as the watch gave it; None when it must be read (gone, stale, or taken)."""
        return self._suspects.pop(object_id, None)

    def is_suspect(self, live: LiveObject) -> bool:
        """Judges what a GET answered, as an event would be: a suspicion may be over before it is looked into."""
        record = self._records.get(live.id)
        if record is None:
            return False
        match self._verdict(record, "MODIFIED", live, ownership.decode(live)):
            case verdict.Unchanged() as seen:
                self._follow(live.id, record, seen)
                return False
            case verdict.Echo(stale=stale):
                return stale
            case judged:
                return isinstance(judged, verdict.Suspect)

    # --- judging ---

    def _take(self, change: Change, live: LiveObject, *, listing: bool) -> None:
        object_id = live.id
        record = self._records.get(object_id)
        if record is None:
            self._counters.ignored += 1
            return
        held = self._held.get(object_id)
        if held is not None:
            held.newest = (change, live)
            return
        try:
            self._judge(record, change, live, listing)
        except InvalidInput as error:
            self._counters.suspect += 1
            self._listener.suspect(object_id, str(error))

    def _judge(self, record: Record, change: Change, live: LiveObject, listing: bool) -> None:
        baseline = record.baseline
        if baseline is not None and live.meta.resource_version == baseline.resource_version and change != "DELETED":
            self._counters.echo += 1
            self._clean(live.id, record)
            if record.health in (Health.UNKNOWN, Health.MISSING):
                self._assess(record, ownership.decode(live))
            return
        body = ownership.decode(live)
        match self._verdict(record, change, live, body):
            case verdict.Unchanged(ownership_lost=lost) as seen:
                self._counters.unchanged += 1
                self._follow(live.id, record, seen)
                self._assess(record, body)
                if lost and self._listener.disowned(live.id):
                    self._suspects[live.id] = live
                    self._suspect(live.id, "disowned")
            case verdict.Echo(stale=True) if listing:
                # Only a server that lost data lists what is older than what it answered before.
                self._suspect(live.id, "older than what the server answered before")
            case verdict.Echo():
                self._counters.echo += 1
            case verdict.NotOurs():
                self._counters.ignored += 1
            case verdict.Terminating(since=since):
                self._set_health(record, Health.PROGRESSING, f"{_named(live.id)} is being deleted since {since}")
            case verdict.Gone():
                self._suspects.pop(live.id, None)
                self._set_health(record, Health.MISSING, f"{_named(live.id)} does not exist")
                self._suspect(live.id, "missing")
            case verdict.Suspect(reason=reason):
                self._assess(record, body)
                self._suspects[live.id] = live
                self._suspect(live.id, reason)

    def _verdict(self, record: Record, change: Change, live: LiveObject, body: dict[str, Any]) -> verdict.Verdict:
        return verdict.judge(record.baseline, live, change, manager=self._manager, key=self._key, body=body)

    def _follow(self, object_id: ObjectId, record: Record, seen: verdict.Unchanged) -> None:
        if record.baseline is not None:
            record.baseline = verdict.follow(record.baseline, seen)
        self._suspects.pop(object_id, None)
        self._clean(object_id, record)

    def _suspect(self, object_id: ObjectId, reason: str) -> None:
        self._counters.suspect += 1
        self._listener.suspect(object_id, reason)

    def _clean(self, object_id: ObjectId, record: Record) -> None:
        if record.noted:
            self._records.set_drifted(record, False)
            self._listener.clean(object_id)

    def _assess(self, record: Record, body: dict[str, Any]) -> None:
        state, reason = health.assess(body)
        self._set_health(record, state, reason)

    def _set_health(self, record: Record, state: Health, reason: str) -> None:
        if self._records.set_health(record, state, reason):
            self._listener.health_changed(record.bundle)


def _named(object_id: ObjectId) -> str:
    """As the reasons of `core.health` begin: kind and name, without the group."""
    place = f"{object_id.namespace}/{object_id.name}" if object_id.namespace else object_id.name
    return f"{object_id.kind} {place}"
