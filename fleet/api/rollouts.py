"""GET /rollouts and the commands that steer one."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from fleet.api import reading
from fleet.api.endpoint import BUNDLE, IDEMPOTENCY_KEY, IF_MATCH, LIMIT, NEXT, Answer, Endpoint, Respond
from fleet.api.problem import FieldError, InvalidRequest
from fleet.engine.service import Page, Service
from fleet.engine.views.explain import ExplainView
from fleet.engine.views.rollout import RolloutView
from fleet.model.rollout import Commanded

Steer = Literal["pause", "resume", "abort", "retry"]


class GateAnswer(reading.Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An answer to an approval gate; `as` must say who gives it, because the gate may ask for certain people."""

    gate: str


async def rollouts(request: web.Request, service: Service) -> Answer:
    before, limit = reading.page(request)
    found = await service.rollouts(reading.name(request, "bundle"), before, limit)
    return Answer(Page(found.items, reading.token(found.next)))


async def rollout(request: web.Request, service: Service) -> Answer:
    view = await service.rollout(request.match_info["rollout"])
    return Answer(view, version=view.version)


async def explain(request: web.Request, service: Service) -> Answer:
    return Answer(await service.explain(request.match_info["subject"]))


def answer(name: Literal["approve", "reject"]) -> Respond:
    """The handler that gives an approval gate its answer."""

    async def respond(request: web.Request, service: Service) -> Answer:
        said = await reading.body(request, GateAnswer)
        if not said.as_.strip():
            raise InvalidRequest("$.as: say who answers the gate", (FieldError("$.as", "missing"),))
        return await _command(request, service, name, said, said.gate)

    return respond


def steer(name: Steer) -> Respond:
    async def respond(request: web.Request, service: Service) -> Answer:
        return await _command(request, service, name, await reading.body(request, reading.Said), None)

    return respond


async def _command(
    request: web.Request,
    service: Service,
    name: Literal["approve", "reject", "pause", "resume", "abort", "retry"],
    said: reading.Said,
    gate: str | None,
) -> Answer:
    actor, groups = reading.actor(said)
    view = await service.command(
        Commanded(
            name=name,
            actor=actor,
            groups=groups,
            rollout=request.match_info["rollout"],
            gate=gate,
            comment=said.comment,
            expected_version=reading.if_match(request),
        )
    )
    return Answer(view, version=view.version)


def _gate(name: Literal["approve", "reject"], summary: str) -> Endpoint:
    return Endpoint(
        "POST",
        f"/rollouts/{{rollout}}/{name}",
        f"{name}Gate",
        summary,
        RolloutView,
        respond=answer(name),
        parameters=(IDEMPOTENCY_KEY, IF_MATCH),
        body=GateAnswer,
        body_required=True,
        errors=(400, 404, 409),
    )


def _steer(name: Steer, summary: str) -> Endpoint:
    return Endpoint(
        "POST",
        f"/rollouts/{{rollout}}/{name}",
        f"{name}Rollout",
        summary,
        RolloutView,
        respond=steer(name),
        parameters=(IDEMPOTENCY_KEY, IF_MATCH),
        body=reading.Said,
        errors=(400, 404, 409),
    )


ENDPOINTS = (
    Endpoint(
        "GET",
        "/rollouts",
        "listRollouts",
        "Rollouts, newest first",
        Page[RolloutView],
        respond=rollouts,
        parameters=(BUNDLE, LIMIT, NEXT),
        errors=(400,),
    ),
    Endpoint("GET", "/rollouts/{rollout}", "getRollout", "One rollout", RolloutView, respond=rollout, errors=(404,)),
    Endpoint(
        "GET",
        "/explain/{subject}",
        "explain",
        "Why a rollout, cluster or bundle is not moving",
        ExplainView,
        respond=explain,
        errors=(404,),
    ),
    _gate("approve", "Approve a gate that waits"),
    _gate("reject", "Reject a gate that waits; the rollout ends Halted"),
    _steer("pause", "Start nothing more; work in flight goes on"),
    _steer("resume", "Go on after a pause"),
    _steer("abort", "End the rollout and keep what it has applied"),
    _steer("retry", "Run a halted or expired rollout again"),
)
