"""The JSON Schema of fleet.yaml, rendered from `document`; editors complete and check with it.

Draft 7, which editors' YAML support follows. It says what one value can say about itself; references and selectors are
checked by `rules` alone.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import msgspec

from fleet.core.fleetfile import syntax
from fleet.core.fleetfile.document import ROOT
from fleet.core.fleetfile.shapes import (
    Anything,
    Choice,
    Concurrency,
    Duration,
    Flag,
    Integer,
    Key,
    ListOf,
    MapOf,
    Record,
    Text,
)

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema as a JSON value; equal calls give equal values in equal order."""
    definitions: dict[str, Schema] = {}
    root = _record(ROOT, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "fleet.yaml",
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


@singledispatch
def _schema(shape: object, definitions: dict[str, Schema]) -> Schema:
    raise TypeError(f"a {type(shape).__name__} has no schema")


@_schema.register
def _of_text(shape: Text, definitions: dict[str, Schema]) -> Schema:
    return {"type": "string", "pattern": f"^(?:{shape.pattern})$", "maxLength": shape.max}


@_schema.register
def _of_integer(shape: Integer, definitions: dict[str, Schema]) -> Schema:
    return {"type": "integer", "minimum": shape.min, "maximum": shape.max}


@_schema.register
def _of_flag(shape: Flag, definitions: dict[str, Schema]) -> Schema:
    return {"type": "boolean"} if shape.only is None else {"const": shape.only}


@_schema.register
def _of_choice(shape: Choice, definitions: dict[str, Schema]) -> Schema:
    return {"type": "string", "enum": list(shape.values)}


@_schema.register
def _of_duration(shape: Duration, definitions: dict[str, Schema]) -> Schema:
    return {
        "anyOf": [
            {"type": "string", "pattern": f"^{syntax.DURATION}$", "maxLength": 40},
            {"type": "number", "minimum": shape.min, "maximum": shape.max},
        ]
    }


@_schema.register
def _of_concurrency(shape: Concurrency, definitions: dict[str, Schema]) -> Schema:
    return {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": shape.max},
            {"type": "string", "pattern": f"^{syntax.PERCENTAGE}$"},
        ]
    }


@_schema.register
def _of_list(shape: ListOf, definitions: dict[str, Schema]) -> Schema:
    listed: Schema = {"type": "array", "items": _schema(shape.item, definitions), "maxItems": shape.max}
    if shape.min:
        listed["minItems"] = shape.min
    if shape.unique:
        listed["uniqueItems"] = True
    return listed


@_schema.register
def _of_map(shape: MapOf, definitions: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": f"^(?:{shape.key.pattern})$", "maxLength": shape.key.max},
        "additionalProperties": _schema(shape.value, definitions),
        "maxProperties": shape.max,
    }


@_schema.register
def _of_anything(shape: Anything, definitions: dict[str, Schema]) -> Schema:
    return {"type": "object"}


@_schema.register
def _of_record(shape: Record, definitions: dict[str, Schema]) -> Schema:
    if shape.title not in definitions:
        definitions[shape.title] = _record(shape, definitions)
    return {"$ref": f"#/definitions/{shape.title}"}


def _record(shape: Record, definitions: dict[str, Schema]) -> Schema:
    record: Schema = {
        "description": shape.doc,
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _property(key, definitions) for key in shape.keys},
    }
    required = [key.name for key in shape.keys if key.required]
    if required:
        record["required"] = required
    if shape.one_of:
        record["oneOf"] = [{"required": [name]} for name in shape.one_of]
    return record


def _property(key: Key, definitions: dict[str, Schema]) -> Schema:
    value = _schema(key.shape, definitions)
    # Draft 7 ignores whatever stands beside a $ref.
    described: Schema = {"description": key.doc, **({"allOf": [value]} if "$ref" in value else value)}
    if key.default is not msgspec.UNSET:
        described["default"] = key.default
    return described
