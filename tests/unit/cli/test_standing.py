from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from anyio.from_thread import BlockingPortal

from fleet.model.cluster import ClusterState
from fleet.model.rollout import RolloutState
from tests.unit.cli.conftest import TOKEN, Fleet, fields
from tests.unit.engine import parts
from tests.unit.engine.parts import Agent, ControlPlane, Source


def test_status_as_text_aligns_and_tells_why(plane: ControlPlane, fleet: Fleet) -> None:
    plane.sources.held = [Source(), Source(name="apps", sha=None, error="host unreachable", since=parts.NOW)]
    result = fleet("status")
    assert result.exit_code == 0
    assert "fleet acme version 0.1.0" in result.stdout
    assert "2: 2 ready" in result.stdout
    header, row = (line for line in result.stdout.splitlines() if line.startswith(("BUNDLE", "shop")))
    assert header.index("STATE") == row.index("Blocked")
    assert header.index("WHY") == row.index("shop-17 waits for gate go")
    assert "host unreachable" in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_status_tells_what_is_wrong_with_the_configuration(plane: ControlPlane, fleet: Fleet) -> None:
    plane.configuration.error = "fleet.yaml:12:5: bundles[0].strategi: unknown key"
    result = fleet("status")
    assert "fleet.yaml:12:5" in result.stdout
    assert "last valid fleet.yaml stays in force" in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("clusters",),
        ("cluster", "qa"),
        ("cluster", "qa", "--objects", "shop"),
        ("bundles",),
        ("bundle", "shop"),
        ("rollouts",),
        ("rollout", "shop-17"),
        ("rollout", "shop-16"),
        ("explain", "shop-17"),
        ("explain", "prod"),
        ("drift",),
    ],
)
def test_every_answer_has_all_three_formats(plane: ControlPlane, fleet: Fleet, command: tuple[str, ...]) -> None:
    plane.history.drift = [parts.drift()]
    text, as_json, as_yaml = (fleet(*command, "-o", form) for form in ("text", "json", "yaml"))
    assert [text.exit_code, as_json.exit_code, as_yaml.exit_code] == [0, 0, 0], text.stderr
    assert [text.stderr, as_json.stderr, as_yaml.stderr] == ["", "", ""]
    assert text.stdout
    assert yaml.safe_load(as_yaml.stdout) == fields(as_json)


def test_global_options_stand_before_or_after_the_command(fleet: Fleet) -> None:
    assert fields(fleet("-o", "json", "bundles")) == fields(fleet("bundles", "-o", "json"))
    assert fields(fleet("-o", "yaml", "bundles", "-o", "json"))["items"][0]["name"] == "shop"


def test_lists_are_read_to_their_end(plane: ControlPlane, fleet: Fleet) -> None:
    plane.agents.held = {name: Agent(name) for name in (f"c{number:04}" for number in range(1100))}
    answer = fields(fleet("clusters", "-o", "json"))
    assert (len(answer["items"]), answer["next"]) == (1102, None)


def test_rollouts_are_limited_and_say_that_there_are_more(fleet: Fleet) -> None:
    result = fleet("rollouts", "--limit", "1")
    assert "shop-17" in result.stdout
    assert "shop-16" not in result.stdout
    assert "raise --limit" in result.stdout
    assert "shop-16" in fleet("rollouts").stdout


def test_a_rollout_names_gate_who_and_the_command(fleet: Fleet) -> None:
    text = fleet("rollout", "shop-17").stdout
    assert "gate go" in text
    assert "group:sre" in text
    assert "fleet approve shop-17 go" in text


def test_a_failed_object_is_shown_with_the_servers_words(fleet: Fleet) -> None:
    text = fleet("rollout", "shop-16").stdout
    assert "apps/Deployment shop/web: spec.replicas: Invalid value: -1" in text


def test_what_a_commit_says_cannot_steer_the_terminal(plane: ControlPlane, fleet: Fleet) -> None:
    release = msgspec.structs.replace(parts.RELEASE, message="nice\x1b]0;owned\x07\x1b[2Jtry")
    plane.rolling(active=parts.rollout(release=release))
    result = fleet("rollout", "shop-17")
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "nice�]0;owned" in result.stdout


def test_no_colours_outside_a_terminal(fleet: Fleet) -> None:
    assert "\x1b" not in fleet("status").stdout


def test_drift_tells_who_changed_what(plane: ControlPlane, fleet: Fleet) -> None:
    plane.history.drift = [parts.drift()]
    text = fleet("drift").stdout
    assert "apps/Deployment shop/web" in text
    assert "by kubectl-edit" in text
    assert "spec.replicas: 3 → 5" in text


def test_drift_exit_code_answers_whether_something_differs(plane: ControlPlane, fleet: Fleet) -> None:
    assert fleet("drift", "--open", "--exit-code").exit_code == 0
    plane.history.drift = [parts.drift()]
    assert fleet("drift", "--open", "--exit-code").exit_code == 0
    plane.history.drift = [parts.drift(state="open", healed_at=None)]
    assert fleet("drift", "--open").exit_code == 0
    assert fleet("drift", "--open", "--exit-code").exit_code == 1


