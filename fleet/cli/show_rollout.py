"""Rollouts as text: the list, one with its waves, what it waits for, and the lines of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.output import Cell, ago, line, short, span, table

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Mapping[str, Any]
ENDED = frozenset({"Succeeded", "Superseded", "Aborted", "Halted", "RolledBack", "Expired", "Rejected"})


def rollouts(data: Json) -> Sequence[RenderableType]:
    rows: list[list[Cell]] = []
    for each in data["items"]:
        at = next((wave["name"] for wave in each["waves"] if wave["state"] not in ("Passed", "Skipped")), "-")
        why = _blocked(each["blockedBy"]) if each["blockedBy"] else each["reason"] or ""
        rows.append(
            [
                each["id"],
                each["state"],
                "-" if each["state"] in ENDED else at,
                _commits(each["revisions"]),
                each["message"],
                each["author"] if each["actor"] == "system" else each["actor"],
                ago(each["createdAt"]),
                why,
            ]
        )
    parts = [
        table(
            ("ROLLOUT", "STATE", "WAVE", "COMMIT", "MESSAGE", "BY", "AGE", "WHY"),
            rows,
            empty="no rollouts yet; the first commit makes one",
        )
    ]
    return [*parts, line("more: raise --limit")] if data.get("next") else parts


def rollout(data: Json) -> Sequence[RenderableType]:
    parts = [
        line(
            (data["id"], "bold"),
            data["state"],
            f"begun {ago(data['createdAt'])} ago",
            "(paused)" if data["paused"] else "",
        ),
        line("  release", data["release"]),
        line("  commit ", _commits(data["revisions"]), data["message"]),
        line("  author ", data["author"] or "-", f"asked for by {data['actor']}" if data["actor"] != "system" else ""),
        line("  trace  ", data["traceId"] or "-"),
    ]
    if data["reason"]:
        parts.append(line("  reason ", data["reason"]))
    if data["successor"]:
        parts.append(line("  next   ", data["successor"]))
    parts += waiting(data["blockedBy"])
    for wave in data["waves"]:
        parts += [line(""), *_wave(wave)]
    return parts


def waiting(blocked: Json | None) -> list[RenderableType]:
    """What holds it up, who can act, and the command to type."""
    if blocked is None:
        return []
    parts = [line(("  waits  ", "yellow"), _blocked(blocked))]
    if blocked["who"]:
        parts.append(line("  who    ", ", ".join(blocked["who"])))
    if blocked["next"]:
        parts.append(line("  next   ", (blocked["next"], "bold")))
    return parts


def explained(data: Json) -> Sequence[RenderableType]:
    parts = [line((data["subject"], "bold"), data["state"])]
    parts += [line("  -", each) for each in data["because"]]
    return [*parts, *waiting(data["waitingFor"])]


def event(data: Json) -> RenderableType:
    """One entry of the log in one line."""
    about = [data[key] for key in ("rollout", "wave", "cluster") if data[key]] or [data["bundle"]]
    details = dict(data["data"])
    change = f"{details.pop('from')} → {details.pop('to')}" if {"from", "to"} <= details.keys() else ""
    rest = " ".join(f"{key}={_short(value)}" for key, value in details.items() if value not in (None, "", [], {}))
    actor = f"by {data['actor']}" if data["actor"] != "system" else ""
    named = "/".join(str(each) for each in about if each)
    return line(f"{data['seq']:>6}", data["time"], (f"{data['type']:<16}", "bold"), named, change, rest, actor)


def _wave(wave: Json) -> list[RenderableType]:
    bake = wave["bakeRemainingSeconds"]
    left = f"bakes {span(bake)} more" if bake and wave["state"] == "Baking" else ""
    parts = [line(("wave", "bold"), (wave["name"], "bold"), wave["state"], left)]
    for gate in wave["gates"]:
        by = f"by {gate['by']}" if gate["by"] else ""
        when = f"{ago(gate['at'])} ago" if gate["at"] else ""
        parts.append(line(f"  gate {gate['name']} ({gate['when']})", gate["state"], by, when, gate["detail"] or ""))
    rows: list[list[Cell]] = [
        [
            f"  {each['cluster']}",
            each["state"],
            _objects(each["objects"]),
            each["attempts"] or "-",
            ago(each["startedAt"]) if each["startedAt"] else "-",
            ": ".join(part for part in (each["reason"], each["message"]) if part),
        ]
        for each in wave["clusters"]
    ]
    parts.append(table(("  CLUSTER", "STATE", "OBJECTS", "TRIES", "STARTED", "WHY"), rows, empty="  no clusters"))
    for each in wave["clusters"]:
        failed = each["objects"]["failed"] if each["objects"] else ()
        parts += [line(f"    {each['cluster']}: {bad['object']}:", (bad["error"], "red")) for bad in failed]
    return parts


def _objects(objects: Json | None) -> str:
    if objects is None:
        return "-"
    pruned = f", {objects['pruned']} pruned" if objects["pruned"] else ""
    return f"{objects['applied']}/{objects['total']}{pruned}"


def _blocked(blocked: Json) -> str:
    return f"{blocked['kind']} {blocked['name']} since {ago(blocked['since'])}".replace("  ", " ")


def _commits(revisions: Mapping[str, str]) -> str:
    return ",".join(short(sha) for sha in revisions.values()) or "-"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
