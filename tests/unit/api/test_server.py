"""The API over real sockets, with the real service over engine parts that hold plain values."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import anyio
import jsonschema
import msgspec
import pytest

from fleet.api.endpoint import PREFIX
from fleet.api.server import Listening, Server, endpoints
from fleet.api.stream import Streams
from fleet.errors import Conflict, Rejected, StoreError, Unauthorized, Unavailable
from fleet.settings import ApiSettings
from tests.unit.api.conftest import TOKEN
from tests.unit.engine import parts
from tests.unit.engine.parts import ControlPlane

pytestmark = pytest.mark.anyio

READS = (
    "/status",
    "/sources",
    "/clusters",
    "/clusters/qa",
    "/clusters/qa/bundles/shop/objects",
    "/clusters/prod/bundles/shop/diff",
    "/bundles",
    "/bundles/shop",
    "/rollouts",
    "/rollouts/shop-17",
    "/explain/shop-17",
    "/explain/prod",
    "/drift",
)


async def problem(response: aiohttp.ClientResponse, status: int) -> Any:
    assert response.content_type == "application/problem+json"
    found = await response.json()
    assert (response.status, found["status"]) == (status, status)
    assert found["type"].startswith("urn:fleet:problem:")
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize(
    "path", ["/api/v1/status", "/api/v1/events", "/metrics", "/nothing", "/api/v1/rollouts/x/abort"]
)
@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer "])
async def test_without_the_token_nothing_is_told(server: Listening, path: str, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with aiohttp.ClientSession(server.url) as session, session.get(path, headers=headers) as response:
        found = await problem(response, 401)
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="fleet"'
        assert TOKEN not in json.dumps(found)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/v1/openapi.json"])
async def test_probes_and_the_description_need_no_token(server: Listening, path: str) -> None:
    async with aiohttp.ClientSession(server.url) as session, session.get(path) as response:
        assert (response.status, response.content_type) == (200, "application/json")


async def test_readyz_says_what_is_missing(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.history.failure = StoreError("disk I/O error")
    async with http.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {"ok": False, "reasons": ["the database does not answer"]}


async def test_healthz_fails_when_the_process_should_be_restarted(plane: ControlPlane, settings: ApiSettings) -> None:
    running = Server(plane.service, TOKEN, bytes, settings, "0.1.0", alive=lambda: "the conductor has ended")
    listening = await running.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{listening.url}/healthz") as response:
            assert response.status == 503
            assert (await response.json())["reasons"] == ["the conductor has ended"]
    finally:
        await running.aclose()


async def test_metrics_are_prometheus_text(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert await response.text() == "fleet_managed_objects 3\n"
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_a_taken_address_is_explained(server: Listening, plane: ControlPlane, settings: ApiSettings) -> None:
    second = Server(plane.service, TOKEN, bytes, settings, "0.1.0")
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{server.port}.*--listen"):
        await second.start("127.0.0.1", server.port)


async def test_every_answer_is_hardened(http: aiohttp.ClientSession) -> None:
    for path in ("/api/v1/status", "/healthz", "/nothing"):
        async with http.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert response.headers["Server"] == "fleet"


async def test_every_read_answers_what_the_description_says(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.history.drift = [parts.drift()]
    async with http.get("/api/v1/openapi.json") as response:
        described = await response.json()
    for path in READS:
        async with http.get(f"/api/v1{path}") as response:
            assert response.status == 200, path
            answer = await response.json()
        template = next(key for key in described["paths"] if _fits(key, f"/api/v1{path}"))
        content = described["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]
        schema = {**content["schema"], "components": described["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer)


def _fits(template: str, path: str) -> bool:
    pairs = list(zip(template.split("/"), path.split("/"), strict=False))
    same = len(template.split("/")) == len(path.split("/"))
    return same and all(part.startswith("{") or part == word for part, word in pairs)


async def test_the_description_names_every_route_and_its_errors(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/openapi.json") as response:
        described = await response.json()
    assert described["openapi"] == "3.1.0"
    approve = described["paths"]["/api/v1/rollouts/{rollout}/approve"]["post"]
    assert {"400", "401", "404", "409"} <= approve["responses"].keys()
    assert approve["requestBody"]["required"] is True
    assert {parameter["name"] for parameter in approve["parameters"]} == {"rollout", "Idempotency-Key", "If-Match"}
    identifiers = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(identifiers) == len(set(identifiers))
    routes = {(endpoint.method.lower(), PREFIX + endpoint.path) for endpoint in endpoints(Streams(ApiSettings()))}
    assert {(method, path) for path, each in described["paths"].items() for method in each} == routes


async def test_lists_are_paged_with_an_opaque_token(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/clusters", params={"limit": "1"}) as response:
        first = await response.json()
    assert [cluster["name"] for cluster in first["items"]] == ["prod"]
    async with http.get("/api/v1/clusters", params={"limit": "1", "next": first["next"]}) as response:
        second = await response.json()
    assert [cluster["name"] for cluster in second["items"]] == ["qa"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/clusters?limit=0", "limit"),
        ("/clusters?limit=501", "limit"),
        ("/clusters?limit=-1", "limit"),
        ("/clusters?limit=1e3", "limit"),
        ("/clusters?limit=1&limit=2", "limit"),
        ("/clusters?next=%00", "next"),
        ("/clusters?next=" + "a" * 2000, "next"),
        ("/clusters?page=2", "page"),
        ("/drift?open=perhaps", "open"),
        ("/drift?cluster=", "cluster"),
        ("/events?since=-1", "since"),
        ("/events?since=99999999999999999999", "since"),
        ("/events?follow=2", "follow"),
        ("/status?x=1", "x"),
    ],
)
async def test_a_bad_parameter_is_named(http: aiohttp.ClientSession, path: str, named: str) -> None:
    async with http.get(f"/api/v1{path}") as response:
        found = await problem(response, 400)
        assert [error["path"] for error in found["errors"]] == [named]


async def test_unknown_things_and_routes_are_404_with_a_way_on(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/clusters/nowhere") as response:
        assert "`fleet clusters`" in (await problem(response, 404))["detail"]
    async with http.get("/api/v1/nothing") as response:
        assert "openapi.json" in (await problem(response, 404))["detail"]
    async with http.delete("/api/v1/rollouts") as response:
        await problem(response, 405)
        assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize(
    ("failure", "status", "word"),
    [
        (Unavailable("prod: no answer within 30 s"), 503, "unavailable"),
        (Unauthorized("prod: refuses our token"), 502, "cluster-unauthorized"),
        (Rejected("forbidden", 403, "Forbidden", "cannot get deployments"), 502, "rejected"),
        (StoreError("disk full"), 503, "store"),
    ],
)
async def test_failures_of_parts_are_told_apart(
    plane: ControlPlane, http: aiohttp.ClientSession, failure: Exception, status: int, word: str
) -> None:
    plane.agents.failure = failure
    async with http.get("/api/v1/clusters/prod/bundles/shop/diff") as response:
        found = await problem(response, status)
        assert found["type"] == f"urn:fleet:problem:{word}"
        assert found["detail"] == str(failure)


async def test_an_unforeseen_error_tells_a_reference_and_nothing_else(
    plane: ControlPlane, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    plane.agents.failure = RuntimeError("a secret detail")
    async with http.get("/api/v1/clusters/prod/bundles/shop/diff") as response:
        found = await problem(response, 500)
    assert "secret" not in json.dumps(found)
    reference = found["detail"].rpartition(" ")[2]
    assert reference in caplog.text


async def test_an_answer_that_does_not_come_is_a_timeout(plane: ControlPlane) -> None:
    plane.conductor.gate = anyio.Event()
    running = Server(plane.service, TOKEN, bytes, ApiSettings(request_timeout=0.05), "0.1.0")
    listening = await running.start("127.0.0.1", 0)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        async with (
            aiohttp.ClientSession(listening.url, headers=headers) as http,
            http.post("/api/v1/rollouts/shop-17/pause") as response,
        ):
            await problem(response, 504)
    finally:
        await running.aclose()


# --- commands --------------------------------------------------------------------------------------------------------

APPROVE = "/api/v1/rollouts/shop-17/approve"


async def test_an_approval_carries_who_what_and_the_version(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    body = {"gate": "go", "as": "sam@acme.example", "groups": ["sre"], "comment": "fine"}
    async with http.post(APPROVE, json=body, headers={"If-Match": '"42"'}) as response:
        assert response.status == 200
        assert response.headers["ETag"] == '"43"'
        assert (await response.json())["version"] == 43
    command = plane.conductor.commands[0]
    assert (command.name, command.actor, command.groups) == ("approve", "sam@acme.example", ("sre",))
    assert (command.rollout, command.gate, command.comment, command.expected_version) == ("shop-17", "go", "fine", 42)


async def test_a_stale_version_is_a_conflict(http: aiohttp.ClientSession) -> None:
    async with http.post("/api/v1/rollouts/shop-17/pause", headers={"If-Match": "41"}) as response:
        assert "version 42 now" in (await problem(response, 409))["detail"]


@pytest.mark.parametrize("name", ["pause", "resume", "abort", "retry"])
async def test_the_other_commands_need_no_body(plane: ControlPlane, http: aiohttp.ClientSession, name: str) -> None:
    async with http.post(f"/api/v1/rollouts/shop-17/{name}") as response:
        assert response.status == 200
    assert [(command.name, command.actor) for command in plane.conductor.commands] == [(name, "token")]


async def test_a_rollback_names_release_and_clusters(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    body = {"to": "shop-0123456789ab", "clusters": ["qa"], "as": "sam"}
    async with http.post("/api/v1/bundles/shop/rollback", json=body) as response:
        assert response.status == 200
    command = plane.conductor.commands[0]
    assert (command.name, command.bundle, command.release, command.clusters) == (
        "rollback",
        "shop",
        "shop-0123456789ab",
        ("qa",),
    )


async def test_sync_of_one_and_of_all(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.sources.held = [parts.Source(), parts.Source(name="apps")]
    async with http.post("/api/v1/sources/apps/sync", json={"as": "sam"}) as response:
        assert response.status == 202
        assert [source["name"] for source in (await response.json())["items"]] == ["apps"]
    async with http.post("/api/v1/sync") as response:
        assert len((await response.json())["items"]) == 2
    assert plane.sources.nudged == ["apps", None]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"{", None),
        (b"[]", "$"),
        (b'{"as": "sam"}', "$"),
        (b'{"gate": 1, "as": "sam"}', "$.gate"),
        (b'{"gate": "go", "as": "sam", "clusters": []}', "$"),
        (b'{"gate": "go"}', "$.as"),
        (b'{"gate": "go", "as": "sam\\u001b[2J"}', "$.as"),
    ],
)
async def test_a_bad_body_is_refused_with_its_place(
    plane: ControlPlane, http: aiohttp.ClientSession, content: bytes, where: str | None
) -> None:
    async with http.post(APPROVE, data=content, headers={"Content-Type": "application/json"}) as response:
        found = await problem(response, 400)
        assert [error["path"] for error in found.get("errors", [])] == ([where] if where else [])
    assert plane.conductor.commands == []


async def test_bodies_are_bounded_and_json_only(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    async with http.post(APPROVE, json={"gate": "go", "as": "sam", "comment": "x" * 5000}) as response:
        await problem(response, 413)
    async with http.post(APPROVE, data={"gate": "go"}) as response:
        await problem(response, 415)
    assert plane.conductor.commands == []


async def test_one_idempotency_key_runs_one_command(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    body, headers = {"gate": "go", "as": "sam"}, {"Idempotency-Key": "k1"}
    answers = []
    for _ in range(3):
        async with http.post(APPROVE, json=body, headers=headers) as response:
            answers.append((response.status, response.headers.get("Idempotent-Replayed"), await response.read()))
    assert len(plane.conductor.commands) == 1
    assert [(status, replayed) for status, replayed, _ in answers] == [(200, None), (200, "true"), (200, "true")]
    assert len({content for *_, content in answers}) == 1


async def test_a_key_for_another_request_is_refused(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": "k1"}
    async with http.post(APPROVE, json={"gate": "go", "as": "sam"}, headers=headers) as response:
        assert response.status == 200
    async with http.post(APPROVE, json={"gate": "go", "as": "eve"}, headers=headers) as response:
        await problem(response, 422)


async def test_a_final_refusal_is_replayed_and_a_failure_of_a_part_is_not(
    plane: ControlPlane, http: aiohttp.ClientSession
) -> None:
    plane.conductor.failure = Conflict("gate go does not wait")
    for _ in range(2):
        async with http.post(APPROVE, json={"gate": "go", "as": "sam"}, headers={"Idempotency-Key": "k1"}) as response:
            await problem(response, 409)
    assert len(plane.conductor.commands) == 1
    plane.conductor.failure = StoreError("disk full")
    for _ in range(2):
        async with http.post(APPROVE, json={"gate": "go", "as": "sam"}, headers={"Idempotency-Key": "k2"}) as response:
            await problem(response, 503)
    assert len(plane.conductor.commands) == 3


async def test_the_same_command_twice_at_once_runs_once(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.conductor.gate = anyio.Event()
    statuses: list[int] = []

    async def send() -> None:
        body, headers = {"gate": "go", "as": "sam"}, {"Idempotency-Key": "k1"}
        async with http.post(APPROVE, json=body, headers=headers) as response:
            statuses.append(response.status)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(send)
        await plane.conductor.called.wait()
        plane.conductor.gate.set()
    assert (statuses, len(plane.conductor.commands)) == ([200] * 4, 1)


async def test_the_oldest_key_makes_room_for_a_new_one(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    for key in ("k1", "k2", "k3", "k1"):
        headers = {"Idempotency-Key": key}
        async with http.post("/api/v1/rollouts/shop-17/pause", headers=headers) as response:
            assert response.status == 200
            assert "Idempotent-Replayed" not in response.headers
    assert len(plane.conductor.commands) == 4


async def test_the_version_of_a_rollout_is_its_etag(plane: ControlPlane, http: aiohttp.ClientSession) -> None:
    plane.rolling(active=msgspec.structs.replace(parts.rollout(), version=50))
    async with http.get("/api/v1/rollouts/shop-17") as response:
        assert response.headers["ETag"] == '"50"'
