"""Whether a request to a cluster may go now, and what its end says about the cluster: rate limit and circuit breakers.

One gate per cluster, so that a dead, slow or refusing cluster costs the others nothing. Two breakers: one opens when
the cluster does not answer, the other when it answers and refuses our credentials.
"""

from __future__ import annotations

from types import TracebackType

import anyio

from fleet.aio.limits import Breaker, BreakerState, TokenBucket, jitter
from fleet.errors import NotFound, Rejected, Unauthorized, Unavailable
from fleet.kube.bounds import Rates


class TooLarge(Unavailable):
    """An answer was longer than it may be; the cluster itself is well."""


class Gate:
    def __init__(self, cluster: str, rates: Rates, longest_queue: float) -> None:
        self._cluster = cluster
        self._longest_queue = longest_queue
        self._bucket = TokenBucket(rates.per_second, rates.burst)
        self._answers = Breaker(rates.failures, rates.pause, rates.pause_cap)
        self._credentials = Breaker(rates.refusals, rates.refusal_pause, rates.refusal_pause_cap)
        self._why = ""
        self._recovered = anyio.Event()

    @property
    def answers(self) -> BreakerState:
        return self._answers.state

    @property
    def credentials(self) -> BreakerState:
        return self._credentials.state

    async def admit(self, what: str) -> Attempt:
        """Waits for the rate limit; raises Unavailable or Unauthorized, unsent, while a breaker is open.

        `what` names the request. The attempt is a context manager around it that tells the breakers how it ended.
        """
        self._check()
        if not await self._bucket.wait(self._longest_queue):
            raise Unavailable(f"{what} was not sent: too many requests to {self._cluster} wait")
        self._check()  # the others that waited may have found out
        now = anyio.current_time()
        self._credentials.admit(now)
        self._answers.admit(now)
        return Attempt(self)

    def _check(self) -> None:
        now = anyio.current_time()
        if (wait := self._credentials.wait(now)) > 0:
            raise Unauthorized(f"{self._cluster} refused our credentials; asked again in {wait:.0f} s")
        if (wait := self._answers.wait(now)) > 0:
            raise Unavailable(f"{self._cluster} does not answer ({self._why}); asked again in {wait:.0f} s")

    def answered(self) -> None:
        """An API server was heard, whatever it said."""
        if self._answers.state != "closed":
            self._recovered.set()
            self._recovered = anyio.Event()
        self._answers.succeeded()

    def accepted(self) -> None:
        """It took our credentials, too."""
        self.answered()
        self._credentials.succeeded()

    async def wait_recovered(self) -> None:
        """Returns when the cluster answers after a time in which the breaker had given it up."""
        await self._recovered.wait()

    def refused(self) -> None:
        self._answers.abandoned()
        self._credentials.failed(anyio.current_time(), jitter.random())

    def silent(self, error: Unavailable) -> None:
        self._why = str(error)
        self._answers.failed(anyio.current_time(), jitter.random())
        self._credentials.abandoned()

    def abandoned(self) -> None:
        """The attempt ended without word from the cluster, by no fault of its own (cancelled, a broken kubeconfig)."""
        self._answers.abandoned()
        self._credentials.abandoned()


class Attempt:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Rejected | NotFound | TooLarge):
            self._gate.accepted()
        elif isinstance(error, Unauthorized):
            self._gate.refused()
        elif isinstance(error, Unavailable):
            self._gate.silent(error)
        else:
            self._gate.abandoned()
