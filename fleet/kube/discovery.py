"""Which kinds a cluster serves: two requests where the server aggregates (since 1.26), else one for each group version.

A group whose API service is down stays in the catalog as *unknown*: that a kind of it is not found then says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import anyio
import msgspec

from fleet.errors import Rejected, Unauthorized, Unavailable
from fleet.kube.decode import Unreadable
from fleet.kube.transport import JSON, Answer, Call, Transport
from fleet.model.objects import GroupKind, Resource

T = TypeVar("T")
_AGGREGATED = ",".join(
    [
        *(f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")),
        JSON,
    ]
)
_GROUP_REQUESTS = 4
"""Requests in flight when the server does not aggregate."""


class ServedKinds(msgspec.Struct, frozen=True):
    """The catalog: satisfies `engine.ports.Catalog`."""

    resources: Mapping[GroupKind, tuple[Resource, ...]]
    """By kind, one for each served version, the preferred first."""
    unknown_groups: frozenset[str] = frozenset()

    def find(self, kind: GroupKind, version: str | None = None) -> Resource | None:
        """The resource at `version`, or at the group's preferred version that has the kind; None: not served."""
        served = self.resources.get(kind, ())
        if version is None:
            return served[0] if served else None
        return next((resource for resource in served if resource.version == version), None)

    def unknown(self, group: str) -> bool:
        return group in self.unknown_groups


