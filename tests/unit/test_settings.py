"""The defaults are a contract with operators: a change here is a change of behaviour and belongs in the changelog."""

from __future__ import annotations

import msgspec
import pytest

from fleet import settings
from fleet.errors import InvalidInput

DEFAULTS: dict[str, dict[str, object]] = {
    "store": {
        "busy_timeout": 5.0,
        "write_timeout": 30.0,
        "write_queue": 1024,
        "readers": 2,
        "page_max": 1000,
        "event_rows": 100_000,
        "drift_rows": 20_000,
        "rollout_rows": 500,
        "release_rows": 20,
        "manifest_grace": 3600.0,
        "collect_interval": 3600.0,
        "journal_limit": 67_108_864,
    },
    "telemetry": {
        "log_level": "info",
        "log_format": "text",
        "span_batch": 512,
        "span_delay": 1.0,
        "export_timeout": 10.0,
        "flush_timeout": 3.0,
        "lag_interval": 1.0,
    },
    "kube": {
        "connect_timeout": 10.0,
        "request_timeout": 30.0,
        "stream_dead_after": 75.0,
        "credential_timeout": 30.0,
        "requests_in_flight": 16,
        "requests_per_second": 400,
        "requests_burst": 100,
        "list_page": 500,
        "concurrent_lists": 16,
        "response_limit": 67_108_864,
        "event_limit": 4_194_304,
    },
    "git": {
        "resolve_timeout": 30.0,
        "fetch_timeout": 300.0,
        "local_timeout": 60.0,
        "concurrent_fetches": 4,
        "export_limit": 268_435_456,
    },
    "render": {
        "kustomize": "kustomize",
        "timeout": 60.0,
        "concurrent": 2,
        "input_limit": 33_554_432,
        "output_limit": 67_108_864,
        "objects_max": 20_000,
    },
    "engine": {
        "unknown_after": 75.0,
        "retry_base": 0.5,
        "retry_cap": 60.0,
        "concurrent_applies": 8,
        "queue": 100_000,
        "stop_timeout": 10.0,
    },
    "api": {
        "body_limit": 1_048_576,
        "request_timeout": 30.0,
        "stream_queue": 1024,
        "streams": 256,
        "keepalive": 15.0,
        "idempotency_keys": 10_000,
    },
}


def test_defaults() -> None:
    assert msgspec.to_builtins(settings.load({})) == DEFAULTS


def test_defaults_are_within_their_own_bounds() -> None:
    assert msgspec.convert(DEFAULTS, settings.Settings) == settings.Settings()


def test_the_environment_overrides_single_values() -> None:
    loaded = settings.load({"FLEET_STORE_BUSY_TIMEOUT": "0.5", "FLEET_TELEMETRY_LOG_FORMAT": "json", "HOME": "/"})
    assert loaded.store.busy_timeout == 0.5
    assert loaded.telemetry.log_format == "json"
    assert loaded.store.write_queue == DEFAULTS["store"]["write_queue"]


def test_variables_of_other_parts_are_left_alone() -> None:
    assert settings.load({"FLEET_SERVER": "http://x", "FLEET_TOKEN": "t", "FLEET_DRIFT_CASES": "a:b"}) == settings.load(
        {}
    )


def test_every_mistake_is_told_at_once() -> None:
    wrong = {"FLEET_STORE_BUSY_TIMEOT": "1", "FLEET_KUBE_LIST_PAGE": "0", "FLEET_TELEMETRY_LOG_LEVEL": "loud"}
    with pytest.raises(InvalidInput) as caught:
        settings.load(wrong)
    message = str(caught.value)
    assert "FLEET_STORE_BUSY_TIMEOT: no such setting, did you mean FLEET_STORE_BUSY_TIMEOUT?" in message
    assert "FLEET_KUBE_LIST_PAGE=0: expected `int` >= 1" in message
    assert "FLEET_TELEMETRY_LOG_LEVEL=loud: invalid enum value 'loud'" in message
