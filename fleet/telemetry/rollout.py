"""The trace of a rollout, out of the event log: events go in, finished spans come out as they end.

Nothing here depends on when or how often it is asked: the same events give the same spans with the same ids, so a
control plane that was killed continues the trace where it stopped. One trace per rollout (rollouts.md, "Trace"):

    rollout                              from the stored start to the end, told last
    ├── source.fetch, render, plan       what was done for the release, mostly before the rollout began
    └── wave
        ├── wave.gate                    the wait for an answer
        ├── cluster.apply                until every object is as wanted; object.apply for each that failed
        ├── cluster.verify               until healthy for as long as asked
        ├── bake
        └── rollback                     of one cluster

A retry of an ended rollout gets another root in the same trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fleet.model.events import Event
from fleet.model.rollout import MemberState, Rollout, RolloutState, WaveState
from fleet.telemetry.spans import Link, Mark, Span, Value, derive_span_id

MARKS_MAX = 128
"""Marks on one root; a rollout that goes on for months keeps its first ones."""
FAILED_OBJECTS_MAX = 20
LEAD_MAX = 900.0
"""Seconds before a rollout in which what was done counts as done for it; a rollback does not begin with last week's
fetch."""
TEXT_MAX = 500
"""Characters of a message within a span."""

ENDED_WAVES = frozenset({WaveState.PASSED, WaveState.SKIPPED, WaveState.FAILED})
VERIFYING = frozenset({MemberState.VERIFYING, MemberState.SOAKING})
BAD_ENDS = frozenset({RolloutState.HALTED, RolloutState.EXPIRED, RolloutState.REJECTED})
BAD_MEMBERS = frozenset({MemberState.FAILED, MemberState.ERRORED, MemberState.ROLLBACK_FAILED})


class Early(msgspec.Struct, frozen=True):
    """What was done for a release, mostly before its rollout began."""

    name: str
    start: float
    end: float
    subject: str = ""
    """The source that was fetched."""
    attributes: dict[str, Any] = {}


class _Open(msgspec.Struct, frozen=True):
    """A span whose end has not come yet."""

    span_id: str
    parent_id: str
    start: float
    attributes: dict[str, Value]


_Key = tuple[str, str, str]
"""(name, wave, cluster or gate)."""


class RolloutTrace:
    """The open part of one rollout's trace."""

    def __init__(self, rollout: Rollout, *, fleet: str, attempt: int, since: int) -> None:
        """`attempt` is 0, or for a retry the number of the event that began it; `since` the number of the first event
        that this value depends on."""
        self.release = rollout.release
        self.since = since
        self.first = attempt == 0
        self._trace = rollout.trace_id
        self._root = derive_span_id(self._trace, "rollout", attempt=attempt)
        self._created = rollout.created_at
        self._start = rollout.created_at if self.first else None
        self._attributes = _described(rollout, fleet)
        self._marks: list[Mark] = []
        self._open: dict[_Key, _Open] = {}
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()
        self.ended = False

    def add(self, early: Early, seq: int) -> tuple[Span, ...]:
        """The span of something done for the release, told once; `seq` is of the event that told of it."""
        span_id = derive_span_id(self._trace, early.name, subject=early.subject)
        if not self.first or span_id in self._told or early.end < self._created - LEAD_MAX:
            return ()
        self._told.add(span_id)
        self.since = min(self.since, seq)
        self._start = early.start if self._start is None else min(self._start, early.start)
        return (
            Span(
                name=early.name,
                trace_id=self._trace,
                span_id=span_id,
                parent_id=self._root,
                start=early.start,
                end=early.end,
                attributes=_plain(early.attributes),
            ),
        )

    def advance(self, event: Event, links: tuple[Link, ...] = ()) -> Iterator[Span]:
        """The spans that end with an event of this rollout; `links` are for the root, should it end."""
        if self._start is None:
            self._start = event.time
        match event.type:
            case "rollout.state":
                yield from self._rollout(event, links)
            case "wave.state":
                yield from self._wave(event)
            case "gate.state":
                yield from self._gate(event)
            case "cluster.state":
                yield from self._cluster(event)
            case "apply.finished" if event.cluster is not None:
                self._outcomes[event.cluster] = event.data
            case "command":
                refused = " (refused)" if event.data.get("refused") else ""
                self._mark(event, f"{_text(event.data.get('name')) or 'command'}{refused}")

    # --- what each kind of event means -------------------------------------------------------------------------------

    def _rollout(self, event: Event, links: tuple[Link, ...]) -> Iterator[Span]:
        to = str(event.data.get("to", ""))
        self._mark(event, f"rollout {to}")
        if to not in _TERMINAL:
            return
        yield from self._close_all(event, "")
        reason = _text(event.data.get("reason"))
        self.ended = True
        yield Span(
            name="rollout",
            trace_id=self._trace,
            span_id=self._root,
            parent_id=None,
            start=event.time if self._start is None else self._start,
            end=event.time,
            attributes=self._attributes | {"fleet.result": to} | ({"fleet.reason": reason} if reason else {}),
            marks=tuple(self._marks),
            links=links,
            error=(reason or to) if to in BAD_ENDS else None,
        )

    def _wave(self, event: Event) -> Iterator[Span]:
        wave, to, before = event.wave or "", str(event.data.get("to", "")), event.data.get("from")
        if ("wave", wave, "") not in self._open:
            self._begin(event, "wave", wave, "", self._root)
        if before == WaveState.BAKING:
            yield from self._end(event, ("bake", wave, ""), result=to, failed=to == WaveState.FAILED)
        if to == WaveState.BAKING:
            self._begin(event, "bake", wave, "", self._wave_id(wave))
        if to in ENDED_WAVES:
            yield from self._close_all(event, wave)
            yield from self._end(event, ("wave", wave, ""), result=to, failed=to == WaveState.FAILED)

    def _gate(self, event: Event) -> Iterator[Span]:
        wave, gate, to = event.wave or "", _text(event.data.get("gate")), str(event.data.get("to", ""))
        key = ("wave.gate", wave, gate)
        if to == "Waiting":
            if key not in self._open:
                self._begin(event, "wave.gate", wave, gate, self._wave_id(wave), {"fleet.gate": gate})
            return
        detail = _text(event.data.get("detail"))
        told: dict[str, Value] = {"fleet.actor": event.actor}
        if detail:
            told["fleet.detail"] = detail
        yield from self._end(event, key, told, result=to, failed=to in ("Failed", "Rejected", "Expired"))

    def _cluster(self, event: Event) -> Iterator[Span]:
        wave, cluster = event.wave or "", event.cluster or ""
        before, to = event.data.get("from"), str(event.data.get("to", ""))
        failed = to in BAD_MEMBERS
        if before == MemberState.APPLYING:
            yield from self._end_apply(event, ("cluster.apply", wave, cluster), to, failed)
        if before == MemberState.ROLLING_BACK:
            yield from self._end_apply(event, ("rollback", wave, cluster), to, failed)
        if before in VERIFYING and to not in VERIFYING:
            yield from self._end(event, ("cluster.verify", wave, cluster), result=to, failed=failed)
        name = _BEGINS.get(to)
        if name is None or (name, wave, cluster) in self._open:
            return
        told: dict[str, Value] = {"k8s.cluster.name": cluster}
        if isinstance(seq := event.data.get("seq"), int):
            told["fleet.seq"] = seq
        self._begin(event, name, wave, cluster, self._wave_id(wave), told)

    def _end_apply(self, event: Event, key: _Key, to: str, failed: bool) -> Iterator[Span]:
        finished = self._outcomes.pop(key[2], {})
        outcome = finished.get("objects")
        objects: Mapping[str, Any] = outcome if isinstance(outcome, dict) else {}
        told: dict[str, Value] = {}
        counts = {name: objects[name] for name in ("total", "changed", "pruned") if isinstance(objects.get(name), int)}
        told |= {f"fleet.objects.{name}": count for name, count in counts.items()}
        if isinstance(objects.get("applied"), int):
            told["fleet.objects.unchanged"] = max(0, objects["applied"] - counts.get("changed", 0))
        if isinstance(attempt := finished.get("attempt"), int):
            told["fleet.attempt"] = attempt
        parent = self._open.get(key)
        if parent is not None:
            for failure in list(objects.get("failed") or ())[:FAILED_OBJECTS_MAX]:
                yield self._object(event, key, parent, failure)
        yield from self._end(event, key, told, result=to, failed=failed)

    def _object(self, event: Event, key: _Key, parent: _Open, failure: Mapping[str, Any]) -> Span:
        name = _text(failure.get("object"))
        return Span(
            name="object.apply",
            trace_id=self._trace,
            span_id=derive_span_id(self._trace, "object.apply", key[1], f"{key[2]}\0{name}", event.seq),
            parent_id=parent.span_id,
            start=event.time,
            end=event.time,
            attributes={"fleet.object": name, "k8s.cluster.name": key[2], "fleet.failure": _text(failure.get("kind"))},
            error=_text(failure.get("error")) or "failed",
        )

    # --- spans -------------------------------------------------------------------------------------------------------

    def _begin(
        self,
        event: Event,
        name: str,
        wave: str,
        subject: str,
        parent: str,
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        self._open[name, wave, subject] = _Open(
            span_id=derive_span_id(self._trace, name, wave, subject, event.seq),
            parent_id=parent,
            start=event.time,
            attributes={"fleet.wave": wave, **(attributes or {})},
        )

    def _end(
        self, event: Event, key: _Key, told: Mapping[str, Value] | None = None, *, result: str, failed: bool
    ) -> Iterator[Span]:
        started = self._open.pop(key, None)
        if started is None:
            return
        reason = _text(event.data.get("message")) or _text(event.data.get("reason"))
        attributes = {**started.attributes, **(told or {}), "fleet.result": result}
        if reason:
            attributes["fleet.reason"] = reason
        yield Span(
            name=key[0],
            trace_id=self._trace,
            span_id=started.span_id,
            parent_id=started.parent_id,
            start=started.start,
            end=event.time,
            attributes=attributes,
            error=(reason or result) if failed else None,
        )

    def _close_all(self, event: Event, wave: str) -> Iterator[Span]:
        """Ends what is still open within a wave ("": everywhere) because what it is part of ends; inner spans first."""
        inner = [key for key in self._open if key[0] != "wave" and (not wave or key[1] == wave)]
        outer = [key for key in self._open if key[0] == "wave"] if not wave else []
        for key in (*inner, *outer):
            yield from self._end(event, key, {"fleet.interrupted": True}, result=str(event.data["to"]), failed=False)

    def _wave_id(self, wave: str) -> str:
        started = self._open.get(("wave", wave, ""))
        return self._root if started is None else started.span_id

    def _mark(self, event: Event, name: str) -> None:
        if len(self._marks) < MARKS_MAX:
            reason = _text(event.data.get("reason"))
            told: dict[str, Value] = {"fleet.actor": event.actor}
            if reason:
                told["fleet.reason"] = reason
            self._marks.append(Mark(name, event.time, told))


_TERMINAL = frozenset(state.value for state in RolloutState if state.terminal)

_BEGINS: dict[str, str] = {
    MemberState.APPLYING: "cluster.apply",
    MemberState.VERIFYING: "cluster.verify",
    MemberState.SOAKING: "cluster.verify",
    MemberState.ROLLING_BACK: "rollback",
}


def opens(event: Event) -> bool:
    """Whether a trace begins with this event where none is open: what only follows an ended rollout begins none."""
    return event.type == "rollout.state"


def ends(event: Event) -> bool:
    """Whether the rollout of the event ends with it."""
    return event.type == "rollout.state" and event.data.get("to") in _TERMINAL


def attempt_of(event: Event) -> int:
    """0 for a rollout that begins, else the number of the event that takes an ended one up again."""
    return event.seq if event.data.get("from") in _TERMINAL else 0


def rendered(event: Event) -> tuple[Early, ...]:
    """What a `release.rendered` tells of in `data.spans`; nothing where it does not fit."""
    try:
        return msgspec.convert(event.data.get("spans", ()), tuple[Early, ...])
    except msgspec.ValidationError:
        return ()


def fetched(event: Event) -> tuple[str, str, Early] | None:
    """Source, SHA and span of a `source.fetched` that tells how many `seconds` it took."""
    source, sha, seconds = (event.data.get(name) for name in ("source", "sha", "seconds"))
    if not (isinstance(source, str) and isinstance(sha, str) and isinstance(seconds, int | float)):
        return None
    told = {"fleet.source": source, "vcs.ref.head.revision": sha}
    return source, sha, Early("source.fetch", event.time - max(0.0, seconds), event.time, source, told)


def _described(rollout: Rollout, fleet: str) -> dict[str, Value]:
    revisions = tuple(f"{source or 'fleet'}={sha}" for source, sha in sorted(rollout.release.revisions.items()))
    described: dict[str, Value] = {
        "fleet.name": fleet,
        "fleet.bundle": rollout.bundle,
        "fleet.rollout": rollout.id,
        "fleet.release": rollout.release.id,
        "fleet.revisions": revisions,
        "fleet.author": rollout.release.author,
        "fleet.actor": rollout.actor,
        "fleet.strategy": rollout.plan.strategy,
    }
    if len(rollout.release.revisions) == 1:
        described["vcs.ref.head.revision"] = next(iter(rollout.release.revisions.values()))
    return described


def _plain(values: Mapping[str, Any]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if isinstance(value, str | bool | int | float)}


def _text(value: object) -> str:
    return "" if value is None else str(value)[:TEXT_MAX]
