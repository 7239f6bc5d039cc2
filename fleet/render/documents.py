"""YAML and JSON files to objects: what a folder holds, and what a renderer printed.

Files are read in the order of their paths, folders within folders too; names with a leading dot are left out. `kind:
List` is taken apart. Each object remembers where it stood, for errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fleet.core import normalize, yaml
from fleet.errors import InvalidInput, RenderError

SUFFIXES = (".yaml", ".yml", ".json")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
MAX_FILE = 16 << 20


class Limits(msgspec.Struct, frozen=True):
    """Of one bundle on one cluster."""

    objects: int = 10_000
    size: int = 32 << 20
    """Bytes of the files of one folder."""


class Placed(msgspec.Struct, frozen=True):
    """An object as it was written, and where: `apps/web.yaml, document 2`."""

    body: dict[str, Any]
    where: str


def kustomization(folder: Path) -> Path | None:
    """The Kustomize file of a folder; raises RenderError when there are several."""
    found = [folder / name for name in KUSTOMIZATIONS if (folder / name).is_file()]
    if len(found) > 1:
        raise RenderError(f"{folder.name} has both {found[0].name} and {found[1].name}")
    return found[0] if found else None


def parse(data: bytes | str, where: str) -> list[Placed]:
    """The objects of one file; raises RenderError with the file and the number of the document."""
    try:
        documents = yaml.load_all(data, file=where)
    except InvalidInput as error:
        raise RenderError(str(error)) from error
    return [
        placed
        for number, document in enumerate(documents, start=1)
        if document is not None
        for placed in _objects(document, f"{where}, document {number}" if len(documents) > 1 else where)
    ]


def _objects(document: object, where: str) -> Iterator[Placed]:
    if not isinstance(document, dict):
        raise RenderError(f"{where}: not an object but {_kind_of(document)}")
    kind = document.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"]):
            yield from _objects(item, f"{where}, items[{number}]")
        return
    if str(document.get("apiVersion", "")).startswith("kustomize.config.k8s.io/"):
        raise RenderError(
            f"{where}: a {kind} of Kustomize cannot be applied; its file must be named kustomization.yaml"
        )
    try:
        normalize.identity(document)
    except InvalidInput as error:
        raise RenderError(f"{where}: {error}") from error
    yield Placed(document, where)


def _kind_of(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")


class Folder:
    """A folder of plain files. `read` gives a file's content (expanded, where templates are on)."""

    def __init__(self, root: Path, path: str, read: Callable[[Path], bytes | str], limits: Limits) -> None:
        self._root = root
        self._folder = root / path
        self._read = read
        self._limits = limits

    def objects(self, skip: Callable[[str], bool] = lambda _: False) -> list[Placed]:
        """All objects; `skip` tells which sub-folders (relative to this one) are left out. Raises RenderError."""
        found: list[Placed] = []
        size = 0
        for file in self._files(skip):
            content = self._read(file)
            size += len(content)
            if size > self._limits.size:
                raise RenderError(f"{self._shown} holds more than {self._limits.size} bytes")
            found += parse(content, str(file.relative_to(self._root)))
            if len(found) > self._limits.objects:
                raise RenderError(f"{self._shown} holds more than {self._limits.objects} objects")
        return found

    def _files(self, skip: Callable[[str], bool]) -> Iterator[Path]:
        if not self._folder.is_dir():
            raise RenderError(f"there is no folder {self._shown}")
        for parent, folders, names in os.walk(self._folder, followlinks=False):
            here = Path(parent)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and not skip(str((here / name).relative_to(self._folder)))
            )
            if here != self._folder and kustomization(here):
                nested = here.relative_to(self._folder)
                raise RenderError(
                    f"{self._shown} is a folder of plain files, but {nested} in it is a Kustomize root; "
                    f"name that one as `path` or `overlay`, or give {self._shown} a kustomization.yaml"
                )
            yield from (here / name for name in sorted(names) if name.endswith(SUFFIXES) and not name.startswith("."))

    @property
    def _shown(self) -> str:
        shown = self._folder.relative_to(self._root)
        return str(shown) if shown.parts else "the root of the source"


def read(file: Path) -> bytes:
    """The bytes of a file, `MAX_FILE` at most; raises RenderError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise RenderError(f"cannot read {file.name}: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise RenderError(f"{file.name} has more than {MAX_FILE} bytes")
    return data
