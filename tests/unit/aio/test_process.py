"""Runs of other programs are bounded in time and output, and leave nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from fleet.aio import process

pytestmark = pytest.mark.anyio

ENV = {"PATH": os.environ["PATH"]}


async def run(
    script: str, *arguments: str, deadline: float = 20, limit: int = 1 << 20, stdin: bytes = b""
) -> process.Completed:
    return await process.run(
        ["sh", "-c", script, "sh", *arguments], env=ENV, deadline=deadline, stdout_limit=limit, stdin=stdin
    )


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody reaped does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def wait_dead(pid: int) -> None:
    for _ in range(1000):
        if not alive(pid):
            return
        await anyio.sleep(0.01)
    raise AssertionError(f"process {pid} outlived the run")


async def test_output_exit_code_and_complaint_come_back() -> None:
    done = await run("echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.complaint) == (3, b"out\n", "err")


async def test_standard_input_is_fed_whole() -> None:
    data = os.urandom(1 << 20)
    done = await run("cat", stdin=data, limit=2 << 20)
    assert done.stdout == data


async def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    done = await run("exit 0", stdin=b"x" * (4 << 20))
    assert done.returncode == 0


async def test_the_environment_is_the_given_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "leak")
    done = await process.run(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"],
        env={"ONLY": "this"},
        deadline=20,
        stdout_limit=1000,
    )
    assert b"CANARY" not in done.stdout
    assert b"ONLY" in done.stdout


async def test_the_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with pytest.raises(process.DeadlinePassed, match="sh took longer than"):
        await run('sleep 600 & echo $! > "$1"; wait', str(pidfile), deadline=0.5)
    await wait_dead(int(pidfile.read_text()))


async def test_too_much_output_kills_and_says_so() -> None:
    with pytest.raises(process.TooMuchOutput, match="more than 1000 bytes"):
        await run("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyy; done", limit=1000)


async def test_only_the_end_of_complaints_is_kept() -> None:
    done = await run("i=0; while [ $i -lt 9000 ]; do echo 0123456789 >&2; i=$((i+1)); done; echo last >&2")
    assert len(done.stderr) <= process.STDERR_KEPT
    assert done.complaint.endswith("last")


async def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LINGER", 0.05)
    pidfile = tmp_path / "pid"
    done = await run('sleep 600 & echo $! > "$1"; echo done', str(pidfile))
    assert done.stdout == b"done\n"
    await wait_dead(int(pidfile.read_text()))


async def test_cancelling_the_caller_kills_the_program(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    async with anyio.create_task_group() as group:
        group.start_soon(run, 'echo $$ > "$1.new"; mv "$1.new" "$1"; sleep 600', str(pidfile))
        for _ in range(1000):
            if pidfile.exists():
                break
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    await wait_dead(int(pidfile.read_text()))


async def test_output_may_go_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        done = await process.run(["sh", "-c", "echo hello"], env=ENV, deadline=20, stdout_limit=0, stdout_file=out)
    assert done.stdout == b""
    assert (tmp_path / "out").read_bytes() == b"hello\n"


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(process.NotExecutable, match="cannot run no-such-program"):
        await process.run(["/nowhere/no-such-program"], env=ENV, deadline=1, stdout_limit=1)
