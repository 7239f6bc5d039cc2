"""A command that is sent twice with one Idempotency-Key runs once; the second caller gets the first one's answer.

Kept in memory, a bounded number of keys: a restart forgets them, after which the version in If-Match still protects.
An answer is kept when it is final (done, or refused for a reason that a repetition cannot change); a failure of a
part is not.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from fleet.api import problem
from fleet.api.endpoint import Answer
from fleet.api.problem import Busy, InvalidRequest, Problem, Refused
from fleet.errors import Conflict, InvalidInput, NotFound

Run = Callable[[], Awaitable[Answer]]
_FINAL = (Conflict, NotFound, InvalidInput)


class _Entry:
    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.done = anyio.Event()
        self.answer: Answer | None = None
        self.refusal: Problem | None = None


class Replays:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def once(self, key: str, fingerprint: bytes, run: Run) -> tuple[Answer, bool]:
        """The answer of the first run under `key`, and whether it was replayed.

        Raises InvalidRequest (422) when the key was used for another request, Busy when every place is taken by a
        command that still runs, and whatever `run` raises.
        """
        while (entry := self._entries.get(key)) is not None:
            if entry.fingerprint != fingerprint:
                raise InvalidRequest("this Idempotency-Key was used for another request; take a new one", status=422)
            await entry.done.wait()
            if entry.answer is not None:
                return entry.answer, True
            if entry.refusal is not None:
                raise Refused(entry.refusal)
            # The first run had no final answer and was taken out: this one takes its place.
        return await self._first(key, fingerprint, run), False

    async def _first(self, key: str, fingerprint: bytes, run: Run) -> Answer:
        self._make_room()
        entry = self._entries[key] = _Entry(fingerprint)
        try:
            entry.answer = await run()
        except _FINAL as error:
            entry.refusal = problem.of(error)
            raise
        finally:
            if entry.answer is None and entry.refusal is None:
                del self._entries[key]
            entry.done.set()
        return entry.answer

    def _make_room(self) -> None:
        if len(self._entries) < self._capacity:
            return
        oldest = next((key for key, entry in self._entries.items() if entry.done.is_set()), None)
        if oldest is None:
            raise Busy("too many commands run at once; try again")
        del self._entries[oldest]


def fingerprint(method: str, path: str, version: int | None, body: bytes) -> bytes:
    """Equal for requests that ask for the same thing."""
    return hashlib.blake2b(msgspec.json.encode((method, path, version)) + body, digest_size=16).digest()
