"""Health of a live object from its own status, and of a bundle from its objects.

The rules are those of kstatus (cli-utils pkg/kstatus/status) with three deviations: a Job is healthy only when it
completed (Flux), an unbound claim does not hold a rollout up, a paused or suspended object says so. What kstatus calls
Current is Healthy, InProgress is Progressing, Failed is Degraded, Terminating is Progressing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from fleet.model.cluster import Health
from fleet.model.objects import ObjectId

Assessment = tuple[Health, str]
"""Health and its cause: one sentence that names the object, empty when there is nothing to say."""

_Finding = tuple[Health, str]
"""Health and what follows the object's name in the sentence."""

UNSCHEDULABLE_GRACE = 15.0
"""Seconds that a Pod may be unschedulable before that counts as failed (kstatus)."""

_NO_DEADLINE = 2**31 - 1
"""progressDeadlineSeconds without a limit: the controller then sets no Progressing condition."""

_GOOD: _Finding = (Health.HEALTHY, "")

_SEVERITY = (Health.DEGRADED, Health.MISSING, Health.UNKNOWN, Health.PROGRESSING)


def assess(live: Mapping[str, Any], *, kind: str = "", group: str = "", now: float | None = None) -> Assessment:
    """Health of a decoded live object.

    `kind` and `group` are for items of lists, which carry neither; `now` (seconds since the epoch) lets the grace of an
    unschedulable Pod end, without it such a Pod stays Progressing.
    """
    kind = kind or _text(live.get("kind"))
    group = group or _text(live.get("apiVersion")).rpartition("/")[0]
    health, finding = _generic(live) or _by_kind(group, kind, live, now) or _ready(live) or _GOOD
    return health, f"{_name(kind, live)} {finding}" if finding else ""


def aggregate(objects: Iterable[tuple[ObjectId, Health, str]]) -> Assessment:
    """Health of a bundle: that of its worst object, with its cause and how many more are as bad.

    Suspended objects do not count: somebody wants them that way, and waiting for them would never end. Whether a paused
    Deployment runs what is wanted is already in its own health.
    """
    found: dict[Health, list[tuple[ObjectId, str]]] = {}
    for object_id, health, reason in objects:
        found.setdefault(health, []).append((object_id, reason))
    for health in (*_SEVERITY, Health.SUSPENDED):
        if health in found:
            object_id, reason = min(found[health])
            more = len(found[health]) - 1
            sentence = reason or f"{object_id} is {health.lower()}"
            sentence = f"{sentence} (and {more} more {health.lower()})" if more else sentence
            return (Health.HEALTHY if health is Health.SUSPENDED else health), sentence
    return Health.HEALTHY, ""


# --- rules for every kind --------------------------------------------------------------------------------------------


def _generic(live: Mapping[str, Any]) -> _Finding | None:
    metadata, status = _map(live, "metadata"), _map(live, "status")
    if metadata.get("deletionTimestamp"):
        return Health.PROGRESSING, "is being deleted"
    observed, generation = status.get("observedGeneration"), metadata.get("generation")
    if observed is not None and observed != generation:
        return Health.PROGRESSING, f"waits for its controller to see generation {generation} (it saw {observed})"
    conditions = _conditions(live)
    if _is(conditions, "Reconciling", "True"):
        return Health.PROGRESSING, _because("is being reconciled", conditions["Reconciling"])
    if _is(conditions, "Stalled", "True"):
        return Health.DEGRADED, _because("is stalled", conditions["Stalled"])
    return None


def _ready(live: Mapping[str, Any]) -> _Finding | None:
    """The condition that most custom resources have."""
    condition = _conditions(live).get("Ready")
    if condition is None or condition.get("status") == "True":
        return None
    return Health.PROGRESSING, _because("is not ready", condition)


def _by_kind(group: str, kind: str, live: Mapping[str, Any], now: float | None) -> _Finding | None:
    if (group, kind) == ("", "Pod"):
        return _pod(live, now)
    rule = _RULES.get((group, kind))
    return None if rule is None else rule(live)


# --- workloads -------------------------------------------------------------------------------------------------------


def _deployment(live: Mapping[str, Any]) -> _Finding:
    spec, conditions = _map(live, "spec"), _conditions(live)
    finding = _deployment_progress(spec, _map(live, "status"), conditions)
    if spec.get("paused") is not True:
        return finding
    if finding[0] is Health.HEALTHY:
        return Health.SUSPENDED, "is paused (spec.paused)"
    return finding[0], f"is paused (spec.paused) and {finding[1]}"


