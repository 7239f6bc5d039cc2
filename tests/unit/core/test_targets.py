"""Which clusters selectors, bundles and waves mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core import targets
from fleet.errors import NotFound
from fleet.model.fleetfile import Bundle, BundleSource, Cluster, Fleet, Requirement, Selector, Strategy, Wave

QA, PROD = Selector({"env": "qa"}), Selector({"env": "prod"})


def fleet(bundle: Bundle) -> Fleet:
    return Fleet(
        name="acme",
        clusters=(
            Cluster("prod-b", {"env": "prod"}),
            Cluster("qa-b", {"env": "qa"}),
            Cluster("lab", {}),
            Cluster("prod-a", {"env": "prod", "ring": "main"}),
            Cluster("qa-a", {"env": "qa"}, paused=True),
        ),
        bundles=(bundle,),
        strategies=(Strategy("s", (Wave("qa", QA), Wave("prod", PROD))),),
    )


def bundle(selector: Selector | None = None, strategy: str = "s") -> Bundle:
    return Bundle("shop", (BundleSource("", "shop"),), strategy, cluster_selector=selector)


def names(selector: Selector | None) -> list[str]:
    chosen = bundle(selector)
    return [cluster.name for cluster in targets.targets(fleet(chosen), chosen)]


def test_without_a_selector_a_bundle_goes_where_its_waves_do() -> None:
    assert names(None) == ["prod-a", "prod-b", "qa-a", "qa-b"]


def test_the_empty_selector_means_every_cluster() -> None:
    assert names(Selector()) == ["lab", "prod-a", "prod-b", "qa-a", "qa-b"]


def test_a_selector_narrows_every_wave() -> None:
    chosen = bundle(Selector(match_names=("prod-a", "qa-b", "qa-a")))
    assert [(wave.name, members) for wave, members in targets.waves(fleet(chosen), chosen)] == [
        ("qa", ("qa-a", "qa-b")),
        ("prod", ("prod-a",)),
    ]


def test_an_unknown_strategy_is_not_found() -> None:
    chosen = bundle(strategy="gone")
    with pytest.raises(NotFound, match=r"bundle shop: fleet\.yaml has no strategy gone"):
        targets.waves(fleet(chosen), chosen)
    with pytest.raises(NotFound):
        targets.targets(fleet(chosen), chosen)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector({"env": "prod", "ring": "main"}), True),
        (Selector({"env": "prod", "ring": "x"}), False),
        (Selector(match_names=("a", "c")), True),
        (Selector({"env": "prod"}, match_names=("b",)), False),
        (Selector(match_expressions=(Requirement("env", "In", ("qa", "prod")),)), True),
        (Selector(match_expressions=(Requirement("env", "NotIn", ("prod",)),)), False),
        (Selector(match_expressions=(Requirement("gone", "NotIn", ("prod",)),)), True),
        (Selector(match_expressions=(Requirement("ring", "Exists"),)), True),
        (Selector(match_expressions=(Requirement("gone", "Exists"),)), False),
        (Selector(match_expressions=(Requirement("gone", "DoesNotExist"),)), True),
        (Selector(match_expressions=(Requirement("ring", "Exists"), Requirement("env", "DoesNotExist"))), False),
    ],
)
def test_selectors_are_those_of_kubernetes(selector: Selector, expected: bool) -> None:
    assert targets.matches(selector, {"env": "prod", "ring": "main"}, "a") is expected


words = st.sampled_from("abc")
requirements = st.builds(
    Requirement,
    words,
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(words, max_size=2).map(tuple),
)
selectors = st.builds(
    Selector,
    st.dictionaries(words, words, max_size=2),
    st.lists(requirements, max_size=2).map(tuple),
    st.lists(words, max_size=2).map(tuple),
)
fleets = st.lists(st.tuples(words, st.dictionaries(words, words)), max_size=70)


def holds(selector: Selector, name: str, labels: dict[str, str]) -> bool:
    """The definition, one cluster and one condition at a time."""
    for item in selector.match_expressions:
        within = labels.get(item.key) in item.values
        here = item.key in labels
        if not {"In": within, "NotIn": not within, "Exists": here, "DoesNotExist": not here}[item.operator]:
            return False
    named = not selector.match_names or name in selector.match_names
    return named and all(labels.get(key) == value for key, value in selector.match_labels.items())


@settings(deadline=None)
@given(selectors, fleets)
def test_an_index_selects_what_the_definition_says(
    selector: Selector, clusters: list[tuple[str, dict[str, str]]]
) -> None:
    index = targets.Index(clusters)
    expected = [(name, labels) for name, labels in clusters if holds(selector, name, labels)]
    assert index.pick(index.select(selector), clusters) == expected
    assert index.names(index.select(selector)) == [name for name, _ in expected]


@settings(deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_the_file_changes_nothing(order: list[int]) -> None:
    chosen = bundle()
    first = fleet(chosen)
    other = Fleet("acme", clusters=tuple(first.clusters[number] for number in order), strategies=first.strategies)
    assert targets.targets(other, chosen) == targets.targets(first, chosen)
    assert targets.waves(other, chosen) == targets.waves(first, chosen)
