"""Canonical JSON: equal values, equal bytes; different values, different bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.canonical import MAX_DEPTH, canonical, same
from fleet.errors import InvalidInput

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def _shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(list(value))}
    return [_shuffled(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_order_of_keys_is_no_difference(value: Any) -> None:
    assert canonical(_shuffled(value)) == canonical(value)


@given(VALUES)
def test_reading_it_back_gives_an_equal_value(value: Any) -> None:
    assert same(json.loads(canonical(value)), value)


@given(VALUES, VALUES)
def test_bytes_are_equal_exactly_when_values_are(left: Any, right: Any) -> None:
    assert (canonical(left) == canonical(right)) == same(left, right)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.0, b"1"),
        (-0.0, b"0"),
        (1.5, b"1.5"),
        (True, b"true"),
        ({"b": 1, "a": [2.0, True]}, b'{"a":[2,true],"b":1}'),
        (2**70, b"1180591620717411303424"),
        ({"n": 2**64, "ü": "ü"}, '{"n":18446744073709551616,"ü":"ü"}'.encode()),
        (1e300, b"1e+300"),
        ((1, 2), b"[1,2]"),
    ],
)
def test_forms(value: Any, written: bytes) -> None:
    assert canonical(value) == written


@pytest.mark.parametrize(("left", "right"), [(1, True), (0, False), ([1], [True]), ({"a": 0}, {"a": False}), (1, "1")])
def test_booleans_and_texts_are_no_numbers(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert canonical(left) != canonical(right)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1: 2}}, {"a": {1, 2}}, b"bytes"])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        canonical(value)


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH + 2):
        value = [value]
    with pytest.raises(InvalidInput, match="nested deeper"):
        canonical(value)
