"""Wanted against live for one bundle on one cluster: a GET and a dry-run of each object, when somebody asks."""

from __future__ import annotations

import anyio

from fleet.core import ownership
from fleet.core.drift import explain
from fleet.engine.agentview import ObjectDifference
from fleet.engine.applier import Applier
from fleet.engine.member import Standing
from fleet.errors import NotFound
from fleet.model.objects import Manifest


async def wanted_against_live(applier: Applier, standing: Standing, concurrency: int) -> tuple[ObjectDifference, ...]:
    """Every wanted object, in order of identity. Raises what the cluster raises: half an answer is none."""
    found: dict[Manifest, ObjectDifference] = {}
    limit = anyio.CapacityLimiter(concurrency)

    async def one(manifest: Manifest) -> None:
        async with limit:
            found[manifest] = await _compare(applier, manifest)

    manifests = () if standing.wanted is None else tuple(standing.wanted.by_id.values())
    async with anyio.create_task_group() as group:
        for manifest in manifests:
            group.start_soon(one, manifest, name=f"diff {manifest.id}")
    return tuple(found[manifest] for manifest in manifests)


async def _compare(applier: Applier, manifest: Manifest) -> ObjectDifference:
    try:
        live = await applier.get(manifest)
    except NotFound:
        return ObjectDifference(manifest.id, manifest.version, "create", ())
    answer = await applier.dry_run(manifest, "")
    explanation = explain.explain(live, ownership.decode(live), ownership.decode(answer), manager=applier.manager)
    return ObjectDifference(
        manifest.id, manifest.version, "change" if explanation.fields else "none", explanation.fields
    )
