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