def test_diff_exits_one_when_there_is_a_difference(plane: ControlPlane, fleet: Fleet) -> None:
    result = fleet("diff", "shop", "--cluster", "prod")
    assert result.exit_code == 1
    assert "~ apps/v1/Deployment shop/web" in result.stdout
    plane.agents.differences = [parts.Difference(change="none", fields=())]
    same = fleet("diff", "shop", "--cluster", "prod")
    assert (same.exit_code, same.stdout) == (0, "shop on prod: 1 objects, no difference\n")


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_exit_three(offline: Fleet) -> None:
    result = offline("status", "--server", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot reach the server at http://127.0.0.1:1: nothing listens there" in result.stderr
    assert "fleet serve" in result.stderr


def test_no_token_and_a_wrong_one_are_exit_four(server: str, offline: Fleet) -> None:
    missing = offline("status", "--server", server)
    assert (missing.exit_code, "no token was given" in missing.stderr) == (4, True)
    wrong = offline("status", "--server", server, "--token", "another-token-of-some-length")
    assert (wrong.exit_code, "not this server's" in wrong.stderr) == (4, True)
    assert "another-token" not in wrong.stderr


def test_the_token_of_a_local_server_is_found(server: str, offline: Fleet, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text(f"{TOKEN}\n")
    assert offline("status", "--server", server).exit_code == 0


def test_the_local_token_never_leaves_the_machine(offline: Fleet, tmp_path: Path) -> None:
    from fleet.cli.session import Globals, Session

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text(f"{TOKEN}\n")
    assert Session(Globals(server="http://fleet.acme.example"))._token is None
    result = offline("status", "--server", "http://fleet.invalid")
    assert result.exit_code == 3


@pytest.mark.parametrize("name", ["cluster", "bundle", "rollout", "explain"])
def test_an_unknown_name_is_exit_one_and_tells_where_to_look(fleet: Fleet, name: str) -> None:
    result = fleet(name, "nothing-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`fleet " in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("status", "--nonsense"),
        ("rollout",),
        ("status", "-o", "xml"),
        ("status", "--server", "ftp://x"),
        ("status", "--server", "http://a:b@c"),
        ("rollouts", "--limit", "0"),
        ("simulate",),
        ("promote", "shop-17"),
        ("freeze", "shop-17"),
    ],
)
def test_wrong_usage_is_exit_two(offline: Fleet, args: tuple[str, ...]) -> None:
    result = offline(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_commands_of_later_versions_are_told_apart_from_typing_errors(offline: Fleet) -> None:
    assert "`fleet pin` is not supported yet" in offline("pin", "prod").stderr
    assert "Did you mean" in offline("statu").stderr


def test_something_else_on_the_port_is_not_taken_for_the_server(portal: BlockingPortal, offline: Fleet) -> None:
    from aiohttp import web

    async def start() -> tuple[web.AppRunner, int]:
        application = web.Application()
        application.router.add_get("/{any:.*}", _hello)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, int(runner.addresses[0][1])

    async def _hello(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    runner, port = portal.call(start)
    result = offline("status", "--server", f"http://127.0.0.1:{port}")
    portal.call(runner.cleanup)
    assert result.exit_code == 3
    assert "not as a fleet server" in result.stderr


# --- following -------------------------------------------------------------------------------------------------------


def test_watch_shows_each_change_and_ends_with_the_rollout(plane: ControlPlane, fleet: Fleet) -> None:
    states = [RolloutState.BLOCKED, RolloutState.BLOCKED, RolloutState.RUNNING, RolloutState.SUCCEEDED]
    plane.conductor.coming.extend(parts.rollout(state=state, blocked_by=None) for state in states)
    result = fleet("rollout", "shop-17", "--watch", "-o", "json")
    assert result.exit_code == 0
    documents = [json.loads(each + "}") for each in result.stdout.split("\n}\n") if each]
    assert [each["state"] for each in documents] == ["Blocked", "Running", "Succeeded"]


def test_events_are_lines(plane: ControlPlane, fleet: Fleet) -> None:
    plane.history.keep("rollout.state", "wave.state")
    result = fleet("events", "-o", "json")
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == [1, 2]
    text = fleet("events", "--since", "1").stdout
    assert len(text.splitlines()) == 1
    assert "wave.state" in text


def test_events_that_are_gone_tell_where_to_start(plane: ControlPlane, fleet: Fleet) -> None:
    plane.history.keep(*["apply.started"] * 5)
    plane.history.forget(3)
    result = fleet("events", "--since", "1")
    assert result.exit_code == 1
    assert "start from 3" in result.stderr


def test_a_lost_cluster_is_shown_with_its_age(plane: ControlPlane, fleet: Fleet) -> None:
    lost = Agent("qa", state=ClusterState.UNKNOWN, reason="connection refused", observed_at=parts.NOW - 300)
    plane.agents.held["qa"] = lost
    row = next(line for line in fleet("clusters").stdout.splitlines() if line.startswith("qa"))
    assert row.split()[:3] == ["qa", "Unknown", "5m"]
    assert row.endswith("connection refused")
