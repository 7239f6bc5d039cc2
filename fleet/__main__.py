"""`python -m fleet` and the `fleet` command."""

from __future__ import annotations

from fleet.cli.main import app


def main() -> None:
    app(prog_name="fleet")


if __name__ == "__main__":
    main()
