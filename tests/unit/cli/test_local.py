"""The offline commands on working trees and repositories on disk."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.cli.conftest import Fleet, fields
from tests.unit.engine.parts import FLEET

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: info}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {key: CANARY-ONE}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: old}
data: {a: b}
"""


@pytest.fixture
def tree(tmp_path: Path, offline: Fleet) -> Path:
    """A working tree with the bundle shop; nothing is committed."""
    folder = tmp_path / "acme"
    write(folder / "fleet.yaml", FLEET)
    write(folder / "apps/shop/all.yaml", MANIFESTS)
    write(tmp_path / ".kube/config", "contexts: [{name: qa}, {name: prod}]")
    git(tmp_path, "init", "-q", "-b", "main", "acme")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *args: str) -> str:
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    identity = ["-c", "user.name=Ana", "-c", "user.email=ana@acme.example"]
    done = subprocess.run(
        ["git", *identity, *args], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


# --- validate --------------------------------------------------------------------------------------------------------


def test_a_valid_tree(tree: Path, offline: Fleet) -> None:
    result = offline("validate", "acme")
    assert (result.exit_code, result.stdout) == (0, "acme/fleet.yaml: valid (2 clusters, 1 bundles)\n")
    assert fields(offline("validate", "acme", "-o", "json")) == {"valid": True, "errors": [], "warnings": []}


def test_errors_have_their_place_and_a_suggestion(tree: Path, offline: Fleet) -> None:
    write(tree / "fleet.yaml", FLEET.replace("strategy: qa", "strategi: qa").replace("env: qa", "env: ca"))
    result = offline("validate", "acme", "-o", "json")
    assert result.exit_code == 1
    answer = fields(result)
    assert answer["valid"] is False
    first = answer["errors"][0]
    assert (first["file"], first["line"] > 1, first["suggestion"]) == ("acme/fleet.yaml", True, "strategy")
    text = offline("validate", "acme")
    assert text.exit_code == 1
    assert f"acme/fleet.yaml:{first['line']}:{first['column']}: " in text.stdout
    assert "did you mean `strategy`?" in text.stdout


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("apps/shop/all.yaml", "a: [", "all.yaml"),
        ("apps/shop/all.yaml", "kind: ConfigMap", "apiVersion"),
        ("fleet.yaml", FLEET.replace("apps/shop", "apps/nowhere"), "apps/nowhere"),
        ("apps/shop/kustomization.yaml", "resources: [missing.yaml]", "missing.yaml"),
    ],
)
def test_what_a_bundle_refers_to_is_checked(tree: Path, offline: Fleet, path: str, text: str, says: str) -> None:
    write(tree / path, text)
    result = offline("validate", "acme", "-o", "json")
    assert result.exit_code == 1
    (error,) = fields(result)["errors"]
    assert error["path"] == "bundles[0]"
    assert says in error["message"]


def test_credentials_that_are_not_here_only_warn(tree: Path, offline: Fleet, tmp_path: Path) -> None:
    write(tmp_path / ".kube/config", "contexts: [{name: qa}, {name: pro}]")
    result = offline("validate", "acme", "-o", "json")
    assert result.exit_code == 0
    (warning,) = fields(result)["warnings"]
    assert (warning["path"], warning["suggestion"]) == ("clusters[1].kubeconfig.context", "pro")


def test_sources_that_are_elsewhere_are_named_or_given(tree: Path, offline: Fleet, tmp_path: Path) -> None:
    text = FLEET.replace("path: apps/shop", "sources: [{name: apps, path: shop}]")
    write(tree / "fleet.yaml", text + 'sources: [{name: apps, git: {url: "https://git.acme.example/apps.git"}}]\n')
    left_out = fields(offline("validate", "acme", "-o", "json"))
    assert [each["message"] for each in left_out["warnings"]] == [
        "bundle shop is left out: its sources are not here; give --source apps=DIR"
    ]
    write(tmp_path / "apps/shop/a.yaml", "kind: Nothing")
    result = offline("validate", "acme", "--source", "apps=apps", "-o", "json")
    assert (result.exit_code, len(fields(result)["errors"]), fields(result)["warnings"]) == (1, 1, [])
    assert offline("validate", "acme", "--source", "apps=nowhere").exit_code == 2


