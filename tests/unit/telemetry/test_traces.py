"""Spans over a real socket to a collector that speaks OTLP/HTTP."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fleet.errors import InvalidInput
from fleet.settings import TelemetrySettings
from fleet.telemetry import traces
from fleet.telemetry.spans import Link, Mark, Span, derive_span_id, derive_trace_id

SPAN = Span(
    name="cluster.apply",
    trace_id="0" * 31 + "a",
    span_id="00000000000000b1",
    parent_id="00000000000000c1",
    start=1000.25,
    end=1001.5,
    attributes={"k8s.cluster.name": "qa-1", "fleet.objects.total": 110, "fleet.revisions": ("a=1", "b=2"), "ok": True},
    marks=(Mark("approve", 1000.5, {"fleet.actor": "bob"}),),
    links=(Link("0" * 31 + "d", "00000000000000e1"),),
    error="web: ImagePullBackOff",
)


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def opened(url: str, **settings: float) -> traces.OtlpExporter:
    chosen = TelemetrySettings(export_timeout=settings.get("export_timeout", 5.0))
    return traces.OtlpExporter.open(url + traces.TRACES_PATH, chosen, fleet="acme", version="0.1.0")


@pytest.mark.anyio
async def test_a_span_arrives_whole(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
    exporter = opened(collector.url)
    assert await exporter.export([SPAN, SPAN])
    await exporter.aclose()
    await exporter.aclose()
    ((path, request),) = collector.requests
    assert path == "/v1/traces"
    (batch,) = request.resource_spans
    described = {pair.key: pair.value.string_value for pair in batch.resource.attributes}
    assert described["service.name"] == "fleet"
    assert described["service.version"] == "0.1.0"
    assert described["service.instance.id"] == "acme"
    assert described["deployment.environment.name"] == "lab"
    span, again = batch.scope_spans[0].spans
    assert span == again
    assert (span.name, span.trace_id.hex(), span.span_id.hex()) == (SPAN.name, SPAN.trace_id, SPAN.span_id)
    assert span.parent_span_id.hex() == SPAN.parent_id
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000_250_000_000, 1_001_500_000_000)
    attributes = {pair.key: pair.value for pair in span.attributes}
    assert attributes["fleet.objects.total"].int_value == 110
    assert attributes["ok"].bool_value is True
    assert [v.string_value for v in attributes["fleet.revisions"].array_value.values] == ["a=1", "b=2"]
    assert [(event.name, event.time_unix_nano) for event in span.events] == [("approve", 1_000_500_000_000)]
    assert [link.trace_id.hex() for link in span.links] == ["0" * 31 + "d"]
    assert (span.status.code, span.status.message) == (2, "web: ImagePullBackOff")


@pytest.mark.anyio
async def test_the_environment_may_rename_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "fleet-emea")
    exporter = opened(collector.url)
    assert await exporter.export([SPAN])
    await exporter.aclose()
    described = collector.requests[0][1].resource_spans[0].resource.attributes
    assert [pair.value.string_value for pair in described if pair.key == "service.name"] == ["fleet-emea"]


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 404, 413, 500])
async def test_a_refusal_is_an_answer_and_no_error(collector: Collector, status: int) -> None:
    collector.status = status
    exporter = opened(collector.url, export_timeout=0.3)
    assert not await exporter.export([SPAN])
    collector.status = 200
    assert await exporter.export([SPAN])
    await exporter.aclose()
    assert not await exporter.export([SPAN])


@pytest.mark.anyio
async def test_nobody_listens(collector: Collector) -> None:
    collector.server_close()
    exporter = opened(collector.url, export_timeout=0.2)
    assert not await exporter.export([SPAN])
    await exporter.aclose()


def test_where_traces_go() -> None:
    assert traces.endpoint({}, None) is None
    assert traces.endpoint({}, "http://otel:4318") == "http://otel:4318/v1/traces"
    assert traces.endpoint({}, "http://otel:4318/") == "http://otel:4318/v1/traces"
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://base/otlp"}
    assert traces.endpoint(base, "http://otel:4318") == "https://base/otlp/v1/traces"
    whole = base | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://own:9/here"}
    assert traces.endpoint(whole, None) == "http://own:9/here"
    assert traces.endpoint(whole | {"OTEL_SDK_DISABLED": "True"}, "http://x") is None
    assert traces.endpoint(whole | {"OTEL_TRACES_EXPORTER": "none"}, "http://x") is None


@pytest.mark.parametrize("url", ["otel:4317", "ftp://x", "http://", "http://x:notaport", "http://ada:hunter2@:1"])
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"telemetry\.otlp\.endpoint is not the http or https URL") as caught:
        traces.endpoint({}, url)
    assert "hunter2" not in str(caught.value)


def test_ids_follow_from_what_they_name() -> None:
    one = derive_span_id("t", "wave", "qa")
    assert one == derive_span_id("t", "wave", "qa")
    others = {
        derive_span_id("u", "wave", "qa"),
        derive_span_id("t", "bake", "qa"),
        derive_span_id("t", "wave", "prod"),
        derive_span_id("t", "wave", "qa", "qa-1"),
        derive_span_id("t", "wave", "qa", attempt=1),
        derive_span_id("t", "wave", "", "qa"),
    }
    assert len(others | {one}) == 7
    assert (len(one), len(derive_trace_id("acme", "shop-1"))) == (16, 32)


def test_without_an_endpoint_opentelemetry_is_never_loaded() -> None:
    program = (
        "import sys\nimport fleet.telemetry.traces, fleet.telemetry.follow, fleet.telemetry.logs\n"
        "assert fleet.telemetry.traces.endpoint({}, None) is None\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('opentelemetry', 'google', 'requests')])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
