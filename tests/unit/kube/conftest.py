from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from fleet.kube.access import Access
from fleet.kube.bounds import Bounds, Pace, Timeouts
from fleet.kube.credentials import Credentials
from fleet.kube.transport import Transport

QUICK = Bounds(
    # Nothing in these tests waits for real seconds: what shall time out does so soon, what shall not has long enough.
    timeouts=Timeouts(request=20.0, connect=20.0, dead_stream=20.0, settle=0.01),
    pace=Pace(backoff=0.001, backoff_cap=0.01, spacing=0.001),
)


def bounds(**timeouts: float) -> Bounds:
    """QUICK with other deadlines."""
    return msgspec.structs.replace(QUICK, timeouts=msgspec.structs.replace(QUICK.timeouts, **timeouts))


MakeTransport = Callable[..., Transport]


@pytest.fixture
async def transport_to() -> AsyncIterator[MakeTransport]:
    """Makes transports, `transport_to(url)` or `transport_to(read=…)`, and closes them at the end."""
    async with AsyncExitStack() as stack:

        def make(server: str = "", read: Callable[[], Access] | None = None, limits: Bounds = QUICK) -> Transport:
            credentials = Credentials("qa", read or (lambda: Access(server=server)), limits)
            transport = Transport("qa", credentials, limits)
            stack.push_async_callback(transport.aclose)
            return transport

        yield make
