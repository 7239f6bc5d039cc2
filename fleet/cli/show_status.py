"""Status, clusters and bundles as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.output import Cell, ago, line, short, span, table

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Mapping[str, Any]


def status(data: Json) -> Sequence[RenderableType]:
    parts = [line(("fleet", "bold"), data["fleet"] or "(no valid fleet.yaml yet)", f"version {data['version']}")]
    if data["configRevision"]:
        parts.append(line(("config", "bold"), short(data["configRevision"])))
    if data["configError"]:
        parts.append(line(("config error", "red"), data["configError"]))
        if data["fleet"]:
            parts.append(line("the last valid fleet.yaml stays in force; `fleet validate` shows every error"))
    counts = data["clusters"]
    words = [
        f"{counts[key]} {key}" for key in ("ready", "unknown", "paused", "drifted") if counts[key] or key == "ready"
    ]
    parts += [line(("clusters", "bold"), f"{counts['total']}: {', '.join(words)}"), line("")]
    parts += [sources(data["sources"]), line(""), _bundle_table(data["bundles"])]
    return parts


def sources(items: Sequence[Json]) -> RenderableType:
    rows: list[list[Cell]] = [
        [
            each["name"] or "(fleet.yaml)",
            each["ref"],
            short(each["sha"]),
            ago(each["fetchedAt"]),
            (f"{each['error']} (for {ago(each['errorSince'])})", "red") if each["error"] else each["url"],
        ]
        for each in items
    ]
    return table(("SOURCE", "REF", "COMMIT", "FETCHED", "URL"), rows, empty="no sources")


def clusters(data: Json) -> Sequence[RenderableType]:
    rows: list[list[Cell]] = [
        [
            each["name"],
            each["state"],
            span(each["ageSeconds"]),
            each["kubernetes"],
            each["objects"],
            _synced(each["bundles"]),
            sum(bundle["drifted"] for bundle in each["bundles"]),
            ",".join(f"{key}={value}" for key, value in sorted(each["labels"].items())),
            each["reason"] or "",
        ]
        for each in data["items"]
    ]
    columns = ("CLUSTER", "STATE", "SEEN", "KUBERNETES", "OBJECTS", "SYNCED", "DRIFTED", "LABELS", "WHY")
    return [table(columns, rows, empty="no clusters in fleet.yaml; `fleet init --from-kubeconfig` shows how")]


def cluster(data: Json) -> Sequence[RenderableType]:
    parts = [line((data["name"], "bold"), data["state"], data["reason"] or "", f"seen {ago(data['observedAt'])} ago")]
    parts.append(
        line(f"Kubernetes {data['kubernetes'] or '-'}, {data['watches']} watches, {data['objects']} objects, labels")
    )
    labels = [f"  {key}={value}" for key, value in sorted(data["labels"].items())]
    rows: list[list[Cell]] = [
        [
            each["bundle"],
            each["sync"],
            each["health"],
            each["drifted"],
            short(each["recorded"], 12),
            short(each["wanted"], 12),
            _revisions(each["revisions"]),
        ]
        for each in data["bundles"]
    ]
    columns = ("BUNDLE", "SYNC", "HEALTH", "DRIFTED", "RECORDED", "WANTED", "COMMITS")
    return [*parts, *(line(each) for each in labels), line(""), table(columns, rows, empty="no bundles on it")]


def bundles(data: Json) -> Sequence[RenderableType]:
    return [_bundle_table(data["items"])]


def bundle(data: Json) -> Sequence[RenderableType]:
    parts = [line((data["name"], "bold"), data["state"], data["reason"] or "")]
    facts = {
        "namespace": data["namespace"],
        "strategy": data["strategy"],
        "release": data["release"],
        "commits": _revisions(data["revisions"]),
        "rollout": data["rollout"],
        "suspended": "yes" if data["suspended"] else None,
    }
    parts += [line(f"  {key:<10}", value) for key, value in facts.items() if value]
    counts = data["clusters"]
    parts.append(line("  clusters  ", ", ".join(f"{counts[key]} {key}" for key in counts)))
    return parts


def _bundle_table(items: Sequence[Json]) -> RenderableType:
    rows: list[list[Cell]] = []
    for each in items:
        counts = each["clusters"]
        rows.append(
            [
                each["name"],
                each["state"],
                each["rollout"],
                f"{counts['updated']}/{counts['total']}",
                counts["pending"],
                (str(counts["failed"]), "red") if counts["failed"] else 0,
                counts["unknown"],
                counts["drifted"],
                each["reason"] or "",
            ]
        )
    columns = ("BUNDLE", "STATE", "ROLLOUT", "UPDATED", "PENDING", "FAILED", "UNKNOWN", "DRIFTED", "WHY")
    return table(columns, rows, empty="no bundles in fleet.yaml")


def _synced(bundles: Sequence[Json]) -> str:
    return f"{sum(each['sync'] == 'Synced' for each in bundles)}/{len(bundles)}"


def _revisions(revisions: Mapping[str, str]) -> str:
    return ", ".join(f"{name}@{short(sha)}" if name else short(sha) for name, sha in revisions.items()) or "-"
