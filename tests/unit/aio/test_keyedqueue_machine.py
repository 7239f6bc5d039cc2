from __future__ import annotations

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fleet.aio.clock import VirtualClock
from fleet.aio.keyedqueue import KeyedQueue


class Keys(RuleBasedStateMachine):
    """Against the plain idea: what was put and not taken since is waiting, exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyedQueue[int] = KeyedQueue(3, clock=VirtualClock())
        self.waiting: list[int] = []
        self.working: set[int] = set()
        self.again: set[int] = set()

    @rule(key=st.integers(0, 5))
    def put(self, key: int) -> None:
        accepted = self.queue.put(key)
        if key in self.working:
            self.again.add(key)
        elif key not in self.waiting and len(self.waiting) + len(self.working) < 3:
            self.waiting.append(key)
        assert accepted == (key in self.waiting or key in self.working)

    @rule()
    def take(self) -> None:
        if self.waiting:
            key = anyio.run(self.queue.get)
            assert key == self.waiting.pop(0)
            self.working.add(key)

    @rule(key=st.integers(0, 5))
    def finish(self, key: int) -> None:
        if key in self.working:
            self.queue.done(key)
            self.working.discard(key)
            if key in self.again:
                self.again.discard(key)
                self.waiting.append(key)

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.statistics().working == len(self.working)


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