def test_no_fleet_yaml_is_exit_one_and_names_init(offline: Fleet) -> None:
    result = offline("validate")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "fleet.yaml: No such file" in result.stderr
    assert "fleet init" in result.stderr


def test_the_schema_accepts_what_init_writes(offline: Fleet, tmp_path: Path) -> None:
    schema = fields(offline("schema"))
    offline("init", "new")
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load((tmp_path / "new/fleet.yaml").read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"kind": "Fleet"})


# --- render ----------------------------------------------------------------------------------------------------------


def test_render_prints_what_would_be_applied(tree: Path, offline: Fleet) -> None:
    as_yaml = list(yaml.safe_load_all(offline("render", "acme", "--cluster", "qa").stdout))
    listed = fields(offline("render", "acme", "--cluster", "qa", "-o", "json"))
    assert listed["kind"] == "List"
    assert listed["items"] == as_yaml
    named = {(each["kind"], each["metadata"]["name"]) for each in as_yaml}
    assert named == {("ConfigMap", "settings"), ("ConfigMap", "old"), ("Secret", "key"), ("Namespace", "shop")}
    assert all(each["metadata"]["labels"]["fleet/bundle"] == "shop" for each in as_yaml)


def test_render_expands_templates_for_the_cluster(tree: Path, offline: Fleet) -> None:
    write(tree / "fleet.yaml", FLEET.replace("namespace: shop", "namespace: shop, templates: true"))
    write(tree / "apps/shop/all.yaml", MANIFESTS.replace("level: info", "level: '{{ cluster.labels.env }}'"))
    for cluster in ("qa", "prod"):
        items = fields(offline("render", "acme", "--cluster", cluster, "--bundle", "shop", "-o", "json"))["items"]
        assert next(each for each in items if each["metadata"]["name"] == "settings")["data"] == {"level": cluster}


