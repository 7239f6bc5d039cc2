"""What is added, kept and stale, and every protection that stands before a delete."""

from __future__ import annotations

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import inventory, normalize
from fleet.model.cluster import Inventory, InventoryEntry
from fleet.model.objects import LiveObject, Manifest, ObjectId
from tests.unit.core.live import as_live

FLEET, BUNDLE = "acme", "shop"


def _id(name: str, kind: str = "ConfigMap", namespace: str = "n", group: str = "") -> ObjectId:
    return ObjectId(group, kind, namespace, name)


def _manifest(object_id: ObjectId, version: str = "v1") -> Manifest:
    return Manifest(object_id, version, b"{}", b"")


def _live(
    object_id: ObjectId, *, uid: str = "u", bundle: str = BUNDLE, fleet: str = FLEET, **metadata: Any
) -> LiveObject:
    body: dict[str, Any] = {"apiVersion": f"{object_id.group}/v1".lstrip("/"), "kind": object_id.kind}
    body["metadata"] = {"name": object_id.name, "namespace": object_id.namespace}
    body = normalize.stamp(body, fleet=fleet, bundle=bundle)
    body["metadata"] |= {"uid": uid, "resourceVersion": "7"}
    for field, value in metadata.items():
        body["metadata"][field] = {**body["metadata"].get(field, {}), **value} if isinstance(value, dict) else value
    return as_live(body)


def _entry(object_id: ObjectId, uid: str = "u") -> InventoryEntry:
    return InventoryEntry(object_id, "v1", uid)


def _context(*stale: ObjectId, **more: Any) -> inventory.PruneContext:
    return inventory.PruneContext(FLEET, BUNDLE, stale=frozenset(stale), **more)


def _judge(
    *lives: LiveObject, max_objects: int | None = 100, **more: Any
) -> dict[ObjectId, inventory.Prune | inventory.Keep]:
    held = Inventory(BUNDLE, 1, "d", tuple(_entry(live.id, live.meta.uid) for live in lives))
    found = {live.id: live for live in lives}
    decisions = inventory.judge_all(held, found, _context(*found, **more), max_objects=max_objects)
    return {decision.entry.id: decision for decision in decisions}


def _reason(decision: inventory.Prune | inventory.Keep) -> tuple[str, bool]:
    assert isinstance(decision, inventory.Keep)
    assert decision.entry.id.name in decision.message or decision.reason in ("brake", "all-namespaces")
    return decision.reason, decision.forget


# --- sets ------------------------------------------------------------------------------------------------------------

_SETS = st.sets(st.sampled_from(string.ascii_lowercase[:8]))


@given(_SETS, _SETS)
def test_the_plan_divides_by_identity_and_nothing_is_untracked(before: set[str], after: set[str]) -> None:
    held = Inventory(BUNDLE, 1, "d1", tuple(_entry(_id(name), f"uid-{name}") for name in before))
    changes = inventory.plan(held, [_manifest(_id(name), "v2") for name in after])
    assert {e.id.name for e in changes.keep} == before & after
    assert {e.id.name for e in changes.add} == after - before
    assert {e.id.name for e in changes.stale} == before - after
    assert all(e.uid == f"uid-{e.id.name}" and e.version == "v2" for e in changes.keep)
    assert all(e.version == "v1" for e in changes.stale)
    written = inventory.union(held, changes, seq=2, digest="d2")
    assert (written.seq, written.digest) == (2, "d2")
    assert [e.id for e in written.entries] == sorted(_id(name) for name in before | after)
    settled = inventory.shrink(written, [e.id for e in changes.stale], {_id(name): "new" for name in after})
    assert settled == Inventory(BUNDLE, 2, "d2", tuple(InventoryEntry(_id(n), "v2", "new") for n in sorted(after)))
    assert inventory.plan(settled, [_manifest(_id(name)) for name in after]).stale == ()


# --- one object ------------------------------------------------------------------------------------------------------


def test_what_is_certainly_ours_and_stale_is_pruned_with_preconditions() -> None:
    live = _live(_id("a"))
    assert inventory.may_prune(_entry(live.id), live, _context(live.id)) == inventory.Prune(_entry(live.id), "u", "7")
    unknown = _entry(live.id, uid="")
    assert inventory.may_prune(unknown, live, _context(live.id)) == inventory.Prune(unknown, "u", "7")


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        (_live(_id("a"), uid="other"), "other-incarnation"),
        (_live(_id("a"), bundle="blog"), "not-ours"),
        (_live(_id("a"), fleet="umbrella"), "not-ours"),
        (_live(_id("a"), annotations={normalize.TRACKING_ANNOTATION: ""}), "not-ours"),
        (_live(_id("a"), annotations={normalize.TRACKING_ANNOTATION: "acme:shop:/ConfigMap:n/b"}), "not-ours"),
        (_live(_id("a"), annotations={"fleet/prune": "disabled"}), "opted-out"),
        (_live(_id("a"), ownerReferences=[{"kind": "Widget", "name": "w", "uid": "w"}]), "foreign-owner"),
    ],
)
def test_what_is_not_ours_or_wants_to_stay_is_kept_and_forgotten(live: LiveObject, expected: str) -> None:
    decision = inventory.may_prune(_entry(live.id), live, _context(live.id))
    assert _reason(decision) == (expected, True)


