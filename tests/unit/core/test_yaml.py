"""YAML by the 1.2 core schema, with positions, bounded; the same from libyaml and from its stand-in."""

from __future__ import annotations

import contextlib

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core import yaml
from fleet.core.yaml import composer


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(composer, "PARSER", pyyaml.SafeLoader)
    else:
        assert pyyaml.__with_libyaml__


def value(text: str) -> object:
    return yaml.load(text, file="f").value


def wrong(text: str | bytes, limits: yaml.Limits = yaml.DOCUMENT) -> list[str]:
    return [str(problem) for problem in yaml.examine(text, file="f", limits=limits).problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(word, word) for word in ("no", "yes", "on", "off", "y", "n", "No", "tRUE", "nULL", "=", "<<")],
        *[
            (word, word)
            for word in ("2020-01-01", "1:20:30", "1_000", "0b1", "0o8", "-0x1", "1.2.3", "1e", "+", ".", "-a")
        ],
        *[(word, None) for word in ("", "~", "null", "Null", "NULL")],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("18446744073709551615", 2**64 - 1),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5E-1", -0.15),
        ("'12'", "12"),
        ('"true"', "true"),
        ("! 12", "12"),
        ("!!str 12", "12"),
        ("!!str", ""),
        ("!!int 12", 12),
        ("!!float 1", 1.0),
        ("!!bool true", True),
        ("!!null ~", None),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
    ],
)
def test_scalars_follow_the_core_schema(text: str, expected: object) -> None:
    got = value(f"- {text}" if text else "-")
    assert got == [expected]
    assert isinstance(got, list)
    assert type(got[0]) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0644", 420),
        ("-017", -15),
        ("08", 8),
        ("0o644", 420),
        ("5.0", 5),
        ("1e3", 1000),
        ("1.5", 1.5),
        ("'0644'", "0644"),
    ],
)
def test_manifests_read_numbers_as_kubernetes_tools_do(text: str, expected: object) -> None:
    (got,) = yaml.load_all(f"- {text}", file="f")
    assert isinstance(got, list)
    assert (got, type(got[0])) == ([expected], type(expected))


@pytest.mark.parametrize("text", ["18446744073709551616", "-9223372036854775809", "9" * 5000, "0x" + "f" * 80])
def test_an_integer_outside_64_bits_is_refused(text: str) -> None:
    assert wrong(f"a: {text}") == ["f:1:4: an integer must fit in 64 bits; quote it if it is text"]


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan"])
def test_numbers_that_json_lacks_are_refused(text: str) -> None:
    assert wrong(f"a: {text}") == ["f:1:4: infinity and NaN are not accepted"]
    assert wrong("a: 1e999") == ["f:1:4: the number is too large"]


def test_keys_are_text() -> None:
    assert value("8080: a\ntrue: b\nnull: c\n1.5: d\n0x1: e") == {
        "8080": "a",
        "true": "b",
        "null": "c",
        "1.5": "d",
        "0x1": "e",
    }


def test_positions_of_keys_and_values() -> None:
    document = yaml.load("a: 1\nb:\n  - name: x\n    list: [1, {c: d}]\n", file="f")
    assert document.positions == {
        (): yaml.Position(1, 1, 1, 1),
        ("a",): yaml.Position(1, 1, 1, 4),
        ("b",): yaml.Position(2, 1, 3, 3),
        ("b", 0): yaml.Position(3, 5, 3, 5),
        ("b", 0, "name"): yaml.Position(3, 5, 3, 11),
        ("b", 0, "list"): yaml.Position(4, 5, 4, 11),
        ("b", 0, "list", 0): yaml.Position(4, 12, 4, 12),
        ("b", 0, "list", 1): yaml.Position(4, 15, 4, 15),
        ("b", 0, "list", 1, "c"): yaml.Position(4, 16, 4, 19),
    }


def test_columns_count_characters() -> None:
    assert yaml.load("{ä: 1, b: 2}", file="f").positions[("b",)] == yaml.Position(1, 8, 1, 11)


def test_aliases_are_copies() -> None:
    document = yaml.load("a: &x {k: [1]}\nb: *x\nc: [*x, &s text, *s]", file="f")
    assert document.value == {"a": {"k": [1]}, "b": {"k": [1]}, "c": [{"k": [1]}, "text", "text"]}
    assert isinstance(document.value, dict)
    assert document.value["a"] is not document.value["b"]
    assert document.positions[("b",)] == yaml.Position(2, 1, 2, 4)
    assert ("b", "k") not in document.positions


