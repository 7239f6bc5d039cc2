"""What `fleet doctor` asks one cluster: is it there, may we do what we must, does its clock agree with ours.

Nothing is changed: rights are asked with SelfSubjectAccessReviews, the clock is read from a dry run of a server-side
apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Literal, Protocol

import anyio
import msgspec

from fleet.engine.clusterinventory import CONFIG_MAPS, NAMESPACES
from fleet.engine.clusterinventory import NAMESPACE as OUR_NAMESPACE
from fleet.engine.ports import Catalog
from fleet.errors import FleetError, Unauthorized
from fleet.model.objects import GroupKind, LiveObject, Resource

WATCHED = ("get", "list", "watch")
APPLIED = (*WATCHED, "create", "patch", "delete")
"""What is needed of every kind that a bundle holds."""
MAX_SKEW = 5.0
"""Seconds; beyond it the times in drift and events mislead."""
AT_ONCE = 8

Level = Literal["ok", "warning", "error"]


class Examined(Protocol):
    """The part of a `ClusterClient` that is asked here."""

    async def version(self) -> str: ...
    async def discover(self, *, refresh: bool = False) -> Catalog: ...
    async def allowed(self, verb: str, resource: Resource, namespace: str = "") -> bool: ...
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
    ) -> LiveObject: ...


class Finding(msgspec.Struct, frozen=True):
    """One answer: what was looked at, how it is, and what to do about it."""

    subject: str
    check: str
    level: Level
    message: str
    hint: str | None = None


class Need(msgspec.Struct, frozen=True, order=True):
    """A kind that a bundle holds, in one namespace; "" asks for all namespaces, or for a kind that has none."""

    kind: GroupKind
    namespace: str = ""
    verbs: tuple[str, ...] = APPLIED


async def examine(
    name: str, client: Examined, needs: Iterable[Need], now: Callable[[], float], *, manager: str
) -> tuple[Finding, ...]:
    """Everything about one cluster, the first failure that makes the rest unknown last. `now`: seconds since the
    epoch.
    """
    try:
        version = await client.version()
    except Unauthorized as error:
        hint = "check the user and its token or certificate in the kubeconfig"
        return (Finding(name, "reachable", "error", f"it answers and refuses us: {error}", hint),)
    except FleetError as error:
        hint = "check the server address in the kubeconfig, and the network between"
        return (Finding(name, "reachable", "error", str(error), hint),)
    findings = [Finding(name, "reachable", "ok", f"Kubernetes {version}")]
    try:
        findings += await _rights(name, client, needs)
        findings.append(await _clock(name, client, now, manager))
    except FleetError as error:
        findings.append(Finding(name, "rights", "error", str(error), "run `fleet doctor` again"))
    return tuple(findings)


async def _rights(name: str, client: Examined, needs: Iterable[Need]) -> list[Finding]:
    catalog = await client.discover()
    ours = [
        Need(GroupKind("", "ConfigMap"), OUR_NAMESPACE, ("get", "create", "update")),
        Need(GroupKind("", "Namespace"), "", ("get", "create", "patch")),
    ]
    wanted: list[tuple[str, Resource, str]] = []
    findings: list[Finding] = []
    for need in sorted({*ours, *needs}):
        resource = _served(catalog, need.kind)
        if resource is None:
            findings.append(_unserved(name, catalog, need.kind))
            continue
        place = need.namespace if resource.namespaced else ""
        wanted += [(verb, resource, place) for verb in need.verbs]
    missing = await _refused(client, list(dict.fromkeys(wanted)))
    findings += [_missing(name, resource, place, verbs) for (resource, place), verbs in missing.items()]
    if not findings:
        kinds = len({resource.group_kind for _, resource, _ in wanted})
        findings.append(Finding(name, "rights", "ok", f"all that is needed for {kinds} kinds"))
    return findings


async def _refused(client: Examined, wanted: list[tuple[str, Resource, str]]) -> dict[tuple[Resource, str], list[str]]:
    """(resource, namespace) → verbs that we may not use, in the order asked."""
    answers: dict[tuple[str, Resource, str], bool] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def ask(verb: str, resource: Resource, namespace: str) -> None:
        async with limiter:
            answers[verb, resource, namespace] = await client.allowed(verb, resource, namespace)

    try:
        async with anyio.create_task_group() as group:
            for each in wanted:
                group.start_soon(ask, *each, name=f"may we {each[0]} {each[1].plural}")
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors
    missing: dict[tuple[Resource, str], list[str]] = {}
    for verb, resource, namespace in wanted:
        if not answers[verb, resource, namespace]:
            missing.setdefault((resource, namespace), []).append(verb)
    return missing


async def _clock(name: str, client: Examined, now: Callable[[], float], manager: str) -> Finding:
    """The server stamps what it would create; a whole second of doubt on top of the time of the request is allowed
    for.
    """
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fleet-clock","namespace":"default"}}'
    before = now()
    try:
        answer = await client.apply(
            CONFIG_MAPS, body, namespace="default", name="fleet-clock", manager=manager, dry_run=True
        )
        theirs = _created(answer.raw)
    except FleetError as error:
        return Finding(name, "clock", "warning", f"could not be read: {error}")
    if theirs is None:
        return Finding(name, "clock", "warning", "the server gave no time")
    after = now()
    skew = max(before - 1 - theirs, theirs - after, 0.0)
    if skew > MAX_SKEW:
        hint = "run a time service on both sides; times in events and drift are not comparable until then"
        return Finding(name, "clock", "warning", f"differs by {skew:.0f} s from this machine's", hint)
    return Finding(name, "clock", "ok", "agrees with this machine's")


class _Stamp(msgspec.Struct, rename="camel"):
    creation_timestamp: str | None = None


class _Stamped(msgspec.Struct):
    metadata: _Stamp


def _created(raw: bytes) -> float | None:
    try:
        stamp = msgspec.json.decode(raw, type=_Stamped).metadata.creation_timestamp
        return None if stamp is None else datetime.fromisoformat(stamp).timestamp()
    except (msgspec.DecodeError, ValueError):
        return None


def _served(catalog: Catalog, kind: GroupKind) -> Resource | None:
    return {CONFIG_MAPS.group_kind: CONFIG_MAPS, NAMESPACES.group_kind: NAMESPACES}.get(kind) or catalog.find(kind)


def _unserved(name: str, catalog: Catalog, kind: GroupKind) -> Finding:
    if catalog.unknown(kind.group):
        hint = "see `kubectl get apiservices`"
        return Finding(name, "kinds", "error", f"{kind}: the API group {kind.group} does not answer", hint)
    hint = "install its CustomResourceDefinition first, or put it into the bundle"
    return Finding(name, "kinds", "warning", f"{kind} is not served by this cluster", hint)


def _missing(name: str, resource: Resource, namespace: str, verbs: list[str]) -> Finding:
    kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    place = f" in namespace {namespace}" if namespace else " in the whole cluster"
    hint = "give the user of the kubeconfig a ClusterRole with these verbs (see deploy/ for one)"
    return Finding(name, "rights", "error", f"may not {', '.join(verbs)} {kind}{place}", hint)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
