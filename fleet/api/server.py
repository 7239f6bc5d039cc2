"""The HTTP server: listens, authenticates, routes, and ends in order.

A request passes `problem` (errors become problem+json), `auth` (the token), the deadline, and then the one function
that reads parameters, runs commands once per Idempotency-Key and encodes what the endpoint found.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fleet.api import auth, bundles, clusters, drift, idempotency, openapi, problem, reading, rollouts, status, stream
from fleet.api.endpoint import IDEMPOTENCY_KEY, PREFIX, Answer, Endpoint
from fleet.api.idempotency import Replays
from fleet.api.stream import Streams
from fleet.engine.service import Service
from fleet.errors import Unavailable
from fleet.settings import ApiSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz", f"{PREFIX}/openapi.json"})
STOP_SECONDS = 3.0
"""What requests in flight get to finish when the server stops."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "fleet",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Listening(msgspec.Struct, frozen=True):
    """Where the server answers, once it does."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Server:
    """`metrics` renders the Prometheus text; `alive` answers why the process should be restarted, None when it is
    well.
    """

    def __init__(
        self,
        service: Service,
        token: str,
        metrics: Callable[[], bytes],
        settings: ApiSettings,
        version: str,
        alive: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._streams = Streams(settings)
        self._runner = web.AppRunner(
            _application(service, token, metrics, settings, version, alive, self._streams),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=STOP_SECONDS,
            keepalive_timeout=75.0,
        )

    async def start(self, host: str, port: int) -> Listening:
        """Listens; port 0 takes a free one. Raises Unavailable when the address is taken or not ours."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise Unavailable(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with --listen"
            ) from error
        address = self._runner.addresses[0]
        return Listening(str(address[0]), int(address[1]))

    async def aclose(self) -> None:
        """Stops listening, ends the event streams, and gives the other requests `STOP_SECONDS`."""
        self._streams.close()
        with anyio.CancelScope(shield=True):
            await self._runner.cleanup()


def endpoints(streams: Streams) -> tuple[Endpoint, ...]:
    return (
        *status.ENDPOINTS,
        *clusters.ENDPOINTS,
        *bundles.ENDPOINTS,
        *rollouts.ENDPOINTS,
        *drift.ENDPOINTS,
        *stream.endpoints(streams),
    )


def _application(
    service: Service,
    token: str,
    metrics: Callable[[], bytes],
    settings: ApiSettings,
    version: str,
    alive: Callable[[], str | None],
    streams: Streams,
) -> web.Application:
    application = web.Application(
        client_max_size=settings.body_limit,
        middlewares=[problem.middleware, auth.guard(token, OPEN_PATHS), _deadline(settings.request_timeout)],
    )
    routes = endpoints(streams)
    replays = Replays(settings.idempotency_keys)
    for endpoint in routes:
        application.router.add_route(
            endpoint.method, PREFIX + endpoint.path, _handler(endpoint, service, replays), name=endpoint.id
        )
    _add_probes(application, service, metrics, alive)
    _add_openapi(application, routes, version)
    application.on_response_prepare.append(_harden)
    return application


def _handler(endpoint: Endpoint, service: Service, replays: Replays) -> Handler:
    if endpoint.stream is not None:
        serve = endpoint.stream

        async def streamed(request: web.Request) -> web.StreamResponse:
            reading.check_query(request, endpoint.parameters)
            return await serve(request, service)

        return streamed

    async def answered(request: web.Request) -> web.StreamResponse:
        reading.check_query(request, endpoint.parameters)
        answer, replayed = await _respond(endpoint, request, service, replays)
        response = _json(answer)
        if replayed:
            response.headers["Idempotent-Replayed"] = "true"
        return response

    return answered


async def _respond(endpoint: Endpoint, request: web.Request, service: Service, replays: Replays) -> tuple[Answer, bool]:
    respond = endpoint.respond
    if respond is None:
        raise TypeError(f"{endpoint.id} has neither respond nor stream")
    run: Callable[[], Awaitable[Answer]] = functools.partial(respond, request, service)
    key = reading.idempotency_key(request) if IDEMPOTENCY_KEY in endpoint.parameters else None
    if key is None:
        return await run(), False
    asked = idempotency.fingerprint(request.method, request.path, reading.if_match(request), await request.read())
    return await replays.once(key, asked, run)


def _json(answer: Answer) -> web.Response:
    headers = {} if answer.version is None else {"ETag": f'"{answer.version}"'}
    body = msgspec.json.encode(answer.value)
    return web.Response(body=body, status=answer.status, content_type="application/json", headers=headers)


def _deadline(seconds: float) -> Middleware:
    """Every request that is not a stream ends within `seconds`; a body that drips in ends with it."""

    @web.middleware
    async def within(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == f"{PREFIX}/events":
            return await handler(request)
        with anyio.fail_after(seconds):
            return await handler(request)

    return within


def _add_probes(
    application: web.Application,
    service: Service,
    metrics: Callable[[], bytes],
    alive: Callable[[], str | None],
) -> None:
    async def healthz(request: web.Request) -> web.Response:
        reason = alive()
        return _probe((reason,) if reason else ())

    async def readyz(request: web.Request) -> web.Response:
        return _probe(await service.unready())

    async def exposition(request: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", exposition)


def _probe(reasons: Sequence[str]) -> web.Response:
    if not reasons:
        return web.json_response({"ok": True})
    return web.json_response({"ok": False, "reasons": list(reasons)}, status=503)


def _add_openapi(application: web.Application, routes: Sequence[Endpoint], version: str) -> None:
    encoded = functools.cache(lambda: msgspec.json.encode(openapi.document(routes, version)))

    async def described(request: web.Request) -> web.Response:
        return web.Response(body=encoded(), content_type="application/json")

    application.router.add_get(f"{PREFIX}/openapi.json", described)


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value
