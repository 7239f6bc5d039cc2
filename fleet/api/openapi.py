"""The OpenAPI 3.1 document, generated from the endpoints and the structs that they answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from fleet.api.endpoint import PREFIX, Endpoint, Parameter
from fleet.api.problem import CONTENT_TYPE, Problem

_PART = re.compile(r"\{([a-z]+)\}")
_REFERENCE = "#/components/schemas/{name}"
_ALWAYS = (401, 500, 503, 504)
_MEANING = {
    400: "The request is not valid",
    401: "No valid token",
    404: "There is no such thing",
    409: "It changed meanwhile, or the command does not apply to its state",
    410: "The events asked for are no longer kept; `restartFrom` is where to start again",
    500: "The server failed",
    502: "A cluster or a Git server refuses",
    503: "A part cannot be reached, or the server is busy",
    504: "No answer in time",
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    types = [endpoint.answers for endpoint in endpoints]
    types += [endpoint.body for endpoint in endpoints if endpoint.body is not None]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REFERENCE)
    references = dict(zip([str(kind) for kind in [*types, Problem]], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fleet",
            "version": version,
            "description": "Queries and commands of the control plane. Times are RFC 3339 UTC, durations seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, references: dict[str, Any]) -> dict[str, Any]:
    media = "application/json" if endpoint.stream is None else "application/x-ndjson"
    answer = {"schema": references[str(endpoint.answers)]}
    content = {media: answer} if endpoint.stream is None else {media: answer, "text/event-stream": answer}
    operation: dict[str, Any] = {
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "responses": {str(endpoint.status): {"description": "Done", "content": content}},
    }
    for status in sorted({*endpoint.errors, *_ALWAYS}):
        operation["responses"][str(status)] = {
            "description": _MEANING[status],
            "content": {CONTENT_TYPE: {"schema": references[str(Problem)]}},
        }
    parameters = [_part(name) for name in _PART.findall(endpoint.path)]
    parameters += [_parameter(parameter) for parameter in endpoint.parameters]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        schema = references[str(endpoint.body)]
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": endpoint.body_required, "content": content}
    return operation


def _part(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    bounds = {"minimum": parameter.minimum, "maximum": parameter.maximum}
    schema = {"type": parameter.type, **{key: bound for key, bound in bounds.items() if bound is not None}}
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": False,
        "description": parameter.description,
        "schema": schema,
    }
