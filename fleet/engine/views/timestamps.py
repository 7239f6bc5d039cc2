"""Times as the interface writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def rfc3339(seconds: float) -> str: ...
@overload
def rfc3339(seconds: None) -> None: ...
def rfc3339(seconds: float | None) -> str | None:
    """Seconds since the epoch as `2026-11-20T09:00:00.123Z`; None stays None."""
    if seconds is None:
        return None
    # Rounded before the split into fields: 0.9996 s is the next second, not the millisecond 1000.
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
