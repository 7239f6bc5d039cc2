"""What differed from what was released, who changed it, when, and what became of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fleet.model.objects import ObjectId

Verdict = Literal["modified", "missing", "extra", "ownership"]
DriftState = Literal["open", "healed", "reported", "ignored", "contested"]


class FieldChange(msgspec.Struct, frozen=True):
    """One field; values of Secrets are masked before they get here."""

    path: str
    wanted: Any
    live: Any
    manager: str | None = None


class Drift(msgspec.Struct, frozen=True):
    id: str
    cluster: str
    bundle: str
    object: ObjectId
    version: str
    verdict: Verdict
    state: DriftState
    mode: Literal["correct", "detect"]
    detected_at: float
    healed_at: float | None = None
    changed_at: str | None = None
    """The managedFields time of the entry that changed our fields (RFC 3339, whole seconds)."""
    manager: str | None = None
    operation: str | None = None
    count: int = 1
    fields: tuple[FieldChange, ...] = ()
    message: str = ""
    """Why it could not be healed so far."""
