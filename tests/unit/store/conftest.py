from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.settings import StoreSettings
from fleet.store import Store, open_store


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def store(data_dir: Path) -> AsyncIterator[Store]:
    async with await open_store(data_dir, StoreSettings()) as opened:
        yield opened
