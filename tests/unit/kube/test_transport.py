"""A cluster that refuses, is silent, drips, cuts, lies or floods: what a request becomes, how often it is sent."""

from __future__ import annotations

import gzip
import ssl
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

import fleet
from fleet.errors import FleetError, NotFound, Rejected, Unauthorized, Unavailable
from fleet.kube.access import Access
from fleet.kube.bounds import Bounds, Rates
from fleet.kube.gate import TooLarge
from fleet.kube.transport import Answer, Call, Transport
from tests.testbed.certs import Authority
from tests.unit.kube.conftest import QUICK, MakeTransport, bounds
from tests.unit.kube.server import Reply, Request, Server, serving

pytestmark = pytest.mark.anyio

LIMIT = 1 << 20
CALL = Call("GET", "/api/v1/nodes")
VERSION = {"gitVersion": "v1.36.3"}


def rates(**changes: float) -> Bounds:
    return msgspec.structs.replace(QUICK, rates=msgspec.structs.replace(Rates(), **changes))


async def well(request: Request, reply: Reply) -> None:
    await reply.json(VERSION)


async def silent(request: Request, reply: Reply) -> None:
    await anyio.sleep_forever()


async def refuse_tokens(request: Request, reply: Reply) -> None:
    await reply.json({"kind": "Status", "code": 401, "message": "Unauthorized"}, 401)


async def ask(transport: Transport, call: Call = CALL, limit: int = LIMIT) -> Answer:
    return await transport.request(call, limit)


# --- requests --------------------------------------------------------------------------------------------------------


async def test_a_request_is_what_an_api_server_expects(transport_to: MakeTransport) -> None:
    call = Call(
        "PATCH", "/api/v1/namespaces/n/configmaps/a:b?#", {"fieldManager": "fleet-x", "q": "a=b,c in (d)"}, b"{}", "x/y"
    )
    async with serving(well) as server:
        transport = transport_to(read=lambda: Access(server.url + "/k8s/c-1", authorization="Bearer t"))
        answer = await ask(transport, call)
    request = server.requests[0]
    assert msgspec.json.decode(answer.body) == VERSION
    assert (request.method, request.path) == ("PATCH", "/k8s/c-1/api/v1/namespaces/n/configmaps/a:b?#")
    assert request.query == {"fieldManager": "fleet-x", "q": "a=b,c in (d)"}
    assert request.headers["user-agent"] == f"fleet/{fleet.__version__}"
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["content-type"] == "x/y"
    assert request.body == b"{}"


async def test_connections_are_kept(transport_to: MakeTransport) -> None:
    async with serving(well) as server:
        transport = transport_to(server.url)
        for _ in range(5):
            await ask(transport)
    assert server.connections == 1


async def test_requests_share_a_bounded_pool_and_watches_do_not_fill_it(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if "watch" in request.query:
            await reply.stream()
            await anyio.sleep_forever()
        await reply.json(VERSION)

    async with serving(handler) as server:
        transport = transport_to(server.url, limits=rates(connections=2))
        streams = [await transport.open(Call("GET", "/x", {"watch": "true"})) for _ in range(10)]
        assert transport.statistics.streams == 10
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask, transport)
        for stream in streams:
            stream.close()
            stream.close()
        assert transport.statistics.streams == 0
        assert transport.statistics.requests == 30
    assert server.connections <= 12


async def test_a_compressed_answer_counts_by_what_it_becomes(transport_to: MakeTransport) -> None:
    bomb = gzip.compress(b"x" * 10_000_000)

    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(bomb, content_type="application/json", Content_Encoding="gzip")

    async with serving(handler) as server:
        transport = transport_to(server.url)
        with pytest.raises(TooLarge, match="more than 1048576 bytes"):
            await ask(transport)
        assert len((await ask(transport, limit=10_000_000)).body) == 10_000_000
        assert transport.statistics.answers == "closed"


# --- failures --------------------------------------------------------------------------------------------------------


async def test_nobody_listens(transport_to: MakeTransport) -> None:
    async with serving(well) as server:
        url = server.url
    with pytest.raises(Unavailable, match="qa did not answer GET /api/v1/nodes: cannot connect"):
        await ask(transport_to(url))


async def test_a_server_that_is_silent(transport_to: MakeTransport) -> None:
    async with serving(silent) as server:
        with pytest.raises(Unavailable, match=r"within 0\.05 s"):
            await ask(transport_to(server.url, limits=bounds(request=0.05)))
        with pytest.raises(Unavailable, match=r"within 0\.05 s"):
            await transport_to(server.url, limits=bounds(request=0.05)).open(CALL)


