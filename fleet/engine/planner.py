"""From a fleet.yaml and the commits of its sources to releases: what each bundle shall be where, in which waves.

Level-triggered: `plan` looks at everything there is, and costs little where nothing changed (equal input is not
rendered again, equal content is no new release). What goes wrong with one bundle is said of that bundle and touches no
other. The same planner plans working trees for the offline commands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import sha256

import anyio
import anyio.to_thread
import msgspec

from fleet.core import claims, targets
from fleet.core.canonical import canonical
from fleet.engine.drafting import Contents, Draft, Drafting, Renders
from fleet.engine.inputs import Closures, Inputs, Snapshot
from fleet.engine.ports import Renderer
from fleet.errors import RenderError, SourceError
from fleet.model.cluster import DeployOptions
from fleet.model.fleetfile import Bundle, Fleet
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
            wanted = {name: draft.digests for name, draft in drafting.drafts.items()}
            # Hundreds of bundles on hundreds of clusters take a moment, which the event loop must not wait for.
            refused = await anyio.to_thread.run_sync(claims.refused, wanted, self._in_force, self._renders.members)
            errors = drafting.errors | refused
            planned = []
            for bundle in fleet.bundles:
                if bundle.name in errors:
                    again = bundle.name in drafting.transient
                    planned.append(Planned(bundle.name, error=errors[bundle.name], transient=again))
                else:
                    planned.append(await self._conclude(fleet, bundle, drafting.drafts[bundle.name], inputs))
            self._renders.shrink({digest for digests in self._in_force.values() for digest in digests.values()})
            return tuple(planned)

    def retract(self, bundle: str) -> None:
        """The last release of a bundle was not taken (the database refused it): the next planning gives it again."""
        self._releases.pop(bundle, None)

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