def test_merge_keys_fill_what_is_open() -> None:
    document = yaml.load("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd:\n  <<: *a\n", file="f")
    assert isinstance(document.value, dict)
    assert document.value["c"] == {"x": 1, "y": 1, "z": 3}
    assert document.value["d"] == {"x": 1, "y": 1}
    assert document.positions[("d", "x")] == yaml.Position(5, 3, 5, 3)
    assert value("{'<<': 1}") == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "a: 1\nb: {c: 1, 'c': 2}\na: 2",
            ["f:2:11: duplicate key `c`, first on line 2", "f:3:1: duplicate key `a`, first on line 1"],
        ),
        ("1: a\n'1': b", ["f:2:1: duplicate key `1`, first on line 1"]),
        ("a: &a {}\nb: {<<: *a, <<: *a}", ["f:2:13: duplicate key `<<`; a list merges several: `<<: [*a, *b]`"]),
        ("a: {<<: 1}", ["f:1:5: `<<` merges a mapping or a list of mappings"]),
        ("a: *x", ["f:1:4: the alias `*x` has no anchor `&x` before it"]),
        ("a: &x [*x]", ["f:1:8: the alias `*x` stands inside what it names"]),
        ("a: &x k\n*x : 1", ["f:2:1: a key must be text, not an alias"]),
        ("{[a]: 1}", ["f:1:2: a key must be text, not a collection"]),
        ("? {a: 1}\n: 1", ["f:1:3: a key must be text, not a collection"]),
        ("a: 1\n?\n: 1", ["f:2:2: a key is missing before `:`"]),
        ("a: !!python/object:os.system x", ["f:1:4: the tag `!!python/object:os.system` is not accepted"]),
        (
            "a: !mine [1]\nb: !!binary aGk=",
            ["f:1:4: the tag `!mine` is not accepted", "f:2:4: the tag `!!binary` is not accepted"],
        ),
        ("a: !!set {x}", ["f:1:4: the tag `!!set` is not accepted"]),
        ("!!timestamp a: 1", ["f:1:1: the tag `!!timestamp` is not accepted"]),
        ("a: !!int x", ["f:1:4: the value is not what its tag `!!int` says"]),
        ("a: 1\n---\nb: 1", ["f:2:1: only one document is allowed"]),
        ("a:\n\tb: 1", ["f:2:1: a tab cannot indent YAML, use spaces"]),
        ("a: '\x01'", ["f:1:5: the character U+0001 is not allowed"]),
        ("\ufeffa: \ufeff", ["f:1:4: the character U+FEFF is not allowed"]),
        ("a: \ud800", ["f:1:4: the character U+D800 is not allowed"]),
    ],
)
def test_what_is_refused_has_its_position(text: str, problems: list[str]) -> None:
    assert wrong(text) == problems


def test_text_that_is_not_utf_8() -> None:
    assert wrong("ä: 1\nb: ".encode() + b"\xff") == ["f:2:4: the file is not UTF-8 text"]
    assert wrong("a: 1".encode("utf-16")) == ["f:1:1: the file is not UTF-8 text"]


def test_a_syntax_error_comes_after_what_was_found_before_it() -> None:
    document = yaml.examine("a: 1\na: 2\nb: {c: 3, d: [4\n", file="f")
    assert [problem.line for problem in document.problems] == [2, 4]
    assert document.value == {"a": 1, "b": {"c": 3, "d": [4]}}
    assert not document.complete
    assert yaml.examine("a: 1\na: 2", file="f").complete


def test_no_message_repeats_a_value() -> None:
    for text in (
        "password: 'hunter2",
        "password: hunter2: x",
        "a: !!int hunter2",
        "a: {<<: hunter2}",
        "- hunter2\nb: 1",
    ):
        assert wrong(text)
        assert "hunter2" not in "".join(wrong(text))


def test_load_raises_with_all_problems() -> None:
    with pytest.raises(
        yaml.InvalidDocument, match=r"^f:1:7: duplicate key `a`, first on line 1 \(and 1 more\)$"
    ) as caught:
        yaml.load("{a: 1,a: 2, b: !x 1}", file="f")
    assert [problem.column for problem in caught.value.problems] == [7, 16]


