"""The trace of a rollout whose control plane is killed in the middle, read back from a real Jaeger."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.testbed.jaeger import Jaeger
from tests.unit.telemetry import story

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.real


def live_and_die(data_dir: Path, part: str, endpoint: str) -> int:
    """Runs one part of the rollout's life, then kill -9; returns how many spans were sent."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.trace_program", str(data_dir), part, endpoint],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdout is not None
        word, count = process.stdout.readline().split()
        process.kill()
    assert word == "sent"
    return int(count)


def test_one_trace_across_a_kill(jaeger: Jaeger, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = live_and_die(data_dir, "qa", jaeger.otlp_endpoint)
    second = live_and_die(data_dir, "prod", jaeger.otlp_endpoint)
    trace_id = story.rollout().trace_id
    spans = jaeger.wait_trace(trace_id, lambda found: any(s["operationName"] == "rollout" for s in found))
    names = Counter(span["operationName"] for span in spans)
    assert names == {
        "source.fetch": 1,
        "render": 1,
        "wave": 2,
        "wave.gate": 1,
        "cluster.apply": 2,
        "cluster.verify": 2,
        "bake": 1,
        "rollout": 1,
    }
    assert first + second == len(spans)
    ids = {span["spanID"] for span in spans}
    assert len(ids) == len(spans)
    (root,) = [span for span in spans if not span["references"]]
    assert root["operationName"] == "rollout"
    assert (root["startTime"], root["duration"]) == (997_000_000, 1_066_000_000)
    assert {r["spanID"] for span in spans for r in span["references"] if r["refType"] == "CHILD_OF"} <= ids
