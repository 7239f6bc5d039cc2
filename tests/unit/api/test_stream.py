"""The event stream over real sockets."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import anyio
import pytest

from fleet.api.server import Listening, Server
from fleet.errors import StoreError
from fleet.model.events import Event
from fleet.settings import ApiSettings
from tests.unit.api.conftest import TOKEN
from tests.unit.engine import parts
from tests.unit.engine.parts import ControlPlane

pytestmark = pytest.mark.anyio

EVENTS = "/api/v1/events"
SSE = {"Accept": "text/event-stream"}


async def lines(http: aiohttp.ClientSession, query: str = "") -> list[Any]:
    async with http.get(f"{EVENTS}{query}") as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


async def test_without_follow_the_log_is_read_to_its_end(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    assert await lines(http) == []
    plane.history.keep(*["apply.started"] * 1203)
    assert [entry["seq"] for entry in await lines(http)] == list(range(1, 1204))
    assert [entry["seq"] for entry in await lines(http, "?since=1200")] == [1201, 1202, 1203]
    assert [entry["seq"] for entry in await lines(http, "?since=1200&limit=2")] == [1201, 1202]
    assert await lines(http, "?since=1203") == []


async def test_a_follower_gets_what_comes_as_it_comes(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.history.keep("rollout.state")
    async with http.get(f"{EVENTS}?follow=true") as response:
        assert json.loads(await response.content.readline())["seq"] == 1
        for kind in ("wave.state", "apply.started"):
            await plane.log.append([Event(type=kind, time=parts.NOW)])
            assert json.loads(await response.content.readline())["type"] == kind


async def test_server_sent_events_carry_id_and_type_and_resume(
    plane: ControlPlane, http: aiohttp.ClientSession
) -> None:
    plane.history.keep("rollout.state", "wave.state")
    async with http.get(EVENTS, headers={**SSE, "Last-Event-ID": "1"}) as response:
        assert response.content_type == "text/event-stream"
        block = (await response.text()).split("\n")
    assert block[:2] == ["id: 2", "event: wave.state"]
    assert json.loads(block[2].removeprefix("data: "))["seq"] == 2


async def test_a_silent_log_still_shows_life(plane: ControlPlane) -> None:
    running = Server(plane.service, TOKEN, bytes, ApiSettings(keepalive=0.01), "0.1.0")
    listening = await running.start("127.0.0.1", 0)
    headers = {"Authorization": f"Bearer {TOKEN}", **SSE}
    try:
        async with (
            aiohttp.ClientSession(listening.url) as http,
            http.get(f"{EVENTS}?follow=true", headers=headers) as response,
        ):
            for _ in range(3):
                assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
    finally:
        await running.aclose()


async def test_a_reader_of_what_is_no_longer_kept_is_told_where_to_start(
    plane: ControlPlane, http: aiohttp.ClientSession
) -> None:
    plane.history.keep(*["apply.started"] * 10)
    plane.history.forget(6)
    async with http.get(f"{EVENTS}?since=3") as response:
        assert response.status == 410
        assert (await response.json())["restartFrom"] == 6
    assert [entry["seq"] for entry in await lines(http, "?since=6")] == [7, 8, 9, 10]
    assert [entry["seq"] for entry in await lines(http)] == [7, 8, 9, 10]
    async with http.get(f"{EVENTS}?since=11") as response:
        assert response.status == 410
        assert (await response.json())["restartFrom"] == 10


async def test_a_follower_that_falls_behind_is_told_where_to_start(
    plane: ControlPlane, http: aiohttp.ClientSession
) -> None:
    plane.history.keep("apply.started")
    async with http.get(f"{EVENTS}?follow=true") as response:
        await response.content.readline()
        plane.history.keep(*["apply.started"] * 5)
        plane.history.forget(4)
        plane.log.announce()
        told = json.loads(await response.content.readline())
        assert (told["type"], told["data"]) == ("reader.behind", {"restartFrom": 4})
        assert await response.content.read() == b""


async def test_a_slow_reader_sees_no_hole(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{EVENTS}?follow=true") as response:
        read = 0
        for _ in range(50):
            await plane.log.append([Event(type="apply.started", time=parts.NOW, data={"x": "y" * 2000})] * 40)
        while read < 2000:
            read += 1
            assert json.loads(await response.content.readline())["seq"] == read


async def test_the_number_of_readers_is_bounded(server: Listening, http: aiohttp.ClientSession) -> None:
    async with (
        http.get(f"{EVENTS}?follow=true"),
        http.get(f"{EVENTS}?follow=true"),
        http.get(f"{EVENTS}?follow=true") as third,
    ):
        assert third.status == 503
        assert third.headers["Retry-After"] == "5"


async def test_readers_that_leave_make_room(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.history.keep("apply.started")
    for _ in range(2):
        async with http.get(f"{EVENTS}?follow=true") as response:
            await response.content.readline()
    for _ in range(200):
        # The server notices that a reader is gone when it has something to write to it.
        await plane.log.append([Event(type="apply.started", time=parts.NOW)])
        async with http.get(f"{EVENTS}?follow=true") as response:
            if response.status == 200:
                return
    pytest.fail("the places of readers that left are not free again")


async def test_a_log_that_cannot_be_read_does_not_look_like_its_end(
    plane: ControlPlane, http: aiohttp.ClientSession
) -> None:
    plane.history.keep("apply.started")
    async with http.get(f"{EVENTS}?follow=true") as response:
        await response.content.readline()
        plane.history.keep("apply.started")
        plane.history.failure = StoreError("disk I/O error")
        plane.log.announce()
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_streams_end_with_the_server(plane: ControlPlane, settings: ApiSettings) -> None:
    running = Server(plane.service, TOKEN, bytes, settings, "0.1.0")
    listening = await running.start("127.0.0.1", 0)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    plane.history.keep("apply.started")
    async with (
        aiohttp.ClientSession(listening.url) as http,
        http.get(f"{EVENTS}?follow=true", headers=headers) as response,
    ):
        await response.content.readline()
        with anyio.fail_after(2.5):
            await running.aclose()
        assert await response.content.read() == b""
