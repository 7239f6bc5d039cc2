"""The files of a source as the planner uses them: content addresses of folders, and folders on disk.

`GitTree` is a commit, exported into a cache by content: two commits that hold the same folders share one export, and
nothing is exported twice. `FolderTree` is a working tree, for the offline commands; it is read where it lies.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from fleet.git import export
from fleet.git.failures import ContentRefused, LocalDisk
from fleet.git.transport import GitSettings

KEPT_EXPORTS = 64
KEPT_SECONDS = 3600.0
"""An export that was asked for within this time is never removed: somebody may be reading it."""


class Commits(Protocol):
    """Where the files of a commit come from."""

    async def folders(self, sha: str, paths: Sequence[str]) -> Mapping[str, str]: ...
    async def export(self, sha: str, paths: Sequence[str], into: Path) -> None: ...


class Exports:
    """The cache of exported folders. It does not outlive the process: what a power cut left of it is not trusted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing: dict[str, anyio.Lock] = {}
        self._sweeping = anyio.Lock()
        self._swept = False

    async def get(self, commits: Commits, sha: str, folders: Mapping[str, str]) -> Path:
        """A directory that holds `folders` (path → tree id) of a commit at their places; raises SourceError."""
        key = sha256(repr(sorted(folders.items())).encode()).hexdigest()[:32]
        target = self._folder / key
        async with self._sweeping:
            if not self._swept:
                try:
                    await anyio.to_thread.run_sync(_clear, self._folder)
                except OSError as error:
                    raise LocalDisk(f"cannot write exports: {error.strerror or error}") from error
                self._swept = True
        lock = self._writing.setdefault(key, anyio.Lock())
        try:
            async with lock:
                if not await anyio.to_thread.run_sync(_touch, target):
                    await self._export(commits, sha, tuple(folders), target)
        finally:
            if not lock.locked() and self._writing.get(key) is lock:
                del self._writing[key]
        return target

    async def _export(self, commits: Commits, sha: str, paths: Sequence[str], target: Path) -> None:
        unfinished = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        try:
            await anyio.to_thread.run_sync(_collect, self._folder)
            await commits.export(sha, paths, unfinished)
            await anyio.to_thread.run_sync(os.rename, unfinished, target)
        except OSError as error:
            raise LocalDisk(f"cannot write an export: {error.strerror or error}") from error
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(unfinished, ignore_errors=True))


class GitTree:
    """The files of one fetched commit (engine.ports.Tree)."""

    def __init__(self, commits: Commits, sha: str, exports: Exports) -> None:
        self._commits = commits
        self._sha = sha
        self._exports = exports
        self._known: dict[str, str] = {}

    async def hashes(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Content address of every folder of `paths` that the commit has."""
        unknown = [path for path in paths if path not in self._known]
        if unknown:
            self._known.update(await self._commits.folders(self._sha, unknown))
        return {path: self._known[path] for path in paths if path in self._known}

    async def folder(self, paths: Sequence[str]) -> Path:
        """A directory with these folders at their places; to be read only, and kept for at least an hour."""
        outer = export.outermost(paths)
        found = await self.hashes(outer)
        if missing := [path for path in outer if path not in found]:
            raise ContentRefused(f"the commit {self._sha[:12]} has no folder {missing[0] or '.'}")
        return await self._exports.get(self._commits, self._sha, found)


class FolderTree:
    """A working tree as it lies on disk now, under the same limits as a commit (engine.ports.Tree)."""

    def __init__(self, root: Path, settings: GitSettings | None = None) -> None:
        self._root = root
        self._settings = settings or GitSettings()

    async def hashes(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Content address of every folder of `paths` that exists."""
        return await anyio.to_thread.run_sync(self._hashes, tuple(paths))

    async def folder(self, paths: Sequence[str]) -> Path:
        """The working tree itself, once nothing in these folders leads out of it."""
        found = await self.hashes(paths)
        if missing := [path for path in paths if path not in found]:
            raise ContentRefused(f"there is no folder {self._root / missing[0]}")
        return self._root

    def _hashes(self, paths: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in paths:
            folder = self._root / export.confine(path)
            if folder.is_dir() and folder.resolve().is_relative_to(self._root.resolve()):
                found[path] = self._hash(folder)
        return found

    def _hash(self, folder: Path) -> str:
        digest = sha256()
        links: list[Path] = []
        files = total = 0
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != ".git")
            links += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
            for name in sorted(names):
                file = Path(parent, name)
                if file.is_symlink():
                    links.append(file)
                    content = os.readlink(file).encode()
                else:
                    content = _read(file, self._settings.max_file)
                files += 1
                total += len(content)
                if files > self._settings.max_files or total > self._settings.max_export:
                    raise ContentRefused(f"there is too much in {folder}")
                digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode() + content)
        export.refuse_escapes(self._root, links)
        for link in links:
            digest.update(f"{link.relative_to(folder)}\0{os.readlink(link)}\0".encode())
        return digest.hexdigest()


def _read(file: Path, limit: int) -> bytes:
    try:
        size = file.stat().st_size
        if not file.is_file() or size > limit:
            raise ContentRefused(f"{file} is no regular file of at most {limit} bytes")
        return file.read_bytes()
    except OSError as error:
        raise LocalDisk(f"cannot read {file}: {error.strerror or error}") from error


def _touch(target: Path) -> bool:
    """Marks an export as used now; False when there is none."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _collect(folder: Path) -> None:
    """Removes the exports that were used longest ago, above `KEPT_EXPORTS`, once they are older than `KEPT_SECONDS`."""
    known = sorted((path.stat().st_mtime, path) for path in folder.iterdir() if not path.name.startswith("."))
    for used, path in known[:-KEPT_EXPORTS]:
        if used < time.time() - KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
