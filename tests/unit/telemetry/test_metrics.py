from __future__ import annotations

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.settings import TelemetrySettings
from fleet.telemetry.metrics import LagSampler, Metrics

NAMES = {
    "fleet_drift_detect_seconds",
    "fleet_drift_heal_seconds",
    "fleet_watch_events",
    "fleet_watch_streams",
    "fleet_cluster_observation_age_seconds",
    "fleet_apply_seconds",
    "fleet_applies",
    "fleet_rollout_state",
    "fleet_wave_seconds",
    "fleet_event_loop_lag_seconds",
    "fleet_queue_depth",
    "fleet_source_fetch_seconds",
    "fleet_render_seconds",
    "fleet_managed_objects",
    "fleet_build_info",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_name_of_the_contract_is_there_from_the_start() -> None:
    families = text_string_to_metric_families(Metrics(process=False).render().decode())
    assert {family.name for family in families if not family.name.endswith("_created")} == NAMES


def test_process_metrics_are_there_for_a_process() -> None:
    assert samples(Metrics())["process_resident_memory_bytes", ()] > 1_000_000


def test_what_is_counted_is_told() -> None:
    metrics = Metrics(process=False)
    metrics.watch_events.unchanged += 3
    metrics.watch_events.suspect += 1
    metrics.applies["failed"].inc()
    metrics.drift_heal_seconds.observe(0.03)
    found = samples(metrics)
    assert found["fleet_watch_events_total", (("result", "unchanged"),)] == 3
    assert found["fleet_watch_events_total", (("result", "suspect"),)] == 1
    assert found["fleet_watch_events_total", (("result", "echo"),)] == 0
    assert found["fleet_applies_total", (("result", "failed"),)] == 1
    assert found["fleet_applies_total", (("result", "applied"),)] == 0
    assert found["fleet_drift_heal_seconds_bucket", (("le", "0.02"),)] == 0
    assert found["fleet_drift_heal_seconds_bucket", (("le", "0.05"),)] == 1


def test_what_exists_elsewhere_is_looked_up_at_each_scrape() -> None:
    metrics = Metrics(process=False)
    ages: dict[tuple[str, ...], float] = {("prod-eu1",): 0.4}
    metrics.looked.observation_ages = lambda: ages
    metrics.looked.managed_objects = lambda: 110
    metrics.looked.rollout_states = lambda: {("shop", "Blocked"): 1}
    metrics.looked.queue_depths = lambda: {("prod-eu1",): 2}
    first = samples(metrics)
    assert first["fleet_cluster_observation_age_seconds", (("cluster", "prod-eu1"),)] == 0.4
    assert first["fleet_managed_objects", ()] == 110
    assert first["fleet_rollout_state", (("bundle", "shop"), ("state", "Blocked"))] == 1
    assert first["fleet_queue_depth", (("queue", "prod-eu1"),)] == 2
    ages.clear()
    assert not [name for name, _ in samples(metrics) if name == "fleet_cluster_observation_age_seconds"]


def test_two_control_planes_in_one_process_do_not_mix() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.applies["applied"].inc()
    assert samples(other)["fleet_applies_total", (("result", "applied"),)] == 0


@pytest.mark.anyio
async def test_lag_is_what_the_loop_was_late() -> None:
    now, seen = [100.0], []
    late = iter([0.0, 0.25, 3.0])
    done = anyio.Event()

    async def sleep(seconds: float) -> None:
        try:
            now[0] += seconds + next(late)
        except StopIteration:
            done.set()
            await anyio.sleep_forever()

    sampler = LagSampler(TelemetrySettings(), lambda lag: seen.append(round(lag, 6)), sleep=sleep, clock=lambda: now[0])
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        await done.wait()
        group.cancel_scope.cancel()
    assert seen == [0.0, 0.25, 3.0]
