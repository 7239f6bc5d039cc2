"""What `engine.service` needs from the parts of the engine; each of them satisfies its Protocol structurally.

Everything here is read: a query never waits for a cluster or for Git, except `Agents.diff`, which says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from fleet.model.cluster import ClusterState, Health, Sync
from fleet.model.drift import Drift, FieldChange
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet
from fleet.model.objects import ObjectId
from fleet.model.rollout import BundleState, Commanded, Release, Rollout


class InForce(Protocol):
    @property
    def fleet(self) -> Fleet: ...
    @property
    def revision(self) -> str:
        """SHA of the commit whose fleet.yaml is in force."""


class Configuration(Protocol):
    @property
    def in_force(self) -> InForce | None:
        """None until the first valid fleet.yaml was read."""

    @property
    def error(self) -> str | None:
        """What is wrong with the newest fleet.yaml, when it is not the one in force."""


class SourceState(Protocol):
    """What is known of one Git source."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str:
        """Without credentials."""

    @property
    def ref(self) -> str: ...
    @property
    def sha(self) -> str | None: ...
    @property
    def fetched_at(self) -> float | None:
        """When the server was last asked with success; seconds since the epoch."""

    @property
    def error(self) -> str | None: ...
    @property
    def since(self) -> float | None:
        """Since when `error` stands; seconds since the epoch."""


class Sources(Protocol):
    def states(self) -> Sequence[SourceState]: ...
    def nudge(self, name: str | None = None) -> None:
        """Fetch now, one source or all; returns at once. Raises NotFound for an unknown name."""


class BundleStanding(Protocol):
    """One bundle on one cluster."""

    @property
    def bundle(self) -> str: ...
    @property
    def wanted(self) -> str | None:
        """Digest that is assigned."""

    @property
    def recorded(self) -> str | None:
        """Digest that was last applied completely."""

    @property
    def sync(self) -> Sync: ...
    @property
    def health(self) -> Health: ...
    @property
    def drifted(self) -> int:
        """Objects that differ now from what was applied."""


class AgentView(Protocol):
    """What the agent of one cluster knows now."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def state(self) -> ClusterState: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def observed_at(self) -> float | None:
        """When the cluster was last heard, on any stream; seconds since the epoch."""

    @property
    def kubernetes(self) -> str | None:
        """The API server's gitVersion."""

    @property
    def watches(self) -> int: ...
    @property
    def objects(self) -> int: ...
    @property
    def bundles(self) -> Sequence[BundleStanding]: ...


class ObjectStanding(Protocol):
    """One object of a bundle on a cluster."""

    @property
    def id(self) -> ObjectId: ...
    @property
    def version(self) -> str: ...
    @property
    def sync(self) -> Sync: ...
    @property
    def health(self) -> Health: ...
    @property
    def health_reason(self) -> str: ...
    @property
    def drifted(self) -> bool: ...
    @property
    def owner(self) -> str | None:
        """Who holds the fields that differ: the field manager of the last change that was not ours."""


class ObjectDifference(Protocol):
    """Wanted against live; values of Secrets are masked before they get here."""

    @property
    def id(self) -> ObjectId: ...
    @property
    def version(self) -> str: ...
    @property
    def change(self) -> Literal["create", "change", "delete", "none"]: ...
    @property
    def fields(self) -> Sequence[FieldChange]: ...


class Agents(Protocol):
    def views(self) -> Sequence[AgentView]: ...
    def view(self, cluster: str) -> AgentView | None: ...
    def objects(self, cluster: str, bundle: str) -> Sequence[ObjectStanding]:
        """Empty when the bundle is not assigned there."""

    async def diff(self, bundle: str, cluster: str) -> Sequence[ObjectDifference]:
        """Asks the cluster (within the agent's deadlines); raises Unavailable, Unauthorized, Rejected or NotFound."""


class Conductor(Protocol):
    async def command(self, command: Commanded) -> Rollout:
        """Raises Conflict when it does not apply, NotFound for an unknown rollout or bundle, StoreError."""

    def state(self, bundle: str) -> BundleState | None: ...


class EventLog(Protocol):
    """The stored events, and the news that there are more."""

    async def append(self, events: Sequence[Event]) -> Sequence[Event]: ...
    async def wait_beyond(self, seq: int) -> None:
        """Returns once an event with a greater sequence number may be stored."""


class History(Protocol):
    """The part of the store that queries read."""

    async def events(self, since: int, limit: int) -> Sequence[Event]: ...
    async def last_seq(self) -> int: ...
    async def release(self, release: str) -> Release | None: ...
    async def rollout(self, rollout: str) -> Rollout | None: ...
    async def rollouts(self, bundle: str | None, before: str | None, limit: int) -> Sequence[Rollout]: ...
    async def drifts(
        self, cluster: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
    ) -> Sequence[Drift]: ...


class Identity(Protocol):
    """Who speaks: `name` as the caller states it; without a sign-in nothing verifies it."""

    @property
    def name(self) -> str: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
