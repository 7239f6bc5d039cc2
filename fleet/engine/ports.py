"""What the engine needs from the outside, stated where it is used; adapters satisfy it, `app` joins them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from fleet.model.cluster import Assignment, Baseline, Inventory
from fleet.model.drift import Drift
from fleet.model.events import Event
from fleet.model.fleetfile import Cluster, GitSource
from fleet.model.objects import GroupKind, LiveObject, ManifestSet, ObjectId, Resource
from fleet.model.rendering import Part, RenderRequest
from fleet.model.rollout import BundleState, Commit, Release, Rollout

# --- clusters (fleet.kube) -------------------------------------------------------------------------------------------


class WatchSink(Protocol):
    """Takes what a reflector reads; every method is synchronous and returns at once."""

    def page(self, resource: Resource, objects: Sequence[LiveObject]) -> None:
        """Part of a list that is being read; nothing may be concluded yet about what is not in it."""

    def listed(self, resource: Resource, present: frozenset[ObjectId]) -> None:
        """The list is complete: what is known of this kind and not in `present` is gone."""

    def seen(self, change: Literal["ADDED", "MODIFIED", "DELETED"], live: LiveObject) -> None:
        """One watch event."""

    def alive(self, resource: Resource) -> None:
        """Bytes came on the stream (an event or a bookmark)."""

    def lost(self, resource: Resource, error: Exception) -> None:
        """The stream or the list failed and is tried again; the kind is unknown until `listed` or `alive`."""


class Catalog(Protocol):
    """The kinds a cluster serves, from discovery."""

    def find(self, kind: GroupKind, version: str | None = None) -> Resource | None:
        """The resource of a kind at `version`, or at its preferred version; None: not served (as answered)."""

    def unknown(self, group: str) -> bool:
        """Whether discovery of this group failed, so that absence from the catalog says nothing."""


class ClusterClient(Protocol):
    """One member cluster. Every method has a deadline and raises Unavailable, Unauthorized, NotFound or Rejected."""

    async def version(self) -> str:
        """The server's gitVersion."""

    async def discover(self, *, refresh: bool = False) -> Catalog:
        """The catalog, from the cache unless `refresh`."""

    async def apply(
        self,
        resource: Resource,
        body: bytes,
        *,
        namespace: str,
        name: str,
        manager: str,
        force: bool = True,
        dry_run: bool = False,
    ) -> LiveObject:
        """One server-side apply; the object as the server answers it."""

    async def get(self, resource: Resource, namespace: str, name: str) -> LiveObject: ...

    async def create(self, resource: Resource, namespace: str, body: bytes, *, manager: str) -> LiveObject:
        """POST; Rejected(conflict, reason AlreadyExists) when it is there."""

    async def replace(self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str) -> LiveObject:
        """PUT; a metadata.resourceVersion in the body makes it a compare-and-set."""

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, body: bytes, *, manager: str
    ) -> LiveObject:
        """PATCH application/merge-patch+json."""

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str) -> None:
        """DELETE with both as preconditions, background propagation."""

    async def allowed(self, verb: str, resource: Resource, namespace: str = "") -> bool:
        """SelfSubjectAccessReview."""

    async def watch(self, resource: Resource, selector: str, sink: WatchSink) -> None:
        """List and watch one kind until cancelled; raises only Unauthorized or Rejected(forbidden | unserved)."""

    async def aclose(self) -> None: ...


class Connector(Protocol):
    async def connect(self, cluster: Cluster, secrets: Mapping[str, bytes]) -> ClusterClient:
        """A client for a cluster of fleet.yaml; `secrets` holds the kubeconfig under the cluster's secret_ref."""


# --- sources and rendering (fleet.git, fleet.render) -----------------------------------------------------------------


class CommitInfo(Protocol):
    @property
    def sha(self) -> str: ...
    @property
    def author(self) -> str:
        """E-mail of the author."""

    @property
    def message(self) -> str:
        """First line."""

    @property
    def time(self) -> float:
        """Committer time, seconds since the epoch."""


