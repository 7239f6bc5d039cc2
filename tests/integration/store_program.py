"""What the store's fault tests run in a process of its own: `fill DIR [COUNT]`, `read DIR`, `open DIR`.

Says what happened as one JSON object a line. `fill` stores one decision after the other until COUNT or an error.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import anyio

from fleet.errors import StoreError
from fleet.model.events import Event
from fleet.model.rollout import BundleState, Commit
from fleet.settings import StoreSettings
from fleet.store import Store, open_store

BALLAST = 700_000
"""Bytes that a full disk holds besides the database, to be removed again."""


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


async def decide(store: Store, version: int) -> None:
    state = BundleState("shop", version=version, quarantined={"content": "x" * 2000})
    event = Event("rollout.state", 1.0, "shop", data={"version": version})
    await store.commit(Commit(state, version - 1, events=(event,)))


async def stored_version(store: Store) -> int:
    return next((state.version for state in await store.bundle_states()), 0)


async def fill(data_dir: Path, count: int) -> None:
    async with await open_store(data_dir, StoreSettings()) as store:
        if count == 0:
            (data_dir / "ballast").write_bytes(b"\0" * BALLAST)
        start = await stored_version(store)
        for version in range(start + 1, start + 1 + (count or 1_000_000)):
            try:
                await decide(store, version)
            except StoreError as error:
                say(error=str(error))
                if await stored_version(store) != version - 1:
                    raise
                return
            say(version=version)


async def read(data_dir: Path) -> None:
    async with await open_store(data_dir, StoreSettings()) as store:
        found, events = await stored_version(store), await store.last_seq()
        with sqlite3.connect(data_dir / "fleet.db") as shell:
            (check,) = shell.execute("pragma integrity_check").fetchone()
        shell.close()
        await decide(store, found + 1)
        say(found=found, events=events, check=check, then=await stored_version(store))


async def open_only(data_dir: Path) -> None:
    try:
        store = await open_store(data_dir, StoreSettings())
    except StoreError as error:
        say(error=str(error))
    else:
        await store.aclose()


def main() -> None:
    command, data_dir = sys.argv[1], Path(sys.argv[2])
    if command == "fill":
        anyio.run(fill, data_dir, int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    else:
        anyio.run({"read": read, "open": open_only}[command], data_dir)


if __name__ == "__main__":
    main()