class Discovery:
    """The catalog of one cluster and its cache."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = anyio.Lock()
        self._catalog: ServedKinds | None = None
        self._started = 0
        self._etags: dict[str, tuple[str, _Groups]] = {}

    async def catalog(self, *, refresh: bool = False) -> ServedKinds:
        """The cached catalog, or with `refresh` one that was read after this call began; raises as a request does."""
        if self._catalog is not None and not refresh:
            return self._catalog
        arrival = self._started
        async with self._lock:
            # One that another caller began after we came is new enough, one that was under way then is not.
            if self._catalog is not None and (not refresh or self._started > arrival):
                return self._catalog
            self._started += 1
            self._catalog = await self._read()
            return self._catalog

    async def _read(self) -> ServedKinds:
        groups: list[_Group] = []
        for root in ("/api", "/apis"):
            groups += (await self._aggregated(root)).items
        return _catalog(groups)

    async def _aggregated(self, root: str) -> _Groups:
        etag, cached = self._etags.get(root, ("", None))
        call = Call("GET", root, accept=_AGGREGATED, etag=etag)
        answer = await self._transport.request(call, self._transport.bounds.sizes.discovery)
        if answer.status == 304 and cached is not None:
            return cached
        if "APIGroupDiscoveryList" not in answer.content_type:
            return await self._one_by_one(root, answer)
        groups = _decode(answer.body, _Groups)
        if answer.etag:
            self._etags[root] = (answer.etag, groups)
        return groups

    # --- servers that do not aggregate -------------------------------------------------------------------------------

    async def _one_by_one(self, root: str, answer: Answer) -> _Groups:
        """The same from /api or /apis and each group version below it."""
        if root == "/api":
            names = [("", tuple(_decode(answer.body, _CoreVersions).versions))]
        else:
            names = [(group.name, group.ordered()) for group in _decode(answer.body, _PlainGroups).groups]
        found: dict[tuple[str, str], _Version] = {}
        limiter = anyio.CapacityLimiter(_GROUP_REQUESTS)

        async def read(group: str, version: str) -> None:
            async with limiter:
                found[group, version] = await self._group_version(f"{root}/{group}/{version}", group, version)

        # A refusal of our credentials ends the group; it comes out alone, not wrapped.
        refused: Unauthorized | None = None
        try:
            async with anyio.create_task_group() as readers:
                for group, versions in names:
                    for version in versions:
                        readers.start_soon(read, group, version, name=f"discovery {group}/{version}")
        except* Unauthorized as errors:
            refused = _first(errors)
        if refused is not None:
            raise refused
        return _Groups(
            [_Group(_Named(group), [found[group, version] for version in versions]) for group, versions in names]
        )

    async def _group_version(self, path: str, group: str, version: str) -> _Version:
        try:
            answer = await self._transport.request(
                Call("GET", path.replace("//", "/")), self._transport.bounds.sizes.discovery
            )
            plain = _decode(answer.body, _PlainResources)
        except Unauthorized:
            raise
        except (Unavailable, Rejected) as error:
            if isinstance(error, Rejected) and error.kind == "unserved":
                return _Version(version, [])  # gone since the list of groups was read
            return _Version(version, [], freshness="Stale")
        return _Version(version, [resource.as_aggregated() for resource in plain.resources])


def _first(errors: BaseExceptionGroup[Unauthorized]) -> Unauthorized:
    error = errors.exceptions[0]
    return error if isinstance(error, Unauthorized) else _first(error)


def _catalog(groups: Iterable[_Group]) -> ServedKinds:
    resources: dict[GroupKind, list[Resource]] = {}
    unknown: set[str] = set()
    for group in groups:
        name = group.metadata.name
        for version in group.versions:
            if version.freshness == "Stale":
                unknown.add(name)
            seen: set[GroupKind] = set()
            for entry in version.resources:
                kind = GroupKind(name, entry.response_kind.kind if entry.response_kind else "")
                if not kind.kind or kind in seen:
                    continue  # serves subresources only, or a second name for the same kind
                seen.add(kind)
                resources.setdefault(kind, []).append(
                    Resource(
                        group=name,
                        version=version.version,
                        kind=kind.kind,
                        plural=entry.resource,
                        namespaced=entry.scope == "Namespaced",
                        verbs=tuple(entry.verbs),
                    )
                )
    return ServedKinds({kind: tuple(served) for kind, served in resources.items()}, frozenset(unknown))


# --- wire types ------------------------------------------------------------------------------------------------------


class _Named(msgspec.Struct):
    name: str = ""


class _Kind(msgspec.Struct):
    kind: str = ""


class _Entry(msgspec.Struct, rename="camel"):
    resource: str
    scope: str
    response_kind: _Kind | None = None
    verbs: list[str] = []


class _Version(msgspec.Struct, rename="camel"):
    version: str
    resources: list[_Entry] = []
    freshness: str = "Current"
    """"Stale": the server that serves it could not be asked."""


class _Group(msgspec.Struct):
    """apidiscovery.k8s.io APIGroupDiscovery; its versions are in the order of preference."""

    metadata: _Named = msgspec.field(default_factory=_Named)
    versions: list[_Version] = []


class _Groups(msgspec.Struct):
    items: list[_Group]


class _CoreVersions(msgspec.Struct):
    versions: list[str]


class _PlainVersion(msgspec.Struct):
    version: str


class _PlainGroup(msgspec.Struct, rename="camel"):
    name: str
    versions: list[_PlainVersion]
    preferred_version: _PlainVersion | None = None

    def ordered(self) -> tuple[str, ...]:
        """The versions, the preferred first."""
        names = [version.version for version in self.versions]
        if self.preferred_version is not None and self.preferred_version.version in names:
            names.remove(self.preferred_version.version)
            names.insert(0, self.preferred_version.version)
        return tuple(names)


class _PlainGroups(msgspec.Struct):
    groups: list[_PlainGroup]


class _PlainResource(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool
    verbs: list[str] = []

    def as_aggregated(self) -> _Entry:
        subresource = "/" in self.name
        return _Entry(
            resource=self.name,
            scope="Namespaced" if self.namespaced else "Cluster",
            response_kind=None if subresource else _Kind(self.kind),
            verbs=self.verbs,
        )


class _PlainResources(msgspec.Struct):
    resources: list[_PlainResource]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a discovery document: {error}") from error
