from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from fleet.api.server import Listening, Server
from fleet.settings import ApiSettings
from tests.unit.engine.parts import ControlPlane

TOKEN = "a-token-of-enough-length"


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(body_limit=4096, request_timeout=20.0, keepalive=20.0, streams=2, idempotency_keys=2)


@pytest.fixture
async def server(plane: ControlPlane, settings: ApiSettings, anyio_backend: Any) -> AsyncIterator[Listening]:
    running = Server(plane.service, TOKEN, lambda: b"fleet_managed_objects 3\n", settings, "0.1.0")
    yield await running.start("127.0.0.1", 0)
    await running.aclose()


@pytest.fixture
async def http(server: Listening, anyio_backend: Any) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as session:
        yield session
