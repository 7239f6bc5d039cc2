"""Starts servers through the reaper and holds on to them by pid and kernel start time.

A handle signals through a pidfd, so a signal reaches that very process or nobody, however pids are reused.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.testbed import reaper
from tests.testbed.errors import NotReady, PartMissing, PortTaken, TestbedError

_LOG_TAIL_BYTES = 4000
_POLL_SECONDS = 0.02


class Process:
    """A running server. `started` is in clock ticks after boot; `log` receives stdout and stderr."""

    def __init__(self, launcher: Launcher, name: str, pid: int, started: int, log: Path) -> None:
        self._launcher = launcher
        self.name = name
        self.pid = pid
        self.started = started
        self.log = log
        self._pidfd: int | None = None
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            if reaper.start_time(pid) == started:
                self._pidfd = descriptor
            else:
                os.close(descriptor)

    def alive(self) -> bool:
        return not self.wait_ended(0)

    def wait_ended(self, seconds: float) -> bool:
        """Whether the process has ended, waiting up to `seconds` for it."""
        return self._pidfd is None or wait_pidfd(self._pidfd, seconds)

    def exit_code(self) -> int | None:
        """As subprocess gives it (negative: the signal); None while it runs."""
        return None if self.alive() else self._launcher.exit_code(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Signals the process; one that has ended is left alone."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """SIGKILL, and back when it is gone."""
        self._end(signal.SIGKILL, 10)

    def stop(self, grace: float = 5) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; back when it is gone. Ends a paused process, too."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if self.wait_ended(grace):
            self._close()
        else:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP: the process keeps its connections and answers nothing."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Polls `ready` until it holds.

        Raises PortTaken when the process ended because its port is in use, NotReady when it ended for another reason or
        is not ready after `seconds`; both carry the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive():
                said = self.log_tail()
                error = PortTaken if "address already in use" in said else NotReady
                raise error(f"{self.name} ended with {self.exit_code()}: {said}")
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name} not ready after {seconds:.0f} s: {self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def _end(self, number: signal.Signals, seconds: float) -> None:
        self.send(number)
        if not self.wait_ended(seconds):
            raise TestbedError(f"{self.name} (pid {self.pid}) is still there {seconds:.0f} s after {number.name}")
        self._close()

    def _close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Launcher:
    """The connection to one reaper. Safe to use from several threads."""

    def __init__(self) -> None:
        if not hasattr(os, "pidfd_open"):
            raise PartMissing("testbed", "process supervision needs Linux 5.3 or newer (pidfd)")
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is for the parent to handle
        )

    @property
    def pid(self) -> int:
        """The reaper's process id."""
        return self._reaper.pid

    def usable(self) -> bool:
        """False in a forked child, and when the reaper is gone."""
        return self._owner == os.getpid() and self._reaper.poll() is None

    def spawn(
        self, name: str, argv: Sequence[str | Path], directory: Path, env: Mapping[str, str] | None = None
    ) -> Process:
        """Starts a program in `directory`, its output appended to `<directory>/<name>.log`.

        It gets a clean environment (PATH, HOME in `directory`) and `env` on top. Raises TestbedError when it cannot be
        started.
        """
        log = directory / f"{name}.log"
        clean = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LC_ALL": "C"}
        request = {
            "op": "spawn",
            "argv": [os.fspath(argument) for argument in argv],
            "cwd": str(directory),
            "env": {**clean, **(env or {})},
            "log": str(log),
        }
        reply = self._ask(request)
        if "error" in reply:
            raise TestbedError(f"{name} cannot be started: {reply['error']}")
        return Process(self, name, reply["pid"], reply["start"] or 0, log)

    def exit_code(self, pid: int) -> int | None:
        reply = self._ask({"op": "status", "pid": pid})
        code = reply.get("exit")
        return code if isinstance(code, int) else None

    def close(self) -> None:
        """Ends the reaper and with it every process that is left."""
        if self._owner != os.getpid():
            return
        with self._lock, contextlib.suppress(BrokenPipeError):
            assert self._reaper.stdin is not None
            assert self._reaper.stdout is not None
            self._reaper.stdin.close()
            self._reaper.wait(30)
            self._reaper.stdout.close()

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        try:
            with self._lock:
                self._reaper.stdin.write(json.dumps(request).encode() + b"\n")
                self._reaper.stdin.flush()
                line = self._reaper.stdout.readline()
        except (OSError, ValueError) as error:
            raise TestbedError(f"the reaper of the testbed is gone: {error}") from error
        if not line:
            raise TestbedError("the reaper of the testbed is gone")
        reply: dict[str, Any] = json.loads(line)
        return reply


def wait_pidfd(descriptor: int, seconds: float) -> bool:
    """Whether the process behind the pidfd has ended, waiting up to `seconds` for it."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


_current: Launcher | None = None
_current_lock = threading.Lock()


def launcher() -> Launcher:
    """This process's launcher, started when first needed and ended at its exit."""
    global _current
    with _current_lock:
        if _current is None or not _current.usable():
            _current = Launcher()
            atexit.register(_current.close)
        return _current
