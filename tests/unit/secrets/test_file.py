from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from fleet.errors import InvalidInput, NotFound, Unavailable
from fleet.secrets.file import MAX_BYTES, FileSecrets

pytestmark = pytest.mark.anyio


async def test_reads_what_the_file_holds_now(tmp_path: Path) -> None:
    secrets = FileSecrets(tmp_path)
    (tmp_path / "kc-prod.eu_1").write_bytes(b"one")
    assert await secrets.read("kc-prod.eu_1") == b"one"
    (tmp_path / "kc-prod.eu_1").write_bytes(b"two\n")
    assert await secrets.read("kc-prod.eu_1") == b"two\n"


async def test_a_missing_secret_is_named_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"secret git: .*{tmp_path}"):
        await FileSecrets(tmp_path).read("git")
    with pytest.raises(NotFound, match=r"secrets\.file\.path"):
        await FileSecrets(None).read("git")


async def test_a_failure_to_read_is_not_absence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "big").write_bytes(b"x" * (MAX_BYTES + 1))
    for name in ("folder", "big"):
        with pytest.raises(Unavailable, match=name):
            await FileSecrets(tmp_path).read(name)


@pytest.mark.parametrize("name", ["", "../token", "a/b", ".hidden", "a\nb", "x" * 300])
async def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        await FileSecrets(tmp_path).read(name)


async def test_a_disk_that_hangs_does_not_hold_who_stops_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs")
    release = threading.Event()

    def write() -> None:
        release.wait(5)
        (tmp_path / "hangs").write_bytes(b"late")

    writer = threading.Thread(target=write)
    writer.start()
    for secrets, name in ((FileSecrets(tmp_path), "hangs"), (FileSecrets(single={"one": tmp_path / "hangs"}), "one")):
        with anyio.move_on_after(0.05) as scope:
            await secrets.read(name)
        assert scope.cancelled_caught
    release.set()
    await anyio.to_thread.run_sync(writer.join)
