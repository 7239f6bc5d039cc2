"""A real trace backend on loopback: Jaeger all-in-one with memory storage, OTLP/HTTP in, its query API out."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.testbed import build, ports, processes
from tests.testbed.errors import NotReady, PortTaken
from tests.testbed.processes import Process

_READY_SECONDS = 60
_PORT_TRIES = 4
_LISTENERS = (
    "admin.http.host-port",
    "query.http-server.host-port",
    "collector.otlp.http.host-port",
    "collector.otlp.grpc.host-port",
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "query.grpc-server.host-port",
    "http-server.host-port",
    "processor.jaeger-binary.server-host-port",
    "processor.jaeger-compact.server-host-port",
    "processor.zipkin-compact.server-host-port",
)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Jaeger:
    """A running Jaeger. `otlp_endpoint` is the base URL for OTLP/HTTP exporters (they add /v1/traces)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        program = build.binaries("jaeger")["jaeger"]
        for attempt in range(_PORT_TRIES):
            try:
                self._process = self._start(program, directory)
                return
            except PortTaken:
                if attempt == _PORT_TRIES - 1:
                    raise

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace as Jaeger's API gives them; [] when it knows none. Raises OSError."""
        try:
            with _OPENER.open(f"{self.query_url}/api/traces/{trace_id}", timeout=10) as answer:
                found = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return []
                raise
        return [span for trace in found for span in trace["spans"]]

    def wait_trace(
        self, trace_id: str, until: Callable[[list[dict[str, Any]]], bool] = bool, *, seconds: float = 30
    ) -> list[dict[str, Any]]:
        """Polls the trace until `until` holds for its spans. Raises NotReady with their names after `seconds`."""
        deadline = time.monotonic() + seconds
        while not until(spans := self.trace(trace_id)):
            if time.monotonic() > deadline:
                names = [span["operationName"] for span in spans]
                raise NotReady(f"trace {trace_id} after {seconds:.0f} s: {names}")
            time.sleep(0.05)
        return spans

    def close(self) -> None:
        self._process.kill()

    def __enter__(self) -> Jaeger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, program: Path, directory: Path) -> Process:
        chosen = ports.free(len(_LISTENERS))
        flags = [f"--{name}=127.0.0.1:{port}" for name, port in zip(_LISTENERS, chosen, strict=True)]
        admin, query, otlp, *_ = (f"http://127.0.0.1:{port}" for port in chosen)
        self.query_url, self.otlp_endpoint = query, otlp
        process = processes.launcher().spawn("jaeger", [program, *flags], directory, {"SPAN_STORAGE_TYPE": "memory"})
        try:
            process.wait_ready(lambda: _answers(admin), _READY_SECONDS)
        except NotReady:
            process.kill()
            raise
        return process


def _answers(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
