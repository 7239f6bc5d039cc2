"""Canonical JSON: one byte string per value, whatever order or spelling the value came in.

Digests of manifests and fingerprints of live fields are taken over it. Numbers that are equal are written equally
(`1.0` as `1`); booleans never equal numbers; keys are sorted; what JSON cannot say is an error rather than a guess.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from fleet.errors import InvalidInput

MAX_DEPTH = 200
"""Deeper nesting is refused; Kubernetes itself stops far earlier."""

_INTEGRAL = 2.0**63
"""Integral floats below this magnitude are written as integers, as the API server does; above it they stay floats."""


def canonical(value: Any) -> bytes:
    """The canonical JSON of `value`; raises InvalidInput for NaN, infinities, non-text keys and foreign types."""
    plain = exact(value)
    try:
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # orjson stops at 64 bits (and at lone surrogates); integers of any size are legal JSON.
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def exact(value: Any, depth: int = 0) -> Any:
    """`value` with equal numbers made identical; a copy of its containers, raises as `canonical` does."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return number(value)
    if depth > MAX_DEPTH:
        raise InvalidInput(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {_key(key): exact(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item, depth + 1) for item in value]
    raise InvalidInput(f"a {kind.__name__} has no JSON form")


def number(value: float) -> float | int:
    """An integral float as the integer it equals, every other finite float as it is."""
    if not math.isfinite(value):
        raise InvalidInput(f"{value} has no JSON form")
    return int(value) if value.is_integer() and abs(value) < _INTEGRAL else value


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; unlike Python's `==` a boolean never equals a number, at any depth."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right and (type(left) is bool) == (type(right) is bool)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    raise InvalidInput(f"the key {key!r} is not text")
