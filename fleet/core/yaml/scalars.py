"""What a YAML scalar means: the YAML 1.2 core schema, and where manifests differ from it. Used by `composer`."""

from __future__ import annotations

import re

_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_OLD_OCTAL = re.compile(r"[-+]?0[0-7]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMERIC_START = frozenset("+-.0123456789")
_EXACT = 2**53
TAGS: dict[str, tuple[type, ...]] = {
    "tag:yaml.org,2002:null": (type(None),),
    "tag:yaml.org,2002:bool": (bool,),
    "tag:yaml.org,2002:int": (int,),
    "tag:yaml.org,2002:float": (int, float),
}


def plain(text: str, *, manifests: bool) -> object:
    """The value of an unquoted scalar; raises ValueError for a number that JSON cannot carry."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if manifests and _OLD_OCTAL.fullmatch(text):
        return _integer(text, 8)
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if BASED.fullmatch(text):
        return _integer(text, 0)
    if FLOAT.fullmatch(text):
        return _float(text, manifests)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and NaN are not accepted")
    return text


def _integer(text: str, base: int) -> int:
    # The length goes first: conversion takes quadratic time, and beyond 4300 digits Python refuses it.
    value = int(text, base) if len(text) <= 70 else 1 << 64
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError("an integer must fit in 64 bits; quote it if it is text")
    return value


def _float(text: str, manifests: bool) -> float | int:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("the number is too large")
    return int(value) if manifests and value.is_integer() and abs(value) < _EXACT else value
