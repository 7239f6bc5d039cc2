"""What a rollout leaves behind for whoever looks: one trace over a kill -9, read back from a real Jaeger; metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from fleet.telemetry.spans import derive_trace_id
from tests.integration import plane_site
from tests.integration.plane import Json
from tests.integration.plane_site import Site, app, folder
from tests.testbed.cluster import Clusters
from tests.testbed.jaeger import Jaeger

pytestmark = pytest.mark.real

METRICS = {
    "fleet_drift_detect_seconds",
    "fleet_drift_heal_seconds",
    "fleet_apply_seconds",
    "fleet_source_fetch_seconds",
    "fleet_render_seconds",
    "fleet_wave_seconds",
    "fleet_event_loop_lag_seconds",
    "fleet_watch_events_total",
    "fleet_watch_streams",
    "fleet_managed_objects",
    "fleet_cluster_observation_age_seconds",
    "fleet_rollout_state",
    "fleet_queue_depth",
    "fleet_applies_total",
    "fleet_build_info",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
}

ROUNDING = 5
"""Microseconds that the two ends of a span may be off."""


@pytest.fixture(scope="module")
def site(clusters: Clusters, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_endpoint, "FLEET_TELEMETRY_SPAN_DELAY": "0.05"}
    with plane_site.site(tmp_path_factory.mktemp("traces"), clusters, environment=environment) as made:
        made.bundle("shop", "gated")
        made.push(folder("shop", app("1")))
        made.plane.start()
        made.approve(made.plane.wait_state("shop", None, "Blocked")["id"])
        made.plane.wait_state("shop", None, "Succeeded")
        yield made


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def names(spans: list[dict[str, Any]]) -> Counter[str]:
    return Counter(span["operationName"] for span in spans)


def distinct(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was sent twice, because the kill came before it was noted as sent, is the very same span."""
    known: dict[str, dict[str, Any]] = {}
    for span in spans:
        first = known.setdefault(span["spanID"], span)
        for key in ("operationName", "startTime", "duration", "references"):
            assert span[key] == first[key]
        assert tags(span) == tags(first)
    return list(known.values())


def parents(span: dict[str, Any]) -> list[str]:
    return [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]


def micros(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1e6)


def test_one_trace_over_a_kill(site: Site, jaeger: Jaeger) -> None:
    plane = site.plane
    sha = site.push(folder("shop", app("2")), "two", author="Ana <ana@acme.example>")
    waiting = plane.wait_state("shop", sha, "Blocked")
    jaeger.wait_trace(waiting["traceId"], lambda spans: names(spans)["bake"] > 0)
    plane.restart()
    site.approve(plane.wait_state("shop", sha, "Blocked")["id"])
    rollout = plane.wait_state("shop", sha, "Succeeded")
    spans = distinct(jaeger.wait_trace(rollout["traceId"], lambda found: names(found)["rollout"] > 0))

    assert rollout["traceId"] == waiting["traceId"]
    assert names(spans) == {
        "rollout": 1,
        "source.fetch": 1,
        "render": 1,
        "wave": 2,
        "wave.gate": 1,
        "cluster.apply": 2,
        "cluster.verify": 2,
        "bake": 1,
    }
    ids = {span["spanID"]: span for span in spans}
    assert {span["traceID"] for span in spans} == {rollout["traceId"]}

    (root,) = [span for span in spans if not parents(span)]
    told = tags(root)
    assert root["operationName"] == "rollout"
    assert {key: told[f"fleet.{key}"] for key in ("bundle", "release", "author", "result", "name")} == {
        "bundle": "shop",
        "release": rollout["release"],
        "author": "ana@acme.example",
        "result": "Succeeded",
        "name": site.fleet,
    }
    assert told["vcs.ref.head.revision"] == sha
    check_tree(spans, ids, root)
    check_times(spans, root, rollout)


def check_tree(spans: list[dict[str, Any]], ids: dict[str, dict[str, Any]], root: dict[str, Any]) -> None:
    """Who is whose child, and what each tells."""
    for span in spans:
        if span is root:
            continue
        (parent,) = parents(span)
        above = ids[parent]["operationName"]
        inner = span["operationName"] not in ("source.fetch", "render", "wave")
        assert above == ("wave" if inner else "rollout"), span["operationName"]
    applies = {tags(s)["k8s.cluster.name"]: tags(s) for s in spans if s["operationName"] == "cluster.apply"}
    assert {name: applies[name]["fleet.wave"] for name in applies} == {"qa": "qa", "prod": "prod"}
    for told in applies.values():
        counted = [int(told[f"fleet.objects.{kind}"]) for kind in ("total", "changed", "unchanged", "pruned")]
        assert counted == [3, 1, 2, 0]


def check_times(spans: list[dict[str, Any]], root: dict[str, Any], rollout: Json) -> None:
    """The root covers everything, from the fetch on; the gate's span is the wait for the person."""
    begun, ended = root["startTime"], root["startTime"] + root["duration"]
    assert begun <= micros(rollout["createdAt"])
    assert begun == min(span["startTime"] for span in spans)
    assert abs(ended - micros(rollout["endedAt"])) < 2_000, "to the millisecond that the API tells"
    for span in spans:
        assert span["startTime"] + span["duration"] <= ended + ROUNDING
    (gate,) = [span for span in spans if span["operationName"] == "wave.gate"]
    answered = rollout["waves"][1]["gates"][0]
    assert tags(gate)["fleet.actor"] == answered["by"] == "release-manager"
    assert abs(gate["startTime"] + gate["duration"] - micros(answered["at"])) < 2_000


def test_a_repair_is_a_trace_of_its_own(site: Site, jaeger: Jaeger) -> None:
    plane = site.plane
    site.prod.kubectl("-n", site.namespace("shop"), "scale", "deployment", "web", "--replicas=4")
    events = plane.wait(plane.events, lambda es: any(e["type"] == "drift.healed" for e in es), "healed")
    (healed,) = [event for event in events if event["type"] == "drift.healed"]
    (drift,) = plane.get("/drift?cluster=prod")["items"]
    assert abs(healed["data"]["detectedAt"] * 1e6 - micros(drift["detectedAt"])) < 1_000
    rollout = plane.rollout(healed["rollout"])
    assert "drift.heal" not in names(jaeger.trace(rollout["traceId"]))
    own = derive_trace_id("drift", site.fleet, "prod", drift["id"], str(healed["seq"]))
    (span,) = jaeger.wait_trace(own)
    assert span["operationName"] == "drift.heal"
    assert abs(span["startTime"] - micros(drift["detectedAt"])) < 1_000, "to the millisecond that the API tells"
    assert rollout["traceId"] in {reference["traceID"] for reference in span["references"]}


def test_metrics(site: Site) -> None:
    text = site.plane.raw("GET", "/metrics")
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    missing = {name for name in METRICS if name not in families and name.removesuffix("_total") not in families}
    assert missing == set()
    values = {m[1]: float(m[2]) for m in re.finditer(r"^(\S+(?: *\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}
    assert values["fleet_watch_streams"] >= 6, "ConfigMaps, Deployments and Namespaces of two clusters"
    assert values["fleet_managed_objects"] == 6
    assert values["fleet_source_fetch_seconds_count"] >= 1
    assert values['fleet_applies_total{result="applied"}'] >= 1
    assert values['fleet_applies_total{result="failed"}'] == 0
    assert values['fleet_cluster_observation_age_seconds{cluster="prod"}'] < 75
    assert values["fleet_drift_heal_seconds_count"] == 1
    assert values["fleet_render_seconds_count"] >= 1
    assert values["fleet_wave_seconds_count"] >= 1
