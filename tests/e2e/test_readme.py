"""The tour of the README, typed as it stands there, on two real clusters."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.cli.demo.stage import write_kubeconfig
from tests.reference import fenced
from tests.testbed import build
from tests.testbed.cluster import Clusters, start_clusters
from tests.testbed.fixtures import skipping

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get("FLEET_TEST_README_SECONDS", "120"))
"""Longest time for one thing to come true."""
SHORTER = "s/bake:.*/bake:\\x201s/;s/stableFor:.30s/stableFor:\\x201s/"
"""What is edited into fleet.yaml, for sed, without blanks: a reader has more time than a test."""


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    with skipping():
        started = start_clusters(["qa", "prod"], tmp_path_factory.mktemp("readme"))
    with started:
        yield started


class Person:
    """Somebody who types the lines of the README in a home of their own."""

    def __init__(self, home: Path, clusters: Clusters) -> None:
        self.home = home
        write_kubeconfig(home / "kubeconfig", {each.name: each.kubeconfig for each in clusters})
        (home / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@acme.example\n")
        tools = Path(sys.executable).parent, build.binaries("core")["kubectl"].parent
        self.environment = {
            "PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]]),
            "HOME": str(home),
            "KUBECONFIG": str(home / "kubeconfig"),
        }

    def type(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.home,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def must(self, line: str, **environment: str) -> str:
        done = self.type(line, **environment)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def until(self, line: str, true: Callable[[subprocess.CompletedProcess[str]], bool]) -> str:
        """Types the line again and again, as somebody does who waits for something."""
        end = time.monotonic() + SECONDS
        while not true(done := self.type(line)):
            assert time.monotonic() < end, f"{line}: {done.stdout}{done.stderr}"
            time.sleep(0.2)
        return done.stdout


def tour() -> tuple[list[str], list[str]]:
    """The lines for the first and the second terminal."""
    blocks = [block.splitlines() for block in fenced(ROOT / "README.md", "")]
    first = next(block for block in blocks if any("fleet init" in line for line in block))
    second = next(block for block in blocks if any("fleet approve" in line for line in block))
    return first, second


def starting(lines: list[str], beginning: str) -> str:
    """The line that begins so, which the README must have exactly once."""
    (found,) = [line for line in lines if line.startswith(beginning)]
    return found


def test_the_tour_of_the_readme(tmp_path: Path, clusters: Clusters) -> None:
    first, second = tour()
    person = Person(tmp_path, clusters)
    assert starting(first, "make setup")
    person.must(starting(first, "fleet init"))
    person.must(starting(first, "$EDITOR my-fleet/fleet.yaml"), EDITOR=f"sed -i {SHORTER}")
    person.must(starting(first, "fleet validate"))
    person.must(starting(first, "git "))
    person.must(starting(first, "fleet doctor"))
    port = _free_port()
    person.environment["FLEET_SERVER"] = f"http://127.0.0.1:{port}"
    serve = shlex.split(starting(first, "fleet serve"), comments=True)
    server = subprocess.Popen(
        [*serve, "--listen", f"127.0.0.1:{port}"], cwd=person.home, env=person.environment, stderr=subprocess.DEVNULL
    )
    try:
        _second_terminal(person, second)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS) == 0


def _second_terminal(person: Person, lines: list[str]) -> None:
    greeting = "kubectl --context {} -n hello get configmap hello -o jsonpath={{.data.greeting}}"
    person.until(starting(lines, "fleet rollouts"), lambda done: "hello-1" in done.stdout)
    person.until(starting(lines, "fleet explain"), lambda done: "fleet approve hello-1 go" in done.stdout)
    first = person.must(greeting.format("qa"))
    assert person.type(greeting.format("prod")).returncode != 0
    person.must(starting(lines, "fleet approve"))
    assert person.must(greeting.format("prod")) == first

    edit = starting(lines, "kubectl ").replace("YOUR-PROD", "prod")
    person.must(edit, KUBE_EDITOR="sed -i s/Hello/Changed-by-hand/")
    person.until(starting(lines, "fleet drift"), lambda done: "healed" in done.stdout)
    told = json.loads(person.must("fleet drift -o json"))["items"]
    assert [(each["cluster"], each["manager"], each["fields"][0]["path"]) for each in told] == [
        ("prod", "kubectl-edit", "data.greeting")
    ]
    assert person.must(greeting.format("prod")) == first

    person.must(starting(lines, "$EDITOR my-fleet/apps"), EDITOR="sed -i s/Hello/Good-morning/")
    assert "data.greeting" in person.must(starting(lines, "fleet plan"))
    person.must(starting(lines, "git -C my-fleet commit"))
    follow = starting(lines, "fleet sync").replace("fleet status --watch", "fleet status")
    person.must(follow)
    person.until("fleet explain hello-2", lambda done: "fleet approve hello-2 go" in done.stdout)
    person.must("fleet approve hello-2 go --wait")
    second = person.must(greeting.format("prod"))
    assert (second, first) == (person.must(greeting.format("qa")), second.replace("Good-morning", "Hello"))

    person.must(starting(lines, "git -C my-fleet revert"))
    person.must(follow)
    person.until(greeting.format("qa"), lambda done: done.stdout == first)
    person.until("fleet explain hello-3", lambda done: "fleet approve hello-3 go" in done.stdout)
    assert person.must(greeting.format("prod")) == second
    person.must("fleet approve hello-3 go --wait")
    assert person.must(greeting.format("prod")) == first


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
