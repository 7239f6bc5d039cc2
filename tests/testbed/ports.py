"""Loopback ports for servers that cannot be told to choose one themselves."""

from __future__ import annotations

import random
import socket
import threading

from tests.testbed.errors import TestbedError

# Below the ephemeral range of Linux (32768 and up): a server that is stopped and started again on the same port must
# not find it taken by some client's outgoing connection.
_FIRST, _LAST = 20000, 32000
_TRIES = 500

_given: set[int] = set()
_lock = threading.Lock()


def free(count: int) -> tuple[int, ...]:
    """`count` different ports on 127.0.0.1 on which nothing listens, and none given out by this process before.

    Another process may still take one before it is used: whoever starts a server tries again with new ones then.
    """
    found: list[int] = []
    source = random.SystemRandom()
    for _ in range(_TRIES):
        if len(found) == count:
            return tuple(found)
        port = source.randint(_FIRST, _LAST)
        with _lock:
            if port in _given or not _bindable(port):
                continue
            _given.add(port)
        found.append(port)
    raise TestbedError(f"no {count} free ports between {_FIRST} and {_LAST}")


def listening(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
