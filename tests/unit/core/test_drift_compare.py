"""Bounds of the comparison."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.core.canonical import MAX_DEPTH
from fleet.core.drift import compare
from fleet.errors import InvalidInput


def nested(levels: int, leaf: str, *, lists: bool = False) -> dict[str, Any]:
    value: Any = leaf
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    return {"spec": value}


@pytest.mark.parametrize("lists", [False, True])
def test_what_may_be_released_is_compared_and_what_is_deeper_is_refused(lists: bool) -> None:
    deepest = nested(MAX_DEPTH, "x", lists=lists)
    assert not compare.confirm(deepest, nested(MAX_DEPTH, "x", lists=lists))
    assert compare.confirm(deepest, nested(MAX_DEPTH, "y", lists=lists))
    for depth in (MAX_DEPTH + 2, 100_000):
        with pytest.raises(InvalidInput, match="nested deeper"):
            compare.confirm(nested(depth, "x", lists=lists), deepest)
        with pytest.raises(InvalidInput, match="nested deeper"):
            compare.confirm(deepest, nested(depth, "x", lists=lists))
