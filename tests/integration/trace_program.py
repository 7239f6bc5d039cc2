"""A control plane reduced to its event log and its traces: `trace_program.py DATA_DIR PART [ENDPOINT]`.

Stores the given part of a rollout's life, follows the log to the collector, says "sent", and waits to be killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from fleet.model.rollout import BundleState, Commit
from fleet.settings import StoreSettings, TelemetrySettings
from fleet.store import open_store
from fleet.telemetry import traces
from fleet.telemetry.follow import TraceFollower
from tests.unit.telemetry import story


async def main(data_dir: Path, part: str, url: str) -> None:
    log = story.Log()
    {"qa": story.qa, "prod": story.prod}[part](log)
    async with await open_store(data_dir, StoreSettings()) as store:
        if part == "qa":
            early = story.Log()
            story.early(early)
            await store.append(early.entries)
            rollout = story.rollout()
            await store.commit(Commit(BundleState("shop", version=1, active=rollout), 0, rollouts=(rollout,)))
        await store.append(log.entries)
        exporter = traces.OtlpExporter.open(url, TelemetrySettings(), fleet="acme", version="0.1.0")
        sent = await TraceFollower(store, exporter, TelemetrySettings(), fleet="acme").catch_up()
        print("sent", sent, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    target = traces.endpoint({}, sys.argv[3])
    assert target is not None
    anyio.run(main, Path(sys.argv[1]), sys.argv[2], target)
