"""`fleet doctor`: the programs on this machine, fleet.yaml, the server, and every cluster: reachable, rights, clock."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.cli.local_worktree import Rendered, WorkTree
    from fleet.engine.examination import Finding, Need
    from fleet.engine.ports import Connector, Secrets
    from fleet.model.fleetfile import Cluster, Fleet

AT_ONCE = 16
CLUSTER_DEADLINE = 60.0
"""Seconds for one cluster, whatever it does."""
PROGRAM_DEADLINE = 10.0
PROGRAMS = {
    "git": (["git", "--version"], "install Git 2.30 or newer: sources are read with it"),
    "kustomize": (["kustomize", "version"], "install kustomize 5: bundles with a kustomization.yaml are built with it"),
}


def register(app: typer.Typer) -> None:
    examples = ("fleet doctor", "fleet doctor my-fleet --cluster prod-eu1 -o json")
    command(app, "doctor", panel="On this machine", examples=examples)(doctor)


def doctor(
    session: Session,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder of fleet.yaml, or the file itself.")
    ] = Path(),
    cluster: Annotated[
        list[str] | None, typer.Option("--cluster", metavar="CLUSTER", help="Only this cluster; repeatable.")
    ] = None,
) -> None:
    """Check programs, fleet.yaml, the server and every cluster; exit 1 when something must be mended."""
    import anyio
    import msgspec

    from fleet.cli import local_worktree

    tree = local_worktree.open_tree(directory)
    findings = [_program(name) for name in PROGRAMS]
    findings.append(_file(tree))
    findings.append(_server(session))
    if tree.parsed.fleet is not None:
        chosen = _chosen(tree.parsed.fleet, cluster)
        findings += anyio.run(_clusters, tree, tree.parsed.fleet, chosen)
    failed = any(finding.level == "error" for finding in findings)
    session.output.show(msgspec.to_builtins({"ok": not failed, "findings": findings}), _text)
    if failed:
        raise typer.Exit(Exit.NO)


def _program(name: str) -> Finding:
    from fleet.engine.examination import Finding

    argv, hint = PROGRAMS[name]
    if shutil.which(name) is None:
        return Finding(name, "program", "error" if name == "git" else "warning", "not found on PATH", hint)
    try:
        asked = subprocess.run(argv, capture_output=True, timeout=PROGRAM_DEADLINE, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, "program", "error", f"does not run: {error}", hint)
    if asked.returncode != 0:
        return Finding(name, "program", "error", f"ends with status {asked.returncode}", hint)
    return Finding(name, "program", "ok", asked.stdout.strip().splitlines()[0] if asked.stdout.strip() else "runs")


def _file(tree: WorkTree) -> Finding:
    from fleet.engine.examination import Finding

    name = str(tree.parsed.file)
    if tree.parsed.fleet is None:
        count = len(tree.parsed.problems)
        return Finding(
            name, "fleet.yaml", "error", f"{count} errors, the first: {tree.parsed.problems[0]}", "fleet validate"
        )
    return Finding(name, "fleet.yaml", "ok", "valid")


def _server(session: Session) -> Finding:
    """The control plane need not run on this machine, or not yet: without it the rest can still be checked."""
    from fleet.engine.examination import Finding

    try:
        status = session.client.get("/status")
    except Failure as failure:
        return Finding(session.server, "server", "warning", failure.message, failure.hint)
    if status["configError"]:
        return Finding(session.server, "server", "error", status["configError"], "fleet validate")
    return Finding(session.server, "server", "ok", f"runs fleet {status['fleet'] or '(none yet)'}, {status['version']}")


def _chosen(fleet: Fleet, names: list[str] | None) -> tuple[Cluster, ...]:
    unknown = sorted(set(names or ()) - {cluster.name for cluster in fleet.clusters})
    if unknown:
        raise Failure(Exit.NO, f"no cluster {unknown[0]} in fleet.yaml", "`fleet clusters` lists them")
    return tuple(cluster for cluster in fleet.clusters if not names or cluster.name in names)


async def _clusters(tree: WorkTree, fleet: Fleet, chosen: tuple[Cluster, ...]) -> list[Finding]:
    """What every chosen cluster answers, in the order of fleet.yaml."""
    import os

    import anyio

    from fleet import app, settings
    from fleet.cli import local_worktree

    rendered = await local_worktree.render(tree)
    connector, secrets = app.reach(settings.load(os.environ), fleet)
    found: dict[str, tuple[Finding, ...]] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def look(cluster: Cluster) -> None:
        async with limiter:
            found[cluster.name] = await _cluster(cluster, fleet, await _needs(rendered, cluster), connector, secrets)

    async with anyio.create_task_group() as group:
        for cluster in chosen:
            group.start_soon(look, cluster, name=f"doctor {cluster.name}")
    return [finding for cluster in chosen for finding in found[cluster.name]]


async def _cluster(
    cluster: Cluster, fleet: Fleet, needs: list[Need], connector: Connector, secrets: Secrets
) -> tuple[Finding, ...]:
    import anyio

    from fleet.engine.examination import Finding, examine
    from fleet.errors import FleetError

    try:
        with anyio.fail_after(CLUSTER_DEADLINE):
            held = {cluster.secret_ref: await secrets.read(cluster.secret_ref)} if cluster.secret_ref else {}
            client = await connector.connect(cluster, held)
            try:
                return await examine(cluster.name, client, needs, time.time, manager=fleet.field_manager)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                    await client.aclose()
    except FleetError as error:
        return (Finding(cluster.name, "credentials", "error", str(error), "check its entry in fleet.yaml"),)
    except TimeoutError:
        hint = "check the network between here and the cluster"
        return (Finding(cluster.name, "reachable", "error", f"no answer within {CLUSTER_DEADLINE:g} s", hint),)


async def _needs(rendered: Rendered, cluster: Cluster) -> list[Need]:
    """The kinds of all bundles that go to a cluster: watched everywhere, written where their objects are."""
    from fleet.engine.examination import WATCHED, Need
    from fleet.model.objects import GroupKind

    needs: set[Need] = set()
    for planned in rendered.planned:
        manifests = await rendered.of(planned.bundle, cluster.name) if planned.error is None else None
        for manifest in manifests.manifests if manifests is not None else ():
            kind = GroupKind(manifest.id.group, manifest.id.kind)
            needs.add(Need(kind, "", WATCHED))
            needs.add(Need(kind, manifest.id.namespace, ("create", "patch", "delete")))
    return sorted(needs)


def _text(data: dict[str, Any]) -> list[RenderableType]:
    from fleet.cli.output import line, table

    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    rows = [
        [(each["level"], colours[each["level"]]), each["subject"], each["check"], each["message"]]
        for each in data["findings"]
    ]
    hints = [
        line(("→", "bold"), f"{each['subject']}: {each['hint']}")
        for each in data["findings"]
        if each["hint"] and each["level"] != "ok"
    ]
    return [table(("", "SUBJECT", "CHECK", "MESSAGE"), rows, empty="nothing to check"), *hints]
