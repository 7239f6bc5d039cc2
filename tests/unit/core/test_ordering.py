"""The order of applying and pruning: drift.md 5."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import ordering
from fleet.model.objects import Manifest, ObjectId

_KINDS = {
    "foundation": [
        ("", "Namespace"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
    ],
    "supporting": [
        ("storage.k8s.io", "StorageClass"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("", "ServiceAccount"),
        ("", "Secret"),
        ("", "ConfigMap"),
        ("", "Service"),
        ("", "PersistentVolumeClaim"),
        ("", "ResourceQuota"),
        ("", "LimitRange"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "RoleBinding"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("networking.k8s.io", "NetworkPolicy"),
    ],
    "workloads": [
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("batch", "Job"),
        ("batch", "CronJob"),
        ("policy", "PodDisruptionBudget"),
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("networking.k8s.io", "Ingress"),
        ("apiregistration.k8s.io", "APIService"),
    ],
    "custom": [
        ("a.example", "Widget"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("cluster.x-k8s.io", "Machine"),
        ("a.example", "Deployment"),
    ],
    "webhooks": [
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ],
}
_ALL = [ObjectId(group, kind, "", "x") for kinds in _KINDS.values() for group, kind in kinds]


@pytest.mark.parametrize(
    ("kind", "stage"),
    [(kind, stage) for stage, kinds in _KINDS.items() for kind in kinds],
    ids=lambda value: str(value),
)
def test_the_stage_of_a_kind(kind: tuple[str, str], stage: str) -> None:
    assert ordering.stage_of(ObjectId(*kind, "", "x")) == stage


def _manifests(ids: list[ObjectId]) -> list[Manifest]:
    return [Manifest(object_id, "v1", b"", b"") for object_id in ids]


@given(st.lists(st.sampled_from(_ALL), unique=True))
def test_every_object_is_in_exactly_one_stage_in_the_fixed_order(ids: list[ObjectId]) -> None:
    stages = ordering.stages(_manifests(ids))
    assert sorted(m.id for stage in stages for m in stage.manifests) == sorted(ids)
    order = list(_KINDS)
    assert all(order.index(a.name) < order.index(b.name) for a, b in pairwise(stages))
    assert all(stage.manifests for stage in stages)
    assert ordering.stages(_manifests(ids[::-1])) == stages


def test_the_next_stage_waits_for_what_it_cannot_exist_without() -> None:
    without = {s.name: s.wait for s in ordering.stages(_manifests([i for i in _ALL if "Webhook" not in i.kind]))}
    assert without == {"foundation": True, "supporting": False, "workloads": False, "custom": False}
    waits = {s.name: s.wait for s in ordering.stages(_manifests(_ALL))}
    assert waits == without | {"workloads": True, "webhooks": False}


@given(st.lists(st.sampled_from(_ALL), unique=True))
def test_pruning_goes_backwards_but_webhooks_first_and_namespaces_last(ids: list[ObjectId]) -> None:
    stages = ordering.prune_stages(ids)
    assert sorted(i for stage in stages for i in stage) == sorted(ids)
    flat = [ordering.stage_of(i) for stage in stages for i in stage]
    order = ["webhooks", "custom", "workloads", "supporting", "foundation"]
    assert flat == sorted(flat, key=order.index)
    for stage in stages:
        # What takes others along when it is deleted is deleted on its own.
        for kind in ("Namespace", "CustomResourceDefinition"):
            assert len({i.kind == kind for i in stage}) == 1
    kinds = [stage[0].kind for stage in stages]
    if "Namespace" in kinds:
        assert kinds[-1] == "Namespace"
