"""fleet.yaml: what it means, and that every way of getting it wrong is said, at its place, with all others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core import fleetfile, yaml
from fleet.model.fleetfile import (
    ApprovalGate,
    Bundle,
    BundleSource,
    Cluster,
    DriftPolicy,
    Fleet,
    GitSource,
    HealthPolicy,
    KubeconfigRef,
    PrunePolicy,
    Requirement,
    Selector,
    Strategy,
    Wave,
)

ROOT = Path(__file__).parents[3]
CASES = sorted((ROOT / "tests/data/fleetfile").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "config/examples").glob("*.yaml"))


def read(path: Path) -> Fleet:
    parsed = fleetfile.parse(path.read_bytes())
    assert parsed.problems == ()
    assert parsed.fleet is not None
    return parsed.fleet


def problems(text: str) -> list[str]:
    parsed = fleetfile.parse(text)
    assert (parsed.fleet is None) == bool(parsed.problems)
    return [str(problem) for problem in parsed.problems]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_problem_is_said_at_once(case: Path) -> None:
    parsed = fleetfile.parse(case.read_bytes())
    said = [str(problem) for problem in parsed.problems] + [f"warning: {warning}" for warning in parsed.warnings]
    assert said == case.with_suffix(".txt").read_text().splitlines()
    assert parsed.fleet is None
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid_without_a_warning(example: Path) -> None:
    parsed = fleetfile.parse(example.read_bytes())
    assert (parsed.problems, parsed.warnings) == ((), ())


def test_defaults_are_those_of_the_model() -> None:
    everything = Selector()
    assert read(ROOT / "config/examples/smallest.yaml") == Fleet(
        name="acme",
        clusters=(Cluster(name="dev", kubeconfig=KubeconfigRef(context="dev")),),
        bundles=(Bundle(name="shop", sources=(BundleSource(name="", path="apps/shop"),), strategy="at-once"),),
        strategies=(Strategy(name="at-once", waves=(Wave(name="all", cluster_selector=everything),)),),
    )


def test_every_key_reaches_the_model() -> None:
    fleet = read(ROOT / "config/examples/several-sources.yaml")
    assert fleet == Fleet(
        name="acme",
        environment_label="env",
        secrets_path="/etc/fleet/secrets",
        otlp_endpoint="http://otel-collector.observability:4318",
        sources=(
            GitSource("apps", "ssh://git@git.acme.example/apps.git", "main", 60.0, "git-apps"),
            GitSource("policies", "https://git.acme.example/policies.git", "v1.4.0", 600.0, "git-policies"),
        ),
        clusters=(
            Cluster(name="hub", labels={"env": "qa"}, in_cluster=True),
            Cluster(name="prod-ap1", labels={"env": "prod", "ring": "canary"}, secret_ref="kc-prod-ap1"),
            Cluster(name="prod-eu1", labels={"env": "prod", "ring": "main"}, secret_ref="kc-prod-eu1"),
            Cluster(name="prod-us1", labels={"env": "prod", "ring": "main"}, secret_ref="kc-prod-us1", paused=True),
        ),
        bundles=(
            Bundle(
                name="base",
                sources=(BundleSource("apps", "base"), BundleSource("policies", "baseline")),
                strategy="standard",
                cluster_selector=Selector(),
                adopt="always",
            ),
            Bundle(
                name="payments",
                sources=(BundleSource("apps", "payments", "payments/clusters/{{ cluster.name }}"),),
                strategy="standard",
                cluster_selector=Selector(match_expressions=(Requirement("env", "In", ("qa", "prod")),)),
                namespace="payments",
                templates=True,
                drift=DriftPolicy(mode="detect"),
                deletion="delete",
            ),
        ),
        gates=(ApprovalGate(name="cab", count=2, timeout=3 * 86400.0, allow_author=True),),
        strategies=(
            Strategy(
                name="standard",
                waves=(
                    Wave("qa", Selector({"env": "qa"}), bake=900.0),
                    Wave(
                        "canary",
                        Selector({"ring": "canary"}),
                        bake=3600.0,
                        gates_before=("cab",),
                        health=HealthPolicy(stable_for=300.0, progress_deadline=600.0),
                    ),
                    Wave("prod", Selector({"env": "prod", "ring": "main"}), max_concurrency="50%"),
                ),
            ),
        ),
    )


def test_the_approval_example() -> None:
    fleet = read(ROOT / "config/examples/approval.yaml")
    (bundle,) = fleet.bundles
    assert bundle.sources == (BundleSource("", "apps/shop", "clusters/{{ cluster.labels.env }}"),)
    assert bundle.prune == PrunePolicy(enabled=True, max_objects=10)
    assert fleet.gates == (ApprovalGate("go", ("group:sre", "user:alice"), 1, 86400.0, False),)
    assert fleet.clusters[2].values == {"replicas": 4}
    qa, prod = fleet.strategies[0].waves
    assert (qa.max_concurrency, prod.protected, prod.gates_before) == ("100%", True, ("go",))


def test_wave_health_overrides_only_what_it_names() -> None:
    text = (ROOT / "config/examples/smallest.yaml").read_text()
    text = text.replace("name: at-once\n", "name: at-once\n    health: {stableFor: 2s, progressDeadline: 3s}\n")
    text = text.replace("clusterSelector: {}}", "clusterSelector: {}, health: {progressDeadline: 9s}}")
    fleet = fleetfile.parse(text).fleet
    assert fleet is not None
    assert fleet.strategies[0].waves[0].health == HealthPolicy(stable_for=2.0, progress_deadline=9.0)


def test_a_source_without_git_is_the_repository_of_fleet_yaml() -> None:
    text = (
        ROOT / "config/examples/smallest.yaml"
    ).read_text() + "sources: [{name: here}, {name: old, git: {ref: v1}}]\n"
    fleet = fleetfile.parse(text).fleet
    assert fleet is not None
    assert fleet.sources == (GitSource("here", ""), GitSource("old", "", ref="v1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["fleet.yaml:1:1: has no value; expected a mapping with "]),
        ("[]", ["fleet.yaml:1:1: is a list; expected a mapping with "]),
        ("a: 1\n---\nb: 1", ["fleet.yaml:2:1: only one document is allowed"]),
    ],
)
def test_a_file_that_is_no_fleet(text: str, expected: list[str]) -> None:
    said = problems(text)
    assert len(said) == len(expected)
    assert all(one.startswith(start) for one, start in zip(said, expected, strict=True))


def test_a_misspelled_key_is_one_problem_with_the_key_that_was_meant() -> None:
    text = (ROOT / "config/examples/smallest.yaml").read_text().replace("strategy:", "strategi:")
    (problem,) = fleetfile.parse(text).problems
    assert msgspec.to_builtins(problem) == {
        "file": "fleet.yaml",
        "line": 9,
        "column": 35,
        "path": "bundles[0].strategi",
        "message": "unknown key `strategi`",
        "suggestion": "strategy",
    }


def test_problems_of_the_caller_have_positions() -> None:
    parsed = fleetfile.parse((ROOT / "config/examples/smallest.yaml").read_bytes(), file="dir/fleet.yaml")
    assert str(parsed.problem(("bundles", 0, "path"), "no such folder")) == (
        "dir/fleet.yaml:9:24: bundles[0].path: no such folder"
    )
    assert parsed.problem(("bundles", 0, "overlay"), "x").column == 5


def test_an_anchor_serves_several_clusters() -> None:
    text = """
