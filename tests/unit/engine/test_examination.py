from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from fleet.engine.examination import Finding, Need, examine
from fleet.errors import FleetError, Rejected, Unauthorized, Unavailable
from fleet.model.objects import GroupKind, LiveObject, ObjectMeta, Resource
from tests.unit.engine.parts import NOW

pytestmark = pytest.mark.anyio

DEPLOYMENT = GroupKind("apps", "Deployment")
DEPLOYMENTS = Resource("apps", "v1", "Deployment", "deployments", True)


class Catalog:
    def find(self, kind: GroupKind, version: str | None = None) -> Resource | None:
        return DEPLOYMENTS if kind == DEPLOYMENT else None

    def unknown(self, group: str) -> bool:
        return group == "dead.example"


class Cluster(msgspec.Struct):
    """A cluster that answers as told; `skew` in seconds."""

    failure: FleetError | None = None
    late: FleetError | None = None
    denied: frozenset[tuple[str, str]] = frozenset()
    skew: float = 0.0
    asked: list[tuple[str, str, str]] = []
    dry_runs: list[bool] = []

    async def version(self) -> str:
        if self.failure is not None:
            raise self.failure
        return "v1.36.3"

    async def discover(self, *, refresh: bool = False) -> Catalog:
        return Catalog()

    async def allowed(self, verb: str, resource: Resource, namespace: str = "") -> bool:
        if self.late is not None:
            raise self.late
        self.asked.append((verb, resource.plural, namespace))
        return (verb, resource.plural) not in self.denied

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
        if ("patch", "configmaps") in self.denied:
            raise Rejected("forbidden", 403, "Forbidden", "cannot patch resource configmaps")
        self.dry_runs.append(dry_run)
        stamp = datetime.fromtimestamp(int(NOW + self.skew), UTC).isoformat().replace("+00:00", "Z")
        raw = b'{"metadata":{"creationTimestamp":"%s"}}' % stamp.encode()
        return LiveObject(resource, ObjectMeta(name=name, namespace=namespace), raw)


async def look(cluster: Cluster, *needs: Need) -> dict[str, Finding]:
    found = await examine("qa", cluster, needs, lambda: NOW, manager="fleet-acme")
    assert all(finding.subject == "qa" for finding in found)
    return {finding.check: finding for finding in found}


async def test_a_cluster_in_order() -> None:
    cluster = Cluster()
    found = await look(cluster, Need(DEPLOYMENT, "shop"))
    assert {check: finding.level for check, finding in found.items()} == {
        "reachable": "ok",
        "rights": "ok",
        "clock": "ok",
    }
    assert ("delete", "deployments", "shop") in cluster.asked
    assert ("update", "configmaps", "fleet-system") in cluster.asked
    assert ("create", "namespaces", "") in cluster.asked
    assert len(cluster.asked) == len(set(cluster.asked))
    assert cluster.dry_runs == [True]


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        (Unavailable("no answer within 10 s"), "server address"),
        (Unauthorized("401 Unauthorized"), "user and its token"),
    ],
)
async def test_a_cluster_that_cannot_be_asked_is_one_error(failure: FleetError, hint: str) -> None:
    found = await look(Cluster(failure=failure))
    assert list(found) == ["reachable"]
    assert found["reachable"].level == "error"
    assert hint in (found["reachable"].hint or "")


async def test_missing_rights_are_named_by_verb_resource_and_place() -> None:
    found = await look(
        Cluster(denied=frozenset({("patch", "deployments"), ("delete", "deployments")})), Need(DEPLOYMENT)
    )
    assert found["rights"].level == "error"
    assert found["rights"].message == "may not patch, delete deployments.apps in the whole cluster"


async def test_a_cluster_that_goes_away_meanwhile_is_no_green_result() -> None:
    found = await look(Cluster(late=Unavailable("connection reset")))
    assert (found["rights"].level, found["rights"].message) == ("error", "connection reset")


async def test_kinds_that_are_not_served_are_told_apart_from_groups_that_do_not_answer() -> None:
    found = await look(Cluster(), Need(GroupKind("acme.example", "Widget")))
    assert (found["kinds"].level, "not served" in found["kinds"].message) == ("warning", True)
    found = await look(Cluster(), Need(GroupKind("dead.example", "Widget")))
    assert (found["kinds"].level, "does not answer" in found["kinds"].message) == ("error", True)


@pytest.mark.parametrize(
    ("skew", "level"), [(0.0, "ok"), (-0.9, "ok"), (5.0, "ok"), (-90.0, "warning"), (90.0, "warning")]
)
async def test_clocks_are_compared_with_the_doubt_of_whole_seconds(skew: float, level: str) -> None:
    assert (await look(Cluster(skew=skew)))["clock"].level == level


async def test_a_clock_that_cannot_be_read_is_a_warning() -> None:
    found = await look(Cluster(denied=frozenset({("patch", "configmaps")})))
    assert (found["clock"].level, "cannot patch" in found["clock"].message) == ("warning", True)
