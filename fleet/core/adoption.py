"""Whether we may take over an object that exists already: the bundle's `adopt`, and what other tools say of it.

An object that another tool tracks is refused unless the bundle says `always`: two tools that apply one object fight.
"""

from __future__ import annotations

from typing import Literal

from fleet.core.normalize import tracked
from fleet.model.objects import LiveObject

Adopt = Literal["never", "ifUnmanaged", "always"]

_ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "config.k8s.io/owning-inventory": "Config Sync or cli-utils",
    "meta.helm.sh/release-name": "Helm",
}
_LABELS = {
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "argocd.argoproj.io/instance": "Argo CD",
    "objectset.rio.cattle.io/hash": "Rancher Fleet",
    "applyset.kubernetes.io/part-of": "kubectl apply --applyset",
}


def refusal(live: LiveObject, *, fleet: str, bundle: str, adopt: Adopt) -> str | None:
    """Why an existing object must not be applied over; None when it may be. One sentence with the way out.

    An object of another bundle of this fleet is no matter of adoption: `claimant` tells of it.
    """
    mark = tracked(live)
    if mark is not None and mark.fleet == fleet:
        return None
    if adopt == "always":
        return None
    owner = f"fleet {mark.fleet}, bundle {mark.bundle}" if mark is not None else _foreign(live)
    if owner is not None:
        return f"{live.id} exists and is managed by {owner}; end that, or set adopt: always on the bundle"
    if adopt == "never":
        return f"{live.id} exists already; delete it, or set adopt: ifUnmanaged on the bundle to take it over"
    return None


def claimant(live: LiveObject, *, fleet: str, bundle: str) -> str | None:
    """Another bundle of this fleet that the object says it belongs to.

    While that bundle still wants it the object is not ours to take; when it no longer does, applying moves the object
    and keeps its uid (flux2 3316): the old bundle's prune then leaves it alone because of the tracking annotation.
    """
    mark = tracked(live)
    return mark.bundle if mark is not None and mark.fleet == fleet and mark.bundle != bundle else None


def _foreign(live: LiveObject) -> str | None:
    annotations, labels = live.meta.annotations or {}, live.meta.labels or {}
    for key, tool in _ANNOTATIONS.items():
        if key in annotations:
            return f"{tool} ({key}: {annotations[key]})"
    for key, tool in _LABELS.items():
        if key in labels:
            return f"{tool} ({key}: {labels[key]})"
    return None
