from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli.failure import Exit, Failure
from fleet.cli.local_serve import address, source
from tests.unit.cli.conftest import Fleet
from tests.unit.cli.test_local import commit, git, write
from tests.unit.engine.parts import FLEET


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        (":9090", ("127.0.0.1", 9090)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(listen: str, expected: tuple[str, int]) -> None:
    assert address(listen) == expected


@pytest.mark.parametrize(
    "listen", ["", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "host:65536", "::1:80", "a:-1"]
)
def test_what_is_no_address_is_usage(listen: str) -> None:
    with pytest.raises(Failure) as failure:
        address(listen)
    assert failure.value.exit is Exit.USAGE


def test_a_url_is_taken_as_it_is() -> None:
    assert source("https://git.acme.example/fleet.git", None, None) == (
        "https://git.acme.example/fleet.git",
        ".",
        "main",
    )
    assert source("git@acme.example:fleet.git", "ops", "v1") == ("git@acme.example:fleet.git", "ops", "v1")


def test_a_folder_stands_for_its_repository_and_branch(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "trunk", "acme")
    write(tmp_path / "acme/ops/fleet.yaml", FLEET)
    repository = str(tmp_path / "acme")
    assert source(f"{repository}/ops", None, None) == (repository, "ops", "trunk")
    assert source(f"{repository}/ops/fleet.yaml", None, "v1") == (repository, "ops", "v1")
    assert source(repository, None, None) == (repository, ".", "trunk")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "bare.git")
    assert source(f"{tmp_path}/bare.git", None, None) == (f"{tmp_path}/bare.git", ".", "main")


def test_a_detached_head_asks_for_a_ref(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "acme")
    write(tmp_path / "acme/fleet.yaml", FLEET)
    commit(tmp_path / "acme")
    git(tmp_path / "acme", "checkout", "-q", "--detach")
    with pytest.raises(Failure) as failure:
        source(str(tmp_path / "acme"), None, None)
    assert failure.value.hint == "say which one: --ref BRANCH"


def test_what_is_not_in_a_repository_is_explained(offline: Fleet, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    result = offline("serve", "--fleet", "plain")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "only what is committed is rolled out" in result.stderr
    assert "git -C plain init" in result.stderr
    assert offline("serve", "--fleet", "nowhere").exit_code == 2
    assert not (tmp_path / "state").exists()


HELD = """
import os, signal, sys, threading, time
from fleet.cli.local_serve import end_within
# A thread that a disk holds, for which the interpreter would wait.
threading.Thread(target=time.sleep, args=(600,)).start()
end_within(float(sys.argv[1]))
if len(sys.argv) > 2:
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["0.05"], 1), (["600", str(int(signal.SIGINT))], -signal.SIGINT), (["600", "15"], -signal.SIGTERM)],
)
def test_the_end_is_enforced(arguments: list[str], code: int) -> None:
    """After its time, or at the second signal, whatever holds the process."""
    ended = subprocess.run(
        [sys.executable, "-c", HELD, *arguments], timeout=60, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert ("not ended within 0.05 s" in ended.stderr) is (code == 1)
