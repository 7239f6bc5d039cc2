"""Content that was found bad, and is never started automatically again (I6).

Quarantine is by content, so the same manifests at another commit stay out too. Content that differs only in the set of
clusters (one joined or left since) is recognised by its digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fleet.core.rollout import undo
from fleet.core.rollout.draft import Draft
from fleet.model.rollout import BundleState, Release, Rollout

T = TypeVar("T")

KEPT = 200
"""Quarantined contents remembered per bundle."""
KEPT_WHOLE = 8
"""Of these, how many with their digests per cluster."""


def same_content(digests: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether two releases hold the same for every cluster that both go to (and there is one)."""
    small, large = (digests, others) if len(digests) <= len(others) else (others, digests)
    common = [cluster for cluster in small if cluster in large]
    return bool(common) and all(small[cluster] == large[cluster] for cluster in common)


def reason(state: BundleState | Draft, release: Release) -> str | None:
    """Why a release may not start by itself; None: it may."""
    known = state.quarantined.get(release.content)
    if known is not None:
        return known
    for content, digests in state.condemned.items():
        if same_content(release.digests, digests):
            return state.quarantined.get(content, "the same content was quarantined")
    return None


def condemn(draft: Draft, release_id: str, content: str, digests: Mapping[str, str], why: str) -> None:
    """Also forgives the debts that consist of this content: catching up is an automatic start."""
    if content in draft.quarantined:
        return
    draft.quarantined = _newest({**draft.quarantined, content: why}, KEPT)
    draft.condemned = _newest({**draft.condemned, content: dict(digests)}, KEPT_WHOLE)
    draft.say("release.quarantined", release=release_id, content=content, reason=why)
    undo.forgive(draft, content)
    draft.joining = {c: j for c, j in draft.joining.items() if j.entry.content != content}


def pardon(draft: Draft, rollout: Rollout, actor: str) -> None:
    """A person tries the release again: from then on it counts as any other."""
    content = rollout.release.content
    if content not in draft.quarantined:
        return
    draft.quarantined = {c: why for c, why in draft.quarantined.items() if c != content}
    draft.condemned = {c: digests for c, digests in draft.condemned.items() if c != content}
    draft.say("release.unquarantined", rollout=rollout.id, actor=actor, release=rollout.release.id, content=content)


def _newest(entries: dict[str, T], keep: int) -> dict[str, T]:
    return dict(list(entries.items())[-keep:])