def test_load_all_counts_empty_documents() -> None:
    assert yaml.load_all("---\na: 1\n---\n---\n# nothing\n---\nb: 1\n...\n", file="f") == (
        {"a": 1},
        None,
        None,
        {"b": 1},
    )
    assert yaml.load_all("", file="f") == ()
    with pytest.raises(yaml.InvalidDocument, match=r"^f:3:1: duplicate key `a`$"):
        yaml.load_all("---\na: 1\na: 2\n---\nb: 1", file="f")


def test_anchors_end_with_their_document() -> None:
    with pytest.raises(yaml.InvalidDocument, match="no anchor"):
        yaml.load_all("a: &x 1\n---\nb: *x", file="f")


def test_limits() -> None:
    limits = yaml.Limits(size=1000, expanded=4000, depth=4, documents=2)
    assert wrong("a" * 1000, limits) == []
    assert wrong("a" * 1001, limits) == ["f:1:1: the file is larger than 1000 bytes"]
    assert wrong("[[[[]]]]", limits) == []
    assert wrong("[[[[[]]]]]", limits) == ["f:1:5: nested deeper than 4 levels"]
    assert wrong("[&a [[]], [[*a]]]", limits) == ["f:1:13: nested deeper than 4 levels once the alias is expanded"]
    assert wrong("a\n---\nb\n---\nc", limits) == ["f:4:1: only 2 documents are allowed"]


def test_the_billion_laughs_are_not_expanded() -> None:
    lines = ["a0: &a0 lol"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (problem,) = wrong("\n".join(lines))
    assert "once aliases are expanded" in problem
    repeated = "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 200) + "]"
    assert "once aliases are expanded" in wrong(repeated)[0]


def test_problems_are_bounded() -> None:
    document = yaml.examine("\n".join(["a: 1"] * 500), file="f")
    assert len(document.problems) == 100
    assert not document.complete


json_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | json_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_text, inner, max_size=4),
    max_leaves=12,
)
tricky = st.sampled_from(
    [
        "no",
        "0o17",
        "1e3",
        "0644",
        "1:20",
        "2020-01-01",
        "<<",
        "=",
        "~",
        "",
        "- a",
        "a: b",
        "# c",
        " x",
        "x\n",
        "\n x\n",
        "\t",
        "'",
        "&a",
        "*a",
        "!t",
        "%d",
        "@",
        "`",
        "{",
        "]",
        "?",
        "|",
        ">",
        "---",
        "...",
        "\x85",
        "\u2028",
        "é",
        "\U0001f600",
    ]
)


@settings(deadline=None)
@given(json_values | tricky | st.dictionaries(tricky, tricky, max_size=4))
def test_what_is_written_reads_back(item: object) -> None:
    text = yaml.dump_all([item, None, item])
    assert yaml.load_all(text, file="f") == (item, None, item)
    assert yaml.load(yaml.dump_all([item]), file="f").value == item


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_never_raise_anything_else(data: bytes) -> None:
    document = yaml.examine(data, file="f")
    assert document.complete or document.problems


fragments = st.lists(
    st.sampled_from(
        [
            "a",
            "b: ",
            "- ",
            "? ",
            ": ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&x ",
            "*x ",
            "<<: ",
            "!!str ",
            "!!int ",
            "!y ",
            "'",
            '"',
            '"\\ud800"',
            '"\\U00110000"',
            "\\",
            "|\n",
            ">-\n",
            "\n",
            "\n  ",
            "\n    ",
            "\t",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "#",
            "1",
            ".inf",
            "~",
            "é",
            "\u2028",
        ]
    ),
    max_size=40,
).map("".join)


@settings(deadline=None)
@given(fragments | st.text(max_size=100))
def test_text_never_raises_anything_else(text: str) -> None:
    document = yaml.examine(text, file="f")
    lines = len(text.splitlines()) + 1
    for problem in document.problems:
        assert 1 <= problem.line <= lines + 1
        assert problem.column >= 1
    if document.problems:
        with pytest.raises(yaml.InvalidDocument):
            yaml.load(text, file="f")
    else:
        yaml.dump_all([document.value]).encode()
    with contextlib.suppress(yaml.InvalidDocument):
        yaml.dump_all(yaml.load_all(text, file="f")).encode()
