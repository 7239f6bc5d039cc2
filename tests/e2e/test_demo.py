"""The demo as a person starts it: four real clusters, the control plane, the whole tour, and nothing left behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.testbed import build
from tests.testbed.audit import AuditLog
from tests.testbed.fixtures import skipping

pytestmark = pytest.mark.real

TOUR_SECONDS = float(os.environ.get("FLEET_TEST_DEMO_SECONDS", "420"))
"""Longest time of a run on a machine that does other things, too; undisturbed it takes one minute."""
STEP_SECONDS = "120"
END_SECONDS = 60.0


@pytest.fixture(autouse=True)
def programs() -> None:
    with skipping():
        build.binaries("core")


def test_every_step_of_the_tour_comes_true(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    done = subprocess.run(
        _demo("--tour-only", "--directory", str(place), "-o", "json"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOUR_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    told = json.loads(done.stdout)
    assert told["clusters"] == ["qa-eu1", "qa-us1", "prod-eu1", "prod-us1"]
    steps = {step["name"]: step for step in told["steps"]}
    assert list(steps) == ["first rollout", "approval", "commit", "drift", "bad commit", "revert"]
    assert steps["first rollout"]["rollout"] == steps["approval"]["rollout"]
    rollouts = [steps[name]["rollout"] for name in ("approval", "commit", "bad commit", "revert")]
    assert rollouts == ["shop-1", "shop-2", "shop-3", "shop-4"]
    # What the steps say of themselves, against what Git and the API servers of the clusters kept.
    assert _subjects(place) == [
        'Revert "Web 1.2-does-not-exist"',
        "Web 1.2-does-not-exist",
        "Web 1.1",
        "The shop, and the fleet it runs on",
    ]
    for name in told["clusters"]:
        writes = _writes(place, name)
        # web: made, changed by the good commit; in qa also by the bad one and its revert; in prod by a repair where
        # somebody scaled it.
        expected = 4 if name.startswith("qa") else 2 + (name == steps["drift"]["cluster"])
        assert (name, writes["web"], writes["cart"]) == (name, expected, 1)
    assert _left(place) == []


@pytest.mark.deep
def test_it_stays_up_until_ctrl_c_and_takes_everything_with_it(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    with _terminal(_demo("--clusters", "2", "--directory", str(place))) as terminal:
        terminal.read_until("Ctrl-C ends everything", TOUR_SECONDS)
        victim = f"source {shlex.quote(str(place / 'env.sh'))}; kubectl --context prod-eu1 -n shop"
        _bash(f"{victim} delete service cart")
        terminal.read_until("healed", float(STEP_SECONDS))
        assert "cart" in _bash(f"{victim} get services -o name")
        assert "cart" in _bash(f"source {shlex.quote(str(place / 'env.sh'))}; fleet drift --cluster prod-eu1")
        terminal.send("\x03")
        assert terminal.wait(END_SECONDS) == 0
    assert _left(place) == []


@pytest.mark.deep
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    place = tmp_path / "demo"
    with _terminal(_demo("--clusters", "2", "--directory", str(place))) as terminal:
        terminal.read_until("the control plane is ready", TOUR_SECONDS)
        assert len(_left(place)) > 10
        terminal.process.send_signal(number)
        terminal.wait(END_SECONDS)
        deadline = time.monotonic() + END_SECONDS
        while _left(place) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert _left(place) == []


def _demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fleet", "demo", "--real", "--deadline", STEP_SECONDS, *arguments]


def _subjects(place: Path) -> list[str]:
    """The commits that the control plane read, newest first."""
    log = ["git", "-C", str(place / "shop.git"), "log", "--format=%s", "main"]
    return subprocess.run(log, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()


def _writes(place: Path, cluster: str) -> dict[str, int]:
    """How often our field manager wrote each Deployment of the shop, by the API server's own word."""
    log = AuditLog(place / "clusters" / cluster / "audit.log", probe=lambda agent: None)
    asked = log.requests(manager="fleet-demo", writes=True, resource="deployments", sync=False)
    return Counter(request.name for request in asked if request.code < 300)


def _left(place: Path) -> list[str]:
    """Processes that have the demo's directory in their command line or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(str(place) in word for word in words) or process.cwd().startswith(str(place)):
                found.append(" ".join(words)[:200])
        except psutil.Error:
            continue
    return found


def _bash(script: str) -> str:
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class _Terminal:
    """A process that believes a person sits before it."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._seen = ""

    def read_until(self, text: str, seconds: float) -> None:
        """Reads on until `text` comes; what was read before does not count again."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self._seen[-4000:]}"
            assert self._read(min(left, 1.0)) or self.process.poll() is None, self._seen[-4000:]
        self._seen = self._seen.partition(text)[2]

    def send(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait(self, seconds: float) -> int:
        """The exit code; what it prints meanwhile is read, so that it never waits for us."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it has not ended: {self._seen[-4000:]}"
            self._read(0.1)
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        try:
            chunk = os.read(self._descriptor, 65536)
        except OSError:  # how Linux tells that the other side is closed
            time.sleep(0.05)
            return False
        self._seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chunk.decode(errors="replace"))
        return bool(chunk)


def _take_terminal() -> None:
    """Makes stdin the terminal that controls the process, so that Ctrl-C in it becomes SIGINT."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def _terminal(argv: list[str]) -> Iterator[_Terminal]:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_take_terminal
        )
    finally:
        os.close(theirs)
    try:
        yield _Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
