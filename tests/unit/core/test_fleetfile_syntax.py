"""The written forms of single values: what is accepted, as what, and why the rest is not."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core.fleetfile import syntax
from fleet.core.fleetfile.document import GIT
from fleet.core.fleetfile.reader import INVALID, Reader, Report


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        ("0s", 0),
        ("1m1m", 120),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert syntax.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-1s", "1w", "1h 30m", "1.s", ".5s", "1e3s", "10m\n", "١s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        syntax.duration(text)


@settings(deadline=None)
@given(st.integers(1, 10**7))
def test_a_spoken_duration_reads_back(seconds: int) -> None:
    assert syntax.duration(syntax.spoken(seconds)) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "https://git.acme.example/apps.git",
        "https://git.acme.example:8443/a/b",
        "https://[::1]:8443/a",
        "ssh://git@git.acme.example/apps.git",
        "ssh://git.acme.example:2222/apps.git",
        "git@git.acme.example:team/apps.git",
        "host:apps.git",
        "file:///srv/git/apps.git",
        "/srv/git/apps.git",
    ],
)
def test_git_urls(url: str) -> None:
    assert syntax.git_url(url) == url
    assert re.fullmatch(syntax.GIT_URL, url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://git.acme.example/a", "not encrypted"),
        ("git://git.acme.example/a", "not encrypted"),
        ("https://user:hunter2@git.acme.example/a", "credentials"),
        ("https://hunter2@git.acme.example/a", "credentials"),
        ("ssh://git:hunter2@git.acme.example/a", "credentials"),
        ("ssh://-oProxyCommand=x/a", "no valid host"),
        ("ssh://-u@git.acme.example/a", "user name"),
        ("https://git.acme.example/a?token=hunter2", "query"),
        ("https://git.acme.example/a#hunter2", "fragment"),
        ("https://git.acme.example/", "names no repository"),
        ("https:///a", "no valid host"),
        ("https://[::1/a", "not a valid URL"),
        ("https://git.acme.example:port/a", "not a valid URL"),
        ("file://host/srv/a", "absolute path"),
        ("file:srv/a", "is not a https, ssh or file URL"),
        ("ext::sh -c x", "https, ssh"),
        ("ext::https://x/a", "only https"),
        ("--upload-pack=x", "cannot start"),
        ("-oProxyCommand=x:a", "cannot start"),
        ("user@-host:a", "https, ssh"),
        ("host:-a", "https, ssh"),
        ("../apps", "https, ssh"),
        ("apps", "https, ssh"),
    ],
)
def test_what_is_no_git_url(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        syntax.git_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["main", "release/1.2", "v1.0.0", "a" * 40, "feature/x-1", "HEAD"])
def test_refs(text: str) -> None:
    assert syntax.ref(text) == text
    assert re.fullmatch(syntax.REF, text)


@pytest.mark.parametrize(
    "text",
    ["", "-x", "--upload-pack=x", "a b", "a..b", "a//b", "/a", "a/", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "@",
     "a@{1}", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a\nb", "a\x7f"],
)  # fmt: skip
def test_what_is_no_ref(text: str) -> None:
    report = Report("f", {})
    assert Reader(report).read(GIT, {"ref": text}, ()) == {"ref": INVALID, "interval": 60.0}
    assert len(report) == 1


@pytest.mark.parametrize(
    ("text", "path"),
    [("apps/shop", "apps/shop"), ("./apps//shop/", "apps/shop"), (".", "."), ("./", "."), ("a..b", "a..b")],
)
def test_relative_paths(text: str, path: str) -> None:
    assert syntax.relative_path(text) == path


@pytest.mark.parametrize(
    "text", ["/etc", "..", "a/../b", "../a", "a/..", ".git/hooks", "{{ cluster.name }}", "{% x %}"]
)
def test_paths_that_leave_the_repository(text: str) -> None:
    with pytest.raises(ValueError, match=r"absolute|leaves|own folder|template"):
        syntax.relative_path(text)


@settings(deadline=None)
@given(st.text(st.sampled_from("./a{}%#~\\ "), max_size=12))
def test_an_accepted_path_is_confined(text: str) -> None:
    try:
        path = syntax.relative_path(text)
    except ValueError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert syntax.relative_path(path) == path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("clusters/{{ cluster.name }}", "clusters/{{ cluster.name }}"),
        ("{{cluster.labels.env}}/./{{ cluster.values.a.b }}/", "{{cluster.labels.env}}/{{ cluster.values.a.b }}"),
        ('x/{{ cluster.labels["example.com/tier"] }}', 'x/{{ cluster.labels["example.com/tier"] }}'),
        ("plain", "plain"),
    ],
)
def test_overlays(text: str, path: str) -> None:
    assert syntax.overlay_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "{{ cluster.secret }}",
        "{{ cluster }}",
        "{{ cluster.labels }}",
        "{{ cluster.name | upper }}",
        "{{ cluster.name.__class__ }}",
        "{{ x }}",
        "{% for a in b %}",
        "{# x #}",
        "{{ cluster.name",
        "../{{ cluster.name }}",
        "/{{ cluster.name }}",
        "a\0b",
    ],
)
def test_what_is_no_overlay(text: str) -> None:
    with pytest.raises(ValueError, match=r"template|leaves|absolute|control"):
        syntax.overlay_path(text)


@pytest.mark.parametrize("url", ["http://otel-collector:4318", "https://otel.acme.example/v1"])
def test_endpoints(url: str) -> None:
    assert syntax.endpoint(url) == url


@pytest.mark.parametrize(
    "url", ["otel:4317", "grpc://otel:4317", "http://", "https://u:hunter2@otel", "http://otel?x=hunter2"]
)
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|credentials|query") as caught:
        syntax.endpoint(url)
    assert "hunter2" not in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_nothing_but_value_error(text: str) -> None:
    for read in (
        syntax.duration,
        syntax.git_url,
        syntax.ref,
        syntax.relative_path,
        syntax.overlay_path,
        syntax.endpoint,
    ):
        with contextlib.suppress(ValueError):
            assert read(text) is not None
