"""The objects of a bundle on a cluster as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.output import Cell, table

if TYPE_CHECKING:
    from rich.console import RenderableType


def objects(data: Mapping[str, Any]) -> Sequence[RenderableType]:
    rows: list[list[Cell]] = [
        [
            f"{each['object']['group']}/{each['kind']}" if each["object"]["group"] else each["kind"],
            each["object"]["namespace"] or "-",
            each["name"],
            each["sync"],
            each["health"],
            each["drift"],
            each["owner"],
            each["reason"] or "",
        ]
        for each in data["items"]
    ]
    columns = ("KIND", "NAMESPACE", "NAME", "SYNC", "HEALTH", "DRIFT", "CHANGED BY", "WHY")
    return [table(columns, rows, empty="no objects of that bundle there")]