def _deployment_progress(
    spec: Mapping[str, Any], status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> _Finding:
    progressing = conditions.get("Progressing", {})
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return Health.DEGRADED, _because("exceeded its progress deadline", progressing)
    wanted = _int(spec, "replicas", 1)
    exist, updated, available, ready = (
        _int(status, field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas")
    )
    counted = _first(
        (exist < wanted, f"has {exist} of {wanted} replicas"),
        (updated < wanted, f"has {updated} of {wanted} replicas updated"),
        (exist > wanted, f"waits for {exist - wanted} old replicas to end"),
        (available < updated, f"has {available} of {updated} replicas available"),
        (ready < wanted, f"has {ready} of {wanted} replicas ready"),
    )
    if counted is not None:
        return counted
    done = progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"
    if not done and _int(spec, "progressDeadlineSeconds", _NO_DEADLINE) != _NO_DEADLINE:
        return Health.PROGRESSING, "waits for its new ReplicaSet"
    return _GOOD if _is(conditions, "Available", "True") else (Health.PROGRESSING, "is not available yet")


def _stateful_set(live: Mapping[str, Any]) -> _Finding:
    spec, status = _map(live, "spec"), _map(live, "status")
    strategy = _map(spec, "updateStrategy")
    if strategy.get("type") == "OnDelete":
        return _GOOD
    wanted = _int(spec, "replicas", 1)
    exist, ready, current, updated = (
        _int(status, field, 0) for field in ("replicas", "readyReplicas", "currentReplicas", "updatedReplicas")
    )
    counted = _first(
        (exist < wanted, f"has {exist} of {wanted} replicas"),
        (ready < wanted, f"has {ready} of {wanted} replicas ready"),
        (exist > wanted, f"waits for {exist - wanted} replicas to end"),
    )
    if counted is not None:
        return counted
    partition = _int(_map(strategy, "rollingUpdate"), "partition", -1)
    if partition >= 0:
        share = wanted - partition
        return _first((updated < share, f"has {updated} of {share} replicas updated")) or _GOOD
    rolling = status.get("currentRevision") != status.get("updateRevision")
    return (
        _first(
            (current < wanted, f"has {current} of {wanted} replicas at the current revision"),
            (rolling, f"has {updated} of {wanted} replicas updated"),
        )
        or _GOOD
    )


def _daemon_set(live: Mapping[str, Any]) -> _Finding:
    metadata, status = _map(live, "metadata"), _map(live, "status")
    if "generation" not in metadata or "observedGeneration" not in status:
        return Health.PROGRESSING, "waits for its controller"
    if "desiredNumberScheduled" not in status:
        return Health.PROGRESSING, "is not scheduled yet"
    wanted = _int(status, "desiredNumberScheduled", 0)
    for field, word in (
        ("currentNumberScheduled", "scheduled"),
        ("updatedNumberScheduled", "updated"),
        ("numberAvailable", "available"),
        ("numberReady", "ready"),
    ):
        count = _int(status, field, 0)
        if count < wanted:
            return Health.PROGRESSING, f"has {count} of {wanted} pods {word}"
    return _GOOD


def _replica_set(live: Mapping[str, Any]) -> _Finding:
    spec, status, conditions = _map(live, "spec"), _map(live, "status"), _conditions(live)
    if _is(conditions, "ReplicaFailure", "True"):
        return Health.PROGRESSING, _because("cannot make its replicas", conditions["ReplicaFailure"])
    wanted = _int(spec, "replicas", 1)
    for field, word in (
        ("fullyLabeledReplicas", "labeled"),
        ("availableReplicas", "available"),
        ("readyReplicas", "ready"),
    ):
        count = _int(status, field, 0)
        if count < wanted:
            return Health.PROGRESSING, f"has {count} of {wanted} replicas {word}"
    exist = _int(status, "replicas", 0)
    return _first((exist > wanted, f"waits for {exist - wanted} replicas to end")) or _GOOD


def _job(live: Mapping[str, Any]) -> _Finding:
    """Flux's rule: done is Complete; kstatus would call a running Job current."""
    conditions = _conditions(live)
    for kind in ("Failed", "FailureTarget"):
        if _is(conditions, kind, "True"):
            return Health.DEGRADED, _because("failed", conditions[kind])
    if _is(conditions, "Complete", "True"):
        return _GOOD
    if _map(live, "spec").get("suspend") is True:
        return Health.SUSPENDED, "is suspended (spec.suspend)"
    started = _map(live, "status").get("startTime")
    return Health.PROGRESSING, "is running" if started else "has not started"


def _cron_job(live: Mapping[str, Any]) -> _Finding:
    suspended = _map(live, "spec").get("suspend") is True
    return (Health.SUSPENDED, "is suspended (spec.suspend)") if suspended else _GOOD


def _pod(live: Mapping[str, Any], now: float | None) -> _Finding:
    status, conditions = _map(live, "status"), _conditions(live)
    phase = status.get("phase")
    if phase in ("Succeeded", "Failed"):
        return _GOOD
    if phase == "Running":
        if _is(conditions, "Ready", "True"):
            return _GOOD
        looping = sorted(_crash_looping(status))
        if looping:
            return Health.DEGRADED, f"has containers that crash again and again: {', '.join(looping)}"
        return Health.PROGRESSING, "is running but not ready"
    if phase == "Pending":
        scheduled = conditions.get("PodScheduled", {})
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
            created = _seconds(_map(live, "metadata").get("creationTimestamp"))
            over = now is not None and created is not None and now - created > UNSCHEDULABLE_GRACE
            return (Health.DEGRADED if over else Health.PROGRESSING), _because("cannot be scheduled", scheduled)
        return Health.PROGRESSING, "is pending"
    return (
        (Health.UNKNOWN, f"is in phase {phase}") if phase else (Health.PROGRESSING, "has not been seen by a node yet")
    )


def _crash_looping(status: Mapping[str, Any]) -> Iterable[str]:
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(field) or ():
            if isinstance(container, Mapping):
                waiting = _map(_map(container, "state"), "waiting")
                if waiting.get("reason") == "CrashLoopBackOff":
                    yield _text(container.get("name"))


# --- other kinds -----------------------------------------------------------------------------------------------------


def _service(live: Mapping[str, Any]) -> _Finding:
    spec = _map(live, "spec")
    if spec.get("type") == "LoadBalancer" and not spec.get("clusterIP"):
        return Health.PROGRESSING, "has no cluster IP yet"
    return _GOOD


def _claim(live: Mapping[str, Any]) -> _Finding:
    """A claim that waits for its first consumer never binds by itself; the workload that uses it tells the rest."""
    phase = _map(live, "status").get("phase")
    if phase == "Lost":
        return Health.DEGRADED, "has lost its volume"
    return Health.HEALTHY, "" if phase == "Bound" else "is not bound yet, which holds nothing up"


def _definition(live: Mapping[str, Any]) -> _Finding:
    conditions = _conditions(live)
    if _is(conditions, "NamesAccepted", "False"):
        return Health.DEGRADED, _because("has names that were not accepted", conditions["NamesAccepted"])
    established = conditions.get("Established", {})
    if established.get("status") == "True":
        return _GOOD
    if established.get("status") == "False" and established.get("reason") != "Installing":
        return Health.DEGRADED, _because("is not established", established)
    return Health.PROGRESSING, "is not established yet"


def _current(live: Mapping[str, Any]) -> _Finding:
    return _GOOD


_RULES: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], _Finding]] = {
    ("", "ConfigMap"): _current,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Secret"): _current,
    ("", "Service"): _service,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("batch", "CronJob"): _cron_job,
    ("batch", "Job"): _job,
    ("policy", "PodDisruptionBudget"): _current,
}


