"""GET /status and the sources behind it; POST /sync."""

from __future__ import annotations

from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import IDEMPOTENCY_KEY, Answer, Endpoint
from fleet.engine.service import Page, Service
from fleet.engine.views.status import SourceView, StatusView


async def status(request: web.Request, service: Service) -> Answer:
    return Answer(await service.status())


async def sources(request: web.Request, service: Service) -> Answer:
    return Answer(service.sources())


async def sync(request: web.Request, service: Service) -> Answer:
    said = await reading.body(request, reading.Said)
    actor, _ = reading.actor(said)
    return Answer(await service.sync(request.match_info.get("source"), actor), status=202)


ENDPOINTS = (
    Endpoint("GET", "/status", "getStatus", "The fleet on one page", StatusView, respond=status),
    Endpoint("GET", "/sources", "listSources", "Git sources and what was last fetched", Page[SourceView], sources),
    Endpoint(
        "POST",
        "/sync",
        "syncAll",
        "Fetch every source now instead of at its next interval",
        Page[SourceView],
        respond=sync,
        parameters=(IDEMPOTENCY_KEY,),
        body=reading.Said,
        status=202,
        errors=(400,),
    ),
    Endpoint(
        "POST",
        "/sources/{source}/sync",
        "syncSource",
        "Fetch one source now",
        Page[SourceView],
        respond=sync,
        parameters=(IDEMPOTENCY_KEY,),
        body=reading.Said,
        status=202,
        errors=(400, 404),
    ),
)
