"""Runs git for one repository URL: arguments, environment, deadlines, and the translation of what goes wrong.

git sees no configuration but what is set here, runs no hooks, prompts for nothing, follows no submodules, starts no
maintenance of its own, and may use only the protocol of the URL it was given.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from fleet import settings as settings_
from fleet.aio import process
from fleet.errors import SourceError
from fleet.git import credentials as secrets
from fleet.git.credentials import Access, Credentials
from fleet.git.failures import Unreachable, display, translate


class GitSettings(msgspec.Struct, frozen=True):
    """Programs, deadlines (seconds) and limits (bytes) of everything that is done with git."""

    git: str = "git"
    ssh: str = "ssh"
    resolve_deadline: float = 20.0
    fetch_deadline: float = 300.0
    local_deadline: float = 60.0
    connect_timeout: int = 10
    """Seconds that ssh waits for a connection."""
    refs_limit: int = 1 << 20
    """Of the answer to ls-remote for one ref."""
    listing_limit: int = 64 << 20
    """Of the list of files of one export."""
    max_files: int = 20_000
    max_file: int = 16 << 20
    max_export: int = 128 << 20
    """Of all files of one export together."""
    kept_commits: int = 50
    """Fetched commits that a mirror keeps alive, newest first."""


def of(settings: settings_.GitSettings) -> GitSettings:
    """The bounds that an operator chose."""
    return GitSettings(
        resolve_deadline=settings.resolve_timeout,
        fetch_deadline=settings.fetch_timeout,
        local_deadline=settings.local_timeout,
        max_export=settings.export_limit,
    )


_CONFIG = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    ("gc.autoDetach", "false"),
    ("maintenance.auto", "false"),
    ("protocol.version", "2"),
    ("submodule.recurse", "false"),
    ("transfer.bundleURI", "false"),
)
_PROXIES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
_SCP = re.compile(r"[A-Za-z0-9_][\w.-]*@[\w.-]+:(?!//)")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_sha(ref: str) -> bool:
    """Whether a ref is a full object id rather than a name."""
    return _SHA.fullmatch(ref) is not None


def scheme(url: str) -> str:
    """`https`, `ssh` or `file`; raises SourceError for anything else and for credentials inside an https URL."""
    if _SCP.match(url):
        return "ssh"
    if url.startswith("/"):
        return "file"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceError("the URL of the source is not valid") from error
    if parts.scheme == "https" and "@" in parts.netloc:
        raise SourceError(f"{display(url)}: credentials do not belong into the URL, use secretRef")
    if parts.scheme not in ("https", "ssh", "file"):
        raise SourceError(f"{display(url)}: only https://, ssh://, file:// and absolute paths are read")
    return parts.scheme


class Transport:
    """git for one URL. Methods raise SourceError or one of its kinds in `failures`."""

    def __init__(self, url: str, settings: GitSettings) -> None:
        self.url = url
        self.settings = settings
        self._scheme = scheme(url)
        parts = urlsplit(url) if self._scheme == "https" else None
        self._origin = f"https://{parts.netloc}/" if parts else ""

    async def remote(self, *arguments: str, credentials: Credentials, deadline: float) -> bytes:
        """Runs git where it talks to the server; returns what it printed."""
        settings = self.settings
        with secrets.access(self._scheme, self._origin, credentials, settings.ssh, settings.connect_timeout) as access:
            try:
                done = await process.run(
                    [settings.git, *arguments],
                    env=_environment(self._scheme, access),
                    deadline=deadline,
                    stdout_limit=settings.refs_limit,
                )
            except process.DeadlinePassed as error:
                raise Unreachable(f"{display(self.url)}: no answer within {deadline:g} s") from error
            except process.ProcessError as error:
                raise SourceError(f"{display(self.url)}: {error}") from error
        if done.returncode != 0:
            raise translate(self.url, done.complaint)
        return done.stdout

    async def local(self, *arguments: str, stdin: bytes = b"", limit: int | None = None) -> bytes:
        """Runs git on our own copy; returns what it printed, `limit` bytes at most."""
        done = await self.attempt(*arguments, stdin=stdin, limit=limit)
        if done.returncode != 0:
            raise translate(self.url, done.complaint)
        return done.stdout

    async def attempt(self, *arguments: str, stdin: bytes = b"", limit: int | None = None) -> process.Completed:
        """Like `local`, for commands whose exit code is an answer."""
        try:
            return await process.run(
                [self.settings.git, *arguments],
                env=_environment("none", Access()),
                deadline=self.settings.local_deadline,
                stdout_limit=self.settings.refs_limit if limit is None else limit,
                stdin=stdin,
            )
        except process.ProcessError as error:
            raise SourceError(f"{display(self.url)}: {error}") from error

    async def spool(self, *arguments: str, stdin: bytes, into: Path) -> None:
        """Runs git on our own copy with its output in a new file of mode 0600."""
        with os.fdopen(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            try:
                done = await process.run(
                    [self.settings.git, *arguments],
                    env=_environment("none", Access()),
                    deadline=self.settings.local_deadline,
                    stdout_limit=0,
                    stdin=stdin,
                    stdout_file=file,
                )
            except process.ProcessError as error:
                raise SourceError(f"{display(self.url)}: {error}") from error
        if done.returncode != 0:
            raise translate(self.url, done.complaint)


def _environment(protocol: str, access: Access) -> dict[str, str]:
    """The whole environment of a git process; `protocol` is the only one it may use."""
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",  # no ~/.netrc, no ~/.config/git
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": protocol,
        "GIT_ASKPASS": "",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "SSH_ASKPASS": "",
    }
    if protocol == "https":
        variables |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
    config = (*_CONFIG, *access.config)
    variables["GIT_CONFIG_COUNT"] = str(len(config))
    for number, (key, value) in enumerate(config):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables | access.variables
