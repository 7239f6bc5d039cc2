"""When a kind counts as gone from a cluster."""

from __future__ import annotations

import pytest

from fleet.core import inventory as rules
from fleet.core import normalize
from fleet.engine.ports import Catalog
from fleet.engine.prune import Pruner
from fleet.errors import Unavailable
from fleet.model.cluster import Inventory, InventoryEntry
from fleet.model.objects import ObjectId
from tests.unit.engine.member_cluster import BUILT_IN, WIDGETS, Client, MemberCluster, catalog

pytestmark = pytest.mark.anyio

WIDGET = ObjectId("acme.example", "Widget", "shop", "w")
STALE = Inventory("shop", 1, "d", (InventoryEntry(WIDGET, "v1", "uid-1"),))
CONTEXT = rules.PruneContext("test", "shop", stale=frozenset({WIDGET}))


class Discovery:
    """A catalog of before, and the one that another discovery gives."""

    def __init__(self, then: Catalog | None) -> None:
        self.held: Catalog = catalog(*BUILT_IN)
        self._then = then
        self.asked = 0

    def catalog(self) -> Catalog:
        return self.held

    async def refresh(self) -> None:
        self.asked += 1
        if self._then is None:
            raise Unavailable("no discovery")
        self.held = self._then


def pruner(cluster: MemberCluster, discovery: Discovery) -> Pruner:
    return Pruner(Client(cluster), discovery.catalog, refresh=discovery.refresh, concurrency=2, confirm=0.1)


def serving_widgets() -> MemberCluster:
    cluster = MemberCluster(catalog=catalog(*BUILT_IN, WIDGETS))
    body = {"apiVersion": "acme.example/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "shop"}}
    cluster.put(WIDGET, normalize.stamp(body, fleet="test", bundle="shop"))
    return cluster


async def test_an_old_catalog_does_not_orphan_what_it_lacks() -> None:
    cluster = serving_widgets()
    discovery = Discovery(cluster.catalog)
    pruned = await pruner(cluster, discovery).prune(STALE, CONTEXT, max_objects=10)
    assert (pruned.deleted, pruned.gone, len(cluster.objects)) == (1, frozenset({WIDGET}), 0)
    assert discovery.asked == 1


async def test_a_kind_that_is_not_served_now_has_no_objects() -> None:
    discovery = Discovery(catalog(*BUILT_IN))
    pruned = await pruner(MemberCluster(), discovery).prune(STALE, CONTEXT, max_objects=10)
    assert (pruned.deleted, pruned.gone, discovery.asked) == (0, frozenset({WIDGET}), 1)


async def test_nothing_is_concluded_without_discovery() -> None:
    cluster = serving_widgets()
    with pytest.raises(Unavailable):
        await pruner(cluster, Discovery(None)).prune(STALE, CONTEXT, max_objects=10)
    assert list(cluster.objects) == [WIDGET]
