"""A route described once: the router, the reading of its parameters and the OpenAPI document all come from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from aiohttp import web

from fleet.engine.service import Service

PREFIX = "/api/v1"


class Parameter(msgspec.Struct, frozen=True):
    name: str
    type: Literal["string", "integer", "boolean"]
    description: str
    place: Literal["query", "header"] = "query"
    minimum: int | None = None
    maximum: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """What a handler found; `server` turns it into JSON."""

    value: Any
    status: int = 200
    version: int | None = None
    """Becomes the ETag that If-Match compares."""


Respond = Callable[[web.Request, Service], Awaitable[Answer]]
Stream = Callable[[web.Request, Service], Awaitable[web.StreamResponse]]


class Endpoint(msgspec.Struct, frozen=True):
    """`respond` answers JSON of the type `answers`; a `stream` writes its own response."""

    method: Literal["GET", "POST"]
    path: str
    """Below `PREFIX`, with `{name}` for its parts."""
    id: str
    """operationId."""
    summary: str
    answers: Any
    respond: Respond | None = None
    stream: Stream | None = None
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    """Of a command; it may be left out where every field has a default."""
    body_required: bool = False
    status: int = 200
    errors: tuple[int, ...] = ()
    """Beside 401, 500, 503 and 504, which every endpoint may answer."""


LIMIT = Parameter("limit", "integer", "Most items to answer", minimum=1, maximum=500)
NEXT = Parameter("next", "string", "Where to go on: `next` of the previous page")
CLUSTER = Parameter("cluster", "string", "Only of this cluster")
BUNDLE = Parameter("bundle", "string", "Only of this bundle")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", "string", "A repeated request with the same key gets the first one's answer", place="header"
)
IF_MATCH = Parameter("If-Match", "string", "Version of the thing that the command was decided on", place="header")
