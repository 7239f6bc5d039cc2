"""Following: `--watch` shows an answer again whenever it changed, `--wait` stays with a rollout to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.failure import Exit, Failure
from fleet.cli.output import span
from fleet.cli.session import Session
from fleet.cli.show_rollout import ENDED

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = dict[str, Any]
PERIOD = 2.0
"""Seconds between two looks at what is watched."""
WAIT_PERIOD = 1.0
PATIENCE = 30
"""Looks in vain at a server that is away (it may be starting again) before the command gives up."""


def watch(
    session: Session,
    fetch: Callable[[], Json],
    text: Callable[[Any], Sequence[RenderableType]],
    *,
    ended: Callable[[Json], bool] = lambda data: False,
) -> None:
    """Prints what `fetch` finds, again and again: in place on a terminal, else whenever it changed; until `ended`."""
    if session.format == "text" and session.output.console().is_terminal:
        _live(session, fetch, text, ended)
        return
    shown: Json | None = None
    while True:
        data = _patiently(session, fetch)
        if data != shown:
            session.output.show(data, text)
            shown = data
        if ended(data):
            return
        time.sleep(PERIOD)


def wait_for_end(session: Session, rollout: Json, *, timeout: float) -> Json:
    """Stays until the rollout has ended, telling each change on stderr; the last state of it.

    Raises Failure (1) when it has not within `timeout` seconds.
    """
    from fleet.cli.client import path

    place = path("rollouts", rollout["id"])
    deadline = time.monotonic() + timeout
    told = ""
    while rollout["state"] not in ENDED:
        told = _tell(session, rollout, told)
        if time.monotonic() >= deadline:
            raise Failure(
                Exit.NO,
                f"{rollout['id']} has not ended within {span(timeout)}: it is {rollout['state']}",
                f"fleet explain {rollout['id']}",
            )
        time.sleep(WAIT_PERIOD)
        rollout = _patiently(session, lambda: session.client.get(place))
    _tell(session, rollout, told)
    return rollout


def verdict(rollout: Json, good: frozenset[str]) -> None:
    """Raises Failure (1) when a rollout that has ended did not end well."""
    if rollout["state"] in good:
        return
    reason = f": {rollout['reason']}" if rollout["reason"] else ""
    successor = f"; {rollout['successor']} took its place" if rollout["successor"] else ""
    raise Failure(
        Exit.NO, f"{rollout['id']} ended {rollout['state']}{reason}{successor}", f"fleet rollout {rollout['id']}"
    )


def _tell(session: Session, rollout: Json, told: str) -> str:
    wave = next((each for each in rollout["waves"] if each["state"] not in ("Passed", "Skipped", "Pending")), None)
    parts = [rollout["id"], rollout["state"]]
    if wave is not None:
        done = sum(each["state"] in ("Updated", "NoOp") for each in wave["clusters"])
        parts.append(f"wave {wave['name']} {wave['state']} {done}/{len(wave['clusters'])}")
    blocked = rollout["blockedBy"]
    if blocked is not None:
        parts.append(f"waits for {blocked['kind']} {blocked['name']}")
        parts += [f"→ {blocked['next']}"] if blocked["next"] else []
    now = " · ".join(parts)
    if now != told:
        session.output.remark(now)
    return now


def _live(
    session: Session,
    fetch: Callable[[], Json],
    text: Callable[[Any], Sequence[RenderableType]],
    ended: Callable[[Json], bool],
) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=session.output.console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            data = _patiently(session, fetch)
            live.update(Group(*text(data)), refresh=True)
            if ended(data):
                return
            time.sleep(PERIOD)


def _patiently(session: Session, fetch: Callable[[], Json]) -> Json:
    """`fetch`, repeated while the server is away."""
    for attempt in range(PATIENCE):
        try:
            return fetch()
        except Failure as failure:
            if failure.exit is not Exit.UNREACHABLE:
                raise
            if attempt == 0:
                session.output.remark(f"fleet: {failure.message}; trying again")
        time.sleep(PERIOD)
    return fetch()
