"""The one exception tree of the project; adapters translate foreign errors into it at their edge.

    FleetError
    ├── InvalidInput        what a user wrote is wrong (carries positions where there are several)
    ├── Conflict            the thing changed meanwhile, or the command does not apply to its state
    ├── NotFound            the named thing does not exist
    ├── Unavailable         a remote part cannot be reached or does not answer in time; say nothing about what it holds
    │   └── Unauthorized    it answered, and refuses our credentials
    ├── Rejected            a cluster answered and refuses one request; `kind` says what may be done about it
    ├── SourceError         a Git source cannot be read
    ├── RenderError         a bundle cannot be rendered
    └── StoreError          the database cannot be read or written
        └── Locked          another control plane owns the data directory

`str(error)` is one sentence for a person; it never holds a secret.
"""

from __future__ import annotations


class FleetError(Exception):
    """Base of every error that a caller may expect."""


class InvalidInput(FleetError):
    """What a user wrote is wrong."""


class Conflict(FleetError):
    """The thing changed meanwhile, or the command does not apply to its present state."""


class NotFound(FleetError):
    """The named thing does not exist (as answered by who must know, never inferred from a failure)."""


class Unavailable(FleetError):
    """A remote part cannot be reached or gave no answer in time: what it holds is unknown, not absent."""


class Unauthorized(Unavailable):
    """A remote part answered and refuses our credentials or rights."""


class Rejected(FleetError):
    """A cluster answered and refuses one request (drift.md 1.4 names the kinds).

    `kind`: definite (the manifest is wrong, do not retry), immutable (definite, a field cannot change), duplicate
    (422 Duplicate value), conflict (owned by another manager, or uid/resourceVersion moved), forbidden (`message` names
    verb and resource), terminating (the namespace goes away), unserved (the kind is not served, yet), transient (retry
    with jitter after `retry_after` seconds when given), gone (410: the resourceVersion is too old).
    """

    def __init__(self, kind: str, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class SourceError(FleetError):
    """A Git source cannot be read; the last fetched state stays in force."""

    transient: bool = True
    """Whether the same may succeed another time."""


class RenderError(FleetError):
    """A bundle cannot be rendered; nothing is applied or pruned because of it."""

    transient: bool = False
    """Whether the same input may render another time."""


class StoreError(FleetError):
    """The database cannot be read or written; nothing is acted on before it can."""


class Locked(StoreError):
    """Another control plane owns the data directory."""
