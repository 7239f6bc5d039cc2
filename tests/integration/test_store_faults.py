"""The store on a real file system that fills up, turns read-only or loses its process, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from fleet.settings import StoreSettings
from fleet.store import open_store

PROGRAM = Path(__file__).with_name("store_program.py")
KILLS = 5
BOUND = 60.0
"""Seconds that any of these processes may take."""

needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=10, check=False).returncode != 0,
    reason="unshare: private mounts are not allowed here",
)


def run(*script: str) -> list[dict[str, object]]:
    """What the program said, one object a line, within mounts of its own."""
    inside = f"{sys.executable} {PROGRAM}"
    command = " && ".join(line.replace("PROGRAM", inside) for line in script)
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", command], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@needs_mounts
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    said = run(
        f"mount -t tmpfs -o size=2m tmpfs {disk}",
        f"PROGRAM fill {disk}/data",
        # The disk is still full: what is stored is read back, and space cures it.
        f"rm -f {disk}/data/ballast",
        f"PROGRAM read {disk}/data",
    )
    acknowledged = [entry["version"] for entry in said if "version" in entry]
    (error,) = [entry["error"] for entry in said if "error" in entry]
    (found,) = [entry for entry in said if "found" in entry]
    assert isinstance(error, str)
    assert "full" in error
    assert "free" in error
    assert acknowledged
    assert found["found"] == acknowledged[-1]
    assert found["events"] == len(acknowledged)
    assert found["then"] == len(acknowledged) + 1


@needs_mounts
def test_a_read_only_data_directory_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    said = run(
        f"mount -t tmpfs -o size=8m tmpfs {disk}",
        f"PROGRAM fill {disk}/data 3",
        f"mount -o remount,ro {disk}",
        f"PROGRAM open {disk}/data",
        f"PROGRAM open {disk}/new",
    )
    errors = [str(entry["error"]) for entry in said if "error" in entry]
    assert len(errors) == 2
    assert all("Read-only file system" in error and "this user may write" in error for error in errors)


def test_what_was_acknowledged_outlives_kill_9(data_dir: Path) -> None:
    """A process that commits as fast as it can is killed again and again; nothing acknowledged is ever missing."""
    acknowledged = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "fill", str(data_dir), "100000"], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            for _ in range(40):
                acknowledged = json.loads(process.stdout.readline())["version"]
            process.kill()
            for line in process.stdout:
                if line.endswith("}\n"):
                    acknowledged = json.loads(line)["version"]
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), "read", str(data_dir)], capture_output=True, text=True, timeout=BOUND, check=True
    )
    found = json.loads(ran.stdout)
    # One more than was told may have been stored when the kill came.
    assert found["found"] in (acknowledged, acknowledged + 1)
    assert found["events"] == found["found"]
    assert found["check"] == "ok"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.anyio
async def test_another_process_cannot_work_on_the_same_data_directory(data_dir: Path) -> None:
    async with await open_store(data_dir, StoreSettings()):
        ran = await anyio.run_process([sys.executable, str(PROGRAM), "open", str(data_dir)])
    assert "another control plane (process" in json.loads(ran.stdout)["error"]
