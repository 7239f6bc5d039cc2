"""Mirrors and sources against real servers: HTTPS and SSH, credentials, certificates, host keys, faults."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fleet.engine.sources import Sources, SourcesSettings
from fleet.errors import NotFound, SourceError
from fleet.git import failures, mirror, transport
from fleet.model.events import Event
from fleet.model.fleetfile import GitSource
from tests.testbed.git import Repository
from tests.testbed.git_https import GitHttps
from tests.testbed.git_ssh import GitSsh

pytestmark = [pytest.mark.anyio, pytest.mark.real]

PASSWORD = "hunter2-canary"
SETTINGS = transport.GitSettings(resolve_deadline=20.0, connect_timeout=5)


@pytest.fixture
def mirrors(tmp_path: Path) -> mirror.GitMirrors:
    return mirror.GitMirrors(tmp_path / "data", SETTINGS)


def secret(**values: str) -> bytes:
    return json.dumps(values).encode()


def https_secret(server: GitHttps, **values: str) -> bytes:
    return secret(ca=server.ca.read_text(), **values)


def ssh_secret(server: GitSsh, **values: str) -> bytes:
    return secret(
        **({"sshPrivateKey": server.client_key.read_text(), "knownHosts": server.known_hosts.read_text()} | values)
    )


async def test_https_with_a_ca_of_its_own(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    first = repository.commit({"a.yaml": "1"}, "first")
    found = mirrors.mirror(GitSource("apps", git_https.url("shop.git")), https_secret(git_https))
    assert await found.resolve() == first
    await found.fetch(first)
    assert await found.read(first, "a.yaml", 10) == b"1"
    assert (await found.info(first)).author == "author@example.com"
    # Nothing new: the server is asked for refs, and nothing is fetched.
    asked = len(git_https.requests)
    assert await found.resolve() == first
    await found.fetch(first)
    assert {request.command for request in git_https.requests[asked:]} == {"advertise", "ls-refs"}


async def test_an_unknown_certificate_is_refused(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    repository.commit({"a.yaml": "1"})
    with pytest.raises(failures.CertificateBad, match="does not verify"):
        await mirrors.mirror(GitSource("apps", git_https.url("shop.git")), None).resolve()


@pytest.mark.parametrize("kind", ["password", "token"])
async def test_https_credentials(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors, kind: str
) -> None:
    first = repository.commit({"a.yaml": "1"})
    git_https.require("robot" if kind == "password" else "x-access-token", PASSWORD)
    source = GitSource("apps", git_https.url("shop.git"))
    right = {"username": "robot", "password": PASSWORD} if kind == "password" else {"token": PASSWORD}
    found = mirrors.mirror(source, https_secret(git_https, **right))
    await found.fetch(await found.resolve())
    assert (await found.info(first)).sha == first
    for wrong in ({"username": "robot", "password": f"{PASSWORD}x"}, {"token": f"{PASSWORD}x"}, {}):
        with pytest.raises(failures.Denied, match="refuses the credentials") as caught:
            await mirrors.mirror(source, https_secret(git_https, **wrong)).resolve()
        assert PASSWORD not in str(caught.value)


async def test_credentials_are_on_no_command_line(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    repository.commit({"a.yaml": "1"})
    git_https.require("robot", PASSWORD)
    git_https.hang()
    found = mirrors.mirror(
        GitSource("apps", git_https.url("shop.git")), https_secret(git_https, username="robot", password=PASSWORD)
    )
    lines: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(found.resolve)
        for _ in range(500):
            lines = command_lines(os.getpid())
            if any("remote-https" in line or "git-remote" in line for line in lines):
                break
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    git_https.mend()
    assert any("ls-remote" in line for line in lines)
    assert not any(PASSWORD in line for line in lines)


def command_lines(parent: int) -> list[str]:
    """Command lines of all descendants."""
    found: list[str] = []
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in listing.read_text().split():
            try:
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
                found += command_lines(int(pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


async def test_a_server_that_is_away_hangs_or_fails(
    repository: Repository, git_https: GitHttps, tmp_path: Path
) -> None:
    first = repository.commit({"a.yaml": "1"})
    source = GitSource("apps", git_https.url("shop.git"))
    quick = mirror.GitMirrors(tmp_path / "data", transport.GitSettings(resolve_deadline=1.0))
    found = quick.mirror(source, https_secret(git_https))
    git_https.refuse()
    with pytest.raises(failures.Unreachable, match="cannot be reached"):
        await found.resolve()
    git_https.mend()
    git_https.hang()
    with pytest.raises(failures.Unreachable, match="no answer within 1 s"):
        await found.resolve()
    git_https.mend()
    git_https.fail(503)
    with pytest.raises(failures.Unreachable, match="503"):
        await found.resolve()
    git_https.mend()
    patient = mirror.GitMirrors(tmp_path / "data", SETTINGS).mirror(source, https_secret(git_https))
    assert await patient.resolve() == first


async def test_a_repository_that_does_not_exist(git_https: GitHttps, mirrors: mirror.GitMirrors) -> None:
    with pytest.raises(failures.NoRepository, match="no repository at this URL"):
        await mirrors.mirror(GitSource("apps", git_https.url("gone.git")), https_secret(git_https)).resolve()


async def test_ssh_with_its_host_key(repository: Repository, git_ssh: GitSsh, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"a.yaml": "1"})
    found = mirrors.mirror(GitSource("apps", git_ssh.url("shop.git")), ssh_secret(git_ssh))
    assert await found.resolve() == first
    await found.fetch(first)
    assert await found.read(first, "a.yaml", 10) == b"1"
    second = repository.commit({"a.yaml": "2"})
    await found.fetch(await found.resolve())
    assert await found.read(second, "a.yaml", 10) == b"2"


async def test_an_unknown_host_key_is_refused(
    repository: Repository, git_ssh: GitSsh, mirrors: mirror.GitMirrors
) -> None:
    repository.commit({"a.yaml": "1"})
    source = GitSource("apps", git_ssh.url("shop.git"))
    host = git_ssh.known_hosts.read_text().split(" ", 1)[0]
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8iEHrS5kMD5LSPPMVI8JnbSBHBp2SHm3BTaUoFoQYx"
    for known in (f"elsewhere.example {other}", f"{host} {other}"):
        with pytest.raises(failures.HostKeyUnknown, match="host key"):
            await mirrors.mirror(source, ssh_secret(git_ssh, knownHosts=known)).resolve()
    with pytest.raises(failures.HostKeyUnknown, match="no knownHosts"):
        mirrors.mirror(source, secret(sshPrivateKey="x"))


async def test_a_key_that_the_server_does_not_know(
    repository: Repository, git_ssh: GitSsh, mirrors: mirror.GitMirrors, tmp_path: Path
) -> None:
    repository.commit({"a.yaml": "1"})
    await anyio.run_process(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")])
    wrong = ssh_secret(git_ssh, sshPrivateKey=(tmp_path / "other").read_text())
    with pytest.raises(failures.Denied, match="refuses the credentials"):
        await mirrors.mirror(GitSource("apps", git_ssh.url("shop.git")), wrong).resolve()
    garbage = ssh_secret(git_ssh, sshPrivateKey="not a key")
    with pytest.raises(failures.Denied):
        await mirrors.mirror(GitSource("apps", git_ssh.url("shop.git")), garbage).resolve()


async def test_an_ssh_server_that_hangs(repository: Repository, git_ssh: GitSsh, tmp_path: Path) -> None:
    repository.commit({"a.yaml": "1"})
    git_ssh.hang()
    quick = mirror.GitMirrors(tmp_path / "data", transport.GitSettings(resolve_deadline=1.0))
    with pytest.raises(failures.Unreachable):
        await quick.mirror(GitSource("apps", git_ssh.url("shop.git")), ssh_secret(git_ssh)).resolve()
    git_ssh.mend()


# --- sources over mirrors --------------------------------------------------------------------------------------------


class Vault:
    """Secrets by name, that can change."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def read(self, name: str) -> bytes:
        if name not in self.values:
            raise NotFound(f"there is no secret {name}")
        return self.values[name]


