"""Kustomize roots: what they refer to, and their build by the kustomize program.

Nothing is built before every kustomization file that takes part was read: each path in it must be a file or folder of
the same source, so nothing is left that kustomize could want from a network. The program gets an empty environment, no
git to clone with and a proxy that nobody answers at; charts, plugins and files outside a root are refused.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fleet.aio import process
from fleet.core import yaml
from fleet.errors import InvalidInput, RenderError
from fleet.render.documents import kustomization


class NotRun(RenderError):
    """Kustomize could not be run to its end; the same input may well render another time."""

    transient = True


class KustomizeSettings(msgspec.Struct, frozen=True):
    """`deadline` in seconds, `output_limit` in bytes."""

    program: str = "kustomize"
    deadline: float = 60.0
    output_limit: int = 64 << 20
    max_folders: int = 200
    """Kustomization files that one build may consist of."""


_FOLDERS = ("resources", "bases", "components")
_PLUGINS = ("generators", "transformers", "validators")
_PATHS = ("crds", "configurations", "patchesStrategicMerge")
_CHARTS = ("helmCharts", "helmChartInflationGenerator", "helmGlobals")
_PATH_KEYS = ("path", "paths", "file", "files", "env", "envs", "url", "repo", "resources", "bases")
_NO_PATHS = (
    "annotations",
    "commonAnnotations",
    "commonLabels",
    "generatorOptions",
    "labels",
    "literals",
    "metadata",
    "options",
)
_REMOTE = re.compile(
    r"^(https?|ssh|git|file):|://|^git::|^[\w.-]+@[\w.-]+:|^github\.com/|\?(ref|version|submodules|timeout)=",
    re.IGNORECASE,
)
_ENVIRONMENT = {
    "HOME": "/nonexistent",
    "PATH": "/nonexistent",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    # It lives for a tenth of a second: collecting its garbage costs more than it frees.
    "GOGC": "off",
    "GOMEMLIMIT": "192MiB",
    "GOMAXPROCS": "1",
}
_SHOWN = 600


def is_root(folder: Path) -> bool:
    """Whether kustomize is to build the folder; raises RenderError when it has two kustomization files."""
    return kustomization(folder) is not None


def absent(
    root: Path,
    folders: Sequence[str],
    path: str,
    read: Callable[[Path], bytes | str],
    settings: KustomizeSettings,
) -> frozenset[str]:
    """What the Kustomize root at `path` refers to, directly or not, outside of `folders` (those that are on disk).

    It may be a folder of the source that was not exported yet, or nothing. Raises RenderError for what is refused.
    """
    scan = _Scan(root, folders, read, settings)
    scan.visit(path, "fleet.yaml")
    return frozenset(scan.absent)


class _Scan:
    """Follows the references of kustomization files."""

    def __init__(
        self, root: Path, folders: Sequence[str], read: Callable[[Path], bytes | str], settings: KustomizeSettings
    ) -> None:
        self._root = root
        self._folders = folders
        self._read = read
        self._settings = settings
        self._seen: set[str] = set()
        self.absent: set[str] = set()

    def visit(self, path: str, referrer: str) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        if len(self._seen) > self._settings.max_folders:
            raise RenderError(f"a Kustomize build may consist of {self._settings.max_folders} folders")
        file = kustomization(self._root / path)
        if file is None:
            raise RenderError(f"{referrer} refers to {path or 'the root'}, which has no kustomization.yaml")
        where = posixpath.join(path, file.name)
        try:
            content = yaml.load(self._read(file), file=where).value
        except InvalidInput as error:
            raise RenderError(str(error)) from error
        if not isinstance(content, dict):
            raise RenderError(f"{where}: not a Kustomization")
        self._check(content, path, where)

    def _check(self, content: dict[str, Any], path: str, where: str) -> None:
        for key in _CHARTS:
            if content.get(key):
                raise RenderError(f"{where}: `{key}` is not read; charts are not rendered by Kustomize here")
        for value in _strings(content.get(key) for key in _FOLDERS):
            self._reference(value, path, where)
        for value in _strings(content.get(key) for key in _PLUGINS):
            self._plugin(value, path, where)
        for value in _path_values({key: value for key, value in content.items() if key not in _PLUGINS}):
            self._refuse_remote(value, where)
        for value in _strings(content.get(key) for key in _PATHS):
            self._refuse_remote(value, where)

    def _reference(self, value: str, path: str, where: str) -> None:
        """A file or folder to build; a folder that is not here is noted."""
        self._refuse_remote(value, where)
        target = posixpath.normpath(posixpath.join(path, value))
        target = "" if target == "." else target
        if value.startswith("/") or target == ".." or target.startswith("../"):
            raise RenderError(f"{where}: {value} leads out of the source")
        found = self._root / target
        if not any(not folder or target == folder or target.startswith(f"{folder}/") for folder in self._folders):
            self.absent.add(target)
        elif found.is_dir():
            self.visit(target, where)
        elif not found.is_file():
            raise RenderError(f"{where}: there is no {target}")

    def _plugin(self, value: str, path: str, where: str) -> None:
        """Configuration of a built-in plugin: a folder, a file or the text itself."""
        if "\n" in value:
            self._configuration(value, where)
            return
        self._reference(value, path, where)
        file = self._root / posixpath.normpath(posixpath.join(path, value))
        if file.is_file():
            self._configuration(self._read(file), f"{where}: {value}")

    def _configuration(self, text: bytes | str, where: str) -> None:
        try:
            documents = yaml.load_all(text, file=where)
        except InvalidInput as error:
            raise RenderError(str(error)) from error
        for document in documents:
            for value in _path_values(document):
                self._refuse_remote(value, where)

    def _refuse_remote(self, value: str, where: str) -> None:
        # Generators write KEY=PATH.
        if "\n" not in value and (_REMOTE.search(value) or _REMOTE.search(value.partition("=")[2])):
            raise RenderError(f"{where}: {value} is remote; what is rendered must lie in the source itself")


def _strings(values: Iterable[Any]) -> Iterator[str]:
    """Texts of lists (or of what stands alone) under the keys asked for."""
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                yield item


def _path_values(value: Any) -> Iterator[str]:
    """Texts, at any depth, under the keys that Kustomize reads files by."""
    if isinstance(value, list):
        for item in value:
            yield from _path_values(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _PATH_KEYS:
                yield from _strings([item])
            if key not in _NO_PATHS:
                yield from _path_values(item)


async def build(root: Path, path: str, settings: KustomizeSettings) -> bytes:
    """The YAML that the Kustomize root at `path` yields; raises RenderError, or NotRun when that says nothing of it."""
    # Looked up on our PATH: the one that the program itself gets leads nowhere.
    program = shutil.which(settings.program)
    if program is None:
        raise NotRun(
            f"{path or '.'}: {settings.program} is not installed, and this folder is a Kustomize root; "
            "put it on PATH, or its place into FLEET_RENDER_KUSTOMIZE"
        )
    try:
        done = await process.run(
            [program, "build", str(root / path), "--load-restrictor", "LoadRestrictionsRootOnly"],
            env=_ENVIRONMENT,
            deadline=settings.deadline,
            stdout_limit=settings.output_limit,
            cwd=root,
        )
    except process.TooMuchOutput as error:
        raise RenderError(f"{path or '.'}: {error}") from error
    except process.ProcessError as error:
        raise NotRun(f"{path or '.'}: {error}") from error
    if done.returncode != 0:
        raise RenderError(f"{path or '.'}: {_complaint(done.complaint, root)}")
    return done.stdout


def _complaint(text: str, root: Path) -> str:
    """The last thing kustomize said, without the place of the export on our disk."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("# Warning")]
    joined = " ".join(lines).removeprefix("Error: ").replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
    return joined[:_SHOWN] or "kustomize failed without a word"