# --- reading ---------------------------------------------------------------------------------------------------------


def _name(kind: str, live: Mapping[str, Any]) -> str:
    metadata = _map(live, "metadata")
    namespace, name = _text(metadata.get("namespace")), _text(metadata.get("name"))
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _first(*cases: tuple[bool, str]) -> _Finding | None:
    """The first thing that is still missing, as a finding in progress."""
    return next(((Health.PROGRESSING, finding) for missing, finding in cases if missing), None)


def _conditions(live: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    conditions = _map(live, "status").get("conditions")
    if not isinstance(conditions, list):
        return {}
    return {_text(item.get("type")): item for item in conditions if isinstance(item, Mapping)}


def _is(conditions: Mapping[str, Mapping[str, Any]], kind: str, status: str) -> bool:
    return conditions.get(kind, {}).get("status") == status


def _because(finding: str, condition: Mapping[str, Any]) -> str:
    """The finding with the controller's own words, of which only a line is kept."""
    message = (_text(condition.get("message")) or _text(condition.get("reason"))).strip().partition("\n")[0]
    return f"{finding}: {message[:300]}" if message else finding


def _map(value: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    inner = value.get(field)
    return inner if isinstance(inner, Mapping) else {}


def _int(value: Mapping[str, Any], field: str, default: int) -> int:
    number = value.get(field)
    return number if isinstance(number, int) and not isinstance(number, bool) else default


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(timestamp: Any) -> float | None:
    """Seconds since the epoch of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(_text(timestamp))
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
