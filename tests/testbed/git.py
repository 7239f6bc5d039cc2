"""Bare Git repositories that tests write to as a push would: new commits, rewritten and deleted branches.

Commits are made by `git fast-import` in the bare repository, without a working tree. `git_https` and `git_ssh` serve a
directory of such repositories; a repository's own path works as a source, too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.errors import TestbedError

_SECONDS = 60
AUTHOR = "Test Author <author@example.com>"


@dataclass(frozen=True, slots=True)
class Symlink:
    """A file of a commit that is a symbolic link."""

    target: str


Content = str | bytes | Symlink | None
"""What a path becomes in a commit; None deletes it."""


class Repository:
    """A bare repository. `branch` arguments are short names; commits are full ids."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, branch: str = "main") -> Repository:
        """An empty repository whose HEAD is `branch`, open to pushes over HTTP."""
        path.mkdir(parents=True)
        made = cls(path)
        made.git("init", "--quiet", "--bare", f"--initial-branch={branch}", ".")
        made.git("config", "http.receivepack", "true")
        made.git("config", "uploadpack.allowAnySHA1InWant", "true")
        return made

    def commit(
        self,
        files: Mapping[str, Content],
        message: str = "change",
        *,
        branch: str = "main",
        author: str = AUTHOR,
    ) -> str:
        """Adds a commit with the changed files on top of the branch, which is created if need be; the commit's id."""
        return self._import(files, message, branch, author, self.head(branch))

    def rewrite(
        self,
        files: Mapping[str, Content],
        message: str = "rewritten",
        *,
        branch: str = "main",
        onto: str | None = None,
    ) -> str:
        """A force-push: the branch becomes one commit on top of `onto`, or a new root with these files alone."""
        return self._import(files, message, branch, AUTHOR, onto)

    def commit_directory(self, directory: Path, message: str = "change", *, branch: str = "main") -> str:
        """A commit with every file below `directory`, as it is there, on top of what the branch holds."""
        files: dict[str, Content] = {}
        for path in sorted(directory.rglob("*")):
            if path.is_symlink():
                files[path.relative_to(directory).as_posix()] = Symlink(os.readlink(path))
            elif path.is_file():
                files[path.relative_to(directory).as_posix()] = path.read_bytes()
        return self.commit(files, message, branch=branch)

    def revert(self, *, branch: str = "main") -> str:
        """`git revert` of the branch's last commit: a new commit with the content of the one before."""
        head = self.head(branch)
        if head is None:
            raise TestbedError(f"{branch} has no commit")
        tree = self.git("rev-parse", f"{head}~1^{{tree}}")
        commit = self.git("commit-tree", tree, "-p", head, "-m", f"Revert {head[:12]}")
        self.git("update-ref", f"refs/heads/{branch}", commit, head)
        return commit

    def head(self, branch: str = "main") -> str | None:
        """The branch's commit; None when there is no such branch."""
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") or None

    def delete_branch(self, branch: str) -> None:
        self.git("update-ref", "-d", f"refs/heads/{branch}")

    def tag(self, name: str, commit: str) -> None:
        """A lightweight tag; moves it when it exists."""
        self.git("update-ref", f"refs/tags/{name}", commit)

    def git(self, *arguments: str, data: bytes | None = None) -> str:
        """Runs git in the repository; stdout without the last newline. Raises TestbedError."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=environment(),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise TestbedError(f"git {' '.join(arguments)}: exit {done.returncode}: {said}")
        return done.stdout.decode(errors="replace").rstrip("\n")

    def _import(self, files: Mapping[str, Content], message: str, branch: str, author: str, parent: str | None) -> str:
        lines = [f"commit refs/heads/{branch}\n".encode()]
        lines += [f"{role} {author} now\n".encode() for role in ("author", "committer")]
        lines.append(_data(message.encode()))
        if parent is not None:
            lines.append(f"from {parent}\n".encode())
        lines += [_change(path, content) for path, content in files.items()]
        self.git("fast-import", "--quiet", "--force", "--date-format=now", data=b"".join(lines))
        commit = self.head(branch)
        assert commit is not None
        return commit


def environment() -> dict[str, str]:
    """git's environment without the machine's or the user's configuration."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Test Author",
        "GIT_AUTHOR_EMAIL": "author@example.com",
        "GIT_COMMITTER_NAME": "Test Author",
        "GIT_COMMITTER_EMAIL": "author@example.com",
    }


def _change(path: str, content: Content) -> bytes:
    if content is None:
        return f"D {_quoted(path)}\n".encode()
    mode = "120000" if isinstance(content, Symlink) else "100644"
    raw = content.target if isinstance(content, Symlink) else content
    return f"M {mode} inline {_quoted(path)}\n".encode() + _data(raw.encode() if isinstance(raw, str) else raw)


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _data(raw: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(raw), raw)
