from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from fleet.errors import InvalidInput, Locked, StoreError
from fleet.settings import StoreSettings
from fleet.store import open_store
from fleet.store.lock import DataDirLock


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    held = DataDirLock.acquire(tmp_path)
    with pytest.raises(Locked, match=rf"\(process {os.getpid()}\) works on {tmp_path}"):
        DataDirLock.acquire(tmp_path)
    held.release()
    held.release()
    DataDirLock.acquire(tmp_path).release()


def test_the_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fleet.store.lock import DataDirLock\n"
        "held = DataDirLock.acquire(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=rf"\(process {holder.pid}\)"):
            DataDirLock.acquire(tmp_path)
        holder.kill()
    DataDirLock.acquire(tmp_path).release()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be opened"):
        DataDirLock.acquire(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.anyio
async def test_two_control_planes_on_one_data_directory(data_dir: Path) -> None:
    first = await open_store(data_dir, StoreSettings())
    with pytest.raises(Locked, match="give this one its own --data-dir"):
        await open_store(data_dir, StoreSettings())
    await first.put_document("still", "1", b"works")
    await first.aclose()
    await first.aclose()
    second = await open_store(data_dir, StoreSettings())
    assert await second.document("still") == ("1", b"works")
    await second.aclose()


@pytest.mark.anyio
async def test_another_database_is_refused(data_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="--database postgresql: not supported yet") as caught:
        await open_store(data_dir, StoreSettings(), database="postgresql://fleet:hunter2@db/fleet")
    assert "hunter2" not in str(caught.value)
    assert not await anyio.Path(data_dir).exists()
