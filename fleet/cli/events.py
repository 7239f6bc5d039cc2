"""`fleet events`: the event log as lines, to its end or for ever."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

BEHIND = "reader.behind"
RETRIES = 30
PAUSE = 2.0
"""Seconds between two attempts to reach a server that went away while it was followed."""


def register(app: typer.Typer) -> None:
    examples = ("fleet events --since 900", "fleet events --follow -o json | jq 'select(.type == \"drift.detected\")'")
    command(app, "events", panel="Where things stand", examples=examples)(events)


def events(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new entries, until Ctrl-C.")] = False,
    since: Annotated[
        int, typer.Option("--since", metavar="SEQ", min=0, help="Begin after this sequence number (0: the oldest).")
    ] = 0,
) -> None:
    """The event log, oldest first: one line an entry."""
    from fleet.cli import show_rollout

    failures = 0
    while True:
        try:
            for entry in session.client.events(since, follow=follow):
                failures = 0
                if entry["type"] == BEHIND:
                    since = entry["data"]["restartFrom"]
                    session.output.remark(f"fleet: the server no longer keeps what comes next; going on from {since}")
                    break
                session.output.line(entry, show_rollout.event)
                since = entry["seq"]
            else:
                if not follow:
                    return
        except Failure as failure:
            failures += 1
            if not follow or failure.exit is not Exit.UNREACHABLE or failures > RETRIES or since == 0:
                raise
            session.output.remark(f"fleet: {failure.message}; trying again")
        time.sleep(PAUSE)
