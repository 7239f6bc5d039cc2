"""Files of a commit onto disk: bounded, confined, byte for byte as they were committed.

No checkout: attributes, filters and line ending conversion of a repository have no say. The list of files is checked
against the limits before anything is written; symlinks come last and must resolve within the export.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from fleet.git.failures import ContentRefused, LocalDisk
from fleet.git.transport import GitSettings

_LINK = "120000"
_SUBMODULE = "160000"


class Entry(msgspec.Struct, frozen=True):
    """One file of a commit; `size` in bytes."""

    mode: str
    oid: str
    size: int
    path: str


def confine(path: str) -> str:
    """A folder of a source as a normal relative path, "" for its root; raises ContentRefused when it leads outside."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or any(not c.isprintable() for c in path):
        raise ContentRefused(f"the path {path!r} leads out of the repository")
    return "/".join(parts)


def outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """The confined paths without those that lie in another one of them, sorted."""
    clean = sorted({confine(path) for path in paths})
    if "" in clean:
        return ("",)
    return tuple(p for p in clean if not any(p.startswith(f"{other}/") for other in clean))


def entries(listing: bytes, settings: GitSettings) -> tuple[Entry, ...]:
    """Reads `ls-tree -r -z -l`; raises ContentRefused for what is too much or may not be exported."""
    found: list[Entry] = []
    total = 0
    for line in listing.split(b"\0"):
        if not line:
            continue
        head, _, name = line.partition(b"\t")
        mode, _, oid, size = head.decode("ascii").split()
        path = _name(name)
        if mode == _SUBMODULE:
            raise ContentRefused(f"{path} is a submodule; give it a source of its own")
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise ContentRefused(f"the commit holds a file with the path {path!r}")
        entry = Entry(mode, oid, int(size), path)
        total += entry.size
        if entry.size > settings.max_file:
            raise ContentRefused(f"{path} has {entry.size} bytes, more than {settings.max_file}")
        if total > settings.max_export:
            raise ContentRefused(f"the files together have more than {settings.max_export} bytes")
        found.append(entry)
        if len(found) > settings.max_files:
            raise ContentRefused(f"there are more than {settings.max_files} files")
    return tuple(found)


def _name(name: bytes) -> str:
    """A file's path. What is no UTF-8 could neither be told in JSON nor stored, so no export may bring it further."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        shown = ascii(os.fsdecode(name))
        raise ContentRefused(f"the commit holds a file whose name is not UTF-8: {shown}") from None


def write(found: Sequence[Entry], blobs: Path, into: Path) -> None:
    """Writes files below the new directory `into` from what `cat-file --batch` printed for their ids, in order.

    Raises ContentRefused for a symlink that leads out of `into` or nowhere, LocalDisk when the disk refuses.
    """
    links: list[tuple[Path, bytes]] = []
    folders = _Folders(into)
    try:
        into.mkdir(mode=0o700, parents=True)
        with blobs.open("rb") as stream:
            for entry in found:
                content = _blob(stream, entry)
                if entry.mode == _LINK:
                    links.append((into / entry.path, content))
                else:
                    folders.make(entry.path)
                    _write_file(f"{into}/{entry.path}", content)
        # All parents first: no directory is ever made, and no link placed, through a link.
        for link, _ in links:
            folders.make(str(link.relative_to(into)))
        for link, content in links:
            link.symlink_to(os.fsdecode(content))
    except FileExistsError as error:
        raise ContentRefused(f"the commit holds two files at {Path(error.filename).name}") from error
    except OSError as error:
        raise LocalDisk(f"cannot write an export: {error.strerror or error}") from error
    except ValueError as error:  # a link target with a NUL byte
        raise ContentRefused("a symlink has no valid target") from error
    refuse_escapes(into, [link for link, _ in links])


def refuse_escapes(root: Path, links: Sequence[Path]) -> None:
    """Raises ContentRefused when one of the symlinks leads out of `root` or nowhere (checked on disk, chains too)."""
    real = root.resolve()
    for link in links:
        shown = PurePosixPath(link.relative_to(root))
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ContentRefused(f"the symlink {shown} leads nowhere, or out of what is exported") from error
        if not target.is_relative_to(real):
            raise ContentRefused(f"the symlink {shown} leads out of the repository")


def _blob(stream: BinaryIO, entry: Entry) -> bytes:
    header = stream.readline().split()
    if len(header) != 3 or header[1] != b"blob" or int(header[2]) != entry.size:
        raise LocalDisk(f"the mirror is damaged: {entry.path} cannot be read")
    content = stream.read(entry.size)
    if len(content) != entry.size or stream.read(1) != b"\n":
        raise LocalDisk(f"the mirror is damaged: {entry.path} is cut off")
    return content


class _Folders:
    """Makes the folders of an export, each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = {""}

    def make(self, path: str) -> None:
        """The folder that a file at `path` lies in."""
        parent = path.rpartition("/")[0]
        if parent in self._made:
            return
        self.make(parent)
        os.mkdir(self._root / parent, 0o700)
        self._made.add(parent)


def _write_file(target: str, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        if file.write(content) != len(content):
            raise OSError("the disk took only a part of a file")
