"""One kind followed through everything that a server or what stands before it can do.

`Observed` is the simplest sink: what it holds must in the end be what the server holds, and what it was told of
failures is compared with what was done to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.errors import Rejected, Unauthorized, Unavailable
from fleet.kube.bounds import Bounds
from fleet.kube.transport import Call, Transport
from fleet.kube.watch import Reflector
from fleet.model.objects import LiveObject, ObjectId, Resource
from tests.unit.kube.conftest import QUICK, MakeTransport, bounds
from tests.unit.kube.server import Reply, Request, Server, serving

pytestmark = pytest.mark.anyio

MAPS = Resource("", "v1", "ConfigMap", "configmaps", True)
SELECTOR = "fleet/bundle"
LATER = 1000
"""The version that a server tells who asks for no more than that."""


def configmap(name: str, version: int, uid: str = "u") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": f"{uid}-{name}", "resourceVersion": str(version)}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"v": str(version)}}


def listing(items: Sequence[object], version: int, token: str = "") -> dict[str, Any]:
    return {"kind": "ConfigMapList", "metadata": {"resourceVersion": str(version), "continue": token}, "items": items}


def status(code: int, **more: Any) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": "told", **more}


def bookmark(version: int) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"resourceVersion": str(version)}}


class Observed:
    """What a sink knows; `log` is everything it was told, by word."""

    def __init__(self) -> None:
        self.objects: dict[ObjectId, str] = {}
        self.log: list[str] = []
        self.deleted: list[str] = []
        self.errors: list[Exception] = []
        self._changed = anyio.Event()

    def page(self, resource: Resource, objects: Sequence[LiveObject]) -> None:
        for live in objects:
            self.objects[live.id] = live.meta.resource_version
        self._told(f"page {len(objects)}")

    def listed(self, resource: Resource, present: frozenset[ObjectId]) -> None:
        gone = self.objects.keys() - present
        self.deleted += [one.name for one in gone]
        for one in gone:
            del self.objects[one]
        self._told("listed")

    def seen(self, change: Literal["ADDED", "MODIFIED", "DELETED"], live: LiveObject) -> None:
        if change == "DELETED":
            self.deleted.append(live.meta.name)
            self.objects.pop(live.id, None)
        else:
            self.objects[live.id] = live.meta.resource_version
        self._told(f"{change} {live.meta.name}@{live.meta.resource_version}")

    def alive(self, resource: Resource) -> None:
        self._told("alive")

    def lost(self, resource: Resource, error: Exception) -> None:
        assert isinstance(error, Unavailable | Rejected | Unauthorized)
        self.errors.append(error)
        self._told("lost")

    @property
    def names(self) -> dict[str, str]:
        return {one.name: version for one, version in self.objects.items()}

    async def until(self, word: str, count: int = 1) -> None:
        while self.log.count(word) < count:
            await self._changed.wait()

    async def until_holding(self, wanted: dict[str, str]) -> None:
        while self.names != wanted:
            await self._changed.wait()

    def _told(self, word: str) -> None:
        self.log.append(word)
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def following(
    transport: Transport, limiters: Sequence[anyio.CapacityLimiter] = (), resource: Resource = MAPS
) -> AsyncIterator[Observed]:
    """A reflector that runs until the block ends; a test hangs no longer than its patience."""
    sink = Observed()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Reflector(transport, resource, SELECTOR, sink, limiters).run)
            yield sink
            tasks.cancel_scope.cancel()


Watching = Callable[[Request, Reply], Awaitable[None]]


def api(*watches: Watching, items: Sequence[object] = (), version: int = 10) -> Watching:
    """A server with one list, whose n-th watch is the n-th of `watches` and silent after the last."""
    opened: list[str] = []

    async def handler(request: Request, reply: Reply) -> None:
        if "watch" not in request.query:
            await reply.json(listing(items, LATER if request.query["limit"] == "1" else version))
            return
        opened.append(request.query["resourceVersion"])
        if len(opened) > len(watches):
            await reply.stream()
            await anyio.sleep_forever()
        await watches[len(opened) - 1](request, reply)

    return handler


def events(*sent: tuple[str, object], then: str = "silence") -> Watching:
    """A watch that brings these events, and then stays silent, ends as a server does, or is cut."""

    async def watch(request: Request, reply: Reply) -> None:
        await reply.stream()
        for kind, body in sent:
            await reply.event(kind, body)
        if then == "end":
            await reply.end()
        elif then == "cut":
            await reply.cut()
        else:
            await anyio.sleep_forever()

    return watch


def answering(body: bytes, code: int = 200, content_type: str = "text/html", **headers: str) -> Watching:
    async def watch(request: Request, reply: Reply) -> None:
        await reply.body(body, code, content_type, **headers)

    return watch


def refusing(code: int, **more: Any) -> Watching:
    return answering(msgspec.json.encode(status(code, **more)), code, "application/json")


def resumed(server: Server) -> list[str]:
    return [request.query["resourceVersion"] for request in server.requests if "watch" in request.query]


def lists(server: Server) -> int:
    """Lists of everything, not counting those that only ask for the version."""
    return sum("watch" not in request.query and request.query["limit"] != "1" for request in server.requests)


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_comes_in_pages_and_ends_with_listed(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        query = request.query
        if "watch" in query:
            await reply.stream()
            await anyio.sleep_forever()
        elif "continue" not in query:
            await reply.json(listing([configmap("a", 1), configmap("b", 2)], 9, "next"))
        else:
            await reply.json(listing([configmap("c", 3)], 9))

    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("alive")
    assert sink.names == {"a": "1", "b": "2", "c": "3"}
    assert sink.log == ["page 2", "page 1", "listed", "alive"]
    first, second, watch = server.requests
    assert first.path == "/api/v1/configmaps"
    assert first.query == {"limit": "500", "labelSelector": SELECTOR}
    assert second.query["continue"] == "next"
    assert watch.query["resourceVersion"] == "9"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert 300 <= int(watch.query["timeoutSeconds"]) <= 600


@pytest.mark.parametrize(
    "bad",
    [
        answering(b"<html>gateway</html>", 200),
        answering(b"<html>gateway</html>", 404),
        answering(b'{"kind":"Status"', 200, "application/json"),
        answering(b'{"metadata":{"resourceVersion":"5"}}', 200, "application/json"),
        answering(b"", 503),
        refusing(500, message="etcdserver: request timed out"),
        refusing(404, details={"name": "x"}),
    ],
)
async def test_a_list_that_fails_is_lost_and_deletes_nothing(transport_to: MakeTransport, bad: Watching) -> None:
    good = api(events(("ADDED", configmap("a", 11)), ("ERROR", status(410))), items=[configmap("a", 11)])
    listed: list[int] = []

    async def handler(request: Request, reply: Reply) -> None:
        if "watch" not in request.query:
            listed.append(1)
            if 2 <= len(listed) <= 4:
                await bad(request, reply)
                return
        await good(request, reply)

    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("listed", 2)
    assert sink.deleted == []
    assert sink.log.count("lost") == 3
    assert sink.log.index("lost") > sink.log.index("listed")


async def test_a_list_that_expires_half_way_begins_again(transport_to: MakeTransport) -> None:
    answers: list[Watching] = [
        answering(msgspec.json.encode(listing([configmap("a", 1)], 9, "token")), 200, "application/json"),
        refusing(410, reason="Expired"),
        answering(msgspec.json.encode(listing([configmap("b", 2)], 12)), 200, "application/json"),
    ]
    watching = api()

    async def handler(request: Request, reply: Reply) -> None:
        await (answers.pop(0) if answers else watching)(request, reply)

    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("listed")
    assert sink.names == {"b": "2"}
    assert sink.log.count("lost") == 0
    assert "continue" not in server.requests[2].query


async def test_pages_that_are_too_large_are_asked_for_in_smaller_ones(transport_to: MakeTransport) -> None:
    everything = [configmap(f"m{number:03}", number) for number in range(1, 201)]

    async def handler(request: Request, reply: Reply) -> None:
        if "watch" in request.query:
            await reply.stream()
            await anyio.sleep_forever()
        start, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        end = start + limit
        await reply.json(listing(everything[start:end], 500, str(end) if end < len(everything) else ""))

    limits = msgspec.structs.replace(QUICK, sizes=msgspec.structs.replace(QUICK.sizes, page=6000))
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("listed")
    assert len(sink.objects) == 200
    assert [request.query["limit"] for request in server.requests[:3]] == ["500", "125", "31"]
    assert "lost" not in sink.log


async def test_no_more_lists_at_once_than_the_limiter_allows(transport_to: MakeTransport) -> None:
    now, most = 0, 0

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal now, most
        if "watch" in request.query:
            await reply.stream()
            await anyio.sleep_forever()
        now += 1
        most = max(most, now)
        await anyio.wait_all_tasks_blocked()
        now -= 1
        await reply.json(listing([], 1))

    limiter = anyio.CapacityLimiter(2)
    sinks = [Observed() for _ in range(10)]
    async with serving(handler) as server:
        transport = transport_to(server.url)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for sink in sinks:
                    tasks.start_soon(Reflector(transport, MAPS, SELECTOR, sink, [limiter]).run)
                for sink in sinks:
                    await sink.until("listed")
                tasks.cancel_scope.cancel()
    assert most <= 2
    assert limiter.borrowed_tokens == 0


# --- watches ---------------------------------------------------------------------------------------------------------


async def test_events_are_seen_in_order(transport_to: MakeTransport) -> None:
    watch = events(
        ("ADDED", configmap("a", 11)),
        ("MODIFIED", configmap("a", 12)),
        ("BOOKMARK", bookmark(20)),
        ("DELETED", configmap("a", 21)),
    )
    async with serving(api(watch)) as server, following(transport_to(server.url)) as sink:
        await sink.until("DELETED a@21")
        await sink.until("alive")
    told = [word for word in sink.log if "@" in word]
    assert told == ["ADDED a@11", "MODIFIED a@12", "DELETED a@21"]
    assert sink.names == {}


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_it_resumes_from_what_it_saw_last(transport_to: MakeTransport, then: str) -> None:
    watches = [
        events(("ADDED", configmap("a", 11)), then=then),
        events(("MODIFIED", configmap("a", 15)), ("BOOKMARK", bookmark(99)), then=then),
    ]
    async with serving(api(*watches)) as server, following(transport_to(server.url)) as sink:
        await server.until(lambda: len(resumed(server)) >= 3)
    assert resumed(server)[:3] == ["10", "11", "99"]
    assert lists(server) == 1
    assert sink.log.count("lost") == (2 if then == "cut" else 0)


@pytest.mark.parametrize(
    "expired",
    [
        refusing(410, reason="Expired"),
        answering(b"gone", 410),
        events(("ERROR", status(410, reason="Expired"))),
        events(("ERROR", status(410, reason="Gone", message="too old resource version: 10 (50)"))),
    ],
)
async def test_410_lists_again_and_what_vanished_meanwhile_is_deleted(
    transport_to: MakeTransport, expired: Watching
) -> None:
    held: list[list[object]] = [[configmap("a", 1), configmap("b", 2)], [configmap("b", 40)]]
    watching = api(expired)

    async def handler(request: Request, reply: Reply) -> None:
        if "watch" in request.query:
            await watching(request, reply)
        else:
            await reply.json(listing(held.pop(0), 10 if len(held) else 50))

    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("listed", 2)
        await sink.until("alive")
    assert sink.names == {"b": "40"}
    assert sink.deleted == ["a"]
    assert resumed(server) == ["10", "50"]
    assert "lost" not in sink.log
    assert sink.log.index("alive") > len(sink.log) - 1 - sink.log[::-1].index("listed"), "no sign of life before 410"


@pytest.mark.parametrize(
    "broken",
    [
        answering(b"<html>login</html>\n"),
        answering(b"<html>no end of line"),
        answering(b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}', 200, "application/json"),
        answering(b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n', 200, "application/json"),
        answering(b'{"type":"EXPLODED","object":{"metadata":{}}}\n', 200, "application/json"),
        answering(b'{"type":"ERROR","object":{"kind":"Pod"}}\n', 200, "application/json"),
        answering(b"\x00\xff\n", 200, "application/json"),
        answering(b"x" * 5000 + b"\n", 200, "application/json"),
        answering(b"", 503),
        answering(b"moved", 302, Location="/elsewhere"),
        refusing(429),
        refusing(500, message="etcdserver: leader changed"),
        events(("ERROR", status(500, message="etcdserver: no leader"))),
    ],
)
async def test_a_stream_of_anything_else_is_lost_and_resumed(transport_to: MakeTransport, broken: Watching) -> None:
    limits = msgspec.structs.replace(QUICK, sizes=msgspec.structs.replace(QUICK.sizes, line=4096))
    handler = api(broken, events(("MODIFIED", configmap("a", 12))), items=[configmap("a", 3)])
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("MODIFIED a@12")
    assert sink.names == {"a": "12"}
    assert sink.deleted == []
    assert sink.log.count("lost") == 1
    assert resumed(server) == ["10", "10"]
    assert lists(server) == 1


async def test_what_stays_unreadable_is_listed_anew(transport_to: MakeTransport) -> None:
    garbage = answering(b"{}\n", 200, "application/json")
    handler = api(garbage, garbage, garbage, events(("MODIFIED", configmap("a", 12))), items=[configmap("a", 3)])
    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("MODIFIED a@12")
    assert sink.log.count("lost") == 3
    assert lists(server) == 2


async def test_a_server_that_went_back_in_time_is_listed_anew(transport_to: MakeTransport) -> None:
    restored = False
    watching = api(events(("ADDED", configmap("a", 500)), then="cut"))

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal restored
        if "watch" in request.query:
            restored = True
            await watching(request, reply)
        elif restored:
            await reply.json(listing([configmap("b", 20)], 30))
        else:
            await reply.json(listing([], 400))

    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("listed", 2)
        await sink.until("alive", 2)
    assert sink.names == {"b": "20"}
    assert sink.deleted == ["a"]
    assert resumed(server) == ["400", "30"]


async def test_versions_that_are_no_numbers_are_resumed_from(transport_to: MakeTransport) -> None:
    opaque = {**configmap("a", 1), "metadata": {**configmap("a", 1)["metadata"], "resourceVersion": "x7"}}
    handler = api(events(("ADDED", opaque), then="cut"), events(("MODIFIED", configmap("a", 12))))
    async with serving(handler) as server, following(transport_to(server.url)) as sink:
        await sink.until("MODIFIED a@12")
    assert resumed(server) == ["10", "x7"]


async def test_after_a_long_loss_the_kind_is_listed(transport_to: MakeTransport) -> None:
    limits = msgspec.structs.replace(QUICK, pace=msgspec.structs.replace(QUICK.pace, resume_within=0.0))
    handler = api(events(("ADDED", configmap("a", 11)), then="cut"))
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("listed", 2)
    assert sink.deleted == ["a"]


async def test_a_silent_stream_is_reopened_from_where_it_stood(transport_to: MakeTransport) -> None:
    handler = api(events(("ADDED", configmap("a", 11))), events(("MODIFIED", configmap("a", 12))))
    limits = bounds(dead_stream=0.5)
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("MODIFIED a@12")
    assert resumed(server)[:2] == ["10", "11"]
    assert "brought nothing for 0.5 s" in str(sink.errors[0])
    assert lists(server) == 1


async def test_a_line_that_drips_for_ever_is_a_dead_stream(transport_to: MakeTransport) -> None:
    async def drip(request: Request, reply: Reply) -> None:
        await reply.stream()
        while True:
            await reply.chunk(b" ")
            await anyio.sleep(0.005)

    limits = bounds(dead_stream=0.5)
    handler = api(drip, events(("MODIFIED", configmap("a", 12))))
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("MODIFIED a@12")
    assert "lost" in sink.log


async def test_an_event_may_come_in_pieces(transport_to: MakeTransport) -> None:
    async def pieces(request: Request, reply: Reply) -> None:
        await reply.stream()
        data = msgspec.json.encode({"type": "ADDED", "object": configmap("a", 11)}) + b"\n"
        data += msgspec.json.encode({"type": "MODIFIED", "object": configmap("a", 12)}) + b"\n"
        for start in range(0, len(data), 7):
            await reply.chunk(data[start : start + 7])
        await anyio.sleep_forever()

    async with serving(api(pieces)) as server, following(transport_to(server.url)) as sink:
        await sink.until("MODIFIED a@12")
    assert "lost" not in sink.log


async def test_a_watch_that_ends_at_once_is_not_reopened_hot(transport_to: MakeTransport) -> None:
    async def empty(request: Request, reply: Reply) -> None:
        if "watch" in request.query:
            await reply.stream()
            await reply.end()
        else:
            await reply.json(listing([], 10))

    pace = msgspec.structs.replace(QUICK.pace, backoff=1000.0, backoff_cap=1000.0, spacing=1000.0)
    limits = msgspec.structs.replace(QUICK, pace=pace)
    async with serving(empty) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("listed")
        await server.until(lambda: bool(resumed(server)))
        await anyio.sleep(0.05)
    assert len(resumed(server)) == 1


@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_is_honoured(transport_to: MakeTransport, code: int) -> None:
    handler = api(answering(b"busy", code, Retry_After="1000"))
    limits: Bounds = msgspec.structs.replace(
        QUICK, timeouts=msgspec.structs.replace(QUICK.timeouts, request=5.0, retry_after=2000.0)
    )
    async with serving(handler) as server, following(transport_to(server.url, limits=limits)) as sink:
        await sink.until("lost")
        await anyio.sleep(0.05)
    assert len(resumed(server)) == 1


async def test_a_pause_ends_when_a_cluster_that_was_down_answers(transport_to: MakeTransport) -> None:
    up = False

    async def handler(request: Request, reply: Reply) -> None:
        if not up:
            await reply.body(b"", 503)
        elif "watch" in request.query:
            await reply.stream()
            await anyio.sleep_forever()
        else:
            await reply.json(listing([], 10))

    limits = msgspec.structs.replace(
        QUICK,
        pace=msgspec.structs.replace(QUICK.pace, backoff=1e6, backoff_cap=1e6),
        rates=msgspec.structs.replace(QUICK.rates, failures=1, pause=0.001, pause_cap=0.001),
    )
    async with serving(handler) as server:
        transport = transport_to(server.url, limits=limits)
        async with following(transport) as sink:
            await sink.until("lost")
            up = True
            while transport.statistics.answers != "closed":
                with suppress(Unavailable):
                    await transport.request(Call("GET", "/version"), 1024)
            await sink.until("listed")


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusing(403, message='User "u" cannot list resource "configmaps"', reason="Forbidden"), "forbidden"),
        (answering(b"404 page not found\n", 404, "text/plain"), "unserved"),
        (refusing(404, message="the server could not find the requested resource", reason="NotFound"), "unserved"),
        (refusing(405, reason="MethodNotAllowed"), "unserved"),
        (refusing(401), "unauthorized"),
    ],
)
@pytest.mark.parametrize("at", ["list", "watch"])
async def test_it_ends_only_when_it_may_not_or_there_is_no_such_kind(
    transport_to: MakeTransport, answer: Watching, expected: str, at: str
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if at == "list" or "watch" in request.query:
            await answer(request, reply)
        else:
            await reply.json(listing([configmap("a", 1)], 10))

    sink = Observed()
    async with serving(handler) as server:
        with anyio.fail_after(30), pytest.raises((Unauthorized, Rejected)) as caught:
            await Reflector(transport_to(server.url), MAPS, SELECTOR, sink).run()
    kind = caught.value.kind if isinstance(caught.value, Rejected) else "unauthorized"
    assert kind == expected
    assert sink.log[-1] == "lost"
    assert sink.deleted == []


async def test_a_dead_cluster_holds_no_place_among_the_lists(transport_to: MakeTransport) -> None:
    rates = msgspec.structs.replace(QUICK.rates, failures=1, pause=0.01, pause_cap=0.01)
    limits = msgspec.structs.replace(QUICK, rates=rates)
    limiter = anyio.CapacityLimiter(1)
    held: list[int] = []

    async def down(request: Request, reply: Reply) -> None:
        held.append(limiter.borrowed_tokens)
        await reply.body(b"", 503)

    async with serving(down) as server, following(transport_to(server.url, limits=limits), [limiter]) as sink:
        await sink.until("lost", 10)
    assert held[0] == 1
    assert set(held[1:]) == {0}, "once it is known to be dead it is asked for its version first"
    assert set(server.paths()[1:]) == {"/version"}


# --- equivalence -----------------------------------------------------------------------------------------------------


class Store:
    """A server that holds objects and their history; the oldest part of the history may be compacted away."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.oldest = 0
        self.faults: list[str] = []
        self._changed = anyio.Event()

    def write(self, name: str) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = configmap(name, self.version)
        self._record(kind, self.objects[name])

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            del self.objects[name]
            self._record("DELETED", configmap(name, self.version))

    def compact(self) -> None:
        self.oldest = self.version
        self.history.clear()

    def _record(self, kind: str, body: dict[str, Any]) -> None:
        self.history.append((self.version, kind, body))
        self._changed.set()
        self._changed = anyio.Event()

    async def __call__(self, request: Request, reply: Reply) -> None:
        if "watch" not in request.query:
            await reply.json(listing(list(self.objects.values()), self.version))
            return
        position = int(request.query["resourceVersion"])
        if position < self.oldest:
            await refusing(410, reason="Expired")(request, reply)
            return
        await reply.stream()
        while True:
            changed = self._changed  # before looking, so that no change falls between the look and the wait
            for version, kind, body in [entry for entry in self.history if entry[0] > position]:
                await reply.event(kind, body)
                position = version
                fault = self.faults.pop(0) if self.faults else ""
                if fault == "cut":
                    await reply.cut()
                    return
                if fault == "end":
                    await reply.end()
                    return
                if fault == "garbage":
                    await reply.chunk(b"<html>\n")
                if fault == "half":
                    await reply.chunk(b'{"type":"ADDED"')
                    await reply.cut()
                    return
            if position < self.oldest:
                await reply.event("ERROR", status(410, reason="Expired"))
                await reply.end()
                return
            await changed.wait()


actions = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "compact", "rest"]), st.sampled_from("abcdef")), max_size=30
)
faults = st.lists(st.sampled_from(["", "", "cut", "end", "garbage", "half"]), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions, faults)
async def test_in_the_end_the_sink_holds_what_the_server_holds(
    transport_to: MakeTransport, steps: list[tuple[str, str]], planned: list[str]
) -> None:
    store = Store()
    async with serving(store) as server:
        transport = transport_to(server.url)
        async with following(transport) as sink:
            store.faults = planned
            for action, name in steps:
                if action == "write":
                    store.write(name)
                elif action == "delete":
                    store.delete(name)
                elif action == "compact":
                    store.compact()
                else:
                    await anyio.sleep(0.001)
            store.write("last")
            wanted = {name: body["metadata"]["resourceVersion"] for name, body in store.objects.items()}
            await sink.until_holding(wanted)
        await transport.aclose()
