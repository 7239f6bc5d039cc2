"""The JSON Schema of fleet.yaml: the published file equals the code, and it knows what the parser knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fleet.core import fleetfile, yaml
from fleet.core.fleetfile.document import ROOT as DOCUMENT
from fleet.core.fleetfile.reader import INVALID, Reader, Report
from fleet.core.fleetfile.shapes import Key, ListOf, MapOf, Record, Shape

REPOSITORY = Path(__file__).parents[3]
SCHEMA = fleetfile.schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def records(shape: Shape, path: yaml.Path = ()) -> Iterator[tuple[yaml.Path, Record]]:
    """Every record of the document with a path that leads to it."""
    if isinstance(shape, Record):
        yield path, shape
        for key in shape.keys:
            yield from records(key.shape, (*path, key.name))
    elif isinstance(shape, ListOf):
        yield from records(shape.item, (*path, 0))
    elif isinstance(shape, MapOf):
        yield from records(shape.value, (*path, "x"))


def definition(path: yaml.Path) -> dict[str, Any]:
    """The part of the schema that describes the record at a path."""
    here: dict[str, Any] = SCHEMA
    for part in path:
        here = here["items"] if isinstance(part, int) else here["properties"][part]
        reference = here.get("allOf", [here])[0].get("$ref")
        if reference:
            here = SCHEMA["definitions"][reference.rpartition("/")[2]]
    return here


ALL = list(records(DOCUMENT))


def test_the_published_file_is_current() -> None:
    published = (REPOSITORY / "config/fleet.schema.json").read_text()
    assert published == json.dumps(SCHEMA, indent=2, ensure_ascii=False) + "\n", (
        "run: fleet schema > config/fleet.schema.json"
    )


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("example", sorted((REPOSITORY / "config/examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_satisfy_it(example: Path) -> None:
    value = yaml.load(example.read_bytes(), file=example.name).value
    assert list(VALIDATOR.iter_errors(value)) == []


@pytest.mark.parametrize("name", ["later", "values", "references"])
def test_it_refuses_what_the_parser_refuses_in_a_single_value(name: str) -> None:
    value = yaml.load((REPOSITORY / f"tests/data/fleetfile/{name}.yaml").read_bytes(), file=name).value
    assert list(VALIDATOR.iter_errors(value))


@pytest.mark.parametrize(("path", "record"), ALL, ids=[record.title for _, record in ALL])
def test_parser_and_schema_know_the_same_keys(path: yaml.Path, record: Record) -> None:
    described = definition(path)
    assert set(described["properties"]) == {key.name for key in record.keys}
    assert described["additionalProperties"] is False
    for name in described["properties"]:
        assert not any("unknown key" in said or "not supported" in said for said in refusals(record, {name: None}))
    for name in record.later:
        assert f"`{name}` is not supported yet" in refusals(record, {name: None})
    assert any(said.startswith("unknown key `qqq`") for said in refusals(record, {"qqq": None}))


def refusals(record: Record, value: object) -> list[str]:
    report = Report("f", {})
    Reader(report).read(record, value, ())
    return [problem.message for problem in report.problems()]


KEYS = [
    (record, key) for _, record in ALL for key in record.keys if isinstance(key.default, str | int | list | dict | bool)
]


@pytest.mark.parametrize(("record", "key"), KEYS, ids=[f"{record.title}.{key.name}" for record, key in KEYS])
def test_defaults_are_values_that_are_accepted(record: Record, key: Key) -> None:
    report = Report("f", {})
    assert Reader(report).read(key.shape, key.default, ()) is not INVALID
    assert len(report) == 0
    described = next(part for part in ALL if part[1] is record)
    properties = definition(described[0])["properties"][key.name]
    assert properties["default"] == key.default
    VALIDATOR.evolve(schema={**properties, "definitions": SCHEMA["definitions"]}).validate(key.default)


def test_titles_are_unique() -> None:
    titled: dict[str, Record] = {}
    for _, record in ALL:
        assert titled.setdefault(record.title, record) is record


def test_every_key_is_documented() -> None:
    assert all(key.doc.endswith(".") for _, record in ALL for key in record.keys)
