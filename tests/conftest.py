"""What every test gets: asyncio in debug mode, and a failure for whatever it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("usual"), max_examples=5000)
settings.load_profile("deep" if os.environ.get("FLEET_DEEP") else "usual")

pytest_plugins = ["tests.testbed.fixtures"]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"debug": True}


@pytest.fixture
async def task_guard() -> AsyncIterator[None]:
    """Fails a test that leaves a task running in the event loop."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    leaked = [task for task in asyncio.all_tasks() - before if not (task.done() or _is_runner(task))]
    assert not leaked, f"the test left tasks running: {[task.get_name() for task in leaked]}"


def _is_runner(task: asyncio.Task[object]) -> bool:
    """The task in which the test runner itself runs tests and fixtures."""
    return "TestRunner" in getattr(task.get_coro(), "__qualname__", "")


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tasks and child processes that a test starts end with it; sockets are covered by ResourceWarning as an error."""
    marked = request.node.get_closest_marker("anyio") is not None
    asynchronous = marked and inspect.iscoroutinefunction(request.function)
    if asynchronous:
        request.getfixturevalue("task_guard")
    before = _children()
    yield
    if asynchronous or request.node.get_closest_marker("real") is not None:
        shared = _started_by_shared_fixtures(request)
        leaked = _children() - before - shared
        assert not leaked, f"the test left processes running: {sorted(leaked)}"


def _children() -> set[int]:
    found: set[int] = set()
    for listing in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update(int(pid) for pid in listing.read_text().split())
    return found


def _started_by_shared_fixtures(request: pytest.FixtureRequest) -> set[int]:
    """Session fixtures may start processes while the first test that wants them runs; they end with the session."""
    names = {"clusters", "jaeger", "namespace", "kube_cluster"} & set(request.fixturenames)
    return _children() if names else set()
