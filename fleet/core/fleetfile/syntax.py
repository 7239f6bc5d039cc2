"""The written forms of single values in fleet.yaml; each function raises ValueError with what is wrong.

No message repeats the value: a URL or a misplaced line may hold a secret, and the position says where it is.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

NAME = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
"""A DNS label (RFC 1123); its 63 characters are limited apart."""
LABEL_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
LABEL_KEY = rf"(?:{NAME}(?:\.{NAME})*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
FILE_NAME = r"[A-Za-z0-9](?:[-._A-Za-z0-9]*[A-Za-z0-9])?"
APPROVER = r"(?:user:|group:)?[A-Za-z0-9](?:[A-Za-z0-9._@+-]*[A-Za-z0-9])?"
DURATION = r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+"
PERCENTAGE = r"(?:[1-9][0-9]?|100)%"
PRINTABLE = r"[^\x00-\x1f\x7f]+"
RELATIVE_PATH = r"[^/~\\\x00-\x1f\x7f][^\\\x00-\x1f\x7f]*"
REF = r"[^-/.\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*"
GIT_URL = r"(?:https://|ssh://|file://|/|[^-/:\s][^/:\s]*:)[^\s\x00-\x1f]+"
ENDPOINT = r"https?://[^\s\x00-\x1f]+"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SCP_LIKE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^-].*")
_SCHEMES = ("file:", "http:", "https:", "ssh:")
_SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_IDENTIFIER = r"\.[A-Za-z_][A-Za-z0-9_]*"
_SUBSCRIPT = r"\[(?:'[^'\[\]{}]+'|\"[^\"\[\]{}]+\")\]"
_PLACEHOLDER = re.compile(
    rf"\{{\{{\s*cluster\.(?:name|labels(?:{_IDENTIFIER}|{_SUBSCRIPT})|values(?:{_IDENTIFIER}|{_SUBSCRIPT})+)\s*\}}\}}"
)
_TEMPLATE_MARKS = ("{{", "}}", "{%", "%}", "{#", "#}")


def duration(text: str) -> float:
    """Seconds of "90s", "10m", "1h30m" or "1.5h"."""
    if not re.fullmatch(DURATION, text):
        raise ValueError("is not a duration such as 90s, 10m, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def spoken(seconds: float) -> str:
    """Seconds as a person would write them: 5400.0 is "1h30m"."""
    if seconds < 1 or seconds % 1:
        return f"{seconds:g}s"
    parts = []
    rest = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def relative_path(text: str) -> str:
    """A path inside a repository, without `./` and doubled or closing slashes; "." is its root."""
    if any(mark in text for mark in _TEMPLATE_MARKS):
        raise ValueError("cannot hold a template, only `overlay` can")
    return _confined(text)


def overlay_path(text: str) -> str:
    """A path inside a repository; the values of its cluster may stand in it as `{{ cluster.name }}`."""
    if "\0" in text:
        raise ValueError("holds a control character")
    bare = _PLACEHOLDER.sub("\0", text)
    if any(mark in bare for mark in _TEMPLATE_MARKS):
        raise ValueError(
            "holds a template other than `{{ cluster.name }}`, `{{ cluster.labels.x }}` and `{{ cluster.values.x }}`"
        )
    confined = _confined(bare)
    for placeholder in _PLACEHOLDER.findall(text):
        confined = confined.replace("\0", placeholder, 1)
    return confined


def git_url(text: str) -> str:
    """https://, ssh:// (also user@host:path), file:// or an absolute local path; without credentials."""
    if text.startswith("-"):
        raise ValueError("a URL cannot start with `-`")
    if text.startswith("/"):
        return text
    if "://" in text:
        return _split_url(text)
    if "::" not in text and not text.startswith(_SCHEMES) and _SCP_LIKE.fullmatch(text):
        return text
    raise ValueError("is not a https, ssh or file URL, user@host:path, or an absolute local path")


def ref(text: str) -> str:
    """A branch, a tag or a full commit SHA (the rules of git-check-ref-format)."""
    parts = text.split("/")
    bad = (
        ".." in text
        or "@{" in text
        or text == "@"
        or text.endswith(".")
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    )
    if bad:
        raise ValueError("is not the name of a branch or a tag, or a full commit SHA")
    return text


def endpoint(text: str) -> str:
    """http:// or https:// with a host; without credentials."""
    url = _url(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("is not a http or https URL with a host")
    _no_credentials(url, user=False)
    return text


def _confined(text: str) -> str:
    if text.startswith("/"):
        raise ValueError("is absolute; it must be relative to the root of the repository")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("leaves the repository; `..` is not accepted")
    if ".git" in parts:
        raise ValueError("is Git's own folder")
    return "/".join(parts) or "."


def _split_url(text: str) -> str:
    url = _url(text)
    if url.scheme in ("http", "git", "ftp"):
        raise ValueError(f"{url.scheme} is not encrypted; use https or ssh")
    if url.scheme not in ("https", "ssh", "file"):
        raise ValueError("only https, ssh and file URLs and absolute local paths are accepted")
    if url.scheme == "file":
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError("a file URL needs an absolute path and no host: file:///srv/git/apps.git")
        return text
    _no_credentials(url, user=url.scheme == "ssh")
    if not url.hostname or url.hostname.startswith("-"):
        raise ValueError("the URL has no valid host")
    if url.path.strip("/") == "":
        raise ValueError("the URL names no repository, only a host")
    return text


def _url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port  # raises for a port that is no number
    except ValueError:
        # Its message repeats the URL.
        raise ValueError("is not a valid URL") from None
    if url.query or url.fragment:
        raise ValueError("cannot have a query or a fragment")
    return url


def _no_credentials(url: SplitResult, *, user: bool) -> None:
    if url.password is not None or (url.username is not None and not user):
        raise ValueError("credentials do not belong in a URL; use secretRef")
    if url.username is not None and not _SSH_USER.fullmatch(url.username):
        raise ValueError("the user name in the URL is not valid")
