"""Where things stand: status, clusters, cluster, bundles, bundle, rollouts, rollout, drift, diff, explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit
from fleet.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

PANEL = "Where things stand"
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again whenever it changes, until Ctrl-C.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most entries to show, newest first.")]
ClusterOption = Annotated[str | None, typer.Option("--cluster", metavar="CLUSTER", help="Only of this cluster.")]
BundleOption = Annotated[str | None, typer.Option("--bundle", metavar="BUNDLE", help="Only of this bundle.")]


def register(app: typer.Typer) -> None:
    def add(name: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return command(app, name, panel=PANEL, examples=examples)

    add("status", "fleet status", "fleet status --watch", "fleet status -o json")(status)
    add("clusters", "fleet clusters", "fleet clusters -o json")(clusters)
    add("cluster", "fleet cluster prod-eu1", "fleet cluster prod-eu1 --objects shop")(cluster)
    add("bundles", "fleet bundles")(bundles)
    add("bundle", "fleet bundle shop")(bundle)
    add("rollouts", "fleet rollouts", "fleet rollouts --bundle shop --limit 5")(rollouts)
    add("rollout", "fleet rollout shop-17 --watch")(rollout)
    add("explain", "fleet explain shop-17", "fleet explain prod-eu1")(explain)
    add("drift", "fleet drift", "fleet drift --open --exit-code", "fleet drift --cluster prod-eu1 -o json")(drift)
    add("diff", "fleet diff shop --cluster prod-eu1")(diff)


def status(session: Session, watch: Watch = False) -> None:
    """The fleet on one page: configuration, sources, clusters, bundles."""
    from fleet.cli import show_status

    _show(session, lambda: session.client.get("/status"), show_status.status, watch)


def clusters(session: Session, watch: Watch = False) -> None:
    """Every cluster: whether it is heard, and what it holds."""
    from fleet.cli import show_status

    _show(session, lambda: session.client.list("/clusters"), show_status.clusters, watch)


def cluster(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="CLUSTER", help="Name of the cluster.")],
    objects: Annotated[
        str | None, typer.Option("--objects", metavar="BUNDLE", help="List the objects of this bundle there.")
    ] = None,
    watch: Watch = False,
) -> None:
    """One cluster and the bundles on it."""
    from fleet.cli import show_objects, show_status
    from fleet.cli.client import path

    if objects is not None:
        place = path("clusters", name, "bundles", objects, "objects")
        _show(session, lambda: session.client.get(place), show_objects.objects, watch)
        return
    _show(session, lambda: session.client.get(path("clusters", name)), show_status.cluster, watch)


def bundles(session: Session, watch: Watch = False) -> None:
    """Every bundle: where it stands over its clusters."""
    from fleet.cli import show_status

    _show(session, lambda: session.client.list("/bundles"), show_status.bundles, watch)


def bundle(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name of the bundle.")],
    watch: Watch = False,
) -> None:
    """One bundle."""
    from fleet.cli import show_status
    from fleet.cli.client import path

    _show(session, lambda: session.client.get(path("bundles", name)), show_status.bundle, watch)


def rollouts(session: Session, bundle: BundleOption = None, limit: Limit = 20, watch: Watch = False) -> None:
    """The rollouts, newest first."""
    from fleet.cli import show_rollout

    _show(session, lambda: session.client.list("/rollouts", most=limit, bundle=bundle), show_rollout.rollouts, watch)


def rollout(
    session: Session,
    id: Annotated[str, typer.Argument(metavar="ROLLOUT", help="For example shop-17.")],
    watch: Watch = False,
) -> None:
    """One rollout with its waves, gates and clusters; --watch ends with it."""
    from fleet.cli import show_rollout
    from fleet.cli.client import path

    def ended(data: dict[str, Any]) -> bool:
        return data["state"] in show_rollout.ENDED

    _show(session, lambda: session.client.get(path("rollouts", id)), show_rollout.rollout, watch, ended)


def explain(
    session: Session,
    subject: Annotated[str, typer.Argument(metavar="ROLLOUT_OR_CLUSTER", help="A rollout, cluster or bundle.")],
) -> None:
    """Why it is not moving: what blocks it, since when, who can act, the command to type."""
    from fleet.cli import show_rollout
    from fleet.cli.client import path

    session.output.show(session.client.get(path("explain", subject)), show_rollout.explained)


def drift(
    session: Session,
    cluster: ClusterOption = None,
    bundle: BundleOption = None,
    open: Annotated[bool, typer.Option("--open", help="Only what still differs.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when something is listed.")] = False,
    limit: Limit = 1000,
    watch: Watch = False,
) -> None:
    """What differed from what was released: who changed it, when, old and new value."""
    from fleet.cli import show_drift

    def fetch() -> dict[str, Any]:
        return session.client.list("/drift", most=limit, cluster=cluster, bundle=bundle, open=open)

    if watch:
        _show(session, fetch, show_drift.drifts, watch)
        return
    found = fetch()
    session.output.show(found, show_drift.drifts)
    if exit_code and found["items"]:
        raise typer.Exit(Exit.NO)


def diff(
    session: Session,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name of the bundle.")],
    cluster: Annotated[str, typer.Option("--cluster", metavar="CLUSTER", help="Where to look.")],
) -> None:
    """Wanted against live on one cluster, field by field; exit 1 when they differ."""
    from fleet.cli import show_drift
    from fleet.cli.client import path

    found = session.client.get(path("clusters", cluster, "bundles", bundle, "diff"))
    session.output.show(found, show_drift.difference)
    if any(each["change"] != "none" for each in found["objects"]):
        raise typer.Exit(Exit.NO)


def _show(
    session: Session,
    fetch: Callable[[], dict[str, Any]],
    text: Callable[[Any], Sequence[RenderableType]],
    watch: bool,
    ended: Callable[[dict[str, Any]], bool] = lambda data: False,
) -> None:
    if watch:
        from fleet.cli import follow

        follow.watch(session, fetch, text, ended=ended)
        return
    session.output.show(fetch(), text)
