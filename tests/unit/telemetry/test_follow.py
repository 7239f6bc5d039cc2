"""The event log as traces: the right tree, the same after any crash, and no harm while the collector is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import StoreError
from fleet.model.events import Event
from fleet.model.rollout import Rollout
from fleet.settings import TelemetrySettings
from fleet.telemetry.follow import DOCUMENT, Cursor, TraceFollower
from fleet.telemetry.spans import Span, derive_span_id
from tests.unit.telemetry import story
from tests.unit.telemetry.story import Log

SETTINGS = TelemetrySettings(span_batch=2)


class Collector:
    """Keeps what it takes; refuses, or kills who sends, as often as told."""

    def __init__(self) -> None:
        self.taken: list[Span] = []
        self.refusals = 0
        self.die_after: int | None = None

    async def export(self, spans: Sequence[Span]) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        self.taken += spans
        if self.die_after is not None and len(self.taken) >= self.die_after:
            raise Killed
        return True

    async def aclose(self) -> None: ...

    def by_name(self, name: str) -> list[Span]:
        return [span for span in self.taken if span.name == name]

    def one(self, name: str, wave: str | None = None) -> Span:
        (found,) = [s for s in self.by_name(name) if wave is None or s.attributes.get("fleet.wave") == wave]
        return found


class Killed(Exception):
    """kill -9 right after the collector took a batch."""


def follower(log: Log, collector: Collector, sleep: Callable[[float], Awaitable[None]] | None = None) -> TraceFollower:
    async def at_once(_seconds: float) -> None:
        await anyio.lowlevel.checkpoint()

    return TraceFollower(log, collector, SETTINGS, fleet="acme", sleep=sleep or at_once)


def follow(log: Log) -> Collector:
    collector = Collector()
    anyio.run(follower(log, collector).catch_up)
    return collector


def whole() -> Log:
    log = Log(story.rollout())
    story.early(log)
    story.qa(log)
    story.prod(log)
    return log


def test_a_rollout_is_one_tree() -> None:
    collector = follow(whole())
    root = collector.one("rollout")
    assert Counter(span.name for span in collector.taken) == {
        "source.fetch": 1,
        "render": 1,
        "wave": 2,
        "wave.gate": 1,
        "cluster.apply": 2,
        "cluster.verify": 2,
        "bake": 1,
        "rollout": 1,
    }
    assert {span.trace_id for span in collector.taken} == {story.rollout().trace_id}
    assert root.parent_id is None
    assert root.span_id == derive_span_id(root.trace_id, "rollout")
    assert collector.taken[-1] == root
    qa, prod = collector.one("wave", "qa"), collector.one("wave", "prod")
    for name in ("source.fetch", "render", "wave"):
        assert {span.parent_id for span in collector.by_name(name)} == {root.span_id}
    assert [s.parent_id for s in collector.by_name("cluster.apply")] == [qa.span_id, prod.span_id]
    assert collector.one("bake").parent_id == qa.span_id
    assert collector.one("wave.gate").parent_id == prod.span_id
    assert len({span.span_id for span in collector.taken}) == len(collector.taken)


def test_spans_last_as_long_as_what_they_tell() -> None:
    collector = follow(whole())
    times = {(s.name, s.attributes.get("fleet.wave")): (s.start, s.end) for s in collector.taken}
    assert times == {
        ("rollout", None): (997.0, 2063.0),
        ("source.fetch", None): (997.0, 998.0),
        ("render", None): (998.0, 999.5),
        ("wave", "qa"): (1001.0, 1666.0),
        ("cluster.apply", "qa"): (1002.0, 1004.5),
        ("cluster.verify", "qa"): (1004.5, 1065.0),
        ("bake", "qa"): (1065.0, 1665.0),
        ("wave", "prod"): (1666.0, 2063.0),
        ("wave.gate", "prod"): (1666.0, 2000.0),
        ("cluster.apply", "prod"): (2000.0, 2003.0),
        ("cluster.verify", "prod"): (2003.0, 2063.0),
    }


def test_spans_tell_what_was_done() -> None:
    collector = follow(whole())
    apply = collector.one("cluster.apply", "qa").attributes
    assert apply["k8s.cluster.name"] == "qa-1"
    counted = {name: apply[f"fleet.objects.{name}"] for name in ("total", "changed", "unchanged", "pruned")}
    assert counted == {"total": 110, "changed": 10, "unchanged": 100, "pruned": 1}
    assert apply["fleet.attempt"] == 2
    gate = collector.one("wave.gate").attributes
    assert (gate["fleet.gate"], gate["fleet.actor"], gate["fleet.result"]) == ("go", "bob", "Passed")
    root = collector.one("rollout")
    assert root.error is None
    assert root.attributes["fleet.result"] == "Succeeded"
    assert root.attributes["fleet.name"] == "acme"
    assert root.attributes["fleet.revisions"] == ("apps=3f2a",)
    assert root.attributes["vcs.ref.head.revision"] == "3f2a"
    told = [(m.name, m.time) for m in root.marks]
    assert ("reject (refused)", 1999.0) in told
    assert ("approve", 2000.0, "bob") in [(m.name, m.time, m.attributes["fleet.actor"]) for m in root.marks]


def test_a_halted_rollout_shows_what_failed() -> None:
    log = Log(story.rollout())
    story.qa(log, healthy=False)
    collector = follow(log)
    assert collector.one("cluster.verify").error == "Deployment shop/web: ImagePullBackOff"
    assert collector.one("wave").error == "qa-1 failed (health)"
    assert collector.one("rollout").error == "wave qa failed"
    assert collector.one("cluster.apply").error is None


def test_objects_that_failed_have_spans_of_their_own() -> None:
    log = Log(story.rollout())
    log.add("rollout.state", 1000.0, from_="Planned", to="Running")
    log.add("wave.state", 1000.0, wave="qa", from_="Pending", to="Rolling")
    log.add("cluster.state", 1001.0, wave="qa", cluster="qa-1", from_="Pending", to="Applying", seq=1)
    failed = [{"object": "apps/Deployment shop/web", "error": "spec.replicas: invalid", "kind": "definite"}]
    objects = {"total": 2, "applied": 1, "changed": 1, "pruned": 0, "failed": failed}
    log.add("apply.finished", 1002.0, wave="qa", cluster="qa-1", seq=1, result="failed", objects=objects)
    log.add("cluster.state", 1003.0, wave="qa", cluster="qa-1", from_="Applying", to="Failed", seq=1, reason="apply")
    collector = follow(log)
    bad = collector.one("object.apply")
    assert bad.parent_id == collector.one("cluster.apply").span_id
    assert bad.attributes["fleet.object"] == "apps/Deployment shop/web"
    assert bad.error == "spec.replicas: invalid"
    assert collector.one("cluster.apply").error == "apply"


def test_what_the_log_learns_late_is_still_told() -> None:
    log = Log(story.rollout())
    log.add("rollout.state", 1000.0, from_="Planned", to="Running")
    story.early(log)
    story.early(log)
    log.add("rollout.state", 1001.0, from_="Running", to="Succeeded")
    log.add("source.fetched", 1002.0, source="apps", sha="another", seconds=1.0)
    collector = follow(log)
    assert [span.name for span in collector.taken] == ["source.fetch", "render", "rollout"]
    assert collector.one("rollout").start == 997.0


def test_what_was_fetched_long_ago_does_not_stretch_a_rollout() -> None:
    log = Log(story.rollout())
    log.add("source.fetched", 90.0, source="apps", sha="3f2a", seconds=1.0)
    log.add("rollout.state", 1000.0, from_="Pending", to="RollingBack")
    log.add("rollout.state", 1001.0, from_="RollingBack", to="RolledBack")
    assert [(span.name, span.start) for span in follow(log).taken] == [("rollout", 1000.0)]


def test_what_is_open_when_a_rollout_is_superseded_ends_with_it() -> None:
    log = Log(story.rollout(1), story.rollout(2, predecessor="shop-1"))
    log.add("rollout.state", 1000.0, from_="Planned", to="Running")
    log.add("wave.state", 1000.0, wave="qa", from_="Pending", to="Gating")
    log.add("gate.state", 1000.0, wave="qa", gate="go", from_="Pending", to="Waiting")
    log.add("rollout.state", 1500.0, from_="Superseding", to="Superseded")
    log.add("rollout.state", 1500.0, number=2, from_="Planned", to="Running")
    log.add("rollout.state", 1600.0, number=2, from_="Running", to="Succeeded")
    log.add("cluster.state", 1700.0, wave="qa", cluster="qa-1", from_="Pending", to="Applying", seq=4)
    collector = follow(log)
    assert [s.name for s in collector.taken] == ["wave.gate", "wave", "rollout", "rollout"]
    assert all(s.attributes["fleet.interrupted"] is True for s in collector.taken[:2])
    first, second = collector.by_name("rollout")
    assert first.error is None
    assert [(link.trace_id, link.span_id) for link in second.links] == [(first.trace_id, first.span_id)]


def test_a_retry_is_another_root_in_the_same_trace() -> None:
    log = Log(story.rollout())
    story.qa(log, healthy=False)
    log.add("rollout.state", 1700.0, actor="bob", from_="Halted", to="Running", reason="retry")
    log.add("wave.state", 1700.0, wave="qa", from_="Failed", to="Rolling")
    log.add("wave.state", 1800.0, wave="qa", from_="Rolling", to="Passed")
    log.add("rollout.state", 1800.0, from_="Running", to="Succeeded")
    collector = follow(log)
    halted, retried = collector.by_name("rollout")
    assert halted.trace_id == retried.trace_id
    assert halted.span_id != retried.span_id
    assert (retried.start, retried.end) == (1700.0, 1800.0)
    assert collector.by_name("wave")[1].parent_id == retried.span_id


def test_a_rollback_is_told_per_cluster() -> None:
    log = Log(story.rollout())
    log.add("rollout.state", 1000.0, from_="Pending", to="RollingBack")
    log.add("wave.state", 1000.0, wave="rollback", from_="Pending", to="Rolling")
    log.add("cluster.state", 1000.0, wave="rollback", cluster="p", from_="Pending", to="RollingBack", seq=5)
    log.add("cluster.state", 1010.0, wave="rollback", cluster="p", from_="RollingBack", to="RollbackFailed", seq=5)
    log.add("rollout.state", 1010.0, from_="RollingBack", to="Halted", reason="RollbackFailed")
    collector = follow(log)
    assert (collector.one("rollback").start, collector.one("rollback").end) == (1000.0, 1010.0)
    assert collector.one("rollback").error == "RollbackFailed"


def test_a_repair_is_a_trace_of_its_own_linked_to_the_rollout() -> None:
    log = whole()
    log.add("drift.detected", 3000.0, cluster="prod-1", id="d1")
    log.add("drift.healed", 3000.2, cluster="prod-1", id="d1", verdict="modified", manager="kubectl-edit")
    collector = follow(log)
    heal, root = collector.one("drift.heal"), collector.one("rollout")
    assert heal.trace_id != root.trace_id
    assert heal.parent_id is None
    assert (heal.start, heal.end) == (3000.0, 3000.2)
    assert [(link.trace_id, link.span_id) for link in heal.links] == [(root.trace_id, root.span_id)]
    assert heal.attributes["fleet.manager"] == "kubectl-edit"


def test_nothing_is_told_twice_without_a_crash() -> None:
    log, collector = Log(story.rollout()), Collector()
    story.early(log)
    story.qa(log)

    async def steps() -> None:
        one = follower(log, collector)
        await one.catch_up()
        assert await one.catch_up() == 0
        # A clean restart in the middle of the rollout.
        two = follower(log, collector)
        assert await two.catch_up() == 0
        story.prod(log)
        assert await two.catch_up() == 5

    anyio.run(steps)
    assert collector.taken == follow(whole()).taken


@given(kills=st.lists(st.integers(1, 30), max_size=4).map(sorted), stops=st.lists(st.integers(0, 40), max_size=4))
def test_any_crashes_lead_to_the_same_spans(kills: list[int], stops: list[int]) -> None:
    """The log grows to each of `stops`, the process is killed once the collector has `kills` spans."""
    complete, collector = whole(), Collector()
    expected = follow(complete).taken
    log = Log(story.rollout())
    deaths = iter(kills)

    async def live() -> None:
        collector.die_after = next(deaths, None)
        await follower(log, collector).catch_up()

    for stop in [*sorted(stops), len(complete.entries)]:
        log.entries = complete.entries[: max(stop, len(log.entries))]
        while True:
            try:
                anyio.run(live)
                break
            except Killed:
                continue
    assert set(map(msgspec.json.encode, collector.taken)) == set(map(msgspec.json.encode, expected))
    # Each kill repeats at most what was sent since the place was stored: one page of the log.
    assert len(collector.taken) <= len(expected) * (1 + len(kills))


def test_an_absent_collector_loses_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log, collector, waits = whole(), Collector(), list[float]()
    collector.refusals = 9

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    anyio.run(follower(log, collector, sleep).catch_up)
    assert collector.taken == follow(whole()).taken
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    warnings = [record.message for record in caplog.records if record.name == "fleet.telemetry.follow"]
    assert warnings == ["the trace collector takes no spans; they wait in the event log"]


def test_the_database_failing_costs_only_a_repetition() -> None:
    class Failing(Log):
        failures = 3

        async def rollout(self, rollout_id: str, /) -> Rollout | None:
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is full")
            return await super().rollout(rollout_id)

    log, collector = Failing(story.rollout()), Collector()
    log.entries = whole().entries

    async def until_done() -> None:
        one = follower(log, collector)
        for _ in range(3):
            with pytest.raises(StoreError):
                await one.catch_up()
        await one.catch_up()

    anyio.run(until_done)
    assert collector.taken == follow(whole()).taken


def test_the_place_is_stored_although_nothing_ends() -> None:
    log = Log()
    for _ in range(6000):
        log.add("health.changed", 1.0)
    follow(log)
    place = msgspec.json.decode(log.documents[DOCUMENT][1], type=Cursor)
    assert place.resume >= 5000


@pytest.mark.parametrize("body", [b"", b"[]", b'{"resume": "x"}'])
def test_a_damaged_place_means_from_the_beginning(body: bytes) -> None:
    log, collector = whole(), Collector()
    log.documents[DOCUMENT] = ("1", body)
    anyio.run(follower(log, collector).catch_up)
    assert collector.taken == follow(whole()).taken


def test_events_that_make_no_sense_make_no_harm() -> None:
    log = Log(story.rollout())
    log.add("release.rendered", 1.0, release=story.rollout().release.id, spans=[{"name": 7}])
    log.add("source.fetched", 1.0, source="apps", sha=7)
    for kind in ("rollout.state", "wave.state", "gate.state", "cluster.state", "apply.finished", "drift.healed"):
        log.add(kind, 2.0)
    log.entries.append(Event("rollout.state", 3.0, rollout="unknown-1", seq=len(log.entries) + 1))
    log.add("rollout.state", 4.0, from_="Running", to="Succeeded")
    assert [span.name for span in follow(log).taken if span.name != "drift.heal"] == ["wave", "rollout"]


@pytest.mark.anyio
async def test_running_follows_until_cancelled() -> None:
    log, collector = Log(story.rollout()), Collector()
    grown, looked = anyio.Event(), anyio.Event()

    async def wait(beyond: int) -> None:
        assert beyond == len(log.entries)
        if grown.is_set():
            looked.set()
            await anyio.sleep_forever()
        await grown.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(follower(log, collector).run, wait)
        await anyio.wait_all_tasks_blocked()
        assert collector.taken == []
        story.qa(log, healthy=False)
        grown.set()
        await looked.wait()
        group.cancel_scope.cancel()
    assert [span.name for span in collector.taken][-1] == "rollout"
