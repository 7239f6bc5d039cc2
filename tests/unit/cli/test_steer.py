from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.errors import Conflict, StoreError
from fleet.model.rollout import RolloutState
from tests.unit.cli.conftest import Fleet, fields
from tests.unit.engine import parts
from tests.unit.engine.parts import ControlPlane, Source


def test_an_approval_is_in_the_name_of_gits_user(plane: ControlPlane, fleet: Fleet) -> None:
    result = fleet("approve", "shop-17", "go", "--comment", "fine", "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert fields(result)["id"] == "shop-17"
    command = plane.conductor.commands[0]
    assert (command.name, command.gate, command.actor, command.comment) == ("approve", "go", "ana@acme.example", "fine")


def test_as_and_groups_name_the_actor(plane: ControlPlane, fleet: Fleet) -> None:
    fleet("reject", "shop-17", "go", "--as", "sam", "--group", "sre", "--group", "qa")
    command = plane.conductor.commands[0]
    assert (command.name, command.actor, command.groups) == ("reject", "sam", ("sre", "qa"))


@pytest.mark.parametrize("name", ["pause", "resume", "abort", "retry"])
def test_commands_on_a_rollout(plane: ControlPlane, fleet: Fleet, name: str) -> None:
    assert fleet(name, "shop-17").exit_code == 0
    assert [(each.name, each.rollout) for each in plane.conductor.commands] == [(name, "shop-17")]


def test_a_rollback_takes_release_and_clusters(plane: ControlPlane, fleet: Fleet) -> None:
    assert fleet("rollback", "shop", "--to", "shop-0123456789ab", "--cluster", "qa", "--cluster", "prod").exit_code == 0
    command = plane.conductor.commands[0]
    assert (command.bundle, command.release, command.clusters) == ("shop", "shop-0123456789ab", ("qa", "prod"))


def test_a_version_that_passed_is_exit_five(plane: ControlPlane, fleet: Fleet) -> None:
    result = fleet("pause", "shop-17", "--if-version", "41")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "version 42 now, not 41" in result.stderr


def test_a_command_that_does_not_apply_is_exit_five(plane: ControlPlane, fleet: Fleet) -> None:
    plane.conductor.failure = Conflict("shop-17 is Blocked; only a Halted or Expired rollout can be retried")
    result = fleet("retry", "shop-17")
    assert (result.exit_code, "only a Halted" in result.stderr) == (5, True)


def test_an_unknown_rollout_is_exit_one(fleet: Fleet) -> None:
    assert fleet("pause", "shop-99").exit_code == 1


def test_a_server_that_cannot_do_it_now_is_exit_three(plane: ControlPlane, fleet: Fleet) -> None:
    plane.conductor.failure = StoreError("the disk is full")
    result = fleet("pause", "shop-17")
    assert (result.exit_code, "the disk is full" in result.stderr) == (3, True)


def test_sync_shows_the_sources(plane: ControlPlane, fleet: Fleet) -> None:
    plane.sources.held = [Source(name="apps")]
    result = fleet("sync", "apps")
    assert result.exit_code == 0
    assert "apps" in result.stdout
    assert plane.sources.nudged == ["apps"]
    assert fleet("sync", "nowhere").exit_code == 1


def test_wait_follows_a_rollout_to_its_good_end(plane: ControlPlane, fleet: Fleet) -> None:
    plane.conductor.coming.extend(
        [
            parts.rollout(state=RolloutState.RUNNING, blocked_by=None),
            parts.rollout(state=RolloutState.SUCCEEDED, blocked_by=None),
        ]
    )
    result = fleet("approve", "shop-17", "go", "--wait", "-o", "json")
    assert (result.exit_code, fields(result)["state"]) == (0, "Succeeded")
    told = result.stderr.splitlines()
    assert told[0] == "shop-17 · Blocked · wave prod Gating 0/1 · waits for gate go · → fleet approve shop-17 go"
    assert [line.split(" · ")[1] for line in told] == ["Blocked", "Running", "Succeeded"]


def test_wait_tells_a_bad_end_by_its_exit_code(plane: ControlPlane, fleet: Fleet) -> None:
    halted = parts.rollout(state=RolloutState.HALTED, reason="prod failed", blocked_by=None, successor="shop-18")
    plane.conductor.coming.append(halted)
    result = fleet("resume", "shop-17", "--wait", "-o", "json")
    assert (result.exit_code, fields(result)["state"]) == (1, "Halted")
    assert "shop-17 ended Halted: prod failed; shop-18 took its place" in result.stderr


def test_an_abort_that_was_asked_for_is_a_good_end(plane: ControlPlane, fleet: Fleet) -> None:
    plane.conductor.coming.append(parts.rollout(state=RolloutState.ABORTED, blocked_by=None))
    assert fleet("abort", "shop-17", "--wait").exit_code == 0


# --- a connection that breaks ----------------------------------------------------------------------------------------


class _Breaking(http.server.BaseHTTPRequestHandler):
    """Takes the first command and hangs up without an answer, as a server that is killed does."""

    seen: list[tuple[str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.headers["Idempotency-Key"], body))
        if len(self.seen) == 1:
            self.close_connection = True
            return
        content = json.dumps({"items": [], "next": None}).encode()
        self.send_response(202)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def breaking() -> Iterator[http.server.HTTPServer]:
    _Breaking.seen = []
    with http.server.HTTPServer(("127.0.0.1", 0), _Breaking) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_broken_command_is_sent_again_under_the_same_key(breaking: http.server.HTTPServer, offline: Fleet) -> None:
    result = offline("sync", "--server", f"http://127.0.0.1:{breaking.server_port}", "-o", "json")
    assert result.exit_code == 0
    keys = [key for key, _ in _Breaking.seen]
    assert len(keys) == 2
    assert keys[0] == keys[1] is not None
