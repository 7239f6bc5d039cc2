"""`fleet demo`: clusters, a Git repository, the control plane and a guided tour in one terminal.

What it is made of stands in `fleet.cli.demo`; here are its options, its beginning and its end.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.command import command
from fleet.cli.failure import Exit, Failure
from fleet.cli.session import Session

if TYPE_CHECKING:
    from fleet.cli.demo.narrator import Narrator
    from fleet.cli.demo.shell import Shell
    from fleet.cli.demo.stage import Stage

MAX_CLUSTERS = 16


def register(app: typer.Typer) -> None:
    examples = ("fleet demo --real", "fleet demo --real --clusters 6 --keep", "fleet demo --real --tour-only -o json")
    command(app, "demo", panel="On this machine", examples=examples)(demo)


def demo(
    session: Session,
    real: Annotated[bool, typer.Option("--real", help="Real API servers, started for the demo.")] = False,
    clusters: Annotated[
        int, typer.Option("--clusters", min=2, max=MAX_CLUSTERS, metavar="N", help="How many, half of them prod.")
    ] = 4,
    tour_only: Annotated[
        bool, typer.Option("--tour-only", help="End after the tour; so it is where nobody types.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its directory (logs, repository, database).")] = False,
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="Where to work; by default a temporary one.")
    ] = None,
    deadline: Annotated[
        float, typer.Option("--deadline", min=1, metavar="SECONDS", help="Longest time for one thing to come true.")
    ] = 60.0,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Save what the tour showed as SVG.")
    ] = None,
) -> None:
    """Clusters, a Git repository, the control plane and a guided tour in one terminal."""
    if not real:
        raise Failure(Exit.USAGE, "simulated clusters are not supported yet", "fleet demo --real")
    from fleet.cli.demo import stage
    from fleet.cli.demo.narrator import Narrator

    as_data = session.format != "text"
    narrator = Narrator(sys.stderr if as_data else sys.stdout, no_color=session.no_color, record=picture is not None)
    with _ended_by_signals(), _workplace(directory, keep, narrator) as place:
        narrator.heading("fleet demo: a commit on its way to real clusters")
        with stage.prepare(place, clusters, narrator, deadline) as prepared:
            steps = _walk(prepared, narrator, deadline, picture)
            if as_data:
                session.output.data(_record(prepared, steps))
            if not tour_only and sys.stdin.isatty():
                _stay(prepared, narrator, deadline)


def _walk(stage: Stage, narrator: Narrator, deadline: float, picture: Path | None) -> list[dict[str, Any]]:
    from fleet.cli.demo import tour
    from fleet.cli.demo.follow import Follower
    from fleet.cli.demo.shell import Shell

    shell = Shell(stage.repository.clone, stage.variables, narrator)
    guide = tour.Guide(stage, shell, Follower(stage.client, narrator, deadline), narrator)
    began = time.monotonic()
    done: list[dict[str, Any]] = []
    for name, step in tour.steps(guide):
        start = time.monotonic()
        if name == tour.PICTURED[0]:
            narrator.forget()
        try:
            facts = step()
        except Failure as failure:
            narrator.failed(f"{name}: {failure.message}")
            _explain(stage, shell, narrator)
            raise Failure(failure.exit, f"the tour ends here: {name}: {failure.message}") from failure
        if name == tour.PICTURED[1] and picture is not None:
            _save(narrator, picture)
        done.append({"name": name, "seconds": round(time.monotonic() - start, 3), **facts})
    narrator.say("")
    narrator.done(f"the tour took {time.monotonic() - began:.0f} s")
    return done


def _explain(stage: Stage, shell: Shell, narrator: Narrator) -> None:
    """What a person would look at after a step that did not come true."""
    with suppress(Failure):
        shell("fleet", "status")
        shell("fleet", "events", "--since", "0")
    narrator.error("the control plane's log ends with", stage.process.log_tail())


def _stay(stage: Stage, narrator: Narrator, deadline: float) -> None:
    """Until Ctrl-C, which is the way to end it and no failure."""
    from fleet.cli.demo.follow import Follower

    victim = stage.prod[0]
    kubectl = f"kubectl --context {victim} -n shop"
    groups = {
        "In another terminal:": (f"source {stage.directory / 'env.sh'}", f"cd {stage.repository.clone}"),
        "Look:": ("fleet status --watch", "fleet rollouts", "fleet drift", "fleet events --follow"),
        "Change something in Git:": (
            "$EDITOR apps/shop/base/settings.yaml && git commit -am 'A new banner' && git push && fleet sync",
            "fleet approve ROLLOUT go --as ada@shop.example --wait",
            "fleet rollback shop --wait",
        ),
        "Change something past Git:": (f"{kubectl} edit deployment web", f"{kubectl} delete service cart"),
        "Ctrl-C ends everything. What happens meanwhile is told here:": (),
    }
    narrator.panel("The demo stays up: your turn", groups)
    follower = Follower(stage.client, narrator, deadline)
    follower.begin()
    try:
        follower.watch(stage.process.alive)
    except KeyboardInterrupt:
        narrator.say("")
        narrator.done("ending")
        return
    raise Failure(Exit.NO, f"the control plane ended with {stage.process.exit_code()}: {stage.process.log_tail()}")


def _record(stage: Stage, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "directory": str(stage.directory),
        "clusters": list(stage.clusters),
        "startedIn": {name: round(seconds, 3) for name, seconds in stage.started_in.items()},
        "steps": steps,
    }


def _save(narrator: Narrator, picture: Path) -> None:
    try:
        narrator.picture(picture, "fleet demo --real")
    except OSError as error:
        raise Failure(Exit.NO, f"{picture}: {error.strerror}", "name a file that you may write") from error


@contextmanager
def _workplace(directory: Path | None, keep: bool, narrator: Narrator) -> Iterator[Path]:
    """An empty directory; removed at the end unless it is to be kept, or was named, or something went wrong in it."""
    if directory is not None:
        place = directory.absolute()
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            taken = any(place.iterdir())
        except OSError as error:
            raise Failure(Exit.NO, f"{place}: {error.strerror}", "name a directory that you may write") from error
        if taken:
            raise Failure(Exit.NO, f"{place} is not empty", "name a new directory")
    else:
        place = Path(tempfile.mkdtemp(prefix="fleet-demo-"))
    try:
        yield place
    except Failure:
        narrator.say(f"logs, repository and database are left in {place}")
        raise
    except BaseException:
        _remove(place, keep or directory is not None)
        raise
    if keep or directory is not None:
        narrator.say(f"logs, repository and database are in {place}")
    _remove(place, keep or directory is not None)


def _remove(place: Path, keep: bool) -> None:
    if not keep:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: with everything that it started."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
