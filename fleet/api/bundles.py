"""GET /bundles, one bundle, and its rollback."""

from __future__ import annotations

from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import IDEMPOTENCY_KEY, IF_MATCH, LIMIT, NEXT, Answer, Endpoint
from fleet.engine.service import Page, Service
from fleet.engine.views.bundle import BundleView
from fleet.engine.views.rollout import RolloutView
from fleet.model.rollout import Commanded


class Rollback(reading.Said, frozen=True, forbid_unknown_fields=True):
    """Without `to` each cluster returns to its own last good release; without `clusters` all of them do."""

    to: str | None = None
    clusters: tuple[str, ...] = ()


async def bundles(request: web.Request, service: Service) -> Answer:
    after, limit = reading.page(request)
    found = await service.bundles(after, limit)
    return Answer(Page(found.items, reading.token(found.next)))


async def bundle(request: web.Request, service: Service) -> Answer:
    return Answer(await service.bundle(request.match_info["bundle"]))


async def rollback(request: web.Request, service: Service) -> Answer:
    asked = await reading.body(request, Rollback)
    actor, groups = reading.actor(asked)
    view = await service.command(
        Commanded(
            name="rollback",
            bundle=request.match_info["bundle"],
            actor=actor,
            groups=groups,
            comment=asked.comment,
            release=asked.to,
            clusters=asked.clusters,
            expected_version=reading.if_match(request),
        )
    )
    return Answer(view, version=view.version)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/bundles",
        "listBundles",
        "Every bundle and where it stands",
        Page[BundleView],
        respond=bundles,
        parameters=(LIMIT, NEXT),
        errors=(400,),
    ),
    Endpoint("GET", "/bundles/{bundle}", "getBundle", "One bundle", BundleView, respond=bundle, errors=(404,)),
    Endpoint(
        "POST",
        "/bundles/{bundle}/rollback",
        "rollbackBundle",
        "Return to the last good release, as a new rollout without waves and gates",
        RolloutView,
        respond=rollback,
        parameters=(IDEMPOTENCY_KEY, IF_MATCH),
        body=Rollback,
        errors=(400, 404, 409),
    ),
)
