"""Drift and differences as text: the object, who changed it, and field by field the old and the new value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.output import ago, line

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Mapping[str, Any]
_STYLES = {"create": "green", "change": "yellow", "delete": "red"}
_SIGNS = {"create": "+", "change": "~", "delete": "-", "none": "="}


def drifts(data: Json) -> Sequence[RenderableType]:
    if not data["items"]:
        return [line("no drift")]
    parts: list[RenderableType] = []
    for each in data["items"]:
        who = f"by {each['manager']}" if each["manager"] else ""
        operation = f"({each['operation']})" if each["operation"] else ""
        times = f"{each['count']} times" if each["count"] > 1 else ""
        healed = f"healed {ago(each['healedAt'])} ago" if each["healedAt"] else ""
        parts.append(
            line(
                (each["cluster"], "bold"),
                each["bundle"],
                _object(each["object"]),
                each["verdict"],
                each["state"],
                f"{ago(each['detectedAt'])} ago",
                who,
                operation,
                times,
                healed,
            )
        )
        parts += [_field(field) for field in each["fields"]]
    if data.get("next"):
        parts.append(line("more: raise --limit"))
    return parts


def difference(data: Json) -> Sequence[RenderableType]:
    changed = [each for each in data["objects"] if each["change"] != "none"]
    if not changed:
        return [line(f"{data['bundle']} on {data['cluster']}: {len(data['objects'])} objects, no difference")]
    parts: list[RenderableType] = []
    for each in changed:
        sign = _SIGNS.get(each["change"], "?")
        parts.append(line((f"{sign} {each['object']}", _STYLES.get(each["change"], "")), each["change"]))
        parts += [_field(field) for field in each["fields"]]
    return parts


def value(of: Any) -> str:
    """A value of a field in one line, shortened."""
    text = of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def _field(field: Json) -> RenderableType:
    manager = f"({field['manager']})" if field.get("manager") else ""
    return line(f"    {field['path']}:", value(field["wanted"]), "→", value(field["live"]), manager)


def _object(ref: Json) -> str:
    kind = f"{ref['group']}/{ref['kind']}" if ref["group"] else ref["kind"]
    return f"{kind} {ref['namespace']}/{ref['name']}" if ref["namespace"] else f"{kind} {ref['name']}"
