"""Every deadline, size and rate of the connections to one cluster, with the values that production runs with.

What an operator may change of them is `settings.KubeSettings`; `of` puts it into effect.
"""

from __future__ import annotations

import msgspec

from fleet.settings import KubeSettings


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds."""

    connect: float = 10.0
    """TCP and TLS together."""
    request: float = 30.0
    """From a free connection to the answer's last byte; of a watch, to its headers."""
    dead_stream: float = 75.0
    """A watch that completes no line for so long is dead (the server sends a bookmark every minute)."""
    settle: float = 1.0
    """A watch that was accepted and says nothing for so long has not been refused in its first line either."""
    plugin: float = 30.0
    """One run of an exec credential plugin, which comes before the request's own deadline begins."""
    token_file: float = 60.0
    """Age at which a token file is read again (the kubelet renews it long before its token expires)."""
    keepalive: float = 80.0
    """Idle time of a pooled connection; a kube-apiserver closes it after 90 s, and we must be first."""
    queue: float = 20.0
    """Longest wait for the rate limit; a request that would wait longer is refused at once."""
    retry_after: float = 120.0
    """What a server may ask for at most with Retry-After."""


class Pace(msgspec.Struct, frozen=True):
    """How a watch is kept up. Seconds."""

    shortest: float = 300.0
    longest: float = 600.0
    """The server is asked to end a watch after a random time between the two, so that they do not all end together."""
    backoff: float = 0.5
    backoff_cap: float = 30.0
    """See `core.backoff.delay`."""
    spacing: float = 1.0
    """Between two openings of one watch, however the first ended."""
    proven: float = 10.0
    """A watch that lived so long has worked, even if it brought nothing: the backoff starts anew."""
    resume_within: float = 300.0
    """After a longer loss the kind is listed instead of resumed: a server compacts its history every five minutes."""


class Sizes(msgspec.Struct, frozen=True):
    """Bytes after decompression, unless said otherwise. etcd holds objects of about 1.5 MiB."""

    object: int = 16 << 20
    page: int = 64 << 20
    page_objects: int = 500
    """Objects asked for in one page of a list; a page that is too large is asked for again with a quarter of them."""
    pages: int = 20_000
    """Pages of one list."""
    slice: int = 100
    """Objects of a page handed on before other tasks get a turn."""
    line: int = 4 << 20
    """One watch event."""
    discovery: int = 32 << 20
    error: int = 256 << 10
    """What is read of an error's body; the rest is not looked at."""
    kubeconfig: int = 8 << 20
    token: int = 64 << 10
    plugin: int = 1 << 20


class Rates(msgspec.Struct, frozen=True):
    """What one cluster is asked at most."""

    per_second: float = 400.0
    burst: int = 100
    connections: int = 16
    """Requests in flight; watches have connections of their own, without a limit."""
    lists: int = 2
    """Lists in flight of this cluster."""
    fleet_lists: int = 16
    """Lists in flight over all clusters of a connector: each holds a page of objects in memory."""
    failures: int = 5
    """Unanswered requests in a row after which the cluster is left alone for a while."""
    pause: float = 1.0
    pause_cap: float = 15.0
    refusals: int = 3
    """Requests in a row refused with 401 after which the credentials are left alone for a while."""
    refusal_pause: float = 1.0
    refusal_pause_cap: float = 20.0


class Bounds(msgspec.Struct, frozen=True):
    timeouts: Timeouts = Timeouts()
    pace: Pace = Pace()
    sizes: Sizes = Sizes()
    rates: Rates = Rates()


def of(settings: KubeSettings) -> Bounds:
    return Bounds(
        timeouts=Timeouts(
            connect=settings.connect_timeout,
            request=settings.request_timeout,
            dead_stream=settings.stream_dead_after,
            plugin=settings.credential_timeout,
        ),
        sizes=Sizes(page=settings.response_limit, page_objects=settings.list_page, line=settings.event_limit),
        rates=Rates(
            per_second=settings.requests_per_second,
            burst=settings.requests_burst,
            connections=settings.requests_in_flight,
            fleet_lists=settings.concurrent_lists,
        ),
    )