@pytest.mark.parametrize("args", [("--cluster", "pro"), ("--cluster", "qa", "--bundle", "shap")])
def test_render_of_an_unknown_name_tells_the_known_ones(tree: Path, offline: Fleet, args: tuple[str, ...]) -> None:
    result = offline("render", "acme", *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "it has " in result.stderr


def test_render_of_a_broken_bundle_fails(tree: Path, offline: Fleet) -> None:
    write(tree / "apps/shop/all.yaml", "a: [")
    result = offline("render", "acme", "--cluster", "qa")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "bundle shop" in result.stderr


# --- plan ------------------------------------------------------------------------------------------------------------


def plan(offline: Fleet, *args: str) -> Any:
    result = offline("plan", "acme", *args, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return fields(result)


def test_a_plan_collapses_equal_changes_and_lists_waves(tree: Path, offline: Fleet) -> None:
    before = commit(tree)
    write(tree / "apps/shop/all.yaml", MANIFESTS.replace("info", "debug").replace("name: old", "name: new"))
    answer = plan(offline)
    assert (answer["from"], answer["to"]) == (before, "working tree")
    (bundle,) = answer["bundles"]
    assert bundle["groups"] == [
        {
            "clusters": ["prod", "qa"],
            "create": ["v1/ConfigMap shop/new"],
            "change": [
                {
                    "object": "v1/ConfigMap shop/settings",
                    "fields": [{"path": "data.level", "from": "info", "to": "debug"}],
                }
            ],
            "delete": ["v1/ConfigMap shop/old"],
        }
    ]
    assert bundle["waves"] == [
        {"name": "qa", "clusters": ["qa"], "gates": [], "bakeSeconds": 600.0},
        {"name": "prod", "clusters": ["prod"], "gates": ["go"], "bakeSeconds": 0.0},
    ]
    assert bundle["warnings"] == ["1 object no longer wanted; without prune.enabled they stay in the clusters"]


def test_a_plan_deletes_where_prune_is_on(tree: Path, offline: Fleet) -> None:
    write(tree / "fleet.yaml", FLEET.replace("namespace: shop", "namespace: shop, prune: {enabled: true}"))
    commit(tree)
    write(tree / "apps/shop/all.yaml", MANIFESTS.partition("---")[0])
    (bundle,) = plan(offline)["bundles"]
    assert bundle["groups"][0]["delete"] == ["v1/ConfigMap shop/old", "v1/Secret shop/key"]
    assert bundle["warnings"] == ["deletes 2 objects"]
    text = offline("plan", "acme").stdout
    assert "2 clusters: 2 pruned (prod, qa)" in text
    assert "- v1/Secret shop/key" in text


def test_values_of_secrets_are_masked(tree: Path, offline: Fleet) -> None:
    commit(tree)
    write(tree / "apps/shop/all.yaml", MANIFESTS.replace("CANARY-ONE", "CANARY-TWO"))
    for form in ("text", "json", "yaml"):
        result = offline("plan", "acme", "-o", form)
        assert "Secret shop/key" in result.stdout
        assert "CANARY" not in result.stdout + result.stderr
        assert "Q0FOQVJZ" not in result.stdout + result.stderr


def test_a_plan_without_a_commit_counts_everything_as_new(tree: Path, offline: Fleet) -> None:
    answer = plan(offline)
    assert answer["from"] is None
    assert len(answer["bundles"][0]["groups"][0]["create"]) == 4


def test_exit_code_tells_whether_something_changes(tree: Path, offline: Fleet) -> None:
    commit(tree)
    assert offline("plan", "acme", "--exit-code").exit_code == 0
    assert "no change" in offline("plan", "acme").stdout
    write(tree / "apps/shop/all.yaml", MANIFESTS.replace("info", "debug"))
    assert offline("plan", "acme").exit_code == 0
    assert offline("plan", "acme", "--exit-code").exit_code == 1


def test_a_bundle_that_cannot_be_rendered_fails_the_plan_and_shows_the_others(tree: Path, offline: Fleet) -> None:
    more = "  - {name: other, path: apps/other, strategy: qa-then-prod}\nstrategies:"
    write(tree / "fleet.yaml", FLEET.replace("strategies:", more, 1))
    write(tree / "apps/other/a.yaml", MANIFESTS.replace("name: ", "name: other-"))
    commit(tree)
    write(tree / "apps/shop/all.yaml", "a: [")
    write(tree / "apps/other/a.yaml", MANIFESTS.replace("name: ", "name: other-").replace("info", "debug"))
    result = offline("plan", "acme", "-o", "json")
    assert result.exit_code == 1
    shop, other = fields(result)["bundles"]
    assert "all.yaml" in shop["error"]
    assert len(other["groups"]) == 1


def test_a_bundle_and_a_cluster_that_leave(tree: Path, offline: Fleet) -> None:
    commit(tree)
    write(tree / "fleet.yaml", FLEET.replace("name: shop,", "name: store,"))
    answer = plan(offline)
    assert [bundle["bundle"] for bundle in answer["bundles"]] == ["store", "shop"]
    left = answer["bundles"][1]
    assert len(left["groups"][0]["delete"]) == 4
    assert left["warnings"] == ["the bundle leaves fleet.yaml"]


@pytest.mark.parametrize("against", ["no-such-branch", "--upload-pack=touch x", "HEAD~99"])
def test_a_revision_that_is_not_there_is_explained(tree: Path, offline: Fleet, against: str) -> None:
    commit(tree)
    result = offline("plan", "acme", f"--against={against}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no commit {against}" in result.stderr


def test_live_is_refused_clearly(tree: Path, offline: Fleet) -> None:
    result = offline("plan", "acme", "--live")
    assert (result.exit_code, "not supported yet" in result.stderr) == (2, True)


def test_an_invalid_fleet_yaml_points_to_validate(tree: Path, offline: Fleet) -> None:
    write(tree / "fleet.yaml", "kind: Fleet\n")
    for command in (("plan", "acme"), ("render", "acme", "--cluster", "qa")):
        result = offline(*command)
        assert result.exit_code == 1
        assert "`fleet validate` lists all" in result.stderr


def test_answers_are_one_json_document(tree: Path, offline: Fleet) -> None:
    commit(tree)
    for command in (("validate", "acme"), ("plan", "acme"), ("schema",), ("render", "acme", "--cluster", "qa")):
        json.loads(offline(*command, "-o", "json").stdout)
