"""From folders to manifests: the renderer that the planner asks (engine.ports.Renderer).

Per part: the overlay if it is a Kustomize root, else the base (built, or read as plain files) with the overlay's plain
files over it. Then, for all parts together: namespaces, normalisation, our mark, one digest. Reading and normalising
run in a thread (20 ms of CPU for 110 objects), kustomize is a process of its own; the event loop waits for both.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import msgspec

from fleet import settings as settings_
from fleet.core import normalize
from fleet.errors import InvalidInput, RenderError
from fleet.model.fleetfile import Cluster
from fleet.model.objects import ManifestSet
from fleet.model.rendering import Part, RenderRequest
from fleet.render import documents, kustomize, overlay, templates
from fleet.render.cache import Cache
from fleet.render.documents import Folder, Limits, Placed
from fleet.render.kustomize import KustomizeSettings, NotRun
from fleet.render.namespaces import Scopes

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class RenderSettings(msgspec.Struct, frozen=True):
    kustomize: KustomizeSettings = KustomizeSettings()
    limits: Limits = Limits()
    at_once: int = 2
    """Renders at a time; each is a kustomize process or a thread."""
    cache_bytes: int = 16 << 20
    known_inputs: int = 4096
    """Inputs for which it is remembered what their templates read, and that they are whole."""


def of(settings: settings_.RenderSettings) -> RenderSettings:
    """The bounds that an operator chose."""
    return RenderSettings(
        kustomize=KustomizeSettings(
            program=settings.kustomize, deadline=settings.timeout, output_limit=settings.output_limit
        ),
        limits=Limits(objects=settings.objects_max, size=settings.input_limit),
        at_once=settings.concurrent,
    )


class Renderer:
    """Renders bundles; methods raise RenderError."""

    def __init__(self, settings: RenderSettings | None = None) -> None:
        self._settings = settings or RenderSettings()
        self.cache = Cache(self._settings.cache_bytes)
        self._threads = anyio.CapacityLimiter(self._settings.at_once)
        self._builds = anyio.CapacityLimiter(self._settings.at_once)
        self._reads: dict[str, frozenset[templates.Chain]] = {}
        self._whole: dict[tuple[str, str, str], None] = {}

    def expand(self, text: str, cluster: Cluster) -> str:
        """The `overlay` of fleet.yaml for a cluster."""
        return templates.expand(text, cluster, "overlay")

    async def absent(self, part: Part, cluster: Cluster | None) -> frozenset[str]:
        """Folders outside of `part.folders` that its Kustomize roots refer to; `cluster` where templates are on."""
        # Once everything was there it stays there: the digest is of all folders.
        scanned = (part.digest, part.path, part.overlay or "")
        if cluster is None and scanned in self._whole:
            return frozenset()
        absent = await self._thread(_absent, part, cluster, self._settings.kustomize)
        if cluster is None and not absent:
            self._whole[scanned] = None
            while len(self._whole) > self._settings.known_inputs:
                del self._whole[next(iter(self._whole))]
        return absent

    async def key(self, request: RenderRequest) -> str:
        """Content address of everything that decides about the result; equal keys have equal manifests."""
        told = [
            request.fleet,
            request.bundle,
            request.namespace,
            request.create_namespace,
            request.templates,
            [(part.path, part.overlay, part.overlay_pattern, part.digest) for part in request.parts],
        ]
        if request.templates:
            told.append([templates.inputs(await self._chains(part), request.cluster) for part in request.parts])
        return sha256(json.dumps(told).encode()).hexdigest()

    async def render(self, request: RenderRequest) -> ManifestSet:
        """The manifests of a bundle on a cluster. Equal input is rendered once; no manifest at all is an error."""
        return await self.cache.get(await self.key(request), partial(self._render, request))

    async def _chains(self, part: Part) -> frozenset[templates.Chain]:
        known = self._reads.get(part.digest)
        if known is None:
            known = await self._thread(_reads, part)
            self._reads[part.digest] = known
            while len(self._reads) > self._settings.known_inputs:
                del self._reads[next(iter(self._reads))]
        return known

    async def _render(self, request: RenderRequest) -> ManifestSet:
        bases: list[Placed] = []
        patches: list[Placed] = []
        for part in request.parts:
            base, above = await self._part(request, part)
            bases += base
            patches += above
        return await self._thread(_finish, request, bases, patches, self._settings.limits)

    async def _part(self, request: RenderRequest, part: Part) -> tuple[list[Placed], list[Placed]]:
        """The objects of a part, and those of its overlay that are to be put over them."""
        root = Path(part.root)
        if part.overlay is not None and kustomize.is_root(root / part.overlay):
            return await self._build(request, part, part.overlay), []
        above: list[Placed] = []
        if part.overlay is not None:
            above = await self._thread(_plain, request, part, part.overlay, None, self._settings.limits)
        if kustomize.is_root(root / part.path):
            return await self._build(request, part, part.path), above
        base = await self._thread(_plain, request, part, part.path, part.overlay_pattern, self._settings.limits)
        return base, above

    async def _build(self, request: RenderRequest, part: Part, path: str) -> list[Placed]:
        cluster = request.cluster if request.templates else None
        if absent := await self.absent(part, cluster):
            raise RenderError(f"{path or '.'} refers to {min(absent)}, which the source does not have")
        if cluster is None:
            output = await self._kustomize(Path(part.root), path)
        else:
            output = await self._build_copy(part, path, cluster)
        return await self._thread(documents.parse, output, f"the build of {path or '.'}")

    async def _build_copy(self, part: Part, path: str, cluster: Cluster) -> bytes:
        """Builds a copy in which the templates are expanded for a cluster."""
        folder = await self._thread(_private_folder)
        try:
            await self._thread(_expand_copy, part, cluster, folder)
            return await self._kustomize(folder, path)
        finally:
            with anyio.CancelScope(shield=True):
                await self._thread(_remove, folder)

    async def _kustomize(self, root: Path, path: str) -> bytes:
        async with self._builds:
            return await kustomize.build(root, path, self._settings.kustomize)

    async def _thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)


# --- in a worker thread ----------------------------------------------------------------------------------------------


def _reader(cluster: Cluster | None, root: Path) -> Callable[[Path], bytes | str]:
    """How files are read: as they are, or expanded for a cluster."""
    if cluster is None:
        return documents.read
    return lambda file: templates.expand(_text(file, root), cluster, str(file.relative_to(root)))


def _text(file: Path, root: Path) -> str:
    try:
        return documents.read(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RenderError(f"{file.relative_to(root)} is not UTF-8 text") from error


def _plain(request: RenderRequest, part: Part, path: str, pattern: str | None, limits: Limits) -> list[Placed]:
    root = Path(part.root)
    read = _reader(request.cluster if request.templates else None, root)
    return Folder(root, path, read, limits).objects(overlay.excludes(pattern))


def _absent(part: Part, cluster: Cluster | None, settings: KustomizeSettings) -> frozenset[str]:
    root = Path(part.root)
    above = part.overlay is not None and kustomize.is_root(root / part.overlay)
    path = part.overlay if above and part.overlay is not None else part.path
    if not kustomize.is_root(root / path):
        return frozenset()
    return kustomize.absent(root, part.folders, path, _reader(cluster, root), settings)


def _templated(part: Part) -> Iterator[Path]:
    """The files of a part in which `{{ … }}` is expanded."""
    root = Path(part.root)
    for folder in part.folders:
        for parent, folders, names in os.walk(root / folder):
            folders[:] = sorted(name for name in folders if name != ".git")
            yield from (Path(parent, name) for name in sorted(names) if _is_templated(name))


def _is_templated(name: str) -> bool:
    return name.endswith(documents.SUFFIXES) or name in documents.KUSTOMIZATIONS


def _reads(part: Part) -> frozenset[templates.Chain]:
    """What the templates of a part depend on."""
    root = Path(part.root)
    chains: set[templates.Chain] = set()
    for file in _templated(part):
        chains |= templates.reads(_text(file, root), str(file.relative_to(root)))
    return frozenset(chains)


def _private_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="fleet-render-"))
    except OSError as error:
        raise NotRun(f"cannot expand templates: {error.strerror or error}") from error


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _expand_copy(part: Part, cluster: Cluster, into: Path) -> None:
    """A copy of a part with its templates expanded, for kustomize to read."""
    root = Path(part.root)
    read = _reader(cluster, root)
    try:
        for folder in part.folders:
            for parent, folders, names in os.walk(root / folder):
                here = into / Path(parent).relative_to(root)
                here.mkdir(mode=0o700, parents=True, exist_ok=True)
                folders[:] = sorted(name for name in folders if name != ".git")
                for name in (*folders, *names):
                    _copy(Path(parent, name), here / name, read)
    except OSError as error:
        raise NotRun(f"cannot expand templates: {error.strerror or error}") from error


def _copy(source: Path, target: Path, read: Callable[[Path], bytes | str]) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_dir():
        target.mkdir(mode=0o700, exist_ok=True)
    elif _is_templated(source.name):
        content = read(source)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        shutil.copyfile(source, target)


def _finish(request: RenderRequest, bases: Sequence[Placed], patches: Sequence[Placed], limits: Limits) -> ManifestSet:
    """The objects of all parts as one set of manifests."""
    scopes = Scopes(placed.body for placed in (*bases, *patches))
    merged = overlay.merge(bases, patches, lambda body: scopes.settle(body, request.namespace))
    if not merged:
        shown = ", ".join(part.path or "the root of the source" for part in request.parts)
        raise RenderError(f"{shown} holds no object; to remove a bundle, take it out of fleet.yaml")
    if len(merged) > limits.objects:
        raise RenderError(f"{len(merged)} objects, more than {limits.objects}")
    bodies = [_normalized(placed, scopes, request.namespace) for placed in merged]
    if request.create_namespace:
        missing = scopes.missing(bodies, request.namespace)
        bodies += [missing] if missing else []
    try:
        return normalize.manifest_set(
            normalize.manifest(normalize.stamp(body, fleet=request.fleet, bundle=request.bundle)) for body in bodies
        )
    except InvalidInput as error:
        raise RenderError(str(error)) from error


def _normalized(placed: Placed, scopes: Scopes, namespace: str) -> dict[str, Any]:
    try:
        return normalize.normalize(scopes.place(placed.body, namespace))
    except InvalidInput as error:
        raise RenderError(f"{placed.where}: {error}") from error