async def test_a_server_that_takes_connections_and_never_speaks_tls(transport_to: MakeTransport) -> None:
    authority = Authority("qa CA")
    async with serving(silent) as server:
        url = server.url.replace("http:", "https:")
        transport = transport_to(read=lambda: Access(url, authority.certificate), limits=bounds(connect=0.1))
        with pytest.raises(Unavailable, match="not made in time"):
            await ask(transport)


async def test_an_answer_that_drips(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.stream()
        while True:
            await reply.chunk(b" ")
            await anyio.sleep(0.005)

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match="within"):
            await ask(transport_to(server.url, limits=bounds(request=0.1)))


async def test_an_answer_that_is_cut(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.stream()
        await reply.chunk(b'{"half":')
        await reply.cut()

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match="cut off"):
            await ask(transport_to(server.url))


@pytest.mark.parametrize("nonsense", [b"220 smtp ready\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 abc\r\n\r\n"])
async def test_a_server_that_speaks_something_else(transport_to: MakeTransport, nonsense: bytes) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.raw(nonsense)
        await reply.cut()

    async with serving(handler) as server:
        with pytest.raises(Unavailable):
            await ask(transport_to(server.url))


@pytest.mark.parametrize("code", [302, 400, 403, 404, 502, 503])
async def test_a_proxys_page_says_nothing_about_the_cluster(transport_to: MakeTransport, code: int) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(b"<html>gateway</html>", code, Location="http://127.0.0.1:1/login")

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match=str(code)):
            await ask(transport_to(server.url))
    assert len(server.requests) == 1


