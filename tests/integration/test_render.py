"""Whole renders with the real kustomize: bases and overlays, templates, confinement, limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import RenderError
from fleet.model.fleetfile import Cluster
from fleet.model.objects import ManifestSet
from fleet.model.rendering import Part, RenderRequest
from fleet.render.kustomize import KustomizeSettings, NotRun
from fleet.render.renderer import Renderer, RenderSettings
from tests.testbed import build

pytestmark = pytest.mark.anyio

QA = Cluster(name="qa-eu1", labels={"env": "qa"}, values={"replicas": 1})
QA2 = Cluster(name="qa-us1", labels={"env": "qa"}, values={"replicas": 1})
PROD = Cluster(name="prod-eu1", labels={"env": "prod"}, values={"replicas": 3})

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
"""
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: '1'}\n"


@pytest.fixture(scope="session")
def program() -> Path:
    return build.binaries("core")["kustomize"]


@pytest.fixture
def renderer(program: Path) -> Renderer:
    return Renderer(RenderSettings(kustomize=KustomizeSettings(program=str(program))))


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def request(
    root: Path, cluster: Cluster = QA, path: str = "shop", overlay: str | None = None, **options: Any
) -> RenderRequest:
    pattern = options.pop("pattern", None)
    part = Part(str(root), ("",), path, options.pop("digest", "d"), overlay, pattern)
    return RenderRequest("acme", "shop", cluster, (part,), **({"namespace": "shop"} | options))


def bodies(manifests: ManifestSet) -> dict[str, dict[str, Any]]:
    return {str(item.id): json.loads(item.body) for item in manifests.manifests}


async def test_plain_files_become_stamped_manifests(tmp_path: Path, renderer: Renderer) -> None:
    write(tmp_path, {"shop/a.yaml": DEPLOYMENT + "---\n" + CONFIG})
    found = bodies(await renderer.render(request(tmp_path)))
    assert set(found) == {"apps/Deployment shop/web", "ConfigMap shop/web", "Namespace shop"}
    metadata = found["apps/Deployment shop/web"]["metadata"]
    assert metadata["labels"] == {"fleet/bundle": "shop"}
    assert metadata["annotations"] == {"fleet/tracking-id": "acme:shop:apps/Deployment:shop/web"}
    assert found["Namespace shop"]["metadata"]["annotations"]["fleet/prune"] == "disabled"


async def test_a_kustomize_root_is_built(tmp_path: Path, renderer: Renderer) -> None:
    write(
        tmp_path,
        {
            "base/kustomization.yaml": "resources: [d.yaml]\n",
            "base/d.yaml": DEPLOYMENT,
            "shop/kustomization.yaml": (
                "resources: [../base]\nreplicas: [{name: web, count: 4}]\n"
                "configMapGenerator: [{name: web, files: [app.properties]}]\n"
            ),
            "shop/app.properties": "x=1\n",
        },
    )
    found = bodies(await renderer.render(request(tmp_path)))
    assert found["apps/Deployment shop/web"]["spec"]["replicas"] == 4
    [generated] = [item for item in found.values() if item["kind"] == "ConfigMap"]
    assert generated["data"] == {"app.properties": "x=1\n"}


async def test_a_kustomize_overlay_replaces_the_root(tmp_path: Path, renderer: Renderer) -> None:
    write(
        tmp_path,
        {
            "shop/kustomization.yaml": "resources: [d.yaml]\n",
            "shop/d.yaml": DEPLOYMENT,
            "shop/overlays/qa/kustomization.yaml": "resources: [../..]\nnamePrefix: qa-\n",
        },
    )
    part = request(tmp_path, overlay="shop/overlays/qa")
    with pytest.raises(RenderError, match="cycle"):
        await renderer.render(part)
    write(
        tmp_path,
        {
            "base/kustomization.yaml": "resources: [d.yaml]\n",
            "base/d.yaml": DEPLOYMENT,
            "shop/overlays/qa/kustomization.yaml": "resources: [../../../base]\nnamePrefix: qa-\n",
        },
    )
    found = await renderer.render(request(tmp_path, overlay="shop/overlays/qa", digest="e"))
    assert "apps/Deployment shop/qa-web" in bodies(found)


