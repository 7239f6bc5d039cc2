"""What every bundle would be on every cluster: the middle of a planning, before anything is decided.

`Renders` outlives a planning and remembers what inputs rendered to; `Drafting` is one planning. A namespace that
several bundles would create on a cluster is created by the first of them in fleet.yaml, or by one that describes it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from fleet.aio.each import each
from fleet.core import normalize, targets
from fleet.engine.inputs import Inputs
from fleet.engine.ports import Renderer
from fleet.errors import NotFound, RenderError, SourceError
from fleet.model.fleetfile import Bundle, Cluster, Fleet
from fleet.model.objects import ManifestSet, ObjectId
from fleet.model.rendering import RenderRequest

BUNDLES_AT_ONCE = 4
RENDERS_AT_ONCE = 4
"""Of one bundle; how many really run at a time is the renderer's to say."""
REMEMBERED = 100_000
"""Inputs whose outcome is remembered."""


class Draft(msgspec.Struct, frozen=True):
    """The content of a bundle, before it is known whether it may have it; times in seconds since the epoch."""

    digests: dict[str, str]
    """Cluster → digest."""
    requests: dict[str, RenderRequest]
    """Digest → a request that renders it."""
    started: float
    ended: float


class Outcome(msgspec.Struct, frozen=True):
    """What an input renders to."""

    digest: str
    members: frozenset[ObjectId]
    bare: bool
    """Whether the set has a Namespace that says nothing but its name, so that another bundle may say it instead."""


class Contents(Protocol):
    """Where rendered manifests are kept; see engine.contents."""

    async def put(self, manifests: ManifestSet) -> None: ...


class Renders:
    """What inputs render to. The manifests themselves go to `contents`; raises StoreError when they cannot be kept."""

    def __init__(self, renderer: Renderer, contents: Contents) -> None:
        self._renderer = renderer
        self._contents = contents
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._kept: set[str] = set()
        self.members: dict[str, frozenset[ObjectId]] = {}
        """Digest → identities of its objects."""

    async def outcome(self, bundle: Bundle, request: RenderRequest, inputs: Inputs) -> Outcome:
        """What a request renders to, without rendering where that is known."""
        if request.templates:
            # What the templates read is part of the key, and stands in the files.
            request = await _on_disk(bundle, request, inputs)
        key = await self._renderer.key(request)
        outcome = self._outcomes.get(key)
        if outcome is None:
            manifests = await self._render(bundle, request, inputs)
            # Equal sets share one set of identities.
            members = self.members.get(manifests.digest) or frozenset(item.id for item in manifests.manifests)
            bare = request.create_namespace and _has_bare_namespace(manifests, request.namespace)
            outcome = self._outcomes[key] = Outcome(manifests.digest, members, bare)
        self.members[outcome.digest] = outcome.members
        self._outcomes.move_to_end(key)
        return outcome

    async def keep(self, bundle: Bundle, digest: str, request: RenderRequest, inputs: Inputs) -> None:
        """Makes sure that the manifests of a digest are kept: since long ago, they may have been dropped as unused."""
        if digest not in self._kept and (await self._render(bundle, request, inputs)).digest != digest:
            raise RenderError("the same input rendered to other objects the second time")

    async def _render(self, bundle: Bundle, request: RenderRequest, inputs: Inputs) -> ManifestSet:
        manifests = await self._renderer.render(await _on_disk(bundle, request, inputs))
        await self._contents.put(manifests)
        self._kept.add(manifests.digest)
        return manifests

    def begin(self) -> None:
        """A new planning: what was kept for an earlier one may be gone."""
        self._kept.clear()

    def shrink(self, in_use: Collection[str]) -> None:
        """Forgets the inputs that were asked for longest ago, and the identities of sets that nothing refers to."""
        while len(self._outcomes) > REMEMBERED:
            self._outcomes.popitem(last=False)
        kept = {outcome.digest for outcome in self._outcomes.values()}.union(in_use)
        for digest in self.members.keys() - kept:
            del self.members[digest]


