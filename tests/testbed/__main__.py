"""`python -m tests.testbed build [--group core|jaeger]`: what `make testbed` runs."""

from __future__ import annotations

import argparse
import sys

from tests.testbed import build
from tests.testbed.errors import TestbedError


def main() -> int:
    """0 when every program is there; 1 with the reason when one cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description="Real parts for tests and the demo.")
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build the programs of a group into the cache and print their paths")
    builder.add_argument("--group", choices=sorted(build.GROUPS), default="core")
    arguments = parser.parse_args()
    try:
        built = build.binaries(arguments.group)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    for name, path in built.paths.items():
        print(f"{name}\t{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
