from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fleet
from fleet.cli.main import NOT_YET, app
from tests.unit.cli.conftest import Fleet, fields
from tests.unit.cli.test_local import write
from tests.unit.engine.parts import FLEET

HEAVY = ("aiohttp", "anyio", "fleet.app", "fleet.core", "fleet.engine", "http.client", "msgspec", "rich", "yaml")
COMMANDS = [info.name for info in app.registered_commands if info.name]


def test_the_program_starts_without_anything_heavy() -> None:
    program = f"import sys, fleet.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_interface_is_there(offline: Fleet) -> None:
    wanted = (
        "init validate schema render plan serve demo status clusters cluster bundles bundle rollouts rollout "
        "drift diff events explain approve reject pause resume abort retry rollback sync doctor"
    )
    assert set(wanted.split()) <= set(COMMANDS)
    text = offline("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert not NOT_YET & set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_the_global_options(offline: Fleet, name: str) -> None:
    result = offline(name, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    fleet {name}" in result.stdout
    assert all(option in result.stdout for option in ("--server", "--token", "-o, --output", "--no-color"))


def test_the_version(offline: Fleet) -> None:
    assert offline("--version").stdout == f"fleet {fleet.__version__}\n"


def test_without_a_command_the_help_is_shown(offline: Fleet) -> None:
    result = offline()
    assert (result.exit_code, "Where things stand:" in result.output) == (2, True)


def test_doctor_finds_what_must_be_mended(server: str, fleet: Fleet, offline: Fleet, tmp_path: Path) -> None:
    write(tmp_path / "acme/fleet.yaml", FLEET)
    write(tmp_path / "acme/apps/shop/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    write(
        tmp_path / ".kube/config",
        """
        clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
        users: [{name: u, user: {}}]
        contexts: [{name: qa, context: {cluster: c, user: u}}]
        """,
    )
    result = fleet("doctor", "acme", "-o", "json")
    assert result.exit_code == 1
    found = {(each["subject"], each["check"]): each for each in fields(result)["findings"]}
    assert fields(result)["ok"] is False
    assert found["git", "program"]["level"] == "ok"
    assert found["acme/fleet.yaml", "fleet.yaml"]["level"] == "ok"
    assert found[server, "server"]["level"] == "ok"
    assert found["qa", "reachable"]["level"] == "error"
    assert found["prod", "credentials"]["level"] == "error"
    text = fleet("doctor", "acme", "--cluster", "qa")
    assert "→ qa: " in text.stdout
    assert "prod" not in text.stdout
    assert offline("doctor", "acme", "--cluster", "nowhere").exit_code == 1


def test_doctor_names_a_fleet_yaml_that_is_not_valid(offline: Fleet, tmp_path: Path) -> None:
    write(tmp_path / "fleet.yaml", "kind: Fleet\n")
    found = fields(offline("doctor", "-o", "json"))["findings"]
    (about,) = [each for each in found if each["check"] == "fleet.yaml"]
    assert (about["level"], about["hint"]) == ("error", "fleet validate")
