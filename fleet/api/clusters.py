"""GET /clusters, one cluster, and every object of a bundle on it."""

from __future__ import annotations

from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import LIMIT, NEXT, Answer, Endpoint
from fleet.engine.service import Page, Service
from fleet.engine.views.cluster import ClusterView, ObjectView
from fleet.engine.views.drift import DiffView


async def clusters(request: web.Request, service: Service) -> Answer:
    after, limit = reading.page(request)
    found = await service.clusters(after, limit)
    return Answer(Page(found.items, reading.token(found.next)))


async def cluster(request: web.Request, service: Service) -> Answer:
    return Answer(await service.cluster(request.match_info["cluster"]))


async def objects(request: web.Request, service: Service) -> Answer:
    return Answer(await service.objects(request.match_info["cluster"], request.match_info["bundle"]))


async def diff(request: web.Request, service: Service) -> Answer:
    return Answer(await service.diff(request.match_info["bundle"], request.match_info["cluster"]))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/clusters",
        "listClusters",
        "Every cluster as its agent last saw it",
        Page[ClusterView],
        respond=clusters,
        parameters=(LIMIT, NEXT),
        errors=(400,),
    ),
    Endpoint("GET", "/clusters/{cluster}", "getCluster", "One cluster", ClusterView, respond=cluster, errors=(404,)),
    Endpoint(
        "GET",
        "/clusters/{cluster}/bundles/{bundle}/objects",
        "listObjects",
        "Every object of a bundle on a cluster",
        Page[ObjectView],
        respond=objects,
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/clusters/{cluster}/bundles/{bundle}/diff",
        "getDiff",
        "Wanted against live, field by field; asks the cluster",
        DiffView,
        respond=diff,
        errors=(404, 502),
    ),
)