async def test_a_refusal_is_translated(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if request.path.endswith("/absent"):
            await reply.json({"kind": "Status", "code": 404, "message": "x", "details": {"name": "absent"}}, 404)
            return
        await reply.json({"kind": "Status", "code": 409, "message": "x", "reason": "Conflict"}, 409)

    async with serving(handler) as server:
        transport = transport_to(server.url)
        with pytest.raises(NotFound):
            await ask(transport, Call("GET", "/absent"))
        with pytest.raises(Rejected) as caught:
            await ask(transport)
    assert (caught.value.kind, caught.value.reason) == ("conflict", "Conflict")


@pytest.mark.parametrize("path", ["/api/v1/namespaces/n/secrets", "/api/v1/namespaces/n/secrets/a"])
async def test_a_refused_secret_is_not_quoted(transport_to: MakeTransport, path: str) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.json({"kind": "Status", "code": 422, "message": "Invalid value: hunter2"}, 422)

    async with serving(handler) as server:
        with pytest.raises(Rejected) as caught:
            await ask(transport_to(server.url), Call("PATCH", path, body=b"{}"))
    assert "hunter2" not in str(caught.value)


async def test_a_refusal_without_an_end_is_cut_short(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.stream(500)
        while True:
            await reply.chunk(b"x" * 65536)

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match="500"):
            await ask(transport_to(server.url))


# --- repetition ------------------------------------------------------------------------------------------------------


async def stale_after_first(request: Request, reply: Reply, seen: list[int]) -> None:
    """Answers the first request of the first connection and closes it on the second, as an idle time-out would."""
    seen.append(1)
    if len(seen) == 2:
        await reply.cut()
    else:
        await reply.json(VERSION)


@pytest.mark.parametrize(("call", "sent"), [(CALL, 3), (Call("PATCH", "/x", body=b"{}"), 3)])
async def test_a_connection_that_was_closed_meanwhile_is_replaced(
    transport_to: MakeTransport, call: Call, sent: int
) -> None:
    seen: list[int] = []
    async with serving(lambda request, reply: stale_after_first(request, reply, seen)) as server:
        transport = transport_to(server.url)
        await ask(transport, call)
        await ask(transport, call)
    assert len(server.requests) == sent


async def test_a_creation_is_not_sent_twice(transport_to: MakeTransport) -> None:
    seen: list[int] = []
    call = Call("POST", "/x", body=b"{}", repeatable=False)
    async with serving(lambda request, reply: stale_after_first(request, reply, seen)) as server:
        transport = transport_to(server.url)
        await ask(transport, call)
        with pytest.raises(Unavailable, match="closed the connection"):
            await ask(transport, call)
    assert len(server.requests) == 2


async def test_429_with_retry_after_is_waited_for(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if len(server.requests) < 3:
            await reply.body(b"wait", 429, Retry_After="0")
        else:
            await reply.json(VERSION)

    async with serving(handler) as server:
        await ask(transport_to(server.url))
    assert len(server.requests) == 3


@pytest.mark.parametrize("header", [{}, {"Retry_After": "60"}, {"Retry_After": "soon"}])
async def test_429_that_cannot_be_waited_for_is_told(transport_to: MakeTransport, header: dict[str, str]) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(b"wait", 429, **header)

    async with serving(handler) as server:
        with pytest.raises(Rejected) as caught:
            await ask(transport_to(server.url))
    assert caught.value.kind == "transient"
    assert caught.value.retry_after == (60.0 if header.get("Retry_After") == "60" else None)
    assert len(server.requests) == 1


# --- credentials -----------------------------------------------------------------------------------------------------


async def by_token(request: Request, reply: Reply) -> None:
    if request.headers.get("authorization") == "Bearer new":
        await reply.json(VERSION)
    else:
        await refuse_tokens(request, reply)


async def test_credentials_that_expired_are_renewed_once_for_all(transport_to: MakeTransport) -> None:
    reads: list[str] = []

    def read() -> Access:
        reads.append("old" if not reads else "new")
        return Access(server.url, authorization=f"Bearer {reads[-1]}")

    async with serving(by_token) as server:
        transport = transport_to(read=read)
        async with anyio.create_task_group() as tasks:
            for _ in range(90):
                tasks.start_soon(ask, transport)
        assert reads == ["old", "new"]
        assert transport.statistics.credentials == "closed"


async def test_credentials_that_stay_refused_are_left_alone(transport_to: MakeTransport) -> None:
    async with serving(refuse_tokens) as server:
        transport = transport_to(read=lambda: Access(server.url, authorization="Bearer old"), limits=rates(refusals=3))
        for _ in range(20):
            with pytest.raises(Unauthorized):
                await ask(transport)
        assert len(server.requests) == 3
        assert transport.statistics.credentials == "open"
        assert transport.statistics.answers == "closed"


async def test_a_token_is_in_no_error(transport_to: MakeTransport) -> None:
    async with serving(refuse_tokens) as server:
        transport = transport_to(read=lambda: Access(server.url, authorization="Bearer canary"))
        with pytest.raises(Unauthorized) as caught:
            await ask(transport)
    assert "canary" not in str(caught.value)


# --- breaker and rate ------------------------------------------------------------------------------------------------


async def test_a_dead_cluster_is_asked_ever_more_rarely(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(b"", 503)

    async with serving(handler) as server:
        transport = transport_to(server.url, limits=rates(failures=4, pause=600.0, pause_cap=600.0))
        messages = []
        for _ in range(1000):
            with pytest.raises(Unavailable) as caught:
                await transport.open(CALL)
            messages.append(str(caught.value))
    assert len(server.requests) == 4
    assert "does not answer" in messages[-1]
    assert "503" in messages[-1]


async def test_a_cluster_that_comes_back_is_used_again(transport_to: MakeTransport) -> None:
    state = {"up": False}

    async def handler(request: Request, reply: Reply) -> None:
        if state["up"]:
            await reply.json(VERSION)
        else:
            await reply.body(b"", 503)

    async with serving(handler) as server:
        transport = transport_to(server.url, limits=rates(failures=1, pause=0.001, pause_cap=0.001))
        with pytest.raises(Unavailable):
            await ask(transport)
        before = transport.statistics.answers
        state["up"] = True
        for _ in range(1000):
            try:
                await transport.answering()
                break
            except Unavailable:
                await anyio.sleep(0.001)
        assert (before, transport.statistics.answers) == ("open", "closed")


async def test_a_cancelled_probe_does_not_keep_the_breaker_half_open(transport_to: MakeTransport) -> None:
    async with serving(silent) as server:
        limits = msgspec.structs.replace(
            bounds(request=0.2), rates=msgspec.structs.replace(Rates(), failures=1, pause=0.001, pause_cap=0.001)
        )
        transport = transport_to(server.url, limits=limits)
        with pytest.raises(Unavailable):
            await ask(transport)
        await anyio.sleep(0.002)
        with anyio.move_on_after(0.005):
            await ask(transport)
        server.handler = well
        for _ in range(1000):
            try:
                await ask(transport)
                break
            except Unavailable:
                await anyio.sleep(0.001)
        assert transport.statistics.answers == "closed"


async def test_refusals_do_not_open_the_breaker(transport_to: MakeTransport) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.json({"kind": "Status", "code": 500, "message": "boom"}, 500)

    async with serving(handler) as server:
        transport = transport_to(server.url, limits=rates(failures=2))
        for _ in range(10):
            with pytest.raises(Rejected):
                await ask(transport)
    assert len(server.requests) == 10


async def test_too_many_waiting_requests_are_refused_unsent(transport_to: MakeTransport) -> None:
    results: list[FleetError | Answer] = []

    async def one(transport: Transport) -> None:
        try:
            results.append(await ask(transport))
        except FleetError as error:
            results.append(error)

    async with serving(well) as server:
        limits = msgspec.structs.replace(
            bounds(queue=0.0), rates=msgspec.structs.replace(Rates(), per_second=0.001, burst=5)
        )
        transport = transport_to(server.url, limits=limits)
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(one, transport)
    assert len(server.requests) == 5
    assert sum(isinstance(result, Unavailable) for result in results) == 25


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> Authority:
    return Authority("qa CA")


@pytest.fixture
def server_tls(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    """A server certificate for `kubernetes` and 127.0.0.1 that asks for a client certificate of the same CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server(("kubernetes",), ("127.0.0.1",)).write(tmp_path, "server"))
    context.load_verify_locations(cadata=authority.certificate.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def over_tls(server: Server, transport_to: MakeTransport, access: Access) -> Answer:
    return await ask(transport_to(read=lambda: access))


async def test_both_sides_prove_who_they_are(
    transport_to: MakeTransport, authority: Authority, server_tls: ssl.SSLContext
) -> None:
    pair = authority.client("fleet")
    async with serving(well, server_tls) as server:
        access = Access(server.url, authority.certificate, certificate=pair.certificate, key=pair.key)
        assert (await over_tls(server, transport_to, access)).status == 200
        by_name = msgspec.structs.replace(access, server_name="kubernetes")
        assert (await over_tls(server, transport_to, by_name)).status == 200


class Proxy:
    """An HTTP proxy that joins a client with whom it names in CONNECT, or refuses to."""

    def __init__(self, refuses: bool = False) -> None:
        self.asked: list[str] = []
        self._refuses = refuses

    async def serve(self, near: ByteStream) -> None:
        buffered = BufferedByteReceiveStream(near)
        head = (await buffered.receive_until(b"\r\n\r\n", 65536)).decode()
        self.asked.append(head)
        async with near:
            if self._refuses:
                await near.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = head.split(" ")[1].partition(":")
            async with await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as both:
                await near.send(b"HTTP/1.1 200 Joined\r\n\r\n")
                both.start_soon(self._pump, near, far)
                both.start_soon(self._pump, far, near)

    async def _pump(self, source: ByteStream, sink: ByteStream) -> None:
        try:
            async for data in source:
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            await anyio.aclose_forcefully(sink)


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_proxy_is_passed_and_its_password_is_in_no_error(
    transport_to: MakeTransport, authority: Authority, server_tls: ssl.SSLContext, refuses: bool
) -> None:
    pair, proxy = authority.client("fleet"), Proxy(refuses)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        serving(well, server_tls) as server,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, proxy.serve)
        address = f"http://user:hunter2@127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        access = Access(server.url, authority.certificate, proxy=address, certificate=pair.certificate, key=pair.key)
        if refuses:
            with pytest.raises(Unavailable, match="proxy") as caught:
                await over_tls(server, transport_to, access)
            assert "hunter2" not in str(caught.value)
        else:
            assert (await over_tls(server, transport_to, access)).status == 200
        tasks.cancel_scope.cancel()
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")


async def test_another_authority_is_not_believed(
    transport_to: MakeTransport, authority: Authority, server_tls: ssl.SSLContext
) -> None:
    pair = authority.client("fleet")
    async with serving(well, server_tls) as server:
        stranger = Access(server.url, Authority("else").certificate, certificate=pair.certificate, key=pair.key)
        with pytest.raises(Unavailable, match="certificate is not valid"):
            await over_tls(server, transport_to, stranger)
        other_name = Access(
            server.url, authority.certificate, "prod.example", certificate=pair.certificate, key=pair.key
        )
        with pytest.raises(Unavailable, match="certificate is not valid"):
            await over_tls(server, transport_to, other_name)
    assert server.requests == []


async def test_a_server_that_wants_a_certificate(
    transport_to: MakeTransport, authority: Authority, server_tls: ssl.SSLContext
) -> None:
    async with serving(well, server_tls) as server:
        with pytest.raises(Unavailable):
            await over_tls(server, transport_to, Access(server.url, authority.certificate))
    assert server.requests == []