def test_an_object_just_applied_under_another_kind_is_kept() -> None:
    old = _live(_id("a", kind="Ingress", group="extensions"))
    context = _context(old.id, applied_uids=frozenset({"u"}))
    assert _reason(inventory.may_prune(_entry(old.id), old, context)) == ("just-applied", True)


def test_custom_resource_definitions_are_kept_unless_asked_for() -> None:
    live = _live(_id("w.a.example", "CustomResourceDefinition", "", "apiextensions.k8s.io"))
    assert _reason(_judge(live)[live.id]) == ("crd", True)
    assert isinstance(_judge(live, prune_crds=True)[live.id], inventory.Prune)


@pytest.mark.parametrize("name", sorted(inventory.PROTECTED_NAMESPACES))
def test_namespaces_of_the_system_are_never_deleted(name: str) -> None:
    live = _live(_id(name, "Namespace", ""))
    assert _reason(_judge(live, max_objects=None)[live.id]) == ("protected-namespace", True)


# --- the pass as a whole ---------------------------------------------------------------------------------------------


def test_a_namespace_waits_until_nothing_of_ours_is_in_it() -> None:
    namespace, inside = _live(_id("n", "Namespace", "")), _live(_id("a"))
    decisions = _judge(namespace, inside)
    assert isinstance(decisions[inside.id], inventory.Prune)
    assert _reason(decisions[namespace.id]) == ("namespace-in-use", False)
    wanted = _judge(namespace, wanted=frozenset({_id("b")}))
    assert _reason(wanted[namespace.id]) == ("namespace-in-use", False)
    others = _judge(namespace, occupied=frozenset({"n"}))
    assert _reason(others[namespace.id]) == ("namespace-in-use", False)
    assert isinstance(_judge(namespace, occupied=frozenset({"m"}))[namespace.id], inventory.Prune)


def test_what_could_not_be_read_is_not_judged_and_still_holds_its_namespace() -> None:
    namespace, inside = _live(_id("n", "Namespace", "")), _live(_id("a"))
    held = Inventory(BUNDLE, 1, "d", (_entry(inside.id), _entry(namespace.id)))
    context = _context(namespace.id, inside.id)
    (decision,) = inventory.judge_all(held, {namespace.id: namespace}, context, max_objects=9)
    assert _reason(decision) == ("namespace-in-use", False)


def test_only_stale_entries_are_judged() -> None:
    live = _live(_id("a"))
    held = Inventory(BUNDLE, 1, "d", (_entry(live.id),))
    assert inventory.judge_all(held, {live.id: live}, _context(), max_objects=9) == ()


def test_too_many_deletes_are_none_and_what_stays_anyway_does_not_count() -> None:
    lives = [_live(_id(name)) for name in "abc"]
    assert {_reason(d) for d in _judge(*lives, max_objects=2).values()} == {("brake", False)}
    assert all(isinstance(d, inventory.Prune) for d in _judge(*lives, max_objects=3).values())
    lives[0] = msgspec.structs.replace(lives[0], meta=msgspec.structs.replace(lives[0].meta, annotations=None))
    kept = _judge(*lives, max_objects=2)
    assert [isinstance(kept[live.id], inventory.Prune) for live in lives] == [False, True, True]


def test_a_namespace_that_waits_counts_for_the_brake_at_once() -> None:
    namespace, inside = _live(_id("n", "Namespace", "")), _live(_id("a"))
    decisions = _judge(namespace, inside, max_objects=1)
    assert {_reason(d) for d in decisions.values()} == {("brake", False)}


def test_all_of_several_namespaces_are_never_deleted_by_a_change() -> None:
    lives = [_live(_id(name, "Namespace", "")) for name in "ab"]
    assert {_reason(d) for d in _judge(*lives).values()} == {("all-namespaces", False)}
    staying = frozenset({_id("c", "Namespace", "")})
    assert all(isinstance(d, inventory.Prune) for d in _judge(*lives, wanted=staying).values())
    assert all(isinstance(d, inventory.Prune) for d in _judge(lives[0]).values())
    assert all(isinstance(d, inventory.Prune) for d in _judge(*lives, max_objects=None).values())


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.integers(0, 6))
def test_a_pass_never_deletes_more_than_allowed_nor_anything_wanted(
    stale: set[str], foreign: set[str], max_objects: int
) -> None:
    lives = [_live(_id(name), bundle="blog" if name in foreign else BUNDLE) for name in stale]
    pruned = {i.name for i, d in _judge(*lives, max_objects=max_objects).items() if isinstance(d, inventory.Prune)}
    assert len(pruned) <= max_objects
    assert pruned <= stale - foreign


# --- moves -----------------------------------------------------------------------------------------------------------


def test_what_another_bundle_claims_is_kept_until_it_is_tracked_there() -> None:
    claim = _id("data", "PersistentVolumeClaim")
    namespace = _id("n", "Namespace", "")
    decisions = _judge(_live(claim), _live(namespace), max_objects=None, claimed={claim: "heir"})
    assert _reason(decisions[claim]) == ("claimed", False)
    assert _reason(decisions[namespace]) == ("namespace-in-use", False)
    moved = _judge(_live(claim, bundle="heir"), claimed={claim: "heir"})
    assert _reason(moved[claim]) == ("not-ours", True)
