"""Which namespace an object is in: what fleet.yaml says fills what the manifest leaves open.

Kinds of Kubernetes itself are known from its API, other kinds from the CustomResourceDefinitions of the same set. What
neither tells stays open and is placed when it is applied, by the cluster's discovery.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fleet.core import normalize
from fleet.model.objects import ObjectId

_CLUSTER_SCOPED: dict[str, frozenset[str]] = {
    "": frozenset({"Namespace", "Node", "PersistentVolume", "ComponentStatus"}),
    "admissionregistration.k8s.io": frozenset(
        {
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        }
    ),
    "apiextensions.k8s.io": frozenset({"CustomResourceDefinition"}),
    "apiregistration.k8s.io": frozenset({"APIService"}),
    "authentication.k8s.io": frozenset({"TokenReview", "SelfSubjectReview"}),
    "authorization.k8s.io": frozenset({"SubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview"}),
    "certificates.k8s.io": frozenset({"CertificateSigningRequest", "ClusterTrustBundle"}),
    "flowcontrol.apiserver.k8s.io": frozenset({"FlowSchema", "PriorityLevelConfiguration"}),
    "internal.apiserver.k8s.io": frozenset({"StorageVersion"}),
    "networking.k8s.io": frozenset({"IngressClass", "IPAddress", "ServiceCIDR"}),
    "node.k8s.io": frozenset({"RuntimeClass"}),
    "rbac.authorization.k8s.io": frozenset({"ClusterRole", "ClusterRoleBinding"}),
    "resource.k8s.io": frozenset({"DeviceClass", "ResourceSlice", "DeviceTaintRule"}),
    "scheduling.k8s.io": frozenset({"PriorityClass"}),
    "storage.k8s.io": frozenset({"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"}),
    "storagemigration.k8s.io": frozenset({"StorageVersionMigration"}),
}
_NAMESPACED: dict[str, frozenset[str]] = {
    "": frozenset(
        {
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        }
    ),
    "apps": frozenset({"ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"}),
    "authorization.k8s.io": frozenset({"LocalSubjectAccessReview"}),
    "autoscaling": frozenset({"HorizontalPodAutoscaler"}),
    "batch": frozenset({"CronJob", "Job"}),
    "certificates.k8s.io": frozenset({"PodCertificateRequest"}),
    "coordination.k8s.io": frozenset({"Lease", "LeaseCandidate"}),
    "discovery.k8s.io": frozenset({"EndpointSlice"}),
    "events.k8s.io": frozenset({"Event"}),
    "networking.k8s.io": frozenset({"Ingress", "NetworkPolicy"}),
    "policy": frozenset({"PodDisruptionBudget"}),
    "rbac.authorization.k8s.io": frozenset({"Role", "RoleBinding"}),
    "resource.k8s.io": frozenset({"ResourceClaim", "ResourceClaimTemplate"}),
    "storage.k8s.io": frozenset({"CSIStorageCapacity"}),
}
_NONE: frozenset[str] = frozenset()
_CRD = ("apiextensions.k8s.io", "CustomResourceDefinition")


class Scopes:
    """Which kinds are namespaced, as far as a set of objects tells."""

    def __init__(self, bodies: Iterable[dict[str, Any]]) -> None:
        self._defined: dict[tuple[str, str], bool] = {}
        for body in bodies:
            object_id, _ = normalize.identity(body)
            if (object_id.group, object_id.kind) == _CRD:
                self._define(body.get("spec"))

    def _define(self, spec: Any) -> None:
        """Takes the scope of a CustomResourceDefinition; one that is not whole is left to the server to refuse."""
        if not isinstance(spec, dict) or not isinstance(spec.get("names"), dict):
            return
        group, kind, scope = spec.get("group"), spec["names"].get("kind"), spec.get("scope")
        if isinstance(group, str) and isinstance(kind, str) and scope in ("Namespaced", "Cluster"):
            self._defined[group, kind] = scope == "Namespaced"

    def namespaced(self, group: str, kind: str) -> bool | None:
        """None: only discovery can tell."""
        if kind in _CLUSTER_SCOPED.get(group, _NONE):
            return False
        if kind in _NAMESPACED.get(group, _NONE):
            return True
        return self._defined.get((group, kind))

    def settle(self, body: dict[str, Any], namespace: str) -> ObjectId:
        """The identity of an object once `namespace` fills the gap, and once one that cannot be is dropped."""
        object_id, _ = normalize.identity(body)
        namespaced = self.namespaced(object_id.group, object_id.kind)
        if namespaced is False:
            return ObjectId(object_id.group, object_id.kind, "", object_id.name)
        if namespaced and not object_id.namespace:
            return ObjectId(object_id.group, object_id.kind, namespace, object_id.name)
        return object_id

    def place(self, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        """The object with its settled namespace, as a copy where that changes it."""
        settled = self.settle(body, namespace).namespace
        metadata = body["metadata"]
        if (metadata.get("namespace") or "") == settled:
            return body
        rest = {key: value for key, value in metadata.items() if key != "namespace"}
        return {**body, "metadata": {**rest, "namespace": settled} if settled else rest}

    def missing(self, bodies: Iterable[dict[str, Any]], namespace: str) -> dict[str, Any] | None:
        """The Namespace to add to placed objects, so that there is one for those in `namespace`; None: no need.

        It is never pruned: others may live in it by then.
        """
        if namespace == "default" or namespace.startswith("kube-"):
            return None
        needed = False
        for body in bodies:
            object_id, _ = normalize.identity(body)
            if object_id == ObjectId("", "Namespace", "", namespace):
                return None
            unsettled = not object_id.namespace and self.namespaced(object_id.group, object_id.kind) is None
            needed = needed or unsettled or object_id.namespace == namespace
        if not needed:
            return None
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "annotations": {normalize.PRUNE_ANNOTATION: "disabled"}},
        }