async def test_plain_overlays_go_over_built_and_plain_bases(tmp_path: Path, renderer: Renderer) -> None:
    over = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 9}\n"
    write(tmp_path, {"shop/d.yaml": DEPLOYMENT, "shop/clusters/qa-eu1/d.yaml": over, "shop/clusters/x/d.yaml": "[bad"})
    options: dict[str, Any] = {"overlay": "shop/clusters/qa-eu1", "pattern": "clusters/{{ cluster.name }}"}
    found = bodies(await renderer.render(request(tmp_path, **options)))
    assert found["apps/Deployment shop/web"]["spec"]["replicas"] == 9
    assert found["apps/Deployment shop/web"]["spec"]["selector"] == {"matchLabels": {"app": "web"}}
    without = bodies(await renderer.render(request(tmp_path, pattern=options["pattern"])))
    assert without["apps/Deployment shop/web"]["spec"]["replicas"] == 1
    write(tmp_path, {"shop/kustomization.yaml": "resources: [d.yaml]\n"})
    built = bodies(await renderer.render(request(tmp_path, digest="e", **options)))
    assert built["apps/Deployment shop/web"]["spec"]["replicas"] == 9


@pytest.mark.parametrize("rooted", [False, True])
async def test_templates_are_expanded_per_cluster(tmp_path: Path, renderer: Renderer, rooted: bool) -> None:
    text = DEPLOYMENT.replace("replicas: 1", "replicas: {{ cluster.values.replicas }}")
    write(tmp_path, {"shop/d.yaml": text, "shop/notes.txt": "{{ untouched }}"})
    if rooted:
        kustomization = "resources: [d.yaml]\nnamePrefix: {{ cluster.labels.env }}-\n"
        write(
            tmp_path,
            {"shop/kustomization.yaml": kustomization + "configMapGenerator: [{name: notes, files: [notes.txt]}]\n"},
        )
    found = {
        cluster.name: await renderer.render(request(tmp_path, cluster, templates=True)) for cluster in (QA, QA2, PROD)
    }
    replicas = {
        name: item["spec"]["replicas"]
        for name, manifests in found.items()
        for item in bodies(manifests).values()
        if item["kind"] == "Deployment"
    }
    assert replicas == {"qa-eu1": 1, "qa-us1": 1, "prod-eu1": 3}
    # Two clusters that give the template the same values share one render.
    assert found["qa-eu1"] is found["qa-us1"]
    assert renderer.cache.rendered == 2
    if rooted:
        assert any("qa-web" in name for name in bodies(found["qa-eu1"]))
        assert any(item.get("data") == {"notes.txt": "{{ untouched }}"} for item in bodies(found["qa-eu1"]).values())


async def test_braces_are_left_alone_without_templates(tmp_path: Path, renderer: Renderer) -> None:
    write(tmp_path, {"shop/a.yaml": CONFIG.replace("'1'", "'{{ $labels.x }}'")})
    found = bodies(await renderer.render(request(tmp_path)))
    assert found["ConfigMap shop/web"]["data"] == {"a": "{{ $labels.x }}"}


async def test_equal_input_is_rendered_once_for_all_clusters(tmp_path: Path, renderer: Renderer) -> None:
    write(tmp_path, {"shop/kustomization.yaml": "resources: [d.yaml]\n", "shop/d.yaml": DEPLOYMENT})
    results = [await renderer.render(request(tmp_path, cluster)) for cluster in (QA, QA2, PROD)]
    assert renderer.cache.rendered == 1
    assert results[0] is results[1] is results[2]


