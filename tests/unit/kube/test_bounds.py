"""The deadlines and limits that production runs with, pinned."""

from __future__ import annotations

from fleet.kube import bounds
from fleet.kube.bounds import Bounds
from fleet.settings import KubeSettings


def test_defaults() -> None:
    timeouts, rates, sizes, pace = Bounds().timeouts, Bounds().rates, Bounds().sizes, Bounds().pace
    assert (timeouts.connect, timeouts.request, timeouts.dead_stream, timeouts.plugin) == (10.0, 30.0, 75.0, 30.0)
    assert timeouts.keepalive < 90.0, "a kube-apiserver closes idle connections after 90 s"
    assert (rates.per_second, rates.burst, rates.connections, rates.fleet_lists) == (400.0, 100, 16, 16)
    assert (sizes.page_objects, sizes.line) == (500, 4 << 20)
    assert (pace.shortest, pace.longest) == (300.0, 600.0)


def test_the_settings_of_an_operator_have_the_same_defaults() -> None:
    assert bounds.of(KubeSettings()) == Bounds()


def test_each_setting_reaches_its_bound() -> None:
    changed = bounds.of(
        KubeSettings(
            connect_timeout=1.5,
            request_timeout=2.5,
            stream_dead_after=3.5,
            credential_timeout=4.5,
            requests_in_flight=5,
            requests_per_second=6,
            requests_burst=7,
            list_page=8,
            concurrent_lists=9,
            response_limit=10240,
            event_limit=11264,
        )
    )
    timeouts, rates, sizes = changed.timeouts, changed.rates, changed.sizes
    assert (timeouts.connect, timeouts.request, timeouts.dead_stream, timeouts.plugin) == (1.5, 2.5, 3.5, 4.5)
    assert (rates.connections, rates.per_second, rates.burst, rates.fleet_lists) == (5, 6, 7, 9)
    assert (sizes.page_objects, sizes.page, sizes.line) == (8, 10240, 11264)
