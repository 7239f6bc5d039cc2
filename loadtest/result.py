"""A result file: figures with targets and limits, the machine, the commit and the parameters they belong to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number. `limit`: what the bare loop reached in the same run; `target`: what we mean to reach."""

    value: float
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    limit: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


@dataclass
class Result:
    scenario: str
    parameters: dict[str, Any]
    figures: dict[str, Figure] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def write(self) -> Path:
        path = RESULTS / f"{self.scenario}.json"
        path.parent.mkdir(exist_ok=True)
        figures = {
            name: {k: _rounded(v) for k, v in vars(figure).items() if v is not None}
            for name, figure in self.figures.items()
        }
        document = {
            "scenario": self.scenario,
            "commit": _commit(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
                "os": f"{platform.system()} {platform.release()}",
            },
            "parameters": self.parameters,
            "figures": figures,
            "samples": {name: [_rounded(v) for v in values] for name, values in self.samples.items()},
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
        return path

    def table(self) -> str:
        """Figures as aligned text."""
        rows = [("figure", "value", "target", "limit", "met")]
        for name, figure in self.figures.items():
            met = {True: "yes", False: "NO", None: "-"}[figure.met]
            rows.append((name, _shown(figure.value), _shown(figure.target), _shown(figure.limit), met))
        widths = [max(len(row[n]) for row in rows) for n in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
