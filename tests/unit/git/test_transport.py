"""Credentials, environments, and what git's complaints are translated to; nothing secret in any of it."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import settings
from fleet.errors import SourceError
from fleet.git import credentials, export, failures, transport
from fleet.git.credentials import Credentials

CANARY = "hunter2-canary"


def parsed(**values: object) -> Credentials:
    return credentials.parse(json.dumps(values).encode())


def test_no_secret_is_no_credentials() -> None:
    assert credentials.parse(None) == Credentials()


def test_yaml_and_json_are_read() -> None:
    assert credentials.parse(b"username: me\npassword: p\n") == parsed(username="me", password="p")
    key = credentials.parse(b"sshPrivateKey: |\n  line one\n  line two\nknownHosts: h k\n")
    assert key.ssh_private_key == "line one\nline two\n"


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        (CANARY.encode(), "must be a mapping"),
        (b"{}", "must be a mapping"),
        (f"pasword: {CANARY}".encode(), "unknown key `pasword`"),
        (b"password: 0123", "`password` in the secret must be text"),
        (b"password: [a]", "must be text"),
        (f"a: {CANARY}\na: {CANARY}".encode(), "not YAML"),
        (b"\xff", "not YAML"),
        (json.dumps({"sshPrivateKey": CANARY}).encode(), "no knownHosts"),
    ],
)
def test_a_wrong_secret_is_explained_without_quoting_it(secret: bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what) as caught:
        credentials.parse(secret)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=60))
def test_any_secret_is_parsed_or_refused(secret: bytes) -> None:
    with contextlib.suppress(SourceError):
        assert isinstance(credentials.parse(secret), Credentials)


def test_credentials_do_not_show_themselves() -> None:
    held = parsed(password=CANARY, username="me")
    with credentials.access("https", "https://h/", held, "ssh", 5) as access:
        shown = f"{held!r} {held} {access!r} {access}"
    assert CANARY not in shown
    assert base64.b64encode(f"me:{CANARY}".encode()).decode() not in shown


def test_https_credentials_go_to_their_server_alone() -> None:
    with credentials.access("https", "https://git.example:8443/", parsed(token="t"), "ssh", 5) as access:
        [(key, value)] = access.config
    assert key == "http.https://git.example:8443/.extraHeader"
    assert base64.b64decode(value.removeprefix("Authorization: Basic ")) == b"x-access-token:t"
    with credentials.access("https", "https://h/", parsed(token="t", username="oauth2"), "ssh", 5) as access:
        assert base64.b64decode(access.config[0][1].removeprefix("Authorization: Basic ")) == b"oauth2:t"


def test_keys_lie_in_private_files_for_as_long_as_they_are_needed() -> None:
    held = parsed(sshPrivateKey="KEY\r\nLINE", knownHosts="h ssh-ed25519 AAAA")
    with credentials.access("ssh", "", held, "ssh", 7) as access:
        words = shlex.split(access.variables["GIT_SSH_COMMAND"])
        key = Path(words[words.index("-i") + 1])
        assert key.read_bytes() == b"KEY\nLINE\n"
        assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert "StrictHostKeyChecking=yes" in words
        assert "ConnectTimeout=7" in words
        assert f'UserKnownHostsFile="{key.parent / "known_hosts"}"' in words
        assert (key.parent / "known_hosts").read_text() == "h ssh-ed25519 AAAA\n"
    assert not key.parent.exists()


def test_local_repositories_get_no_credentials() -> None:
    with credentials.access("file", "", parsed(password=CANARY), "ssh", 5) as access:
        assert access == credentials.Access()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://git.example/a.git", "https"),
        ("ssh://git@git.example:22/a.git", "ssh"),
        ("git@git.example:a/b.git", "ssh"),
        ("file:///srv/a.git", "file"),
        ("/srv/a.git", "file"),
    ],
)
def test_schemes(url: str, expected: str) -> None:
    assert transport.scheme(url) == expected


@given(st.text(max_size=40))
def test_any_url_is_classified_or_refused(url: str) -> None:
    with contextlib.suppress(SourceError):
        assert transport.scheme(url) in ("https", "ssh", "file")


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        ("Host key verification failed.\nfatal: Could not read from remote repository.", failures.HostKeyUnknown),
        ("No ED25519 host key is known for [h]:22 and you have requested strict checking.", failures.HostKeyUnknown),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote", failures.Denied),
        ("fatal: Authentication failed for 'https://h/a'", failures.Denied),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", failures.Denied),
        ("error: The requested URL returned error: 403", failures.Denied),
        ("fatal: detected dubious ownership in repository at '/srv/a'", failures.Denied),
        ("fatal: unable to access: server certificate verification failed. CAfile: none", failures.CertificateBad),
        ("fatal: unable to access: SSL certificate problem: self-signed", failures.CertificateBad),
        ("fatal: unable to access: Could not resolve host: h", failures.Unreachable),
        ("fatal: unable to access: Failed to connect to h port 443: Connection refused", failures.Unreachable),
        ("ssh: connect to host h port 22: Connection timed out", failures.Unreachable),
        ("fatal: the remote end hung up unexpectedly\nfatal: early EOF", failures.Unreachable),
        ("fatal: unable to access: The requested URL returned error: 502", failures.Unreachable),
        ("remote: Repository not found.\nfatal: repository 'https://h/a/' not found", failures.NoRepository),
        ("fatal: '/srv/x' does not appear to be a git repository", failures.NoRepository),
        ("fatal: remote error: upload-pack: not our ref ffff", failures.NoRef),
        ("error: file write error: No space left on device", failures.LocalDisk),
        ("fatal: transport 'http' not allowed", SourceError),
        ("fatal: something new", SourceError),
        ("", SourceError),
    ],
)
def test_complaints_become_kinds(complaint: str, kind: type[SourceError]) -> None:
    error = failures.translate(f"https://me:{CANARY}@h/a", complaint)
    assert type(error) is kind
    assert str(error).startswith("https://h/a: ")


def test_a_complaint_is_quoted_without_credentials_and_bounded() -> None:
    error = failures.translate(
        "https://h/a", f"fatal: unable to access 'https://me:{CANARY}@h/a': odd\x1b[31m " + "x" * 900
    )
    assert CANARY not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a", "a/b", "ab"], ("a", "ab")),
        (["./a//b/", "a/b"], ("a/b",)),
        (["a", "."], ("",)),
        ([], ()),
    ],
)
def test_folders_within_others_are_one_export(paths: list[str], expected: tuple[str, ...]) -> None:
    assert export.outermost(paths) == expected


@given(st.text(alphabet="ab./\n\0", max_size=12))
def test_a_confined_path_never_leads_out(path: str) -> None:
    try:
        clean = export.confine(path)
    except failures.ContentRefused:
        return
    assert not clean.startswith("/")
    assert ".." not in clean.split("/")
    assert "\n" not in clean


def test_the_operators_bounds_are_taken_over() -> None:
    chosen = settings.GitSettings(resolve_timeout=1.0, fetch_timeout=2.0, local_timeout=3.0, export_limit=4096)
    bounds = transport.of(chosen)
    assert (bounds.resolve_deadline, bounds.fetch_deadline, bounds.local_deadline) == (1.0, 2.0, 3.0)
    assert bounds.max_export == 4096
