"""The real clusters of the demo come from the project's testbed, which a checkout has and an installed package has not.

So it is imported by name, when it is needed, and what the demo wants of it is stated here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import fleet
from fleet.cli.failure import Exit, Failure

CHECKOUT = Path(fleet.__file__).resolve().parent.parent


class Cluster(Protocol):
    """A running cluster; the only context of its kubeconfig has its name."""

    @property
    def name(self) -> str: ...

    @property
    def kubeconfig(self) -> Path: ...


class Clusters(Protocol):
    def __iter__(self) -> Iterator[Cluster]: ...

    def close(self) -> None: ...


class Process(Protocol):
    """A server that ends with this process, a kill -9 included; its output goes to `log`."""

    @property
    def log(self) -> Path: ...

    def alive(self) -> bool: ...

    def wait_ended(self, seconds: float) -> bool: ...

    def exit_code(self) -> int | None: ...

    def stop(self, grace: float) -> None: ...

    def log_tail(self) -> str: ...


@dataclass(frozen=True)
class Testbed:
    """Programs by name, and how clusters and other servers are started. Everything raises Failure."""

    programs: Mapping[str, Path]
    _start: Callable[..., Clusters]
    _spawn: Callable[..., Process]
    _error: type[Exception]

    @property
    def path(self) -> str:
        """The folders of the programs, for PATH."""
        return ":".join(dict.fromkeys(str(program.parent) for program in self.programs.values()))

    def start(self, names: Sequence[str], directory: Path) -> Clusters:
        """Clusters with controllers and two simulated nodes each, side by side; about 550 MiB each."""
        with self._translated():
            return self._start(names, directory)

    def spawn(self, name: str, argv: Sequence[str], directory: Path, env: Mapping[str, str]) -> Process:
        with self._translated():
            return self._spawn(name, argv, directory, env)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with _translated(self._error):
            yield


def load() -> Testbed:
    """The testbed with its programs, built on the first use of a machine. Raises Failure when they cannot be had."""
    if not (CHECKOUT / "tests" / "testbed" / "cluster.py").is_file():
        raise Failure(
            Exit.NO,
            "the demo's clusters come from tests/testbed, which is in the project's repository, not in the package",
            "clone the repository and run `make demo` there",
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    build, cluster, processes, errors = (_module(name) for name in ("build", "cluster", "processes", "errors"))
    error = cast(type[Exception], errors.TestbedError)
    with _translated(error):
        binaries = build.binaries("core")
        launcher = processes.launcher()

    def start(names: Sequence[str], directory: Path) -> Clusters:
        return cast(Clusters, cluster.start_clusters(names, directory, binaries=binaries))

    return Testbed(binaries.paths, start, launcher.spawn, error)


def _module(name: str) -> Any:
    module = importlib.import_module(f"tests.testbed.{name}")
    found = Path(module.__file__ or "").resolve()
    if not found.is_relative_to(CHECKOUT):
        raise Failure(
            Exit.NO, f"another package of the name `tests` is in the way ({found.parent})", "unset PYTHONPATH and retry"
        )
    return module


@contextmanager
def _translated(error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except error as failed:
        raise Failure(Exit.NO, f"a part of the demo cannot be started: {failed}") from failed
