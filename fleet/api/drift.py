"""GET /drift: what differed from what was released, newest first."""

from __future__ import annotations

from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import BUNDLE, CLUSTER, LIMIT, NEXT, Answer, Endpoint, Parameter
from fleet.engine.service import Page, Service
from fleet.engine.views.drift import DriftView

OPEN = Parameter("open", "boolean", "Only what still differs")


async def drifts(request: web.Request, service: Service) -> Answer:
    before, limit = reading.page(request)
    found = await service.drifts(
        reading.name(request, "cluster"), reading.name(request, "bundle"), reading.flag(request, "open"), before, limit
    )
    return Answer(Page(found.items, reading.token(found.next)))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/drift",
        "listDrift",
        "What differed, who changed it and when, and what became of it",
        Page[DriftView],
        respond=drifts,
        parameters=(CLUSTER, BUNDLE, OPEN, LIMIT, NEXT),
        errors=(400,),
    ),
)
