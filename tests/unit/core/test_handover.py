from __future__ import annotations

from typing import Any

import orjson
import pytest

from fleet.core import handover, normalize
from fleet.model.objects import Manifest
from tests.unit.core.live import as_live

OWNED = b'{"f:spec":{"f:replicas":{},"f:paused":{}}}'


def wanted(**spec: Any) -> Manifest:
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }
    return normalize.manifest(body)


@pytest.mark.parametrize(
    ("owned", "spec", "due"),
    [
        (OWNED, {"paused": False}, True),
        (OWNED, {"replicas": 3}, False),
        (OWNED, {"replicas": None}, False),
        (b'{"f:spec":{"f:paused":{}}}', {}, False),
        (b'{"f:metadata":{"f:labels":{"f:replicas":{}}}}', {}, False),
        (b"", {}, False),
    ],
)
def test_replicas_are_handed_over_when_they_leave_the_manifest(owned: bytes, spec: dict[str, Any], due: bool) -> None:
    assert handover.is_due(owned, wanted(**spec)) is due


def test_the_heir_gets_what_there_is_on_this_incarnation_alone() -> None:
    live = as_live(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"replicas": 5, "paused": True},
        }
    )
    body = handover.body(wanted(), live)
    assert body is not None
    assert orjson.loads(body) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {"replicas": 5},
    }


def test_nothing_is_handed_over_where_there_is_nothing() -> None:
    live = as_live({"apiVersion": "x/v1", "kind": "Y", "metadata": {"name": "web", "uid": "u1"}, "spec": {}})
    assert handover.body(wanted(), live) is None
