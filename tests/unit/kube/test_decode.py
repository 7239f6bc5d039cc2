"""Bytes in, typed values out; whatever is not of an API server is Unreadable."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.kube import decode
from fleet.kube.decode import LineSplitter, Unreadable
from fleet.model.objects import ObjectId, Resource

PODS = Resource("", "v1", "Pod", "pods", True)
POD = {
    "metadata": {
        "name": "a",
        "namespace": "b",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 3,
        "labels": None,
        "managedFields": [{"manager": "m", "operation": "Apply", "fieldsV1": {"f:spec": {".": {}}}}],
    },
    "spec": {"x": [1, 2.5, None]},
}


def test_an_object_has_typed_metadata_and_its_bytes() -> None:
    raw = msgspec.json.encode(POD)
    live = decode.live(PODS, raw)
    assert live.id == ObjectId("", "Pod", "b", "a")
    assert (live.meta.uid, live.meta.resource_version, live.meta.generation, live.meta.labels) == ("u", "7", 3, None)
    assert live.meta.managed_fields is not None
    assert bytes(live.meta.managed_fields[0].fields_v1) == b'{"f:spec":{".":{}}}'
    assert live.raw == raw


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b'{"metadata":7}', b'{"metadata":{}', b'{"kind":"Status"}', b"\xff\xfe"],
)
def test_what_is_no_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decode.live(PODS, body)


def test_a_page_tells_where_it_stands() -> None:
    body = msgspec.json.encode({"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [POD, POD]})
    page = decode.page(body)
    assert (page.version, page.next, len(page.items)) == ("9", "more", 2)


def test_a_typed_list_without_objects_has_null_items() -> None:
    assert decode.page(b'{"metadata":{"resourceVersion":"9"},"items":null}').items == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":{"resourceVersion":"9"}}',
        b'{"metadata":{},"items":[]}',
        b'{"items":[]}',
        b'{"kind":"Status","metadata":{},"status":"Success"}',
        b"<html></html>",
        b'{"metadata":{"resourceVersion":"9"},"items":[',
    ],
)
def test_no_other_answer_passes_for_an_empty_list(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decode.page(body)


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.lists(st.integers(0, 30)))
def test_lines_do_not_depend_on_how_they_were_cut(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    splitter, found, rest = LineSplitter(1000), [], data
    for cut in cuts:
        found += splitter.feed(rest[:cut])
        rest = rest[cut:]
    found += splitter.feed(rest)
    assert found == [line for line in lines if line]
    assert not splitter.pending


def test_the_rest_of_a_line_is_pending() -> None:
    splitter = LineSplitter(100)
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.pending
    assert splitter.feed(b"o\n") == [b"two"]
    assert not splitter.pending


@pytest.mark.parametrize(("before", "chunk"), [(b"", b"x" * 11), (b"x" * 6, b"x" * 6), (b"x" * 6, b"x" * 6 + b"\n")])
def test_a_line_above_the_limit_is_refused(before: bytes, chunk: bytes) -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"fine\n" + before) == [b"fine"]
    with pytest.raises(Unreadable, match="10 bytes"):
        splitter.feed(chunk)
