"""Commands that change something: approve, reject, pause, resume, abort, retry, rollback, sync.

Each names its actor: `--as`, else git's user.email of whoever types it, else the user of the operating system.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.session import Session

PANEL = "Steering a rollout"
Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="For example shop-17.")]
Gate = Annotated[
    str, typer.Argument(metavar="GATE", help="Name of the approval gate; `fleet explain ROLLOUT` tells it.")
]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Kept with the command.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who acts; by default git's user.email.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="A group that the actor belongs to; repeatable.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the rollout has ended; exit 1 when it failed.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time to --wait.")]
Version = Annotated[
    int | None,
    typer.Option("--if-version", metavar="N", min=0, help="Only if the rollout still has this version (else exit 5)."),
]
DAY = 86_400.0
FORWARD = frozenset({"Succeeded"})


def register(app: typer.Typer) -> None:
    def add(action: Any, *examples: str) -> None:
        command(app, action.__name__, panel=PANEL, examples=examples)(action)

    add(approve, "fleet approve shop-17 go", "fleet approve shop-17 go --comment 'load test was fine' --wait")
    add(reject, "fleet reject shop-17 go --comment 'error rate in qa'")
    add(pause, "fleet pause shop-17")
    add(resume, "fleet resume shop-17 --wait")
    add(abort, "fleet abort shop-17")
    add(retry, "fleet retry shop-17 --wait")
    add(rollback, "fleet rollback shop --wait", "fleet rollback shop --to shop-3f2a1bc0d4e5 --cluster prod-eu1")
    add(sync, "fleet sync", "fleet sync apps")


def approve(
    session: Session,
    rollout: Rollout,
    gate: Gate,
    comment: Comment = "",
    as_: As = None,
    group: Groups = None,
    if_version: Version = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
) -> None:
    """Approve a gate that waits."""
    body = {"gate": gate, **_said(as_, group, comment)}
    _command(session, ("rollouts", rollout, "approve"), body, if_version, FORWARD if wait else None, timeout)


def reject(
    session: Session,
    rollout: Rollout,
    gate: Gate,
    comment: Comment = "",
    as_: As = None,
    group: Groups = None,
    if_version: Version = None,
) -> None:
    """Reject a gate that waits; the rollout ends Halted."""
    body = {"gate": gate, **_said(as_, group, comment)}
    _command(session, ("rollouts", rollout, "reject"), body, if_version)


def pause(
    session: Session, rollout: Rollout, comment: Comment = "", as_: As = None, if_version: Version = None
) -> None:
    """Start nothing more; work in flight and bake go on."""
    _command(session, ("rollouts", rollout, "pause"), _said(as_, None, comment), if_version)


def resume(
    session: Session,
    rollout: Rollout,
    comment: Comment = "",
    as_: As = None,
    if_version: Version = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
) -> None:
    """Go on after a pause."""
    target = ("rollouts", rollout, "resume")
    _command(session, target, _said(as_, None, comment), if_version, FORWARD if wait else None, timeout)


def abort(
    session: Session,
    rollout: Rollout,
    comment: Comment = "",
    as_: As = None,
    if_version: Version = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
) -> None:
    """End a rollout and keep what it has applied."""
    target, good = ("rollouts", rollout, "abort"), frozenset({"Aborted"})
    _command(session, target, _said(as_, None, comment), if_version, good if wait else None, timeout)


def retry(
    session: Session,
    rollout: Rollout,
    comment: Comment = "",
    as_: As = None,
    if_version: Version = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
) -> None:
    """Run a halted or expired rollout again."""
    target = ("rollouts", rollout, "retry")
    _command(session, target, _said(as_, None, comment), if_version, FORWARD if wait else None, timeout)


def rollback(
    session: Session,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name of the bundle.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="RELEASE", help="This release; by default each cluster's last good one."),
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option("--cluster", metavar="CLUSTER", help="Only this cluster; repeatable.")
    ] = None,
    comment: Comment = "",
    as_: As = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
) -> None:
    """Return to the last good release at once, without waves and gates.

    The release that is left does not come back by itself; the next commit is a new one.
    """
    body = {"to": to, "clusters": cluster or [], **_said(as_, None, comment)}
    good = frozenset({"RolledBack", "Succeeded"})
    _command(session, ("bundles", bundle, "rollback"), body, None, good if wait else None, timeout)


def sync(
    session: Session,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="One source; by default all.")] = None,
    as_: As = None,
) -> None:
    """Fetch now instead of at the next interval."""
    from fleet.cli import show_status
    from fleet.cli.client import path

    target = path("sync") if source is None else path("sources", source, "sync")
    answer = session.client.post(target, _said(as_, None, ""))
    session.output.show(answer, lambda data: [show_status.sources(data["items"])])


def _command(
    session: Session,
    target: tuple[str, ...],
    body: dict[str, Any],
    version: int | None,
    good: frozenset[str] | None = None,
    timeout: float = DAY,
) -> None:
    """Sends a command and shows the rollout; with `good` only at its end, which must be one of these states."""
    from fleet.cli import follow, show_rollout
    from fleet.cli.client import path

    rollout = session.client.post(path(*target), body, version=version)
    if good is not None:
        rollout = follow.wait_for_end(session, rollout, timeout=timeout)
    session.output.show(rollout, show_rollout.rollout)
    if good is not None:
        follow.verdict(rollout, good)


def _said(name: str | None, groups: list[str] | None, comment: str) -> dict[str, Any]:
    return {"as": name or _who(), "groups": groups or [], "comment": comment}


def _who() -> str:
    """git's user.email, as commits of the same person have it; else the user's name."""
    import getpass
    import subprocess

    try:
        asked = subprocess.run(
            ["git", "config", "--get", "user.email"], capture_output=True, timeout=5, check=False, text=True
        )
        email = asked.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        email = ""
    if email:
        return email
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
