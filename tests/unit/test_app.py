"""How the control plane ends: in order, once it is told."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from fleet import app

pytestmark = pytest.mark.anyio


async def test_the_engine_runs_until_what_asks_it_has_ended() -> None:
    story: list[str] = []

    async def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
        finally:
            story.append("engine ended")

    async def told() -> None:
        # Nobody swallows the next signal.
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        await anyio.sleep(0.01)
        story.append("API closed")

    with anyio.fail_after(10):
        await app.until_told(run, told)
    assert story == ["API closed", "engine ended"]


async def test_an_engine_that_fails_ends_it_untold() -> None:
    async def run() -> None:
        raise RuntimeError("broken")

    async def told() -> None:
        raise AssertionError

    with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(10):
        await app.until_told(run, told)
    assert caught.group_contains(RuntimeError, match="broken")
