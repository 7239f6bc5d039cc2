"""The bare loop, a process of its own: what the same servers and the same client library allow without a product.

`heal KUBECONFIG…`: watches ConfigMaps of the namespace `bare` and re-applies any whose value is not the wanted one.
`fanout KUBECONFIG…`: for each line on stdin (a revision) applies all objects to all clusters; answers seconds and CPU.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from loadtest.real import workload
from loadtest.real.wire import Wire, each

NAMESPACE = "bare"
MANAGER = "bare-loop"
IN_FLIGHT = 8


async def heal(wires: list[Wire]) -> None:
    wanted = {body["metadata"]["name"]: body for body in workload.objects(NAMESPACE, workload.FIRST)}

    async def one(wire: Wire) -> None:
        async for event in wire.watch("ConfigMap", NAMESPACE):
            body = wanted.get(event["object"]["metadata"]["name"])
            if body is not None and event["object"].get("data") != body["data"]:
                await wire.apply(body, MANAGER)

    watches = [asyncio.create_task(one(wire)) for wire in wires]
    await asyncio.sleep(1)
    print("ready", flush=True)
    await asyncio.gather(*watches)


async def fanout(wires: list[Wire]) -> None:
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        bodies = workload.objects(NAMESPACE, line)
        started, used = time.perf_counter(), time.process_time()
        await each(wires, bodies, MANAGER, IN_FLIGHT)
        answer = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
        print(json.dumps(answer), flush=True)


async def main(mode: str, kubeconfigs: list[str]) -> None:
    wires = [Wire(Path(path)) for path in kubeconfigs]
    try:
        await {"heal": heal, "fanout": fanout}[mode](wires)
    finally:
        for wire in wires:
            await wire.aclose()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], sys.argv[2:]))
