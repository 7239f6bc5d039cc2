"""A second folder over the first: which folders are overlays, and what plain files in one do to the base.

An overlay that is a Kustomize root replaces the base as what is built, and is not handled here. Plain files are matched
by identity: an object that the base has is merged as a JSON merge patch (RFC 7386: maps are merged, lists and scalars
replaced, null removes), with `$patch: delete` it is removed; any other object is added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from fleet.errors import RenderError
from fleet.model.objects import ObjectId
from fleet.render.documents import Placed

_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_DELETE = "$patch"


def excludes(pattern: str | None) -> Callable[[str], bool]:
    """Whether a folder is the overlay of some cluster, by `overlay` of fleet.yaml (both relative to the base)."""
    if pattern is None:
        return lambda _: False
    clean = "/".join(part for part in _PLACEHOLDER.sub("\0", pattern).split("/") if part not in ("", "."))
    expression = re.compile("".join("[^/]+" if c == "\0" else re.escape(c) for c in clean))
    return lambda folder: expression.fullmatch(folder) is not None


def merge(
    base: Sequence[Placed], patches: Sequence[Placed], settle: Callable[[dict[str, Any]], ObjectId]
) -> list[Placed]:
    """The base with the overlay's objects in it; `settle` tells an object's identity with its namespace filled in.

    Raises RenderError when an object is defined twice in one of the two, or a deletion has nothing to delete.
    """
    merged = _by_identity(base, settle)
    for object_id, patch in _by_identity(patches, settle).items():
        below = merged.get(object_id)
        if _DELETE in patch.body:
            if patch.body[_DELETE] != "delete":
                raise RenderError(f"{patch.where}: only `$patch: delete` is understood")
            if below is None:
                raise RenderError(f"{patch.where}: there is no {object_id} to delete")
            del merged[object_id]
        elif below is None:
            merged[object_id] = patch
        else:
            merged[object_id] = Placed(_merge_patch(below.body, patch.body), f"{below.where} with {patch.where}")
    return list(merged.values())


def _by_identity(objects: Sequence[Placed], settle: Callable[[dict[str, Any]], ObjectId]) -> dict[ObjectId, Placed]:
    found: dict[ObjectId, Placed] = {}
    for placed in objects:
        object_id = settle(placed.body)
        if object_id in found:
            raise RenderError(f"{placed.where}: {object_id} is defined in {found[object_id].where}, too")
        found[object_id] = placed
    return found


def _merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386; shares what did not change with `target`."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_patch(result.get(key), value)
    return result
