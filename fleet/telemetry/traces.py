"""Spans to a collector by OTLP over HTTP. OpenTelemetry is imported only once an endpoint is configured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from fleet.errors import InvalidInput
from fleet.settings import TelemetrySettings
from fleet.telemetry.spans import Span

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

TRACES_PATH = "/v1/traces"
NANOSECONDS = 1_000_000_000


def endpoint(environment: Mapping[str, str], configured: str | None) -> str | None:
    """The URL that traces go to; None: nowhere.

    The standard OTEL_* variables win over `configured` (`telemetry.otlp.endpoint` of fleet.yaml, a base URL). Raises
    InvalidInput for what is no http(s) URL.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    if whole := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        return _checked(whole, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
        return _checked(base, "OTEL_EXPORTER_OTLP_ENDPOINT").rstrip("/") + TRACES_PATH
    if configured:
        return _checked(configured, "telemetry.otlp.endpoint").rstrip("/") + TRACES_PATH
    return None


def _checked(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        # The URL itself may hold credentials, so it is not repeated.
        raise InvalidInput(f"{where} is not the http or https URL of an OTLP/HTTP collector (usually port 4318)")
    return url


class OtlpExporter:
    """One collector. Sends are made one after the other, each in a worker thread and with a deadline."""

    def __init__(self, exporter: OTLPSpanExporter, settings: TelemetrySettings, resource: Mapping[str, str]) -> None:
        self._exporter = exporter
        self._settings = settings
        self._convert = _Converter(resource)
        self._turn = anyio.CapacityLimiter(1)
        self._closed = False

    @classmethod
    def open(cls, url: str, settings: TelemetrySettings, *, fleet: str, version: str) -> OtlpExporter:
        """`fleet` and `version` describe this control plane to the collector; OTEL_RESOURCE_ATTRIBUTES adds to it."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # It logs each failed attempt; who exports tells of an outage once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(endpoint=url, timeout=settings.export_timeout)
        # The SDK would choose an instance id at random: then a span told again after a restart were another one.
        resource = {"service.name": "fleet", "service.version": version, "service.instance.id": fleet}
        return cls(exporter, settings, resource)

    async def export(self, spans: Sequence[Span]) -> bool:
        """See `spans.Exporter`."""
        if self._closed:
            return False
        batch = [self._convert.span(span) for span in spans]
        # The request has its own deadline; this one is for a thread that the operating system keeps waiting.
        with anyio.move_on_after(2 * self._settings.export_timeout):
            answer = await anyio.to_thread.run_sync(
                self._exporter.export, batch, limiter=self._turn, abandon_on_cancel=True
            )
            return answer.value == 0
        return False

    async def aclose(self) -> None:
        """Ends a send that is being retried; idempotent."""
        if not self._closed:
            self._closed = True
            with anyio.move_on_after(self._settings.flush_timeout, shield=True):
                await anyio.to_thread.run_sync(self._exporter.shutdown, abandon_on_cancel=True)


class _Converter:
    """Our values as the SDK's finished spans."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        named = dict(resource)
        # What OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say wins; the SDK would let ours win.
        if not str(Resource.create().attributes["service.name"]).startswith("unknown_service"):
            del named["service.name"]
        self._resource = Resource.create(named)
        self._scope = InstrumentationScope("fleet")

    def span(self, span: Span) -> ReadableSpan:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import Status, StatusCode

        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id),
            parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(m.name, dict(m.attributes), _nanoseconds(m.time)) for m in span.marks],
            links=[trace.Link(_context(link.trace_id, link.span_id), dict(link.attributes)) for link in span.links],
            kind=trace.SpanKind.INTERNAL,
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=_nanoseconds(span.start),
            # A clock that was set back must not make a span end before it began.
            end_time=_nanoseconds(max(span.start, span.end)),
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
