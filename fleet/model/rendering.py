"""What is rendered: folders of sources on disk, for one bundle on one cluster.

The planner states it, the renderer answers with a `ManifestSet`. Paths are relative to `Part.root`, "" is the root.
"""

from __future__ import annotations

import msgspec

from fleet.model.fleetfile import Cluster


class Part(msgspec.Struct, frozen=True):
    """What one source of a bundle contributes."""

    root: str
    """Directory that holds `folders` at their places; only they may be read."""
    folders: tuple[str, ...]
    path: str
    """The bundle's folder."""
    digest: str
    """Content address of everything in `folders`."""
    overlay: str | None = None
    """The overlay folder of this cluster; None when there is none."""
    overlay_pattern: str | None = None
    """The overlay relative to `path` as fleet.yaml has it, so that the overlays of other clusters are left out."""


class RenderRequest(msgspec.Struct, frozen=True):
    """Everything that decides about the manifests of a bundle on a cluster."""

    fleet: str
    bundle: str
    cluster: Cluster
    """Its name, labels and values are what templates see."""
    parts: tuple[Part, ...]
    namespace: str = "default"
    create_namespace: bool = True
    templates: bool = False
