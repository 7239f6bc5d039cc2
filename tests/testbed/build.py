"""Builds the programs of the testbed from pinned Go modules, once per machine.

A tool group is a set of programs that are needed together; each program comes from one directory under `modules/`,
whose go.mod and go.sum pin everything that goes into it. The result of a directory is one cache entry, named by the
content that defines it. A second call only looks at file sizes. `KUBEBUILDER_ASSETS` may name a directory whose
binaries take precedence.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.testbed import cache, toolchain
from tests.testbed.errors import BuildFailed, PartMissing

_MODULES = Path(__file__).parent / "modules"
_MANIFEST = "manifest.json"
_RECIPE = "1"  # raise it when the way of building changes without a change in go.mod
_TOOL_SECONDS = 3600
_HEARTBEAT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: its file name, the directory under modules/ that pins it, and its main package."""

    name: str
    module: str
    package: str
    stamped: bool = False  # Kubernetes reads its version from link-time variables


_KUBERNETES = "k8s.io/kubernetes"

GROUPS: Mapping[str, tuple[Tool, ...]] = MappingProxyType(
    {
        "core": (
            Tool("kube-apiserver", "kubernetes", f"{_KUBERNETES}/cmd/kube-apiserver", stamped=True),
            Tool("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
            Tool("kubectl", "kubernetes", f"{_KUBERNETES}/cmd/kubectl", stamped=True),
            Tool("kube-controller-manager", "kubernetes", f"{_KUBERNETES}/cmd/kube-controller-manager", stamped=True),
            Tool("kube-scheduler", "kubernetes", f"{_KUBERNETES}/cmd/kube-scheduler", stamped=True),
            Tool("kustomize", "kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
            Tool("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        ),
        "jaeger": (Tool("jaeger", "jaeger", "github.com/jaegertracing/jaeger/cmd/all-in-one"),),
    }
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of a group, by name."""

    group: str
    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]


def binaries(group: str = "core") -> Binaries:
    """The programs of `group`, built if they are not in the cache; milliseconds when they are.

    Raises PartMissing when no Go toolchain or no module can be had, BuildFailed when a build ends in an error, KeyError
    for a group that does not exist.
    """
    tools = GROUPS[group]
    paths = _assets(tools)
    missing = [tool for tool in tools if tool.name not in paths]
    for module in dict.fromkeys(tool.module for tool in missing):
        wanted = tuple(tool for tool in missing if tool.module == module)
        place = _Place(group, position={tool.name: tools.index(tool) + 1 for tool in wanted}, total=len(tools))
        entry = _entry(module, wanted, place)
        paths |= {tool.name: entry / tool.name for tool in wanted}
    return Binaries(group, MappingProxyType({tool.name: paths[tool.name] for tool in tools}))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tool stands in its group: for the progress lines."""

    group: str
    position: Mapping[str, int]
    total: int


def _assets(tools: Iterable[Tool]) -> dict[str, Path]:
    """What KUBEBUILDER_ASSETS, the directory that controller tests use everywhere, already has of `tools`."""
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    if not directory:
        return {}
    found = {tool.name: Path(directory).absolute() / tool.name for tool in tools}
    return {name: path for name, path in found.items() if os.access(path, os.X_OK) and path.is_file()}


def _entry(module: str, tools: tuple[Tool, ...], place: _Place) -> Path:
    name = f"{module}-{_key(module, tools)}"
    entry = cache.root() / name
    if _intact(entry, tools):
        return entry
    with cache.locked(name):
        if not _intact(entry, tools):
            go = toolchain.find_go(_go_line(module))
            with cache.publishing(name) as work:
                for tool in tools:
                    _build(go, tool, work / tool.name, place)
                _verify(tools, work)
                _write_manifest(tools, work)
    return entry


def _key(module: str, tools: tuple[Tool, ...]) -> str:
    """A digest of all that defines the entry: pinned sources, programs, link flags, target platform, recipe."""
    digest = hashlib.sha256()
    for file in ("go.mod", "go.sum"):
        content = (_MODULES / module / file).read_bytes()
        digest.update(f"{file} {len(content)}\n".encode() + content)
    for tool in tools:
        digest.update(f"{tool.name} {tool.package} {_ldflags(tool)}\n".encode())
    digest.update(f"{platform.system()} {platform.machine()} {_RECIPE}".encode())
    return digest.hexdigest()[:16]


def _go_line(module: str) -> tuple[int, ...]:
    text = (_MODULES / module / "go.mod").read_text()
    found = re.search(r"^go (\S+)$", text, re.MULTILINE)
    return toolchain.parse_version(found.group(1)) if found else ()


def pinned(tool: Tool) -> str:
    """The version that go.mod pins for the tool's module, e.g. `v1.36.3`."""
    text = (_MODULES / tool.module / "go.mod").read_text()
    versions = dict(re.findall(r"^(?:require )?\t?(\S+) (v\d\S*)", text, re.MULTILINE))
    owners = [path for path in versions if tool.package == path or tool.package.startswith(f"{path}/")]
    return str(versions[max(owners, key=len)])


def _ldflags(tool: Tool) -> str:
    flags = ["-s", "-w"]
    if tool.stamped:
        version = pinned(tool)
        major, minor, _ = version.removeprefix("v").split(".", 2)
        stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items()]
    return " ".join(flags)


def _build(go: Path, tool: Tool, target: Path, place: _Place) -> None:
    title = f"{tool.name} ({place.position[tool.name]}/{place.total} of {place.group})"
    cache.say(f"building {title} ...")
    began = time.monotonic()
    command: list[str | Path] = [
        go,
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        _ldflags(tool),
    ]
    output = target.with_suffix(".log")
    with output.open("w") as log:
        process = subprocess.Popen(
            [*command, "-o", target, tool.package],
            cwd=_MODULES / tool.module,
            env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            code = _wait(process, title, began)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        said = output.read_text(errors="replace").strip()[-2000:]
        if re.search(r"dial tcp|no such host|i/o timeout|connection refused|TLS handshake timeout", said):
            raise PartMissing(tool.name, f"its Go modules cannot be downloaded: {said[-300:]}")
        raise BuildFailed(f"go build {tool.package}: exit {code}\n{said}")
    output.unlink()
    cache.say(f"built {title} in {time.monotonic() - began:.0f} s")


def _wait(process: subprocess.Popen[bytes], title: str, began: float) -> int:
    while (elapsed := time.monotonic() - began) < _TOOL_SECONDS:
        try:
            return process.wait(_HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            cache.say(f"building {title} ... {elapsed + _HEARTBEAT_SECONDS:.0f} s")
    raise BuildFailed(f"go build of {title}: not done after {_TOOL_SECONDS} s")


_VERSION_ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"kubectl": ("version", "--client"), "kustomize": ("version",), "jaeger": ("version",)}
)


def _verify(tools: Iterable[Tool], directory: Path) -> None:
    """Every program runs and, where its build carries a version, tells the pinned one."""
    for tool in tools:
        arguments = _VERSION_ARGUMENTS.get(tool.name, ("--version",))
        answer = subprocess.run(
            [directory / tool.name, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        said = answer.stdout + answer.stderr
        if answer.returncode != 0 or (tool.stamped and pinned(tool) not in said):
            raise BuildFailed(f"{tool.name} {' '.join(arguments)}: exit {answer.returncode}: {said.strip()[-500:]}")


def _write_manifest(tools: Iterable[Tool], directory: Path) -> None:
    manifest = {tool.name: {"version": pinned(tool), "bytes": (directory / tool.name).stat().st_size} for tool in tools}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _intact(entry: Path, tools: Iterable[Tool]) -> bool:
    """Whether every program of the entry is there, executable and of its recorded size."""
    try:
        manifest = json.loads((entry / _MANIFEST).read_bytes())
        return all(
            (entry / tool.name).stat().st_size == manifest[tool.name]["bytes"] and os.access(entry / tool.name, os.X_OK)
            for tool in tools
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
