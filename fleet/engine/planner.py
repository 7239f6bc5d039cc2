"""From a fleet.yaml and the commits of its sources to releases: what each bundle shall be where, in which waves.

Level-triggered: `plan` looks at everything there is, and costs little where nothing changed (equal input is not
rendered again, equal content is no new release). What goes wrong with one bundle is said of that bundle and touches no
other. The same planner plans working trees for the offline commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from hashlib import sha256

import anyio
import anyio.to_thread
import msgspec

from fleet.core import claims, targets
from fleet.core.canonical import canonical
from fleet.engine.drafting import Contents, Draft, Drafting, Renders
from fleet.engine.inputs import Closures, Inputs, Snapshot
from fleet.engine.ports import Renderer
from fleet.errors import NotFound, RenderError, SourceError
from fleet.model.cluster import DeployOptions
from fleet.model.fleetfile import Bundle, Fleet
from fleet.model.objects import ManifestSet, ObjectId
from fleet.model.rollout import Plan, PlannedWave, Release

__all__ = ["Contents", "Planned", "Planner", "Snapshot"]


class Planned(msgspec.Struct, frozen=True):
    """What planning found for one bundle: a release and its plan, or an error."""

    bundle: str
    release: Release | None = None
    plan: Plan | None = None
    changed: bool = False
    """Whether the content is another one than this planner planned before (always so the first time)."""
    error: str | None = None
    """One sentence; what was planned before stays in force."""
    transient: bool = False
    """Whether planning the same again may do without the error: it should be tried after a while."""
    started: float = 0.0
    ended: float = 0.0
    """When the rendering began and ended, seconds since the epoch; for traces."""


class Planner:
    """One per control plane. `root` is the folder of fleet.yaml in its repository; `now` in seconds since the epoch."""

    def __init__(self, renderer: Renderer, contents: Contents, now: Callable[[], float], *, root: str = "") -> None:
        self._renderer = renderer
        self._renders = Renders(renderer, contents)
        self._now = now
        self._root = root
        self._closures = Closures()
        self._in_force: dict[str, dict[str, str]] = {}
        self._releases: dict[str, Release] = {}
        self._load: Callable[[str], Awaitable[ManifestSet]] | None = None
        self._planning = anyio.Lock()

    async def plan(self, fleet: Fleet, snapshots: Mapping[str, Snapshot]) -> tuple[Planned, ...]:
        """Plans every bundle, in the order of fleet.yaml.

        `snapshots` are the sources by name ("" is the repository of fleet.yaml); one that is missing there is an error
        of the bundles that need it. Raises StoreError when rendered content cannot be kept.
        """
        async with self._planning:
            self._forget({bundle.name for bundle in fleet.bundles})
            inputs = Inputs(self._renderer, self._closures, snapshots, self._root)
            drafting = Drafting(fleet, inputs, self._renders, self._now)
            await drafting.run()
            await self._recall({digest for digests in self._in_force.values() for digest in digests.values()})
            wanted = {name: draft.digests for name, draft in drafting.drafts.items()}
            # Hundreds of bundles on hundreds of clusters take a moment, which the event loop must not wait for.
            refused = await anyio.to_thread.run_sync(
                claims.refused, wanted, self._in_force, self._renders.members, abandon_on_cancel=True
            )
            errors = drafting.errors | refused
            planned = await self._conclude_all(fleet, drafting, errors, inputs)
            self._renders.shrink({digest for digests in self._in_force.values() for digest in digests.values()})
            return tuple(planned)

    def retract(self, bundle: str) -> None:
        """The last release of a bundle was not taken (the database refused it): the next planning gives it again."""
        self._releases.pop(bundle, None)

    async def restore(
        self,
        in_force: Mapping[str, Mapping[str, str]],
        load: Callable[[str], Awaitable[ManifestSet]],
        coming: Collection[str] = (),
    ) -> None:
        """Takes over, before the first planning, what the last process planned: bundle → cluster → digest.

        `load` gives the manifests of a digest, or raises NotFound. Those of `coming` are looked into at once, so that
        `claimant` knows what is not on its clusters yet; the others when they are needed. Raises StoreError.
        """
        self._in_force = {bundle: dict(digests) for bundle, digests in in_force.items()}
        self._load = load
        await self._recall(coming)

    def claimant(self, cluster: str, object_id: ObjectId) -> str | None:
        """The bundle whose newest planned content holds an object on a cluster, assigned there yet or not."""
        members = self._renders.members
        for bundle, digests in self._in_force.items():
            digest = digests.get(cluster)
            if digest is not None and object_id in members.get(digest, ()):
                return bundle
        return None

    async def _recall(self, digests: Collection[str]) -> None:
        """Learns what the last process planned consists of; what rendered to the same again is known already."""
        if self._load is None:
            return
        members = self._renders.members
        for digest in sorted(set(digests) - members.keys()):
            try:
                manifests = await self._load(digest)
            except NotFound:
                self._lose(digest)
            else:
                members[digest] = frozenset(manifest.id for manifest in manifests.manifests)

    def _lose(self, digest: str) -> None:
        """Content that is older than what is kept can be held against nothing."""
        for bundle, digests in self._in_force.items():
            self._in_force[bundle] = {cluster: held for cluster, held in digests.items() if held != digest}

    async def _conclude_all(
        self, fleet: Fleet, drafting: Drafting, errors: Mapping[str, str], inputs: Inputs
    ) -> list[Planned]:
        found: list[Planned] = []
        try:
            for bundle in fleet.bundles:
                if bundle.name in errors:
                    again = bundle.name in drafting.transient
                    found.append(Planned(bundle.name, error=errors[bundle.name], transient=again))
                else:
                    found.append(await self._conclude(fleet, bundle, drafting.drafts[bundle.name], inputs))
        except BaseException:
            # Nobody gets to see these releases: the next planning gives them again.
            for planned in found:
                if planned.changed:
                    self.retract(planned.bundle)
            raise
        return found

    async def _conclude(self, fleet: Fleet, bundle: Bundle, draft: Draft, inputs: Inputs) -> Planned:
        release = _release(bundle, draft, inputs, self._now())
        plan = frozen_plan(fleet, bundle)
        previous = self._releases.get(bundle.name)
        if previous is not None and previous.content == release.content:
            return Planned(bundle.name, previous, plan, started=draft.started, ended=draft.ended)
        try:
            for digest, request in draft.requests.items():
                await self._renders.keep(bundle, digest, request, inputs)
        except (RenderError, SourceError) as error:
            return Planned(bundle.name, error=str(error), transient=error.transient)
        self._releases[bundle.name] = release
        self._in_force[bundle.name] = draft.digests
        return Planned(bundle.name, release, plan, changed=True, started=draft.started, ended=draft.ended)

    def _forget(self, present: Collection[str]) -> None:
        """Bundles that left fleet.yaml claim nothing any more."""
        for name in self._in_force.keys() - present:
            del self._in_force[name]
            self._releases.pop(name, None)


def frozen_plan(fleet: Fleet, bundle: Bundle) -> Plan:
    """The strategy of a bundle as it is now, with the clusters of each wave."""
    gates = {gate.name: gate for gate in fleet.gates}
    return Plan(
        strategy=bundle.strategy,
        waves=tuple(
            PlannedWave(
                name=wave.name,
                clusters=clusters,
                max_concurrency=wave.max_concurrency,
                bake=wave.bake,
                protected=wave.protected,
                gates_before=tuple(gates[name] for name in wave.gates_before),
                health=wave.health,
            )
            for wave, clusters in targets.waves(fleet, bundle)
        ),
    )


def _release(bundle: Bundle, draft: Draft, inputs: Inputs, now: float) -> Release:
    options = DeployOptions(
        namespace=bundle.namespace,
        create_namespace=bundle.create_namespace,
        prune=bundle.prune.enabled,
        prune_max_objects=bundle.prune.max_objects,
        adopt=bundle.adopt,
        drift_mode=bundle.drift.mode,
    )
    digests = dict(sorted(draft.digests.items()))
    told = msgspec.to_builtins([digests, options])
    content = f"sha256:{_hash(told)}"
    revisions = inputs.revisions(bundle)
    commit = inputs.newest(bundle)
    return Release(
        id=f"{bundle.name}-{_hash([bundle.name, content, revisions, told])[:12]}",
        bundle=bundle.name,
        content=content,
        revisions=revisions,
        digests=digests,
        options=options,
        author=commit.author if commit else "",
        message=commit.message if commit else "",
        committed_at=commit.time if commit else 0.0,
        created_at=now,
    )


def _hash(value: object) -> str:
    return sha256(canonical(value)).hexdigest()
