"""How a command ends: the exit codes, and the one exception that carries what is wrong, and what to do next."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    DONE = 0
    NO = 1
    """The answer is no: invalid, different, drifted, failed."""
    USAGE = 2
    UNREACHABLE = 3
    FORBIDDEN = 4
    CONFLICT = 5


class Failure(Exception):
    """Ends the command: `message` says what is wrong and where, `hint` what to do next."""

    def __init__(self, exit: Exit, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.exit = exit
        self.message = message
        self.hint = hint
