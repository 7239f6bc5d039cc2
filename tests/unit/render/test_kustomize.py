"""What is refused in kustomization files before the program is started, and which folders they refer to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import RenderError
from fleet.render import documents, kustomize

SETTINGS = kustomize.KustomizeSettings(max_folders=5)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def absent(root: Path, path: str = "app", folders: tuple[str, ...] = ("app",)) -> set[str]:
    return set(kustomize.absent(root, folders, path, documents.read, SETTINGS))


def test_folders_that_are_not_there_are_told(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "app/qa/kustomization.yaml": "resources: [../base, ../../lib, x.yaml]\ncomponents: [../../../parts/c]\n",
            "app/qa/x.yaml": "",
            "app/base/kustomization.yaml": "resources: [../../lib/inner]\n",
        },
    )
    with pytest.raises(RenderError, match=r"app/qa/kustomization\.yaml: \.\./\.\./\.\./parts/c leads out"):
        absent(tmp_path, "app/qa")
    write(tmp_path, {"app/qa/kustomization.yaml": "resources: [../base, ../../lib, x.yaml]\n"})
    assert absent(tmp_path, "app/qa") == {"lib", "lib/inner"}
    write(tmp_path, {"lib/kustomization.yaml": "", "lib/inner/kustomization.yml": "{}"})
    write(tmp_path, {"lib/kustomization.yaml": "resources: []"})
    assert absent(tmp_path, "app/qa", ("app", "lib")) == set()


def test_a_folder_above_what_was_exported_is_not_there_yet(tmp_path: Path) -> None:
    write(tmp_path, {"a/overlays/qa/kustomization.yaml": "resources: [../..]\n"})
    assert absent(tmp_path, "a/overlays/qa", ("a/overlays/qa",)) == {"a"}


@pytest.mark.parametrize(
    "line",
    [
        "resources: ['https://example.com/x.yaml']",
        "resources: ['github.com/org/repo//path?ref=v1', 'https:x']",
        "resources: ['git@example.com:org/repo']",
        "resources: ['ssh://git@example.com/org/repo']",
        "bases: ['git::https://example.com/x']",
        "components: ['HTTPS://example.com/x']",
        "crds: ['https://example.com/x']",
        "configurations: ['file:///etc/passwd']",
        "patches: [{path: 'https://example.com/x'}]",
        "patchesStrategicMerge: ['https://example.com/x']",
        "patchesJson6902: [{path: 'http://x', target: {kind: A, name: b}}]",
        "replacements: [{path: 'http://x'}]",
        "openapi: {path: 'http://x'}",
        "configMapGenerator: [{name: a, files: ['key=http://x']}]",
        "secretGenerator: [{name: a, envs: ['http://x']}]",
        "secretGenerator: [{name: a, env: 'http://x'}]",
        "transformers: ['http://x']",
        "transformers: [plugin.yaml]",
        'generators: ["apiVersion: builtin\\nkind: PatchTransformer\\npath: http://x\\n"]',
    ],
)
def test_nothing_remote_is_referred_to(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"app/kustomization.yaml": line, "app/plugin.yaml": "kind: PatchTransformer\npath: http://x\n"})
    with pytest.raises(RenderError, match="remote"):
        absent(tmp_path)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("helmCharts: [{name: x, repo: 'https://charts.example'}]", "charts"),
        ("helmChartInflationGenerator: [{chartName: x}]", "charts"),
        ("resources: [/etc]", "leads out"),
        ("resources: ['../..']", "leads out"),
        ("resources: [gone.yaml]", "there is no app/gone"),
        ("resources: [plain]", "no kustomization"),
        ("resources: [x]\nresources: [y]", "duplicate"),
        ("- 1", "not a Kustomization"),
        ("", "not a Kustomization"),
    ],
)
def test_refusals_say_why(tmp_path: Path, line: str, what: str) -> None:
    write(tmp_path, {"app/kustomization.yaml": line, "app/plain/a.yaml": ""})
    with pytest.raises(RenderError, match=what):
        absent(tmp_path)


def test_urls_that_are_no_references_are_fine(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "app/kustomization.yaml": (
                "commonAnnotations: {url: 'https://example.com', path: 'https://example.com'}\n"
                "labels: [{pairs: {env: 'https://x'}}]\n"
                "configMapGenerator: [{name: a, literals: ['URL=https://example.com'], files: ['k=f:1.txt']}]\n"
                "patches: [{patch: \"- {op: add, path: /a, value: 'https://x'}\"}]\n"
            )
        },
    )
    assert absent(tmp_path) == set()


def test_a_circle_ends_and_the_number_of_folders_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, {"app/kustomization.yaml": "resources: [b]", "app/b/kustomization.yaml": "resources: ['..']"})
    assert absent(tmp_path) == set()
    for number in range(6):
        write(tmp_path, {f"app/{number}/kustomization.yaml": f"resources: ['../{number + 1}']"})
    with pytest.raises(RenderError, match="consist of 5 folders"):
        absent(tmp_path, "app/0")


@pytest.mark.anyio
async def test_the_program_is_found_on_our_path_and_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"bin/kustomize": '#!/bin/sh\necho "$PATH $1"\n', "app/kustomization.yaml": ""})
    (tmp_path / "bin/kustomize").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert await kustomize.build(tmp_path, "app", SETTINGS) == b"/nonexistent build\n"


@pytest.mark.anyio
async def test_a_program_that_is_not_installed_says_nothing_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kustomize.NotRun, match="kustomize is not installed"):
        await kustomize.build(tmp_path, "app", SETTINGS)