@pytest.mark.parametrize(
    "files",
    [
        {"shop/README.md": "nothing"},
        {"shop/a.yaml": "# nothing\n---\n"},
        {"shop/kustomization.yaml": "commonLabels: {a: b}\n"},
        {"shop/a.yaml": CONFIG, "shop/o/a.yaml": CONFIG + "$patch: delete\n"},
    ],
)
async def test_no_object_at_all_is_an_error(tmp_path: Path, renderer: Renderer, files: dict[str, str]) -> None:
    write(tmp_path, files)
    overlay = "shop/o" if "shop/o/a.yaml" in files else None
    with pytest.raises(RenderError, match=r"holds no object|kustomization\.yaml is empty"):
        await renderer.render(request(tmp_path, overlay=overlay, pattern="o" if overlay else None))


async def test_kustomize_reads_no_file_outside_its_root(tmp_path: Path, renderer: Renderer) -> None:
    write(
        tmp_path,
        {
            "secret.txt": "s3cr3t",
            "shop/kustomization.yaml": "configMapGenerator: [{name: a, files: [../secret.txt]}]\n",
        },
    )
    with pytest.raises(RenderError, match="security") as caught:
        await renderer.render(request(tmp_path))
    assert str(tmp_path) not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_plugins_that_execute_are_refused(tmp_path: Path, renderer: Renderer) -> None:
    canary = tmp_path / "ran"
    plugin = (
        "apiVersion: acme.example/v1\nkind: Evil\nmetadata:\n  name: x\n  annotations:\n"
        f'    config.kubernetes.io/function: |\n      exec: {{path: /bin/touch, args: ["{canary}"]}}\n'
    )
    write(tmp_path, {"shop/kustomization.yaml": "generators: [plugin.yaml]\n", "shop/plugin.yaml": plugin})
    with pytest.raises(RenderError, match="plugin"):
        await renderer.render(request(tmp_path))
    assert not canary.exists()


async def test_a_missing_program_and_a_slow_one_are_told_and_tried_again(tmp_path: Path, program: Path) -> None:
    write(tmp_path, {"shop/kustomization.yaml": "resources: [d.yaml]\n", "shop/d.yaml": DEPLOYMENT})
    missing = Renderer(RenderSettings(kustomize=KustomizeSettings(program="/nowhere/kustomize")))
    for _ in range(2):
        with pytest.raises(NotRun, match="/nowhere/kustomize is not installed"):
            await missing.render(request(tmp_path))
    assert missing.cache.rendered == 2
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    slow.chmod(0o755)
    sleeping = Renderer(RenderSettings(kustomize=KustomizeSettings(program=str(slow), deadline=0.2)))
    with pytest.raises(NotRun, match="took longer"):
        await sleeping.render(request(tmp_path))


async def test_output_is_bounded(tmp_path: Path, program: Path) -> None:
    write(tmp_path, {"shop/kustomization.yaml": "resources: [d.yaml]\n", "shop/d.yaml": DEPLOYMENT})
    tight = Renderer(RenderSettings(kustomize=KustomizeSettings(program=str(program), output_limit=100)))
    with pytest.raises(RenderError, match="more than 100 bytes"):
        await tight.render(request(tmp_path))


async def test_errors_name_the_file(tmp_path: Path, renderer: Renderer) -> None:
    duplicate = DEPLOYMENT.replace('{name: web, image: "nginx:1"}', "{name: web}, {name: web}")
    write(tmp_path, {"shop/d.yaml": CONFIG + "---\n" + duplicate})
    with pytest.raises(RenderError, match=r"shop/d\.yaml, document 2: .*containers: two items with name web"):
        await renderer.render(request(tmp_path))
    write(tmp_path, {"shop/d.yaml": CONFIG, "shop/e.yaml": CONFIG})
    with pytest.raises(RenderError, match=r"shop/e\.yaml: ConfigMap shop/web is defined in shop/d\.yaml, too"):
        await renderer.render(request(tmp_path, digest="e"))
