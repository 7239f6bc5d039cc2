"""Claims of bundles on objects: who has to give way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.core import claims
from fleet.model.objects import ObjectId


def config_map(name: str) -> ObjectId:
    return ObjectId("", "ConfigMap", "n", name)


X, Y, Z = (frozenset({config_map(name)}) for name in "xyz")
MEMBERS = {"x": X, "y": Y, "z": Z, "xy": X | Y, "xyz": X | Y | Z, "": frozenset[ObjectId]()}


def test_nothing_shared_is_no_conflict() -> None:
    contents = {"a": {"qa": "x", "prod": "y"}, "b": {"qa": "y", "prod": "x"}}
    assert claims.conflicts(contents, MEMBERS) == ()


def test_a_conflict_names_objects_and_clusters() -> None:
    contents = {"b": {"qa": "xy", "prod": "xy", "dev": "z"}, "a": {"qa": "x", "prod": "x", "dev": "y"}}
    assert claims.conflicts(contents, MEMBERS) == (claims.Conflict("a", "b", X, ("prod", "qa")),)


def test_of_two_newcomers_both_are_refused() -> None:
    refused = claims.refused({"a": {"qa": "x"}, "b": {"qa": "xy"}}, {}, MEMBERS)
    assert refused == {
        "a": "bundle b claims ConfigMap n/x on qa, too; an object belongs to one bundle",
        "b": "bundle a claims ConfigMap n/x on qa, too; an object belongs to one bundle",
    }


def test_who_holds_it_keeps_it_also_when_it_changes() -> None:
    in_force = {"a": {"qa": "x"}, "b": {"qa": "y"}}
    assert set(claims.refused({"a": {"qa": "x"}, "b": {"qa": "xy"}}, in_force, MEMBERS)) == {"b"}
    assert set(claims.refused({"a": {"qa": "xyz"}, "b": {"qa": "y"}}, in_force, MEMBERS)) == {"a"}


def test_an_object_moves_when_both_say_so() -> None:
    assert claims.refused({"a": {"qa": ""}, "b": {"qa": "xy"}}, {"a": {"qa": "x"}, "b": {"qa": "y"}}, MEMBERS) == {}


def test_a_refusal_brings_back_what_was_in_force() -> None:
    # c takes over x because a drops it; but a's change is refused for z, so a keeps x, and c has to go as well.
    in_force = {"a": {"qa": "x"}, "b": {"qa": "z"}}
    refused = claims.refused({"a": {"qa": "z"}, "b": {"qa": "z"}, "c": {"qa": "x"}}, in_force, MEMBERS)
    assert set(refused) == {"a", "c"}


def test_a_bundle_that_cannot_be_planned_keeps_its_claims() -> None:
    assert set(claims.refused({"b": {"qa": "x"}}, {"a": {"qa": "x"}}, MEMBERS)) == {"b"}


contents = st.dictionaries(
    st.sampled_from("abcd"),
    st.dictionaries(st.sampled_from(["qa", "prod"]), st.sampled_from(list(MEMBERS)), max_size=2),
)


@given(contents, contents)
def test_what_is_left_is_free_of_conflicts_unless_it_was_in_force(
    wanted: dict[str, dict[str, str]], before: dict[str, dict[str, str]]
) -> None:
    in_force = dict(before)
    # Bring the state in force to one that could be: drop whoever conflicts.
    for conflict in claims.conflicts(in_force, MEMBERS):
        in_force.pop(conflict.second, None)
    refused = claims.refused(wanted, in_force, MEMBERS)
    assert refused.keys() <= wanted.keys()
    granted = {**in_force, **{name: digests for name, digests in wanted.items() if name not in refused}}
    assert claims.conflicts(granted, MEMBERS) == ()
    # Nobody is refused what he has already.
    assert not [name for name in refused if wanted[name] == in_force.get(name, {})]
