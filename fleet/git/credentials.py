"""Credentials of a Git source: from the bytes of its secret to files and variables that git reads.

The secret is one YAML (or JSON) mapping with any of these keys:

    username, password          HTTPS basic authentication
    token                       HTTPS access token; sent as the password of the user `x-access-token`, which GitHub,
                                GitLab, Gitea and Bitbucket take (give `username` as well where a server wants another)
    sshPrivateKey, knownHosts   an OpenSSH or PEM private key without passphrase, and lines of known_hosts
    ca                          PEM certificates that an HTTPS server's certificate must lead to

Nothing of it reaches a command line. Headers travel in the environment of the git process; keys and certificates lie
in a directory of mode 0700 for as long as one git process runs.
"""

from __future__ import annotations

import base64
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fleet.core import yaml
from fleet.errors import InvalidInput
from fleet.git.failures import Denied, HostKeyUnknown

_KEYS = {
    "username": "username",
    "password": "password",
    "token": "token",
    "sshPrivateKey": "ssh_private_key",
    "knownHosts": "known_hosts",
    "ca": "ca",
}
_TOKEN_USER = "x-access-token"  # noqa: S105 - the name of a user, not a secret


class Credentials(msgspec.Struct, frozen=True):
    """What a secret holds; every part may be absent."""

    username: str = ""
    password: str = ""
    token: str = ""
    ssh_private_key: str = ""
    known_hosts: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"  # so that no trace of an exception can show them


class Access(msgspec.Struct, frozen=True):
    """What a git process gets in order to use credentials."""

    config: tuple[tuple[str, str], ...] = ()
    variables: dict[str, str] = {}

    def __repr__(self) -> str:
        return "Access(…)"


def parse(secret: bytes | None) -> Credentials:
    """Raises Denied, without quoting the secret, when it is not such a mapping."""
    if secret is None:
        return Credentials()
    accepted = ", ".join(_KEYS)
    try:
        value = yaml.load(secret, file="secret").value
    except InvalidInput:
        raise Denied("the secret is not YAML or JSON") from None
    if not isinstance(value, dict) or not value:
        raise Denied(f"the secret must be a mapping with some of: {accepted}")
    if unknown := sorted(set(value) - set(_KEYS)):
        raise Denied(f"the secret has the unknown key `{unknown[0][:40]}`; accepted are: {accepted}")
    # Digits without quotes are a number, which may have lost its leading zeros: refused rather than guessed.
    if wrong := [key for key, item in value.items() if not isinstance(item, str)]:
        raise Denied(f"the value of `{wrong[0]}` in the secret must be text, write it in quotes")
    parsed = Credentials(**{_KEYS[key]: item for key, item in value.items()})
    if parsed.ssh_private_key and not parsed.known_hosts.strip():
        raise HostKeyUnknown(
            "the secret has sshPrivateKey but no knownHosts, so the server cannot be told from another"
        )
    return parsed


@contextmanager
def access(scheme: str, origin: str, credentials: Credentials, ssh: str, connect_timeout: int) -> Iterator[Access]:
    """Lays out credentials for one git process against `origin` (scheme://host:port/) and removes them afterwards."""
    if scheme == "https":
        with _private_directory(bool(credentials.ca)) as folder:
            yield _https(origin, credentials, folder)
    elif scheme == "ssh":
        with _private_directory(bool(credentials.ssh_private_key)) as folder:
            yield _ssh(credentials, folder, ssh, connect_timeout)
    else:
        yield Access()


def _https(origin: str, credentials: Credentials, folder: Path | None) -> Access:
    config: list[tuple[str, str]] = []
    password = credentials.token or credentials.password
    if password or credentials.username:
        user = credentials.username or (_TOKEN_USER if credentials.token else "")
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        # Scoped to the server: whoever it redirects to must not get the header.
        config.append((f"http.{origin}.extraHeader", f"Authorization: Basic {basic}"))
    variables: dict[str, str] = {}
    if credentials.ca and folder is not None:
        variables["GIT_SSL_CAINFO"] = str(_write(folder / "ca.pem", credentials.ca))
    return Access(tuple(config), variables)


def _ssh(credentials: Credentials, folder: Path | None, ssh: str, connect_timeout: int) -> Access:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": str(connect_timeout),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
    }
    words = [ssh]
    variables = {}
    if folder is None:
        # Without a secret: the keys, agent and known_hosts of the user that the control plane runs as.
        variables = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK") if name in os.environ}
    else:
        key = _write(folder / "key", credentials.ssh_private_key.replace("\r\n", "\n").rstrip("\n") + "\n")
        hosts = _write(folder / "known_hosts", credentials.known_hosts.rstrip("\n") + "\n")
        options |= {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UserKnownHostsFile": f'"{hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
        }
        words += ["-F", "/dev/null", "-i", str(key)]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    # git hands this to a shell when it holds quotes; every word is ours and is quoted.
    return Access((), {**variables, "GIT_SSH_COMMAND": shlex.join(words), "GIT_SSH_VARIANT": "ssh"})


@contextmanager
def _private_directory(needed: bool) -> Iterator[Path | None]:
    if not needed:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="fleet-git-") as folder:
        yield Path(folder)


def _write(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return path
