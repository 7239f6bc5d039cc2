"""The command line against a real server on loopback, whose engine parts hold plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from typer.testing import CliRunner, Result

from fleet.api.server import Server
from fleet.cli import events, follow
from fleet.cli.main import app
from fleet.settings import ApiSettings
from tests.unit.engine.parts import ControlPlane

TOKEN = "a-token-of-enough-length"
Fleet = Callable[..., Result]


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as running:
        yield running


@pytest.fixture
def server(plane: ControlPlane, portal: BlockingPortal) -> Iterator[str]:
    running = portal.call(_make, plane)
    yield portal.call(running.start, "127.0.0.1", 0).url
    portal.call(running.aclose)


async def _make(plane: ControlPlane) -> Server:
    return Server(plane.service, TOKEN, bytes, ApiSettings(), "0.1.0")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Nothing of whoever runs the tests: no token of theirs, no git identity, no colours; and no waiting."""
    monkeypatch.setattr(follow, "WAIT_PERIOD", 0.0)
    monkeypatch.setattr(follow, "PERIOD", 0.0)
    monkeypatch.setattr(events, "PAUSE", 0.0)
    monkeypatch.chdir(tmp_path)
    for name in ("FLEET_SERVER", "FLEET_TOKEN", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\temail = ana@acme.example\n")
    return {
        "HOME": str(tmp_path),
        "FLEET_DATA_DIR": str(tmp_path / "state"),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "TERM": "dumb",
        "COLUMNS": "100",
    }


@pytest.fixture
def offline(environment: dict[str, str]) -> Fleet:
    """`fleet ARGS` without a server."""

    def run(*args: str, **more: str) -> Result:
        return CliRunner().invoke(app, list(args), env={**environment, **more}, prog_name="fleet")

    return run


@pytest.fixture
def fleet(server: str, offline: Fleet) -> Fleet:
    """`fleet ARGS` with the server and its token in the environment."""

    def run(*args: str, **more: str) -> Result:
        return offline(*args, **{"FLEET_SERVER": server, "FLEET_TOKEN": TOKEN, **more})

    return run


def fields(result: Result) -> Any:
    """The JSON on stdout, which must hold nothing else."""
    import json

    return json.loads(result.stdout)
