"""fleet.yaml as frozen values: every duration in seconds, every default filled in, every reference checked.

Built only by `core.fleetfile`; the keys and their defaults are rollouts.md section 2, restricted to what is in force.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]


class Requirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of matchExpressions."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A label selector over clusters; all parts must hold, the empty selector matches every cluster."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()
    match_names: tuple[str, ...] = ()


class GitSource(msgspec.Struct, frozen=True):
    name: str
    url: str
    """https://, ssh://, file:// or an absolute local path; empty for the repository that fleet.yaml lives in."""
    ref: str = "main"
    interval: float = 60.0
    secret_ref: str | None = None


class KubeconfigRef(msgspec.Struct, frozen=True):
    path: str | None = None
    context: str | None = None


class Cluster(msgspec.Struct, frozen=True):
    """One member cluster; exactly one of kubeconfig, secret_ref and in_cluster is set."""

    name: str
    labels: dict[str, str] = {}
    kubeconfig: KubeconfigRef | None = None
    secret_ref: str | None = None
    in_cluster: bool = False
    values: dict[str, object] = {}
    paused: bool = False


class BundleSource(msgspec.Struct, frozen=True):
    """A folder of a source; `name` "" is the repository of fleet.yaml."""

    name: str
    path: str
    overlay: str | None = None


class DriftPolicy(msgspec.Struct, frozen=True):
    mode: Literal["correct", "detect", "off"] = "correct"


class PrunePolicy(msgspec.Struct, frozen=True):
    enabled: bool = False
    max_objects: int = 10


class Bundle(msgspec.Struct, frozen=True):
    name: str
    sources: tuple[BundleSource, ...]
    strategy: str
    cluster_selector: Selector | None = None
    """None selects what the waves of the strategy select."""
    namespace: str = "default"
    create_namespace: bool = True
    templates: bool = False
    """Whether `{{ … }}` in the bundle's files is expanded per cluster."""
    drift: DriftPolicy = DriftPolicy()
    prune: PrunePolicy = PrunePolicy()
    suspend: bool = False
    deletion: Literal["orphan", "delete"] = "orphan"
    adopt: Literal["never", "ifUnmanaged", "always"] = "ifUnmanaged"


class ApprovalGate(msgspec.Struct, frozen=True):
    name: str
    approvers: tuple[str, ...] = ()
    """`user:NAME`, `group:NAME` or a bare user name; empty lets anyone signed in approve."""
    count: int = 1
    timeout: float = 86400.0
    allow_author: bool = False


class HealthPolicy(msgspec.Struct, frozen=True):
    stable_for: float = 60.0
    progress_deadline: float = 600.0


class Wave(msgspec.Struct, frozen=True):
    name: str
    cluster_selector: Selector
    max_concurrency: int | str = 1
    """A number of clusters, or a percentage such as "25%" of the wave's frozen membership, at least 1."""
    bake: float = 0.0
    protected: bool = False
    gates_before: tuple[str, ...] = ()
    health: HealthPolicy = HealthPolicy()
    """The wave's own, else the strategy's."""


class Strategy(msgspec.Struct, frozen=True):
    name: str
    waves: tuple[Wave, ...]


class Fleet(msgspec.Struct, frozen=True):
    """A whole valid fleet.yaml."""

    name: str
    environment_label: str = "env"
    sources: tuple[GitSource, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    gates: tuple[ApprovalGate, ...] = ()
    strategies: tuple[Strategy, ...] = ()
    secrets_path: str | None = None
    """Folder of the `file` secrets provider: one file per secret name."""
    otlp_endpoint: str | None = None

    @property
    def field_manager(self) -> str:
        return f"fleet-{self.name}"


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong in a file; line and column count from 1."""

    file: str
    line: int
    column: int
    path: str
    """Where in the document: `bundles[0].strategy`; empty where it has no structure (a syntax error)."""
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f", did you mean `{self.suggestion}`?" if self.suggestion else ""
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}{hint}"
