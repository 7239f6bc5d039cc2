"""Runs the commands that the tour shows, as a person would type them after `source env.sh`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fleet.cli.demo.follow import NotTrue
from fleet.cli.demo.narrator import Narrator
from fleet.cli.demo.repository import environment

SECONDS = 60
"""Longest time of one command."""


class Shell:
    """Commands run in `directory`; `variables` are those of env.sh."""

    def __init__(self, directory: Path, variables: Mapping[str, str], narrator: Narrator) -> None:
        self._directory = directory
        self._environment = environment(variables)
        self._narrator = narrator

    def __call__(self, *words: str, quiet: bool = False, expect: int = 0) -> str:
        """Shows a command, runs it and shows its answer unless `quiet`; what it printed.

        Raises NotTrue when it ends with another code than `expect`.
        """
        self._narrator.command(words)
        output = self.ask(*words, expect=expect)
        if not quiet:
            self._narrator.answer(output)
        return output

    def ask(self, *words: str, expect: int = 0) -> str:
        """Runs a command without showing it."""
        argv = [sys.executable, "-m", "fleet", *words[1:]] if words[0] == "fleet" else list(words)
        colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"} if words[0] == "fleet" else {}
        try:
            done = subprocess.run(
                argv,
                cwd=self._directory,
                env={**self._environment, **colours},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
                text=True,
            )
        except OSError as error:
            raise NotTrue(f"{words[0]} cannot be run: {error.strerror or os.strerror(error.errno or 0)}") from error
        except subprocess.TimeoutExpired as error:
            raise NotTrue(f"{' '.join(words)}: no end after {SECONDS} s") from error
        if done.returncode != expect:
            raise NotTrue(f"{' '.join(words)}: exit {done.returncode}: {done.stdout.strip()}")
        return done.stdout
