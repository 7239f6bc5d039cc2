"""Everything that the demo runs: clusters, repository, control plane, and how a second terminal gets at them.

All of it lives in one directory and ends with the demo: servers by the testbed's reaper, also after a kill -9.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fleet.cli.client import Client
from fleet.cli.demo import repository, testbed
from fleet.cli.demo.narrator import Narrator
from fleet.cli.demo.repository import Repository
from fleet.cli.failure import Exit, Failure

STOP_SECONDS = 15.0
_PASSED_ON = ("FLEET_", "OTEL_", "PYTHON", "SSL_CERT_")
_OWN = ("FLEET_SERVER", "FLEET_TOKEN", "FLEET_DATA_DIR")
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Stage:
    directory: Path
    qa: tuple[str, ...]
    prod: tuple[str, ...]
    repository: Repository
    server: str
    process: testbed.Process
    variables: Mapping[str, str]
    """What a shell needs in its environment; `env.sh` in the directory sets it."""
    started_in: Mapping[str, float]
    """Seconds that the parts took to start."""

    @property
    def clusters(self) -> tuple[str, ...]:
        return (*self.qa, *self.prod)

    @cached_property
    def client(self) -> Client:
        return Client(self.server, (self.directory / "data" / "token").read_text().strip())


@contextmanager
def prepare(directory: Path, count: int, narrator: Narrator, deadline: float) -> Iterator[Stage]:
    """Starts everything below `directory`, which exists and is empty; ends it all at the end. Raises Failure."""
    qa, prod = repository.cluster_names(count)
    names = [*qa, *prod]
    took: dict[str, float] = {}
    with ExitStack() as stack:
        tools = testbed.load()
        with narrator.waiting(f"starting {count} real Kubernetes clusters: {', '.join(names)}"):
            began = time.monotonic()
            clusters = tools.start(names, directory / "clusters")
            stack.callback(clusters.close)
            took["clusters"] = time.monotonic() - began
        narrator.done(f"{count} clusters, each with etcd, kube-apiserver, controllers, {took['clusters']:.1f} s")
        shop = repository.create(directory, names)
        write_kubeconfig(directory / "kubeconfig", {each.name: each.kubeconfig for each in clusters})
        server = f"127.0.0.1:{_free_port()}"
        variables = {
            "FLEET_SERVER": f"http://{server}",
            "FLEET_DATA_DIR": str(directory / "data"),
            "KUBECONFIG": str(directory / "kubeconfig"),
            "PATH": f"{Path(sys.executable).parent}:{tools.path}:{os.environ.get('PATH', os.defpath)}",
        }
        write_exports(directory / "env.sh", variables)
        argv = serve_command(shop.bare, directory / "data", server)
        narrator.command(argv)
        with narrator.waiting("starting the control plane"):
            began = time.monotonic()
            process = tools.spawn(
                "fleet", [sys.executable, "-m", *argv], directory, {**_passed_on(os.environ), **variables}
            )
            stack.callback(process.stop, STOP_SECONDS)
            _wait_ready(f"http://{server}/readyz", process, deadline)
            took["server"] = time.monotonic() - began
        narrator.done(f"the control plane is ready after {took['server']:.1f} s")
        yield Stage(directory, tuple(qa), tuple(prod), shop, f"http://{server}", process, variables, took)


def serve_command(source: Path, data: Path, listen: str) -> list[str]:
    return ["fleet", "serve", "--fleet", str(source), "--data-dir", str(data), "--listen", listen]


def write_kubeconfig(path: Path, clusters: Mapping[str, Path]) -> None:
    """One kubeconfig (mode 0600) with a context for each cluster, named as the cluster."""
    import yaml

    merged: dict[str, list[object]] = {"clusters": [], "users": [], "contexts": []}
    for name, file in clusters.items():
        own = yaml.safe_load(file.read_text())
        merged["clusters"].append({"name": name, "cluster": own["clusters"][0]["cluster"]})
        merged["users"].append({"name": f"{name}-admin", "user": own["users"][0]["user"]})
        merged["contexts"].append({"name": name, "context": {"cluster": name, "user": f"{name}-admin"}})
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **merged}, sort_keys=False))


def write_exports(path: Path, variables: Mapping[str, str]) -> None:
    """A file to `source` in another terminal."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    path.write_text("\n".join(lines) + "\n")


def _passed_on(variables: Mapping[str, str]) -> dict[str, str]:
    """Settings of the control plane that whoever starts the demo made, such as an OTLP endpoint."""
    return {name: value for name, value in variables.items() if name.startswith(tuple(_PASSED_ON)) and name not in _OWN}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str, process: testbed.Process, deadline: float) -> None:
    end = time.monotonic() + deadline
    while not _answers(url):
        if process.wait_ended(0.1):
            raise Failure(Exit.NO, f"the control plane ended with {process.exit_code()}: {process.log_tail()}")
        if time.monotonic() > end:
            raise Failure(Exit.NO, f"the control plane is not ready after {deadline:.0f} s: {process.log_tail()}")


def _answers(url: str) -> bool:
    try:
        with _LOCAL.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
