"""The list of a commit's files: what is refused before anything is written."""

from __future__ import annotations

import json

import pytest

from fleet.git import export
from fleet.git.failures import ContentRefused
from fleet.git.transport import GitSettings

OID = "0" * 40


def listing(name: bytes, mode: str = "100644", size: str = "3") -> bytes:
    return f"{mode} blob {OID} {size:>7}\t".encode() + name + b"\0"


def test_files_with_names_in_any_script_are_listed() -> None:
    [entry] = export.entries(listing("apps/shop/bücher-本.yaml".encode()), GitSettings())
    assert (entry.path, entry.size) == ("apps/shop/bücher-本.yaml", 3)


@pytest.mark.parametrize(("mode", "size"), [("100644", "3"), ("160000", "0"), ("120000", "3"), ("100644", "999999999")])
def test_a_name_that_is_not_utf_8_is_refused_in_words_that_can_be_stored(mode: str, size: str) -> None:
    with pytest.raises(ContentRefused, match="not UTF-8") as caught:
        export.entries(listing(b"apps/shop/b\xff.yaml", mode, size), GitSettings())
    said = str(caught.value)
    assert r"b\udcff.yaml" in said
    assert json.loads(json.dumps(said).encode()) == said.encode().decode()
