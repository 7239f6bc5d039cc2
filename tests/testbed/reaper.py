"""The process that owns every server of the testbed and ends them all when its own parent is gone.

Runs as a script with the standard library alone. It reads requests, one JSON object a line, from stdin and answers on
stdout: `spawn` starts a program in a process group of its own, `status` tells its exit code once it has ended. When
stdin closes or the parent dies - a kill -9 included - it kills every group and ends. Should the reaper itself be
killed, the kernel kills its children: it has one thread, so their parent-death signal cannot fire early.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_MAX_LINE = 1 << 20


def start_time(pid: int) -> int | None:
    """When the kernel started the process, in clock ticks after boot; None when there is no such process.

    The pair of pid and start time names a process for good, a pid alone does not (proc(5), field 22 of stat).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


class Reaper:
    """The children by pid, and what can be asked about them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One reply for one request; a failure is told in the reply's `error`."""
        if request["op"] == "spawn":
            return self._spawn(request)
        child = self._children.get(request["pid"])
        return {"error": "not a child"} if child is None else {"exit": child.poll()}

    def _spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            with open(request["log"], "ab") as log:
                child = subprocess.Popen(
                    request["argv"],
                    cwd=request["cwd"],
                    env=request["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=self._bind_to_parent,
                )
        except (OSError, subprocess.SubprocessError) as error:
            return {"error": str(error)}
        self._children[child.pid] = child
        return {"pid": child.pid, "start": start_time(child.pid)}

    def _bind_to_parent(self) -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:  # the reaper died before the request took effect
            os._exit(1)

    def reap(self) -> None:
        """Collects the exit codes of children that ended, so that none stays a zombie."""
        for child in self._children.values():
            child.poll()

    def end_all(self) -> None:
        """Kills the group of every child that has not been collected and waits for it."""
        for child in self._children.values():
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        for child in self._children.values():
            child.wait()


def main() -> None:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    # Handlers that do nothing, not SIG_IGN: that would pass to the children, which are to end on SIGTERM.
    for handled in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(handled, lambda *_: None)
    parent = os.pidfd_open(os.getppid())
    poller = select.poll()
    for descriptor in (0, parent, wake_read):
        poller.register(descriptor, select.POLLIN)
    reaper = Reaper()
    try:
        _serve(reaper, poller, parent, wake_read)
    finally:
        reaper.end_all()


def _serve(reaper: Reaper, poller: select.poll, parent: int, wake: int) -> None:
    pending = b""
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if parent in ready:
            return
        if wake in ready:
            os.read(wake, 4096)
            reaper.reap()
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk or len(pending) > _MAX_LINE:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                os.write(1, json.dumps(reaper.answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    # The parent may be gone already: then its pipe is closed, and the first poll ends the loop.
    with contextlib.suppress(BrokenPipeError, ProcessLookupError):
        main()
    sys.exit(0)
