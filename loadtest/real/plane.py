"""The control plane under test: `fleet serve` as a process, driven through its own command line and HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

DEADLINE = 120.0


class Plane:
    def __init__(self, directory: Path, repository: Path) -> None:
        self._directory = directory
        self._repository = repository
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (directory / "serve.log").open("ab")
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Starts the process and waits until it is ready."""
        argv = [sys.executable, "-m", "fleet", "serve", "--fleet", str(self._repository)]
        argv += ["--data-dir", str(self._directory / "data"), "--listen", f"127.0.0.1:{self._port}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "OTEL_"))}
        self._process = await asyncio.to_thread(self._spawn, argv, environment)
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self._port}")
        await self.until(self._ready, "the control plane to be ready")

    def _spawn(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, stdout=self._log, stderr=self._log, env=environment)

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 15)
            self._process = None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    async def get(self, path: str) -> Any:
        assert self._session is not None
        token = (self._directory / "data" / "token").read_text().strip()
        async with self._session.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"}) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def sync(self) -> None:
        """What `fleet sync` does."""
        assert self._session is not None
        token = (self._directory / "data" / "token").read_text().strip()
        async with self._session.post("/api/v1/sync", headers={"Authorization": f"Bearer {token}"}) as answer:
            answer.raise_for_status()

    async def until(self, what: Any, description: str, seconds: float = DEADLINE, pause: float = 0.05) -> None:
        deadline = time.monotonic() + seconds
        while not await what():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g}s for {description}:\n{self.log()[-3000:]}")
            await asyncio.sleep(pause)

    async def settled(self) -> bool:
        """Whether the bundle is everywhere as wanted, and healthy."""
        clusters = (await self.get("clusters"))["items"]
        bundles = [bundle for cluster in clusters for bundle in cluster["bundles"]]
        status = await self.get("status")
        return bool(
            len(bundles) == len(clusters)
            and all(b["sync"] == "Synced" and b["health"] == "Healthy" for b in bundles)
            and all(b["state"] == "Synced" for b in status["bundles"])
        )

    def log(self) -> str:
        return (self._directory / "serve.log").read_text(errors="replace")

    def cpu(self) -> float:
        """CPU seconds of the process and of all its children, ended or not."""
        process = self.process
        times = process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in process.children(recursive=True):
            try:
                spent = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += spent.user + spent.system
        return float(total)

    def rss_mib(self) -> float:
        """Resident memory of the process and its children."""
        return sum(p.memory_info().rss for p in [self.process, *self.process.children(recursive=True)]) / 2**20

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    async def _ready(self) -> bool:
        assert self._session is not None
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the control plane ended:\n{self.log()[-3000:]}")
        try:
            async with self._session.get("/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def manifest_files(bodies: list[dict[str, Any]]) -> str:
    """One JSON document an object; JSON is YAML."""
    return "\n---\n".join(json.dumps(body) for body in bodies) + "\n"
