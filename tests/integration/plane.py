"""A control plane as its users run it: `fleet serve` as a process, its command line, and its HTTP API.

The process belongs to the testbed's reaper, so it ends with the test run whatever becomes of that. A wait has a
deadline and fails with what was seen last and the end of the process's log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typer.testing import CliRunner

from fleet.cli.main import app
from tests.testbed import build, ports, processes
from tests.testbed.errors import NotReady, TestbedError
from tests.testbed.processes import Process

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
"""Generous: the machine may be busy with clusters."""
WAIT_SECONDS = 90.0
COMMAND_SECONDS = 60.0
POLL = 0.05

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command of the command line that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.out)


class ApiRefused(TestbedError):
    """The control plane answered with a problem."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}: {body[:1000]}")
        self.status = status
        self.body = body


class Plane:
    """One control plane; `start` and `kill` as often as a test wants, on the same port and data directory.

    `before` are shell commands that run in the process's own mount namespace before the program takes its place.
    """

    def __init__(
        self,
        directory: Path,
        repository: str | Path,
        *,
        data_dir: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data_dir = data_dir or directory / "data"
        self.repository = repository
        (self.port,) = ports.free(1)
        self._arguments = tuple(arguments)
        self._environment = dict(environment or {})
        self._before = tuple(before)
        self._process: Process | None = None

    # --- the process -------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None, "the control plane was not started"
        return self._process

    def launch(self) -> None:
        """Starts the process, without waiting for anything."""
        argv = [sys.executable, "-m", "fleet", "serve", "--fleet", str(self.repository)]
        argv += ["--data-dir", str(self.data_dir), "--listen", f"127.0.0.1:{self.port}", *self._arguments]
        if self._before:
            script = " && ".join((*self._before, 'exec "$@"'))
            argv = ["unshare", "-rm", "sh", "-ec", script, "sh", *argv]
        kustomize = build.binaries("core")["kustomize"].parent
        found = {"PATH": f"{kustomize}:{os.environ.get('PATH', os.defpath)}", "PYTHONPATH": str(ROOT)}
        self._process = processes.launcher().spawn("serve", argv, self.directory, {**found, **self._environment})

    def start(self) -> Plane:
        """Starts the process; back when its API answers."""
        self.launch()
        self.process.wait_ready(self._answers, START_SECONDS)
        return self

    def kill(self) -> None:
        """SIGKILL, and back when it is gone."""
        self.process.kill()

    def stop(self, seconds: float = 10.0) -> int | None:
        """SIGTERM; the exit code. Raises NotReady when the process is still there after `seconds`."""
        process = self.process
        process.send(signal.SIGTERM)
        return self.ended(seconds, "after SIGTERM")

    def ended(self, seconds: float, when: str) -> int | None:
        """The exit code of a process that is to end by itself."""
        if not self.process.wait_ended(seconds):
            raise NotReady(f"serve is still there {seconds:g} s {when}: {self.log_tail()}")
        code = self.process.exit_code()
        self.process.kill()  # it is gone: this only lets go of it
        return code

    def restart(self) -> Plane:
        """kill -9 and a new process."""
        self.kill()
        return self.start()

    def log(self) -> str:
        path = self.directory / "serve.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Plane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- end of {self.directory / 'serve.log'}\n{self.log_tail()}\n")
        self.close()

    # --- the command line --------------------------------------------------------------------------------------------

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """`fleet ARGUMENTS -o json`: what it printed. Fails when it ends with another exit code."""
        return self.run(*arguments, "-o", "json", code=code).data

    def run(self, *arguments: str, code: int = 0) -> Ran:
        """`fleet ARGUMENTS` within this process, which saves half a second each time."""
        answer = CliRunner().invoke(app, arguments, env={**self.for_clients, **_nobody(self.directory)})
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        return self._ended_with(code, arguments, Ran(answer.exit_code, answer.stdout, answer.stderr))

    def shell(self, *arguments: str, code: int = 0) -> Ran:
        """`python -m fleet ARGUMENTS` in a process of its own, as its user would type it."""
        return self._ended_with(code, arguments, run_fleet(arguments, self.for_clients, self.directory))

    @property
    def for_clients(self) -> dict[str, str]:
        """What a user exports on the machine of the control plane."""
        return {"FLEET_SERVER": self.url, "FLEET_DATA_DIR": str(self.data_dir)}

    @staticmethod
    def _ended_with(code: int, arguments: Sequence[str], ran: Ran) -> Ran:
        if ran.code != code:
            raise AssertionError(f"fleet {' '.join(arguments)}: exit {ran.code}, not {code}\n{ran.out}{ran.err}")
        return ran

    # --- the API -----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """GET below /api/v1. Raises ApiRefused for a problem, OSError when there is no answer."""
        return json.loads(self.raw("GET", f"/api/v1{path}"))

    def post(self, path: str, body: Json | None = None) -> Any:
        return json.loads(self.raw("POST", f"/api/v1{path}", body or {}))

    def raw(self, method: str, path: str, body: Json | None = None) -> str:
        """One request with the token, where there is one; the body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, {"Content-Type": "application/json", **self._signed()})
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ApiRefused(answer.status, text)
        return text

    def events(self, since: int = 0) -> list[Json]:
        """The event log after a sequence number."""
        return [json.loads(line) for line in self.raw("GET", f"/api/v1/events?since={since}").splitlines()]

    def last_seq(self) -> int:
        return max((event["seq"] for event in self.events()), default=0)

    @contextlib.contextmanager
    def following(self, since: int) -> Iterator[Iterator[Json]]:
        """The event log as it grows; the iteration ends when the process does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request("GET", f"/api/v1/events?since={since}&follow=true", headers=self._signed())
            yield self._lines(connection.getresponse())
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            self.raw("GET", "/readyz")
        except (ApiRefused, OSError):
            return False
        return True

    def sync(self) -> None:
        self.post("/sync")

    def rollout(self, name: str) -> Json:
        found: Json = self.get(f"/rollouts/{name}")
        return found

    def rollouts(self, bundle: str) -> list[Json]:
        """Newest first."""
        return list(self.get(f"/rollouts?bundle={bundle}")["items"])

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, look: Callable[[], T], until: Callable[[T], Any], what: str, seconds: float = WAIT_SECONDS) -> T:
        """Looks until `until` holds. An API that does not answer (it may be starting) is looked at again."""
        deadline = time.monotonic() + seconds
        seen: T | str = "nothing"
        while True:
            try:
                seen = look()
                if until(seen):
                    return seen
            except (OSError, ApiRefused) as error:
                seen = str(error)
            if time.monotonic() > deadline:
                told = seen if isinstance(seen, str) else json.dumps(seen, default=str)[-3000:]
                raise NotReady(f"{what}: not within {seconds:g} s; last seen {told}\n{self.log_tail()}")
            time.sleep(POLL)

    def wait_rollout(
        self, bundle: str, revision: str | None, until: Callable[[Json], Any], what: str, seconds: float = WAIT_SECONDS
    ) -> Json:
        """The newest rollout of a bundle, of this commit of the repository of fleet.yaml, once `until` holds for it."""

        def look() -> Json:
            found = self.rollouts(bundle)
            if not found or (revision is not None and revision not in found[0]["revisions"].values()):
                return {}
            return found[0]

        return self.wait(look, lambda seen: bool(seen) and until(seen), f"{bundle}: {what}", seconds)

    def wait_state(self, bundle: str, revision: str | None, *states: str, seconds: float = WAIT_SECONDS) -> Json:
        return self.wait_rollout(bundle, revision, lambda r: r["state"] in states, " or ".join(states), seconds)

    def wait_synced(self, bundle: str, seconds: float = WAIT_SECONDS) -> Json:
        """The bundle's status once every cluster is as released."""

        def look() -> Json:
            return next((b for b in self.get("/status")["bundles"] if b["name"] == bundle), {})

        return self.wait(look, lambda b: b.get("state") == "Synced", f"{bundle} synced", seconds)

    def wait_ready_clusters(self, count: int, seconds: float = WAIT_SECONDS) -> None:
        def look() -> Any:
            return self.get("/status")["clusters"]

        self.wait(look, lambda c: c["ready"] >= count, f"{count} clusters ready", seconds)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _signed(self) -> dict[str, str]:
        try:
            return {"Authorization": f"Bearer {self.inside('token').read_text().strip()}"}
        except OSError:
            return {}

    def inside(self, name: str) -> Path:
        """A file of the data directory, also where that lies in a mount of the process's own."""
        if self._before and self._process is not None:
            return Path(f"/proc/{self._process.pid}/root{self.data_dir}", name)
        return self.data_dir / name

    def _answers(self) -> bool:
        try:
            self.raw("GET", "/healthz")
        except (ApiRefused, OSError):
            return False
        return True

    @staticmethod
    def _lines(response: http.client.HTTPResponse) -> Iterator[Json]:
        try:
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError):
            return  # cut off with the process; half a line tells nothing


def run_fleet(arguments: Sequence[str], environment: Mapping[str, str], directory: Path) -> Ran:
    """The command line in a process of its own, in `directory`, without anything from this machine's user."""
    kustomize = build.binaries("core")["kustomize"].parent
    found = {"PATH": f"{kustomize}:{os.environ.get('PATH', os.defpath)}", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "fleet", *arguments],
        cwd=directory,
        env={**found, **_nobody(directory), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _nobody(home: Path) -> dict[str, str]:
    """Nothing of whoever runs the tests: no git identity, no kubeconfig, no width of a terminal."""
    return {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "KUBECONFIG": str(home / "kubeconfig"),
        "TERM": "dumb",
        "COLUMNS": "200",
    }