class Tree(Protocol):
    """The files of a source at one commit, or of a working tree. Every method has a deadline and raises SourceError."""

    async def hashes(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Content address of every path of `paths` that is a folder there; paths count from the root of the source."""

    async def folder(self, paths: Sequence[str]) -> Path:
        """A directory with these folders at their places; to be read only, confined, kept for at least an hour."""


class Mirror(Protocol):
    """A bare mirror of one Git source. Every method has a deadline and raises SourceError."""

    async def resolve(self) -> str:
        """The full SHA that the source's ref has on the server now (`ls-remote`)."""

    async def fetch(self, sha: str) -> None:
        """Makes the commit available locally; a no-op when it already is."""

    async def info(self, sha: str) -> CommitInfo: ...

    def tree(self, sha: str) -> Tree:
        """The files of a commit that was fetched."""

    async def maintain(self) -> None:
        """Housekeeping of the local copy; to be called when there is time."""

    async def read(self, sha: str, path: str, limit: int) -> bytes:
        """One file of a commit; NotFound when the commit has none there; SourceError above `limit` bytes."""


class Mirrors(Protocol):
    def mirror(self, source: GitSource, credentials: bytes | None) -> Mirror: ...


class Renderer(Protocol):
    """Folders to manifests; methods raise RenderError. See fleet.model.rendering."""

    def expand(self, text: str, cluster: Cluster) -> str:
        """The `overlay` of fleet.yaml for a cluster."""

    async def absent(self, part: Part, cluster: Cluster | None) -> frozenset[str]:
        """Folders outside of `part.folders` that its Kustomize roots refer to; `cluster` where templates are on."""

    async def key(self, request: RenderRequest) -> str:
        """Content address of everything that decides about the result; equal keys have equal manifests."""

    async def render(self, request: RenderRequest) -> ManifestSet:
        """The manifests of a bundle for one cluster. Equal input is rendered once; no manifest at all is an error."""


class Secrets(Protocol):
    async def read(self, name: str) -> bytes:
        """Raises NotFound or Unavailable; the value is never kept."""


# --- store (fleet.store) ---------------------------------------------------------------------------------------------


class Store(Protocol):
    """The embedded database. Every method is one transaction and raises StoreError when it did not happen."""

    async def commit(self, commit: Commit) -> tuple[Event, ...]:
        """Everything that one decision changed, at once; returns its events with their sequence numbers.

        Raises Conflict when a bundle's stored version is not the one that the decision was made on.
        """

    async def append(self, events: Sequence[Event]) -> tuple[Event, ...]: ...
    async def events(self, since: int, limit: int) -> tuple[Event, ...]: ...
    async def last_seq(self) -> int: ...

    async def bundle_states(self) -> tuple[BundleState, ...]: ...
    async def assignments(self) -> tuple[Assignment, ...]: ...
    async def release(self, release: str) -> Release | None: ...
    async def rollout(self, rollout: str) -> Rollout | None: ...
    async def rollouts(self, bundle: str | None, before: str | None, limit: int) -> tuple[Rollout, ...]:
        """Newest first; `before` is the id of the last one of the previous page."""

    async def put_manifests(self, manifests: ManifestSet) -> None:
        """Idempotent by digest."""

    async def manifests(self, digest: str) -> ManifestSet:
        """Raises NotFound."""

    async def put_document(self, name: str, revision: str, body: bytes) -> None:
        """Keeps the last valid fleet.yaml (`name` "fleet.yaml") so that a restart has it without Git."""

    async def document(self, name: str) -> tuple[str, bytes] | None: ...

    async def inventories(self, cluster: str) -> tuple[Inventory, ...]: ...
    async def put_inventory(self, cluster: str, inventory: Inventory) -> None: ...
    async def drop_inventory(self, cluster: str, bundle: str) -> None: ...
    async def baselines(self, cluster: str) -> tuple[Baseline, ...]: ...
    async def put_baselines(
        self, cluster: str, baselines: Sequence[Baseline], gone: Sequence[ObjectId] = ()
    ) -> None: ...

    async def forget_clusters(self, kept: Collection[str]) -> Sequence[Drift]:
        """Forgets what was applied to every cluster but these, and closes what is open there; the drifts it closed."""

    async def put_drift(self, drift: Drift) -> None:
        """Inserts or replaces by id."""

    async def drifts(
        self, cluster: str | None, bundle: str | None, open_only: bool, before: str | None, limit: int
    ) -> tuple[Drift, ...]:
        """Newest first."""
