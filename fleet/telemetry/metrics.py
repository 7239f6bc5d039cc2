"""Metrics for Prometheus, by the names of the outside contract; seconds and bytes.

Made to cost nothing where it is hot: what happens thousands of times a second is a plain integer that is read at a
scrape, labels are bound once, and what can be looked up (ages, depths, states) is looked up at a scrape.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import anyio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.settings import TelemetrySettings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAST = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: requests and reactions."""
SLOW = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds: waves."""

APPLY_RESULTS = ("applied", "failed", "errored")

Labelled = Mapping[tuple[str, ...], float]
"""Values by their labels, in the order of the metric's label names."""


class WatchCounts:
    """What became of watch events; counted by plain addition, as it happens for each of them."""

    __slots__ = ("echo", "ignored", "suspect", "unchanged")

    def __init__(self) -> None:
        self.ignored = 0
        """Not ours."""
        self.echo = 0
        """Of our own write."""
        self.unchanged = 0
        """Nothing that we own changed."""
        self.suspect = 0
        """To be confirmed by a dry-run."""


class Looked:
    """Where the values come from that are read at a scrape; replaced by who has them."""

    def __init__(self) -> None:
        self.watch_streams: Callable[[], float] = float
        self.managed_objects: Callable[[], float] = float
        self.observation_ages: Callable[[], Labelled] = dict
        """(cluster,) → seconds since anything was seen of it."""
        self.rollout_states: Callable[[], Labelled] = dict
        """(bundle, state) → number of rollouts that have not ended."""
        self.queue_depths: Callable[[], Labelled] = dict
        """(queue,) → entries."""


class Metrics:
    """Everything that one control plane measures."""

    def __init__(self, *, process: bool = True) -> None:
        """`process` adds memory, CPU and descriptors of this process."""
        self._registry = CollectorRegistry()
        self.watch_events = WatchCounts()
        self.looked = Looked()
        self.drift_detect_seconds = self._histogram(
            "fleet_drift_detect_seconds", "From the change, or its event, to the verdict."
        )
        self.drift_heal_seconds = self._histogram(
            "fleet_drift_heal_seconds", "From the change, or its event, to the repair."
        )
        self.apply_seconds = self._histogram(
            "fleet_apply_seconds", "One pass over all objects of a bundle on a cluster."
        )
        self.source_fetch_seconds = self._histogram("fleet_source_fetch_seconds", "Fetching a commit of a source.")
        self.render_seconds = self._histogram("fleet_render_seconds", "Rendering a bundle for all its clusters.")
        self.wave_seconds = self._histogram("fleet_wave_seconds", "From the start of a wave to its end.", SLOW)
        self.loop_lag_seconds = self._histogram(
            "fleet_event_loop_lag_seconds", "How late the event loop runs what is due."
        )
        applies = Counter(
            "fleet_applies_total", "Passes over a bundle on a cluster.", ["result"], registry=self._registry
        )
        self.applies: dict[str, Counter] = {result: applies.labels(result) for result in APPLY_RESULTS}
        """By result: applied; failed (the manifests are wrong); errored (tried again)."""
        self.build = Gauge("fleet_build_info", "Always 1.", ["version"], registry=self._registry)
        self._registry.register(_AtScrape(self.watch_events, self.looked))
        if process:
            ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The whole in the text format of Prometheus (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = FAST) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)


class _AtScrape(Collector):
    """Values that exist elsewhere anyway."""

    def __init__(self, events: WatchCounts, looked: Looked) -> None:
        self._events = events
        self._looked = looked

    def collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily("fleet_watch_events", "What became of watch events.", labels=["result"])
        for result in WatchCounts.__slots__:
            events.add_metric([result], getattr(self._events, result))
        yield events
        looked = self._looked
        yield GaugeMetricFamily("fleet_watch_streams", "Open watch streams.", looked.watch_streams())
        yield GaugeMetricFamily("fleet_managed_objects", "Objects that are watched over.", looked.managed_objects())
        yield _gauge(
            "fleet_cluster_observation_age_seconds",
            "Time since anything was seen of a cluster.",
            ("cluster",),
            looked.observation_ages(),
        )
        yield _gauge("fleet_rollout_state", "Rollouts under way.", ("bundle", "state"), looked.rollout_states())
        yield _gauge("fleet_queue_depth", "Entries that wait.", ("queue",), looked.queue_depths())


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


class LagSampler:
    """Measures how late the event loop wakes a sleeper; one task runs it."""

    def __init__(
        self,
        settings: TelemetrySettings,
        observe: Callable[[float], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = settings.lag_interval
        self._observe = observe
        self._sleep = sleep
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = self._clock() + self._interval
            await self._sleep(self._interval)
            self._observe(max(0.0, self._clock() - due))
