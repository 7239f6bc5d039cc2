"""Errors as application/problem+json (RFC 9457): what is wrong, where, and what to do next.

The outermost middleware. An error that nobody foresaw is answered with an id that the log has too, and with nothing
else.
"""

from __future__ import annotations

import logging
import secrets

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from fleet.errors import (
    Conflict,
    FleetError,
    InvalidInput,
    NotFound,
    Rejected,
    SourceError,
    StoreError,
    Unauthorized,
    Unavailable,
)

CONTENT_TYPE = "application/problem+json"
_LOG = logging.getLogger(__name__)


class FieldError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request."""

    path: str
    """JSON path in the body (`$.gate`), or the name of a query parameter or header."""
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The body of every error."""

    type: str
    """`urn:fleet:problem:` and a word that stays the same: conflict, not-found, unauthorized …"""
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    restart_from: int | None = None
    """With status 410: the `since` to start again from."""


class InvalidRequest(InvalidInput):
    """A request that cannot be read; `errors` has one entry for each thing that is wrong."""

    def __init__(self, message: str, errors: tuple[FieldError, ...] = (), status: int = 400) -> None:
        super().__init__(message)
        self.errors = errors
        self.status = status


class NotAuthenticated(FleetError):
    """The request carries no valid token."""


class Behind(FleetError):
    """The events asked for are not kept; `restart_from` is the sequence number to pass as `since`."""

    def __init__(self, message: str, restart_from: int) -> None:
        super().__init__(message)
        self.restart_from = restart_from


class Refused(FleetError):
    """The same command was refused before, for the reason that `problem` tells again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Busy(FleetError):
    """A bound of the server itself is reached; the same request may succeed a little later."""


# The first class that an error is an instance of decides: subclasses stand before their bases.
_KINDS: tuple[tuple[type[FleetError], int, str, str], ...] = (
    (NotAuthenticated, 401, "unauthorized", "Not signed in"),
    (Behind, 410, "behind", "These events are no longer kept"),
    (Busy, 503, "busy", "The server is busy"),
    (InvalidInput, 400, "invalid", "The request is not valid"),
    (Conflict, 409, "conflict", "The command does not apply"),
    (NotFound, 404, "not-found", "There is no such thing"),
    (Unauthorized, 502, "cluster-unauthorized", "A cluster or server refuses our credentials"),
    (Unavailable, 503, "unavailable", "A part cannot be reached"),
    (Rejected, 502, "rejected", "A cluster refuses the request"),
    (SourceError, 502, "source", "A Git source cannot be read"),
    (StoreError, 503, "store", "The database cannot be read or written"),
)


def of(error: FleetError) -> Problem:
    """The problem that a caller is told about an expected error."""
    if isinstance(error, Refused):
        return error.problem
    status, word, title = next(
        ((status, word, title) for kind, status, word, title in _KINDS if isinstance(error, kind)),
        (500, "failed", "The request failed"),
    )
    if isinstance(error, InvalidRequest):
        return _problem(error.status, word, title, str(error), errors=error.errors)
    if isinstance(error, Behind):
        return _problem(status, word, title, str(error), restart_from=error.restart_from)
    return _problem(status, word, title, str(error))


def response(problem: Problem) -> web.Response:
    headers = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fleet"'
    if problem.status == 503:
        headers["Retry-After"] = "5"
    body = msgspec.json.encode(problem)
    return web.Response(body=body, status=problem.status, content_type=CONTENT_TYPE, headers=headers)


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _of_http(request, error)
    except FleetError as error:
        return response(of(error))
    except TimeoutError:
        return response(_problem(504, "timeout", "No answer in time", "the request took longer than the server waits"))
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - the supervised edge: one bad request must not end the connection silently
        return response(_unforeseen(request))


def _unforeseen(request: web.Request) -> Problem:
    reference = secrets.token_hex(6)
    _LOG.exception("request failed: method=%s route=%s reference=%s", request.method, _route(request), reference)
    detail = f"an error that should not happen; the server's log has it under reference {reference}"
    return _problem(500, "internal", "The server failed", detail)


def _of_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """The router's own answers: no such route, method not allowed, body too large."""
    if error.status < 400:
        return error
    details = {
        404: f"no route {request.method} {request.path}; /api/v1/openapi.json lists them",
        405: f"{request.path} does not take {request.method}",
        413: "the body is larger than the server accepts",
    }
    detail = details.get(error.status, error.reason)
    answer = response(_problem(error.status, error.reason.lower().replace(" ", "-"), error.reason, detail))
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def _route(request: web.Request) -> str:
    """The route's pattern, never the path: a path may hold what a caller typed by mistake."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def _problem(
    status: int,
    word: str,
    title: str,
    detail: str,
    errors: tuple[FieldError, ...] = (),
    restart_from: int | None = None,
) -> Problem:
    return Problem(f"urn:fleet:problem:{word}", title, status, detail, errors, restart_from)