class Watched:
    """Sources with what they told."""

    def __init__(self, mirrors: mirror.GitMirrors) -> None:
        self.events: list[Event] = []
        self.changed: list[str] = []
        self.vault = Vault()
        settings = SourcesSettings(backoff_base=0.01, backoff_cap=0.05, spacing=0.01)
        self.sources = Sources(mirrors, self.vault, self.events.append, self.changed.append, settings=settings)

    def told(self) -> list[tuple[str, str]]:
        return [(event.type, event.data["source"]) for event in self.events]

    @asynccontextmanager
    async def running(self, *wanted: GitSource) -> AsyncIterator[Sources]:
        self.sources.want(wanted)
        async with anyio.create_task_group() as group:
            group.start_soon(self.sources.run)
            for _ in range(1000):
                if len(self.sources.states()) == len(wanted):
                    break
                await anyio.sleep(0.005)
            with anyio.fail_after(30):
                await self.sources.wait_polled()
                yield self.sources
            group.cancel_scope.cancel()


async def test_sources_follow_their_refs(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    first = repository.commit({"a": "1"}, "one")
    watched = Watched(mirrors)
    watched.vault.values["git"] = https_secret(git_https)
    source = GitSource("apps", git_https.url("shop.git"), interval=3600.0, secret_ref="git")
    async with watched.running(source) as sources:
        [state] = sources.states()
        assert (state.sha, state.error, state.since) == (first, None, None)
        assert watched.changed == ["apps"]
        await sources.wait_polled("apps")
        assert watched.changed == ["apps"]
        second = repository.commit({"a": "2"}, "two")
        [state] = await sources.wait_polled("apps")
        assert state.sha == second
        assert state.commit is not None
        assert state.commit.message == "two"
        assert sources.snapshots()["apps"].revision == second
        assert watched.changed == ["apps", "apps"]
    assert watched.told() == [("source.fetched", "apps")] * 2
    assert watched.events[1].data["previous"] == first


async def test_one_source_fails_and_the_other_goes_on(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    first = repository.commit({"a": "1"})
    watched = Watched(mirrors)
    watched.vault.values["git"] = https_secret(git_https)
    away = GitSource("away", git_https.url("shop.git"), secret_ref="git")
    local = GitSource("local", str(repository.path))
    async with watched.running(away, local) as sources:
        git_https.refuse()
        state, other = await sources.wait_polled()
        assert state.sha == other.sha == first
        assert state.error is not None
        assert "cannot be reached" in state.error
        assert state.since is not None
        assert other.error is None
        since = state.since
        second = repository.commit({"a": "2"})
        state, other = await sources.wait_polled()
        assert (state.sha, other.sha) == (first, second)
        assert state.since == since
        git_https.mend()
        state, _ = await sources.wait_polled()
        assert (state.sha, state.error) == (second, None)
    # However often it was tried, a failure is told once.
    assert [kind for kind, name in watched.told() if name == "away"] == [
        "source.fetched",
        "source.failed",
        "source.fetched",
    ]


async def test_a_rotated_credential_counts_at_the_next_poll(
    repository: Repository, git_https: GitHttps, mirrors: mirror.GitMirrors
) -> None:
    first = repository.commit({"a": "1"})
    watched = Watched(mirrors)
    git_https.require("robot", "new")
    source = GitSource("apps", git_https.url("shop.git"), secret_ref="git")
    async with watched.running(source) as sources:
        assert sources.states()[0].error == "there is no secret git"
        watched.vault.values["git"] = https_secret(git_https, username="robot", password="old")
        [state] = await sources.wait_polled()
        assert state.error is not None
        assert "refuses the credentials" in state.error
        watched.vault.values["git"] = https_secret(git_https, username="robot", password="new")
        [state] = await sources.wait_polled()
        assert (state.sha, state.error) == (first, None)


async def test_sources_come_and_go_with_fleet_yaml(repository: Repository, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"a": "1"})
    watched = Watched(mirrors)
    one, two = GitSource("one", str(repository.path)), GitSource("two", str(repository.path), ref="gone")
    async with watched.running(one, two) as sources:
        assert [state.sha for state in sources.states()] == [first, None]
        with pytest.raises(NotFound):
            sources.mirror("two")
        with pytest.raises(NotFound, match="no source three"):
            sources.nudge("three")
        sources.want([GitSource("one", str(repository.path), interval=5.0), GitSource("three", str(repository.path))])
        for _ in range(1000):
            if [state.name for state in sources.states()] == ["one", "three"]:
                break
            await anyio.sleep(0.005)
        # Only the interval changed: what was known of it stays, also while it is polled again.
        assert sources.states()[0].sha == first
        await sources.wait_polled()
        assert [state.sha for state in sources.states()] == [first, first]
        assert watched.changed == ["one", "three"]
        with pytest.raises(SourceError):
            await mirrors.mirror(two, None).resolve()
