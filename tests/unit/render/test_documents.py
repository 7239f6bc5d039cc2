"""Files to objects: order, lists, and errors that say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import RenderError
from fleet.render import documents
from fleet.render.documents import Folder

LIMITS = documents.Limits(objects=10, size=2000)


def config_map(name: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def names(root: Path, path: str = "") -> list[str]:
    return [placed.body["metadata"]["name"] for placed in Folder(root, path, documents.read, LIMITS).objects()]


def test_files_are_read_in_order_and_dot_files_are_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.yaml": config_map("b"),
            "a.yml": config_map("a1") + "---\n" + config_map("a2"),
            "c.json": '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}',
            "d/e.yaml": config_map("e"),
            "README.md": "{{ not yaml",
            ".hidden.yaml": "nonsense: [",
            ".github/x.yaml": "nonsense: [",
        },
    )
    assert names(tmp_path) == ["a1", "a2", "b", "c", "e"]


def test_a_list_is_taken_apart(tmp_path: Path) -> None:
    items = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n"
    nested = "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: y}}\n"
    write(tmp_path, {"a.yaml": items + "---\n" + nested})
    assert names(tmp_path) == ["x", "y"]


def test_empty_documents_do_not_count_as_objects() -> None:
    assert documents.parse(b"---\n# nothing\n---\n", "a.yaml") == []


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("kind: A\nmetadata: {name: x}\n", "f.yaml", "apiVersion is missing"),
        ("apiVersion: v1\nmetadata: {name: x}\n", "f.yaml", "kind is missing"),
        ("apiVersion: v1\nkind: A\n", "f.yaml", "metadata is missing"),
        ("apiVersion: v1\nkind: A\nmetadata: {generateName: x-}\n", "f.yaml", "name is missing"),
        (config_map("a") + "---\n- 1\n", "f.yaml, document 2", "not an object but a list"),
        ("apiVersion: v1\nkind: List\nitems: [7]\n", r"f.yaml, items\[0\]", "a number"),
        ("a: [\n", "f.yaml:2:1", ""),
        ("a: 1\na: 2\n", "f.yaml:2:1", "duplicate key"),
        ("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n", "f.yaml", "must be named"),
    ],
)
def test_errors_name_the_file_and_the_document(text: str, where: str, what: str) -> None:
    with pytest.raises(RenderError, match=rf"{where}.*{what}"):
        documents.parse(text, "f.yaml")


def test_a_kustomize_root_inside_a_plain_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"shop/a.yaml": config_map("a"), "shop/overlays/qa/kustomization.yaml": "resources: []\n"})
    with pytest.raises(RenderError, match="shop is a folder of plain files, but overlays/qa in it is a Kustomize root"):
        names(tmp_path, "shop")


def test_two_kustomization_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"kustomization.yaml": "", "Kustomization": ""})
    with pytest.raises(RenderError, match="both"):
        documents.kustomization(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="there is no folder gone"):
        names(tmp_path, "gone")


def test_a_folder_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": "---\n".join(config_map(f"a{number}") for number in range(11))})
    with pytest.raises(RenderError, match="more than 10 objects"):
        names(tmp_path)
    write(tmp_path, {"a.yaml": "#" * 1500, "b.yaml": "#" * 1500})
    with pytest.raises(RenderError, match="more than 2000 bytes"):
        names(tmp_path)
