"""Bounded runs of other programs: git, kustomize. Used by the adapters that drive them.

Every run has a deadline, a limit on what it may print, an environment that the caller spells out whole, and a process
group of its own that ends with the run, however the run ends (also when the caller is cancelled).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from fleet.errors import FleetError

CHUNK = 65536
STDERR_KEPT = 65536
LINGER = 2.0
"""Seconds that pipes may stay open after the program itself has ended, held by something it left behind."""
REAP = 5.0
"""Seconds to wait for a killed process to be gone."""


class ProcessError(FleetError):
    """A program could not be run to its end; a non-zero exit is no error here, but a `Completed`."""


class NotExecutable(ProcessError):
    """There is no such program, or it may not be run."""


class DeadlinePassed(ProcessError):
    """The program took longer than it may; it was killed."""


class TooMuchOutput(ProcessError):
    """The program printed more than it may; it was killed."""


class Completed(msgspec.Struct, frozen=True):
    """How a program ended. `stderr` holds its last 64 KiB at most."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """What it said on standard error, as text."""
        return self.stderr.decode("utf-8", "replace").strip()


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    deadline: float,
    stdout_limit: int,
    cwd: Path | None = None,
    stdin: bytes = b"",
    stdout_file: BinaryIO | None = None,
) -> Completed:
    """Runs a program in a session of its own and waits for its end.

    `deadline` in seconds; `stdout_limit` in bytes. With `stdout_file` standard output goes there directly and is not
    limited here (the caller knows its size beforehand). Raises NotExecutable, DeadlinePassed, TooMuchOutput.
    """
    name = Path(argv[0]).name
    try:
        process = await anyio.open_process(
            list(argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout_file is None else stdout_file,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise NotExecutable(f"cannot run {name}: {error.strerror or error}") from error
    pump = _Pump(process, stdin, stdout_limit)
    try:
        with anyio.move_on_after(deadline) as scope:
            await pump.run()
    finally:
        await _end(process)
    if pump.overflowed:
        raise TooMuchOutput(f"{name} printed more than {stdout_limit} bytes")
    if scope.cancelled_caught or process.returncode is None:
        raise DeadlinePassed(f"{name} took longer than {deadline:g} s")
    return Completed(process.returncode, bytes(pump.stdout), bytes(pump.stderr))


class _Pump:
    """Moves bytes between a process and memory until it has ended and its pipes are closed."""

    def __init__(self, process: Process, stdin: bytes, stdout_limit: int) -> None:
        self._process = process
        self._stdin = stdin
        self._stdout_limit = stdout_limit
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflowed = False

    async def run(self) -> None:
        async with anyio.create_task_group() as readers:
            if self._process.stdin is not None:
                readers.start_soon(self._feed, self._process.stdin, name="process stdin")
            if self._process.stdout is not None:
                readers.start_soon(self._collect, self._process.stdout, readers.cancel_scope, name="process stdout")
            if self._process.stderr is not None:
                readers.start_soon(self._complaints, self._process.stderr, name="process stderr")
            await self._process.wait()
            readers.cancel_scope.deadline = anyio.current_time() + LINGER
        if readers.cancel_scope.cancelled_caught and not self.overflowed:
            kill_group(self._process.pid)  # something it left behind still held the pipes

    async def _feed(self, stream: ByteSendStream) -> None:
        # Broken: it ended without reading everything; its exit code tells the rest.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stream.send(self._stdin)
        await stream.aclose()

    async def _collect(self, stream: ByteReceiveStream, readers: anyio.CancelScope) -> None:
        while chunk := await _receive(stream):
            if len(self.stdout) + len(chunk) > self._stdout_limit:
                self.overflowed = True
                readers.cancel()
                return
            self.stdout += chunk

    async def _complaints(self, stream: ByteReceiveStream) -> None:
        while chunk := await _receive(stream):
            self.stderr += chunk
            if len(self.stderr) > STDERR_KEPT:
                del self.stderr[:-STDERR_KEPT]


async def _receive(stream: ByteReceiveStream) -> bytes:
    try:
        return await stream.receive(CHUNK)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return b""


async def _end(process: Process) -> None:
    """Kills what is left of the process group and closes the pipes; returns within `REAP` seconds."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(REAP):
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()
        await process.aclose()


def kill_group(group: int) -> None:
    """SIGKILL to a whole process group; one that is gone already is fine."""
    # PermissionError: all that is left of it is a zombie, or it changed its user.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