apiVersion: fleet/v1
kind: Fleet
metadata: {name: acme}
clusters:
  - &qa {name: qa-1, labels: {env: qa}, kubeconfig: {context: a}}
  - {<<: *qa, name: qa-2, kubeconfig: {context: b}}
"""
    fleet = fleetfile.parse(text).fleet
    assert fleet is not None
    first, second = fleet.clusters
    assert (second.name, second.labels) == ("qa-2", first.labels)
    assert second.labels is not first.labels


def test_problems_are_bounded() -> None:
    said = problems(
        "apiVersion: fleet/v1\nkind: Fleet\nmetadata: {name: a}\n" + "".join(f"x{n}: 1\n" for n in range(500))
    )
    assert len(said) == 201
    assert said[-1].endswith("only 200 problems are shown")


def test_sizes_are_bounded() -> None:
    head = "apiVersion: fleet/v1\nkind: Fleet\nmetadata: {name: a}\n"
    (problem,) = problems(head + "clusters:\n" + "- {}\n" * 5001)
    assert problem == "fleet.yaml:5:1: clusters: has 5001 entries; expected at most 5000"
    assert (
        problems("#" * (1 << 20))
        != problems("#" * ((1 << 20) + 1))
        == ["fleet.yaml:1:1: the file is larger than 1048576 bytes"]
    )


def test_a_thousand_clusters_in_two_waves() -> None:
    text = "apiVersion: fleet/v1\nkind: Fleet\nmetadata: {name: a}\nclusters:\n"
    for number in range(1000):
        env = "qa" if number % 10 == 0 else "prod"
        text += f"- {{name: c{number}, labels: {{env: {env}}}, kubeconfig: {{context: c{number}}}}}\n"
    text += "bundles:\n" + "".join(f"- {{name: b{number}, path: p, strategy: s}}\n" for number in range(200))
    wave = "{{name: {0}, clusterSelector: {{matchLabels: {{env: {0}}}}}}}"
    text += f"strategies: [{{name: s, waves: [{wave.format('qa')}, {wave.format('prod')}]}}]\n"
    fleet = fleetfile.parse(text).fleet
    assert fleet is not None
    assert (len(fleet.clusters), len(fleet.bundles)) == (1000, 200)


WORDS = [
    "apiVersion", "kind", "metadata", "name", "clusters", "bundles", "strategies", "gates", "sources", "waves", "path",
    "clusterSelector", "matchLabels", "matchExpressions", "matchNames", "key", "operator", "values", "In", "labels",
    "strategy", "git", "url", "before", "secrets", "file", "health", "kubeconfig", "type", "approval", "Fleet",
]  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=25,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS[:9]), trees, max_size=9))
def test_any_document_gets_an_answer(tree: dict[str, object]) -> None:
    parsed = fleetfile.parse(yaml.dump_all([tree]))
    assert (parsed.fleet is None) == bool(parsed.problems)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in parsed.problems)


valid = msgspec.json.decode(
    msgspec.json.encode(yaml.load((ROOT / "config/examples/several-sources.yaml").read_bytes(), file="f").value)
)


def paths(value: object, path: yaml.Path = ()) -> list[yaml.Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[found for key, item in items for found in paths(item, (*path, key))]]


@settings(deadline=None)
@given(st.sampled_from(paths(valid)[1:]), leaves | trees)
def test_any_change_of_a_valid_document_gets_an_answer(path: yaml.Path, value: object) -> None:
    tree = msgspec.json.decode(msgspec.json.encode(valid))
    parent = tree
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    parsed = fleetfile.parse(yaml.dump_all([tree]))
    assert (parsed.fleet is None) == bool(parsed.problems)
