from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.cli.local_init import Member, name_of, starter
from fleet.core import fleetfile, targets
from tests.unit.cli.conftest import Fleet, fields

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: staging
contexts:
  - {name: staging, context: {cluster: a, user: a}}
  - {name: "gke_acme_europe-west1_prod", context: {cluster: b, user: b}}
  - {name: "arn:aws:eks:eu-west-1:1234:cluster/Prod.EU 1", context: {cluster: c, user: c}}
  - {name: "no", context: {cluster: d, user: d}}
"""


def test_a_new_fleet_is_valid_and_commented(offline: Fleet, tmp_path: Path) -> None:
    result = offline("init", "new")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "fleet serve --fleet new" in result.stderr
    text = (tmp_path / "new" / "fleet.yaml").read_text()
    parsed = fleetfile.parse(text)
    assert (parsed.problems, parsed.warnings) == ((), ())
    assert parsed.fleet is not None
    assert parsed.fleet.name == "new"
    assert [cluster.name for cluster in parsed.fleet.clusters] == ["qa", "prod"]
    assert text.count("#") > 8
    assert (tmp_path / "new" / parsed.fleet.bundles[0].sources[0].path / "configmap.yaml").is_file()


def test_contexts_become_clusters(offline: Fleet, tmp_path: Path) -> None:
    (tmp_path / "work.kubeconfig").write_text(KUBECONFIG)
    result = offline("init", "new", "--from-kubeconfig", "work.kubeconfig", "-o", "json")
    assert fields(result)["clusters"] == ["staging", "gke-acme-europe-west1-prod", "prod-eu-1", "no"]
    parsed = fleetfile.parse((tmp_path / "new" / "fleet.yaml").read_text())
    assert parsed.fleet is not None, parsed.problems
    reached = {cluster.name: cluster for cluster in parsed.fleet.clusters}
    kubeconfig = reached["prod-eu-1"].kubeconfig
    assert kubeconfig is not None
    assert kubeconfig.context == "arn:aws:eks:eu-west-1:1234:cluster/Prod.EU 1"
    assert kubeconfig.path == str(tmp_path / "work.kubeconfig")
    assert reached["no"].labels == {"env": "qa"}
    waves = targets.waves(parsed.fleet, parsed.fleet.bundles[0])
    assert [(wave.name, names) for wave, names in waves] == [
        ("qa", ("no", "staging")),
        ("prod", ("gke-acme-europe-west1-prod", "prod-eu-1")),
    ]


@pytest.mark.parametrize(
    "args", [("--from-kubeconfig",), ("--from-kubeconfig", "--force"), ("new", "--from-kubeconfig")]
)
def test_without_a_file_kubectls_own_is_taken(offline: Fleet, tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "own").write_text(KUBECONFIG)
    assert offline("init", *args, KUBECONFIG=str(tmp_path / "own")).exit_code == 0
    text = next(tmp_path.rglob("fleet.yaml")).read_text()
    assert "context: staging" in text
    assert "path: " not in text.split("bundles:")[0]


def test_a_kubeconfig_that_is_not_there_is_explained(offline: Fleet, tmp_path: Path) -> None:
    result = offline("init", "--from-kubeconfig", "nowhere")
    assert (result.exit_code, "nowhere: No such file" in result.stderr) == (1, True)
    (tmp_path / "empty").write_text("{}")
    assert "no contexts in it" in offline("init", "--from-kubeconfig", "empty").stderr
    assert not (tmp_path / "fleet.yaml").exists()


def test_what_is_there_is_not_replaced_unasked(offline: Fleet, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("mine")
    result = offline("init")
    assert (result.exit_code, "--force" in result.stderr) == (1, True)
    assert (tmp_path / "fleet.yaml").read_text() == "mine"
    assert not (tmp_path / "apps").exists()
    assert offline("init", "--force").exit_code == 0
    assert (tmp_path / "fleet.yaml").read_text() != "mine"


NAMES = st.text(min_size=1, max_size=80).map(lambda text: name_of(text, "cluster"))


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["qa", "prod"])), min_size=1, max_size=5, unique_by=lambda pair: pair[0]),
    # What the parser of fleet.yaml takes for a context: printable, on one line.
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40),
)
def test_every_starter_is_valid(members: list[tuple[str, str]], context: str) -> None:
    text = starter("acme", [Member(name, env, f"{context} {name}") for name, env in members])
    parsed = fleetfile.parse(text)
    assert parsed.fleet is not None, parsed.problems
    assert [cluster.kubeconfig.context for cluster in parsed.fleet.clusters if cluster.kubeconfig] == [
        f"{context} {name}" for name, _ in members
    ]
