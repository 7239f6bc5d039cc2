"""Counts requests in an API server's audit log: the server's own word on who asked and wrote what.

The policy (manifests/audit-policy.yaml) makes every request one line.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.errors import NotReady

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Request:
    """One audited request.

    `verb` as RBAC names it; `manager` and `dry_run` come from the query; `code` is the HTTP status.
    """

    verb: str
    user: str
    user_agent: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    manager: str
    dry_run: bool
    code: int
    uri: str
    received: str

    @property
    def writes(self) -> bool:
        """Whether it was to change something: a modifying verb without dry-run, whatever the answer was."""
        return self.verb in WRITES and not self.dry_run


class AuditLog:
    """Reads the log as it grows. `probe` sends a request with the given User-Agent, for `sync`."""

    def __init__(self, path: Path, probe: Callable[[str], None]) -> None:
        self._path = path
        self._probe = probe
        self._offset = 0
        self._requests: list[Request] = []

    def mark(self) -> int:
        """A position for `since=`: everything answered so far lies before it."""
        self.sync()
        return len(self._requests)

    def sync(self, seconds: float = 10) -> None:
        """Waits until the log has caught up with what the server has answered.

        The server writes a line just after it has answered; so a request of our own is sent and waited for.
        """
        agent = f"testbed-sync/{uuid.uuid4()}"
        self._probe(agent)
        deadline = time.monotonic() + seconds
        while not any(request.user_agent == agent for request in self._read()):
            if time.monotonic() > deadline:
                raise NotReady(f"audit log not caught up after {seconds:.0f} s")
            time.sleep(0.02)

    def requests(
        self,
        *,
        since: int = 0,
        verb: str | Collection[str] | None = None,
        writes: bool | None = None,
        dry_run: bool | None = None,
        user: str | None = None,
        user_agent: str | None = None,
        manager: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
        name: str | None = None,
        sync: bool = True,
    ) -> list[Request]:
        """The requests that match everything given, in the log's order; `user_agent` matches as a prefix."""
        if sync:
            self.sync()
        else:
            self._read()
        verbs = {verb} if isinstance(verb, str) else verb
        exact = {"user": user, "manager": manager, "resource": resource, "namespace": namespace, "name": name}
        exact_given = {key: value for key, value in exact.items() if value is not None}
        return [
            request
            for request in self._requests[since:]
            if (verbs is None or request.verb in verbs)
            and (writes is None or request.writes == writes)
            and (dry_run is None or request.dry_run == dry_run)
            and (user_agent is None or request.user_agent.startswith(user_agent))
            and all(getattr(request, key) == value for key, value in exact_given.items())
            and not request.user_agent.startswith("testbed-sync/")
        ]

    def count(self, **match: Any) -> int:
        """How many requests match; the arguments of `requests`."""
        return len(self.requests(**match))

    def _read(self) -> list[Request]:
        """Takes in the complete lines that were added; returns them."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        fresh = [_parse(line) for line in complete.splitlines()]
        self._requests += fresh
        return fresh


def _parse(line: bytes) -> Request:
    event = json.loads(line)
    target = event.get("objectRef", {})
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(event["requestURI"]).query)
    return Request(
        verb=event["verb"],
        user=event["user"].get("username", ""),
        user_agent=event.get("userAgent", ""),
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        manager=query.get("fieldManager", [""])[0],
        dry_run="All" in query.get("dryRun", []),
        code=event.get("responseStatus", {}).get("code", 0),
        uri=event["requestURI"],
        received=event["requestReceivedTimestamp"],
    )
