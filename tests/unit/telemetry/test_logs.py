from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.settings import TelemetrySettings
from fleet.telemetry import logs

TOKEN = "canary-8c1f0b7e2d"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"


def logged(settings: TelemetrySettings, *args: object, level: int = logging.WARNING, **extra: object) -> str:
    stream = io.StringIO()
    undo = logs.set_up(settings, stream)
    try:
        logging.getLogger("fleet.kube").log(level, *args, extra=extra or None)
    finally:
        undo()
    return stream.getvalue()


TEXT, JSON = TelemetrySettings(), TelemetrySettings(log_format="json")


def test_text_names_time_level_place_and_extras() -> None:
    line = logged(TEXT, "watch of %s lost", "Deployments", cluster="prod-eu1", reason='no "bytes"', age=75)
    stamp, rest = line.split(" ", 1)
    assert stamp.endswith("Z")
    assert len(stamp) == len("2026-11-20T09:00:00.123Z")
    assert rest == 'WARNING fleet.kube watch of Deployments lost cluster=prod-eu1 reason="no \\"bytes\\"" age=75\n'


def test_json_is_one_object_a_line() -> None:
    entry = json.loads(logged(JSON, "two\nlines", cluster="prod-eu1", attempts=3, ok=True))
    entry.pop("time")
    assert entry == {
        "level": "warning",
        "logger": "fleet.kube",
        "message": "two\nlines",
        "cluster": "prod-eu1",
        "attempts": 3,
        "ok": True,
    }


def test_an_extra_cannot_take_the_place_of_a_field() -> None:
    assert json.loads(logged(JSON, "real", level=logging.ERROR, logger="forged"))["logger"] == "fleet.kube"


def test_lines_below_the_level_are_not_written() -> None:
    assert logged(TEXT, "x", level=logging.DEBUG) == ""
    assert logged(TelemetrySettings(log_level="debug"), "x", level=logging.DEBUG) != ""


@pytest.mark.parametrize("settings", [TEXT, JSON])
@pytest.mark.parametrize(
    "message",
    [
        f"Authorization: Bearer {TOKEN}",
        f"authorization: Basic {TOKEN}",
        f"'Authorization': 'Bearer {TOKEN}'",
        f"cannot fetch https://ada:{TOKEN}@git.acme.example/apps.git",
        f"cannot fetch https://{TOKEN}@git.acme.example/apps.git",
        f"user: {{token: {TOKEN}}}",
        f'{{"password": "{TOKEN}", "user": "ada"}}',
        f"https://x/callback?access_token={TOKEN}&state=1",
        f"client_secret='{TOKEN}'",
        f"-----BEGIN RSA PRIVATE KEY-----\n{TOKEN}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{TOKEN} and cut off",
        f"service account {JWT} expired {TOKEN[:0]}",
    ],
)
def test_credentials_never_reach_a_line(settings: TelemetrySettings, message: str) -> None:
    line = logged(settings, message, detail=message)
    assert TOKEN not in line
    assert JWT not in line
    assert logs.MASK in line


@pytest.mark.parametrize("settings", [TEXT, JSON])
def test_an_extra_named_like_a_secret_is_hidden(settings: TelemetrySettings) -> None:
    assert TOKEN not in logged(settings, "signed in", token=TOKEN)


@pytest.mark.parametrize("settings", [TEXT, JSON])
def test_tracebacks_pass_the_redactor(settings: TelemetrySettings) -> None:
    stream = io.StringIO()
    undo = logs.set_up(settings, stream)
    try:
        raise RuntimeError(f"GET https://ada:{TOKEN}@git.acme.example failed")
    except RuntimeError:
        logging.getLogger("fleet").exception("failed")
    finally:
        undo()
    assert "RuntimeError" in stream.getvalue()
    assert TOKEN not in stream.getvalue()


@pytest.mark.parametrize(
    "harmless",
    [
        "v1/Secret shop/db-password: Unauthorized",
        "fleet.yaml:12:5: sources[0].git.secretRef: unknown key",
        "cluster prod-eu1 is ready",
        "https://git.acme.example/apps.git: not found",
        "commit 3f2a9c1b7d5e4f60718293a4b5c6d7e8f9012345 fetched",
    ],
)
def test_ordinary_sentences_stay(harmless: str) -> None:
    assert logs.redact(harmless) == harmless


@given(st.text(max_size=300))
def test_redacting_is_idempotent_and_bounded(text: str) -> None:
    once = logs.redact(text)
    assert logs.redact(once) == once


def test_a_line_is_bounded() -> None:
    assert len(logged(TEXT, "x" * 100_000)) == logs.LINE_MAX + 1


def test_setting_up_is_undone() -> None:
    before = logging.getLogger().handlers[:]
    logged(TEXT, "x")
    assert logging.getLogger().handlers == before
