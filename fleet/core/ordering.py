"""In which order the objects of a bundle are applied and pruned (drift.md 5).

Few coarse stages: within one stage objects are written concurrently, between stages the order of the table holds, and a
stage marked `wait` must be served and Current before the next one starts, because the next cannot exist without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from fleet.model.objects import Manifest, ObjectId

StageName = Literal["foundation", "supporting", "workloads", "custom", "webhooks"]

_FOUNDATION = frozenset(
    {
        ("", "Namespace"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
    }
)

_SUPPORTING = frozenset(
    {
        ("", "ConfigMap"),
        ("", "LimitRange"),
        ("", "PersistentVolume"),
        ("", "PersistentVolumeClaim"),
        ("", "ResourceQuota"),
        ("", "Secret"),
        ("", "Service"),
        ("", "ServiceAccount"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "RoleBinding"),
    }
)

_WEBHOOKS = frozenset(
    {
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    }
)

_BUILT_IN_GROUPS = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "internal.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
    }
)
"""Named one by one: a group below k8s.io may hold custom resources as well (gateway.networking.k8s.io)."""


class Stage(msgspec.Struct, frozen=True):
    """Objects that may be written at the same time."""

    name: StageName
    manifests: tuple[Manifest, ...]
    wait: bool = False
    """Whether every object must be Current (a CRD established and served) before the next stage starts."""


_ORDER: tuple[StageName, ...] = ("foundation", "supporting", "workloads", "custom", "webhooks")


def stages(manifests: Iterable[Manifest]) -> tuple[Stage, ...]:
    """The stages of a set in the order they are applied; empty ones are left out.

    The foundation (namespaces, CRDs, cluster roles) always waits. Webhook configurations come after the workloads are
    Current: with failurePolicy Fail they would refuse every write, the repair of their own server included. Custom
    resources are not waited for, since their controller may itself need the webhook.
    """
    groups: dict[StageName, list[Manifest]] = {name: [] for name in _ORDER}
    for item in manifests:
        groups[stage_of(item.id)].append(item)
    waits: set[StageName] = {"foundation", "workloads"} if groups["webhooks"] else {"foundation"}
    return tuple(
        Stage(name, tuple(sorted(groups[name], key=lambda item: item.id)), wait=name in waits)
        for name in _ORDER
        if groups[name]
    )


def prune_stages(ids: Iterable[ObjectId]) -> tuple[tuple[ObjectId, ...], ...]:
    """The stages in which objects are deleted: those of applying reversed, except that webhooks still come first.

    First because a configuration whose server is gone refuses the deletes that follow; namespaces and CRDs are deleted
    last and namespaces after CRDs, so that nothing disappears with its container before its own protection was judged.
    """
    groups: dict[int, list[ObjectId]] = {}
    for object_id in ids:
        groups.setdefault(_prune_rank(object_id), []).append(object_id)
    return tuple(tuple(sorted(groups[rank])) for rank in sorted(groups))


def stage_of(object_id: ObjectId) -> StageName:
    """The stage of one object, by its kind alone."""
    kind = (object_id.group, object_id.kind)
    if kind in _FOUNDATION:
        return "foundation"
    if kind in _WEBHOOKS:
        return "webhooks"
    if kind in _SUPPORTING or object_id.kind.endswith("Class"):
        return "supporting"
    return "workloads" if is_built_in(object_id.group) else "custom"


def is_built_in(group: str) -> bool:
    """Whether an API group is Kubernetes' own, so that its kinds are served without a CRD."""
    return group in _BUILT_IN_GROUPS


def _prune_rank(object_id: ObjectId) -> int:
    stage = stage_of(object_id)
    if stage == "webhooks":
        return 0
    if stage == "foundation":
        return {"ClusterRole": 4, "CustomResourceDefinition": 5}.get(object_id.kind, 6)
    return {"custom": 1, "workloads": 2, "supporting": 3}[stage]
