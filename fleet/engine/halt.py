"""A piece of work that may have to stop early: no new step is begun, waiting ends at once, what was sent is answered.

A deploy pass is not cancelled outright when its content is overtaken: a request in flight may or may not happen, and
its answer says which. So the fix of a bad release does not wait for the release (pains.md 12), and nothing is in doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Halt:
    """Asked by the one who works, called by the one who knows better; for one piece of work."""

    def __init__(self) -> None:
        self.called = False
        self._scopes: set[anyio.CancelScope] = set()

    def call(self) -> None:
        self.called = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around what only waits, or may be cut anywhere: the call cancels it, and the block is left in silence."""
        scope = anyio.CancelScope()
        if self.called:
            scope.cancel()
        self._scopes.add(scope)
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)
