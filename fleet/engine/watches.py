"""The reflectors of one connected cluster: the kinds that should be watched against those that are.

Each kind stands alone: one that is refused or broken taints itself, the others go on (pains.md 9). A kind counts as
observed from its first complete list, until its stream has been lost for longer than the allowed time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
import msgspec
from anyio.abc import TaskGroup

from fleet.engine.ports import Catalog, ClusterClient, WatchSink
from fleet.errors import FleetError, Unauthorized
from fleet.model.objects import GroupKind, Resource


class Kind(msgspec.Struct):
    """How one kind is being watched."""

    resource: Resource
    scope: anyio.CancelScope
    synced: bool = False
    lost_since: float | None = None
    """Monotonic seconds; None while the stream is there."""
    error: str = ""
    again: anyio.Event = msgspec.field(default_factory=anyio.Event)
    """Set to end the pause after a refusal."""


class Watches:
    """Adjusts the running reflectors to the wanted kinds: stop first, start after."""

    def __init__(
        self,
        client: ClusterClient,
        selector: str,
        sink: WatchSink,
        monotonic: Callable[[], float],
        *,
        retry: float,
        observed: Callable[[GroupKind, bool], None],
    ) -> None:
        """`retry`: seconds before a kind that was refused is tried again.

        `observed` is told of each kind that is observed from now on: for the first time, or (True) again after a loss.
        """
        self._client = client
        self._selector = selector
        self._sink = sink
        self._monotonic = monotonic
        self._retry = retry
        self._observed = observed
        self._missing: frozenset[GroupKind] = frozenset()
        self._kinds: dict[GroupKind, Kind] = {}
        self._group: TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._kinds)

    def bind(self, group: TaskGroup) -> None:
        """The owner of the reflector tasks."""
        self._group = group

    def adjust(self, wanted: Iterable[tuple[GroupKind, str]], catalog: Catalog) -> None:
        """Starts and stops reflectors so that exactly the wanted kinds (at the version we apply) are watched."""
        resources = {}
        missing = set()
        for kind, version in wanted:
            resource = catalog.find(kind, version) or catalog.find(kind)
            if resource is not None:
                resources[kind] = resource
            else:
                missing.add(kind)
        self._missing = frozenset(missing)
        for kind in [k for k, running in self._kinds.items() if resources.get(k) != running.resource]:
            self._kinds.pop(kind).scope.cancel()
        if self._group is None:
            return
        for kind, resource in resources.items():
            if kind not in self._kinds:
                state = self._kinds[kind] = Kind(resource, anyio.CancelScope())
                self._group.start_soon(self._watch, state, name=f"watch {kind}")

    @property
    def missing(self) -> frozenset[GroupKind]:
        """Wanted kinds that the catalog did not have."""
        return self._missing

    def retry(self, kind: GroupKind) -> None:
        """Tries a kind that was refused again now: its definition has just been applied."""
        state = self._kinds.get(kind)
        if state is not None and state.lost_since is not None:
            state.again.set()

    def alive(self, resource: Resource) -> None:
        state = self._kinds.get(resource.group_kind)
        if state is not None and state.lost_since is not None:
            state.lost_since, state.error = None, ""
            if state.synced:
                self._observed(resource.group_kind, True)

    def listed(self, resource: Resource) -> None:
        state = self._kinds.get(resource.group_kind)
        if state is not None:
            synced, lost = state.synced, state.lost_since is not None
            state.synced, state.lost_since, state.error = True, None, ""
            if lost or not synced:
                self._observed(resource.group_kind, synced)

    def lost(self, resource: Resource, error: Exception) -> None:
        state = self._kinds.get(resource.group_kind)
        if state is not None and state.lost_since is None:
            state.lost_since, state.error = self._monotonic(), str(error)

    def unobserved(self, kinds: Iterable[GroupKind], allowed: float) -> str | None:
        """Why not all of these kinds are observed now; None when they are. `allowed`: seconds a stream may be lost."""
        for kind in kinds:
            state = self._kinds.get(kind)
            if state is None:
                return f"{kind} is not served" if kind in self._missing else f"{kind} is not watched yet"
            if not state.synced:
                return f"{kind} is not listed yet{': ' + state.error if state.error else ''}"
            if state.lost_since is not None and self._monotonic() - state.lost_since > allowed:
                return f"the watch of {kind} is lost: {state.error}"
        return None

    async def _watch(self, state: Kind) -> None:
        with state.scope:
            while True:
                try:
                    await self._client.watch(state.resource, self._selector, self._sink)
                except Unauthorized:
                    raise
                except FleetError as error:
                    self._sink.lost(state.resource, error)
                state.again = anyio.Event()
                with anyio.move_on_after(self._retry):
                    await state.again.wait()
