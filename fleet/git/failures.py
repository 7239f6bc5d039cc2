"""What can be wrong with a Git source, as distinct errors that say which; made from what git prints.

    SourceError
    ├── Unreachable       the server does not answer, breaks off, or takes too long
    ├── Denied            it answers and refuses our credentials, or none were given and it wants some
    ├── HostKeyUnknown    an SSH server whose key is not in known_hosts, or is another one
    ├── CertificateBad    a TLS server whose certificate does not verify
    ├── NoRepository      there is no repository at the URL
    ├── NoRef             the repository has no such branch, tag or commit
    ├── ContentRefused    a commit holds what may not be exported: links that leave it, submodules, too much
    └── LocalDisk         the data directory cannot be written or has no space

Every message names the source's URL without user information and never holds a credential; what a server says is cut
to one printable line.
"""

from __future__ import annotations

import re

from fleet.errors import SourceError


class Unreachable(SourceError):
    """The server does not answer, breaks off, or takes longer than the deadline."""


class Denied(SourceError):
    """The server refuses our credentials."""


class HostKeyUnknown(SourceError):
    """The SSH host key is not the one that known_hosts holds, or it holds none."""


class CertificateBad(SourceError):
    """The TLS certificate does not verify."""


class NoRepository(SourceError):
    """There is no repository at the URL."""


class NoRef(SourceError):
    """The repository has no such branch, tag or commit."""


class ContentRefused(SourceError):
    """The commit holds something that may not be exported."""

    transient = False


class LocalDisk(SourceError):
    """The mirror on our own disk cannot be written."""


# First match wins; the order puts what is specific before what git says at the end of every SSH failure.
_SIGNS: tuple[tuple[re.Pattern[str], type[SourceError], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, sentence)
    for pattern, kind, sentence in (
        (
            r"host key verification failed|host key is known|identification has changed",
            HostKeyUnknown,
            "the host key of the server is not the one in known_hosts",
        ),
        (
            r"certificate|self.signed|ssl.*(problem|error|verif)|gnutls_handshake",
            CertificateBad,
            "the certificate of the server does not verify; a CA of your own goes into the secret as `ca`",
        ),
        (r"no space left on device|disk quota exceeded", LocalDisk, "the disk of the data directory is full"),
        (r"read-only file system", LocalDisk, "the data directory is read-only"),
        (
            r"authentication failed|could not read (username|password)|terminal prompts disabled"
            r"|returned error: (401|403)|permission denied \(|invalid username or|access denied|load key",
            Denied,
            "the server refuses the credentials",
        ),
        (
            r"detected dubious ownership",
            Denied,
            "the repository belongs to another user; run as its owner, or change its owner",
        ),
        (
            r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref",
            NoRef,
            "the repository no longer has that commit",
        ),
        (
            r"repository .*not found|does not appear to be a git repository|returned error: 404|not a git repository"
            r"|no such file or directory|does not exist",
            NoRepository,
            "there is no repository at this URL",
        ),
        (
            r"transport '.*' not allowed",
            SourceError,
            "only https, ssh and local repositories are read, and none of them may redirect to another",
        ),
        (
            r"could not resolve host|connection (refused|reset|timed out|closed)|failed to connect|couldn't connect"
            r"|could not connect|no route to host|network is unreachable|timed out|name or service not known"
            r"|temporary failure in name|hung up|early eof|unexpected disconnect|rpc failed|returned error: 5\d\d"
            r"|empty reply|closed by remote|could not read from remote",
            Unreachable,
            "the server cannot be reached",
        ),
    )
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_NOISE = re.compile(
    r"^(warning|hint|please make sure|and the repository exists|cloning|remote: (enumerating|counting))", re.I
)
_SHOWN = 200


def display(url: str) -> str:
    """The URL as it may be shown: without user information."""
    return _USERINFO.sub("", url)


def translate(url: str, complaint: str) -> SourceError:
    """The error for what git printed on standard error."""
    for pattern, kind, sentence in _SIGNS:
        if pattern.search(complaint):
            return kind(f"{display(url)}: {sentence}{_quote(complaint)}")
    return SourceError(f"{display(url)}: git failed{_quote(complaint)}")


def _quote(complaint: str) -> str:
    """The first line that tells something, in brackets."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip() and not _NOISE.match(line.strip())]
    telling = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0] if lines else "")
    printable = "".join(c if c.isprintable() else " " for c in _USERINFO.sub("", telling))
    return f" ({printable[:_SHOWN]})" if printable else ""