class Drafting:
    """One planning: drafts of all bundles, and what is wrong with some."""

    def __init__(self, fleet: Fleet, inputs: Inputs, renders: Renders, now: Callable[[], float]) -> None:
        self._fleet = fleet
        self._inputs = inputs
        self._renders = renders
        self._now = now
        self.drafts: dict[str, Draft] = {}
        self.errors: dict[str, str] = {}
        self.transient: set[str] = set()
        """Bundles whose error may be gone the next time."""
        self._bare: dict[tuple[str, str], ObjectId] = {}
        """(bundle, cluster) → the Namespace that is there only because objects need it."""
        self._targets: dict[str, tuple[Cluster, ...]] = {}
        self._creators: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Fills `drafts` and `errors`; raises StoreError."""
        self._renders.begin()
        for bundle in self._fleet.bundles:
            try:
                self._targets[bundle.name] = targets.targets(self._fleet, bundle)
            except NotFound as error:
                self.errors[bundle.name] = str(error)
        bundles = [bundle for bundle in self._fleet.bundles if bundle.name in self._targets]
        self._creators = _creators(bundles, self._targets)
        await self._inputs.preload(bundles)
        await self._draft_all(bundles)
        yielding = self._yielding()
        self._creators -= yielding
        again = {name for name, _ in yielding}
        await self._draft_all([bundle for bundle in bundles if bundle.name in again])

    async def _draft_all(self, bundles: Sequence[Bundle]) -> None:
        async def one(bundle: Bundle) -> None:
            self.drafts.pop(bundle.name, None)
            try:
                self.drafts[bundle.name] = await self._draft(bundle)
            except (RenderError, SourceError) as error:
                self.errors[bundle.name] = str(error)
                if error.transient:
                    self.transient.add(bundle.name)

        await each(one, bundles, at_once=BUNDLES_AT_ONCE, name=lambda bundle: f"draft {bundle.name}")

    async def _draft(self, bundle: Bundle) -> Draft:
        started = self._now()
        clusters = self._targets[bundle.name]
        if not clusters:
            raise RenderError("it selects no cluster")
        asked = await self._requests(bundle, clusters)
        outcomes: dict[int, Outcome] = {}

        async def one(number: int) -> None:
            outcomes[number] = await self._renders.outcome(bundle, asked[number][0], self._inputs)

        await each(
            one, range(len(asked)), at_once=RENDERS_AT_ONCE, name=lambda number: f"render {bundle.name} {number}"
        )
        digests: dict[str, str] = {}
        requests: dict[str, RenderRequest] = {}
        for number, (request, names) in enumerate(asked):
            outcome = outcomes[number]
            requests.setdefault(outcome.digest, request)
            for name in names:
                digests[name] = outcome.digest
                if outcome.bare:
                    self._bare[bundle.name, name] = ObjectId("", "Namespace", "", bundle.namespace)
        return Draft(digests, requests, started, self._now())

    async def _requests(self, bundle: Bundle, clusters: Sequence[Cluster]) -> list[tuple[RenderRequest, list[str]]]:
        """What is to be rendered, each with the clusters that it is for; without templates those may be many."""
        parts = await self._inputs.parts(bundle, clusters)
        found: dict[tuple[object, ...], tuple[RenderRequest, list[str]]] = {}
        for cluster in clusters:
            creates = (bundle.name, cluster.name) in self._creators
            # Parts are shared by the clusters that have the same ones, so that their identity tells.
            alike = (tuple(map(id, parts[cluster.name])), creates, cluster.name if bundle.templates else "")
            if alike not in found:
                request = RenderRequest(
                    fleet=self._fleet.name,
                    bundle=bundle.name,
                    cluster=cluster,
                    parts=parts[cluster.name],
                    namespace=bundle.namespace,
                    create_namespace=creates,
                    templates=bundle.templates,
                )
                found[alike] = (request, [])
            found[alike][1].append(cluster.name)
        return list(found.values())

    def _yielding(self) -> set[tuple[str, str]]:
        """Where a bundle leaves the Namespace it would create to another one that describes it."""
        if not self._bare:
            return set()
        digests = {digest for draft in self.drafts.values() for digest in draft.digests.values()}
        namespaces = {digest: _namespaces(self._renders.members[digest]) for digest in digests}
        described: dict[tuple[str, ObjectId], set[str]] = {}
        for name, draft in self.drafts.items():
            for cluster, digest in draft.digests.items():
                for member in namespaces[digest]:
                    described.setdefault((cluster, member), set()).add(name)
        return {
            (name, cluster)
            for (name, cluster), namespace in self._bare.items()
            if described.get((cluster, namespace), set()) - {name}
        }


async def _on_disk(bundle: Bundle, request: RenderRequest, inputs: Inputs) -> RenderRequest:
    if all(part.root for part in request.parts):
        return request
    return msgspec.structs.replace(request, parts=await inputs.on_disk(bundle, request.parts))


def _creators(bundles: Iterable[Bundle], chosen: Mapping[str, Sequence[Cluster]]) -> set[tuple[str, str]]:
    """(bundle, cluster) for the first bundle that would create its namespace there."""
    creators: set[tuple[str, str]] = set()
    taken: set[tuple[str, str]] = set()
    for bundle in bundles:
        for cluster in chosen[bundle.name] if bundle.create_namespace else ():
            if (cluster.name, bundle.namespace) not in taken:
                taken.add((cluster.name, bundle.namespace))
                creators.add((bundle.name, cluster.name))
    return creators


def _namespaces(members: frozenset[ObjectId]) -> list[ObjectId]:
    return [member for member in members if member.kind == "Namespace" and not member.group]


def _has_bare_namespace(manifests: ManifestSet, namespace: str) -> bool:
    for manifest in manifests.manifests:
        if manifest.id == ObjectId("", "Namespace", "", namespace):
            body = msgspec.json.decode(manifest.body)
            ours = {normalize.TRACKING_ANNOTATION, normalize.PRUNE_ANNOTATION}
            return (
                body.keys() == {"apiVersion", "kind", "metadata"}
                and set(body["metadata"].get("labels", {})) <= {normalize.BUNDLE_LABEL}
                and set(body["metadata"].get("annotations", {})) == ours
            )
    return False
