"""Every deadline, bound and size that an operator may change, in one frozen value.

`app` reads it once at the start and hands each part its group; nothing below `app` reads the environment for it. A
value is overridden by `FLEET_<GROUP>_<FIELD>`, for example `FLEET_STORE_BUSY_TIMEOUT=10`. Seconds and bytes unless
said otherwise. What a user decides about the fleet stands in fleet.yaml, not here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from fleet.errors import InvalidInput

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(ge=1024, le=1 << 40)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]

KIB = 1024
MIB = 1024 * KIB

PREFIX = "FLEET_"


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedded database."""

    busy_timeout: Seconds = 5.0
    """How long a statement waits for a lock that another program holds on the database file."""
    write_timeout: Seconds = 30.0
    """How long a transaction may wait for its turn before the caller is told that the database does not keep up."""
    write_queue: Count = 1024
    """Transactions that may wait for the one writer."""
    readers: Count = 2
    """Connections that read beside the writer."""
    page_max: Count = 1000
    """Most rows that one listing answers, whatever was asked."""
    event_rows: Count = 100_000
    """Newest entries of the event log that are kept."""
    drift_rows: Count = 20_000
    """Newest closed drift records that are kept; what still differs is always kept."""
    rollout_rows: Count = 500
    """Newest rollouts per bundle that are kept."""
    release_rows: Count = 20
    """Newest rollouts per bundle whose manifests are kept for a rollback; what runs or was last good is always kept."""
    manifest_grace: Seconds = 3600.0
    """Manifests younger than this are kept although nothing refers to them yet."""
    collect_interval: Seconds = 3600.0
    """Pause between two collections of what is no longer referred to."""
    journal_limit: Bytes = 64 * MIB
    """Size that the write-ahead log is cut back to after a checkpoint."""


class TelemetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Logs, traces, metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    span_batch: Count = 512
    """Most spans of one request to the collector."""
    span_delay: Seconds = 1.0
    """How long a finished span waits for others, so that they go in one request."""
    export_timeout: Seconds = 10.0
    """One request to the collector."""
    flush_timeout: Seconds = 3.0
    """What the end of the process waits for the last spans."""
    lag_interval: Seconds = 1.0
    """Pause between two samples of the event loop's lag."""


class KubeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections to one member cluster."""

    connect_timeout: Seconds = 10.0
    request_timeout: Seconds = 30.0
    stream_dead_after: Seconds = 75.0
    """A watch without a byte for this long is reopened; bookmarks come every minute."""
    credential_timeout: Seconds = 30.0
    """One run of a kubeconfig's exec plugin."""
    requests_in_flight: Count = 16
    requests_per_second: Count = 400
    requests_burst: Count = 100
    list_page: Count = 500
    concurrent_lists: Count = 16
    """Initial lists under way at once, over all clusters."""
    response_limit: Bytes = 64 * MIB
    event_limit: Bytes = 4 * MIB


class GitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Git sources."""

    resolve_timeout: Seconds = 30.0
    fetch_timeout: Seconds = 300.0
    local_timeout: Seconds = 60.0
    """One command on the local mirror."""
    concurrent_fetches: Count = 4
    export_limit: Bytes = 256 * MIB
    """Size of the tree of one bundle source."""


class RenderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Manifests out of files."""

    kustomize: str = "kustomize"
    """The program: a name on PATH, or a path."""
    timeout: Seconds = 60.0
    """One bundle on one cluster."""
    concurrent: Count = 2
    input_limit: Bytes = 32 * MIB
    output_limit: Bytes = 64 * MIB
    objects_max: Count = 20_000


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agents."""

    unknown_after: Seconds = 75.0
    """Age at which what was last seen of a cluster no longer counts."""
    retry_base: Seconds = 0.5
    """Pause before work on a cluster that failed for a reason that may pass is tried again; doubled by each failure."""
    retry_cap: Seconds = 60.0
    concurrent_applies: Count = 8
    """Objects of one stage that are written at once, per cluster."""
    queue: Count = 100_000
    """Bundles and suspect objects of one cluster that may wait for a worker."""
    stop_timeout: Seconds = 10.0
    """What SIGTERM leaves for a clean end."""


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP server."""

    body_limit: Bytes = 1 * MIB
    request_timeout: Seconds = 30.0
    stream_queue: Count = 1024
    """Events that one slow reader may be behind before it is told to start again."""
    streams: Count = 256
    """Readers that follow the event log at once."""
    keepalive: Seconds = 15.0
    idempotency_keys: Count = 10_000
    """Answers to commands that are kept for a repeated Idempotency-Key."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    store: StoreSettings = StoreSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    kube: KubeSettings = KubeSettings()
    git: GitSettings = GitSettings()
    render: RenderSettings = RenderSettings()
    engine: EngineSettings = EngineSettings()
    api: ApiSettings = ApiSettings()


def load(environment: Mapping[str, str]) -> Settings:
    """The defaults with what the environment overrides.

    Raises InvalidInput with one sentence a variable, all of them at once: a name that belongs to a group but not to one
    of its fields, or a value out of range. Variables outside the groups (FLEET_SERVER …) are not ours to judge.
    """
    groups = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    chosen: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for name in sorted(environment):
        group, _, field = name.removeprefix(PREFIX).lower().partition("_")
        if not name.startswith(PREFIX) or not field or group not in groups:
            continue
        known = groups[group].__struct_fields__
        if field in known:
            chosen.setdefault(group, {})[field] = environment[name]
            continue
        near = difflib.get_close_matches(field, known, n=1)
        hint = f", did you mean {PREFIX}{group.upper()}_{near[0].upper()}?" if near else ""
        problems.append(f"{name}: no such setting{hint}")
    values: dict[str, object] = {}
    for group, fields in chosen.items():
        try:
            values[group] = msgspec.convert(fields, groups[group], strict=False)
        except msgspec.ValidationError as error:
            problems.append(_out_of_range(group, fields, str(error)))
    if problems:
        raise InvalidInput("; ".join(problems))
    return msgspec.convert(values, Settings, from_attributes=True)


def _out_of_range(group: str, fields: Mapping[str, str], message: str) -> str:
    reason, _, path = message.partition(" - at `$.")
    field = path.rstrip("`")
    name = f"{PREFIX}{group.upper()}_{field.upper()}"
    return f"{name}={fields.get(field, '')}: {reason[:1].lower()}{reason[1:]}"
