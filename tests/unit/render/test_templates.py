"""Templates: what they see, what they cannot do, and that nothing in them runs away."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import RenderError
from fleet.model.fleetfile import Cluster
from fleet.render import templates

CLUSTER = Cluster(
    name="prod-eu1",
    labels={"env": "prod", "acme.example/ring": "main"},
    values={
        "replicas": 3,
        "on": True,
        "none": None,
        "hosts": ["a.example", "b.example"],
        "values": "items",
        "map": {"k": "v"},
        "big": "x" * 100_000,
        "many": list(range(200)),
        "ratio": 0.5,
    },
)


def expand(text: str) -> str:
    return templates.expand(text, CLUSTER, "apps/a.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $x { } %\n", "plain $x { } %\n"),
        ("a: {{ cluster.name }}\n", "a: prod-eu1\n"),
        ("{{ cluster.labels.env }}/{{ cluster.labels['acme.example/ring'] }}", "prod/main"),
        ("{{ cluster.values.replicas }} {{ cluster.values.on }} {{ cluster.values.none }}", "3 true null"),
        ("{{ cluster.values.replicas + 1 }}", "4"),
        ("{{ cluster.values.ratio }}", "0.5"),
        ("{{ cluster.values.values }}", "items"),
        ("{{ cluster.values.hosts }}", '["a.example", "b.example"]'),
        ("{% for h in cluster.values.hosts %}{{ loop.index }}={{ h }};{% endfor %}", "1=a.example;2=b.example;"),
        ("{% if cluster.labels.env == 'prod' %}p{% else %}q{% endif %}", "p"),
        ("{% if cluster.labels.env in ['qa'] %}p{% else %}q{% endif %}", "q"),
        ("{% for k, v in cluster.values.map | items %}{{ k }}{{ v }}{% endfor %}", "kv"),
        ("{{ cluster.values.absent | default('d') }}", "d"),
        ("{{ cluster.values.hosts | join(',') | upper }}", "A.EXAMPLE,B.EXAMPLE"),
        ("{{ cluster.name | tojson }} {{ cluster.name | b64encode }}", '"prod-eu1" cHJvZC1ldTE='),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ cluster.name | replace('-', '_') }}", "prod_eu1"),
        ("{# a comment #}x", "x"),
    ],
)
def test_values_filters_conditions_and_loops(text: str, expected: str) -> None:
    assert expand(text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("\n{{ cluster.labels.nope }}", r"apps/a\.yaml:2: .*nope"),
        ("{{ nope }}", "nope"),
        ("{{ cluster.nope.deeper }}", "nope"),
        ("{{ cluster.values.absent | upper }}", "absent"),
        ("{{ cluster.values.absent | tojson }}", "absent"),
        ("{% if cluster.values.absent %}x{% endif %}", "absent"),
        ("a\nb\n{{ cluster.", r"apps/a\.yaml:3: "),
        ("{{ cluster.name | nope }}", "nope"),
        ("{{ 'x' | int }}", "no integer"),
    ],
)
def test_what_is_undefined_or_misspelt_is_an_error_with_its_line(text: str, what: str) -> None:
    with pytest.raises(RenderError, match=what):
        expand(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ cluster.__class__ }}",
        "{{ cluster.name.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ cluster.values.items() }}",
        "{{ cluster.name.upper() }}",
        "{{ range(10) }}",
        "{{ self }}",
        "{{ lipsum }}",
        "{{ cluster.name | attr('__class__') }}",
        "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{% block b %}{% endblock %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a' ~ 'b' }}",
        "{{ 'a' + 'b' }}",
        "{{ {'a': 1} }}",
        "{% for x in 'text' %}{% endfor %}",
        "{% for x in cluster.values.many recursive %}{{ loop(x) }}{% endfor %}",
    ],
)
def test_there_is_no_way_to_python_and_no_way_to_grow(text: str) -> None:
    with pytest.raises(RenderError):
        expand(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{% for a in cluster.values.many %}{% for b in cluster.values.many %}{% endfor %}{% endfor %}", "loops"),
        ("{% for a in cluster.values.many %}{{ cluster.values.big }}{% endfor %}", "larger than"),
        ("{{ cluster.values.big | replace('x', cluster.values.big) }}", "replace"),
        (
            "{% for a in cluster.values.many %}" + "{{ cluster.values.big | length }}" * 5 + "{% endfor %}",
            "filters work",
        ),
        ("{{ cluster.values.many | join(cluster.values.big) }}", "join"),
        ("{{ cluster.name | indent(1000000000) }}", "indent"),
        ("{{ 1 }}" + " " * templates.MAX_TEMPLATE, "a template may have"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{% if true %}" * 200 + "{% endif %}" * 200, "nested too deeply"),
    ],
)
def test_work_and_output_are_bounded(text: str, what: str) -> None:
    with pytest.raises(RenderError, match=what):
        expand(text)


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        ("plain", []),
        ("{{ cluster.name }}{{ cluster.labels.env }}", [("labels", "env"), ("name",)]),
        ("{{ cluster.labels['env'] | upper }}", [("labels", "env")]),
        ("{% for h in cluster.values.hosts %}{{ h.x }}{% endfor %}", [("values", "hosts")]),
        ("{{ cluster.values[cluster.labels.env] }}", [("labels", "env"), ("values",)]),
        ("{% if cluster.values.a is defined %}{{ cluster | tojson }}{% endif %}", [(), ("values", "a")]),
    ],
)
def test_a_template_tells_what_it_reads(text: str, chains: list[tuple[str, ...]]) -> None:
    assert sorted(templates.reads(text, "a.yaml")) == chains


names = st.sampled_from(["a", "b", "c"])
values = st.dictionaries(names, st.none() | st.integers(0, 2) | st.dictionaries(names, st.integers(0, 2)), max_size=3)


@given(values, values, st.lists(st.lists(names, min_size=1, max_size=2), min_size=1, max_size=3))
def test_equal_inputs_expand_equally(one: dict[str, object], two: dict[str, object], paths: list[list[str]]) -> None:
    text = "".join(f"{{{{ cluster.values.{'.'.join(path)} | default('D') }}}}" for path in paths)
    clusters = [Cluster(name=name, values=value) for name, value in (("x", one), ("y", two))]
    chains = templates.reads(text, "t")
    outcomes = []
    for cluster in clusters:
        try:
            outcomes.append(templates.expand(text, cluster, "t"))
        except RenderError as error:
            outcomes.append(str(error))
    if templates.inputs(chains, clusters[0]) == templates.inputs(chains, clusters[1]):
        assert outcomes[0] == outcomes[1]
    assert json.loads(templates.inputs(chains, clusters[0])) is not None


@given(st.text(alphabet="{}% clusteranmif|.'\n()[]+-", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        templates.expand("{{ cluster.name }}" + text, CLUSTER, "t")
        templates.reads(text, "t")
    except RenderError:
        pass
