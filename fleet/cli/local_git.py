"""The repository that a person stands in: which commit a revision is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fleet.cli.failure import Exit, Failure

DEADLINE = 10.0


def resolve(repository: Path, revision: str) -> str | None:
    """The full SHA of a revision; None for HEAD where there is no commit yet, or no repository. Raises Failure."""
    if not (repository / ".git").exists():
        if revision == "HEAD":
            return None
        raise Failure(Exit.USAGE, f"{repository} is not in a Git repository, so it has no {revision}", "git init")
    argv = [
        "git",
        "-C",
        str(repository),
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        f"{revision}^{{commit}}",
    ]
    try:
        asked = subprocess.run(argv, capture_output=True, timeout=DEADLINE, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(Exit.NO, f"git did not answer: {error}", "`fleet doctor` checks what is installed") from error
    if asked.returncode == 0:
        return asked.stdout.strip()
    if revision == "HEAD":
        return None
    raise Failure(Exit.NO, f"{repository} has no commit {revision}", "`git log` and `git fetch` know which there are")


def repository_of(folder: Path) -> Path | None:
    """The root of the repository that a folder lies in; bare ones are their own root."""
    if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
        return folder
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)


def branch(repository: Path) -> str:
    """The branch that is checked out; raises Failure where there is none."""
    argv = ["git", "-C", str(repository), "symbolic-ref", "--quiet", "--short", "HEAD"]
    try:
        asked = subprocess.run(argv, capture_output=True, timeout=DEADLINE, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(Exit.NO, f"git did not answer: {error}", "`fleet doctor` checks what is installed") from error
    if asked.returncode != 0 or not asked.stdout.strip():
        raise Failure(Exit.USAGE, f"{repository} has no branch checked out", "say which one: --ref BRANCH")
    return asked.stdout.strip()
