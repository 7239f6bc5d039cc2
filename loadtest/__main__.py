"""`python -m loadtest SCENARIO`: runs one scenario, prints its table and writes loadtest/results/SCENARIO.json."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from loadtest.real import scenario as real
from loadtest.result import Result

SCENARIOS: dict[str, Callable[[bool], Awaitable[Result]]] = {"real": real.run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="loadtest", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--short", action="store_true", help="fewer repetitions: to see that it runs, not how fast")
    arguments = parser.parse_args()

    async def measure() -> Result:
        return await SCENARIOS[arguments.scenario](arguments.short)

    result = asyncio.run(measure())
    print(result.table())
    print(f"written to {result.write()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
