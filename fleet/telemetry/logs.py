"""Log lines on stderr: `time level logger message key=value …` for people, or one JSON object a line.

Everything passes a redactor last, messages, extras and tracebacks alike. It is the net below the rule that secrets are
never logged, not a replacement for it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from fleet.settings import TelemetrySettings

MASK = "[redacted]"
LINE_MAX = 16 * 1024
"""Characters of one line; a server's answer quoted in an error must not fill the disk."""

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), MASK),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{12,}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[^\s\"',]+"), rf"\1{MASK}"),
    # user:password@ within a URL, and a token alone in the same place
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@"), rf"\1{MASK}@"),
    # a JSON web token, such as the one of a service account
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), MASK),
    # key=value and key: value; not "Secret shop/db-password: Unauthorized", where the name ends a path
    (
        re.compile(r"(?i)((?<![\w/.-])[\"']?[\w-]*(?:password|passwd|secret|token|api[_-]?key|client-key-data)[\"']?\s*[=:]\s*)"
                   r"(\"[^\"]*\"|'[^']*'|[^\s,;&\"'}\])]+)"),
        rf"\1{MASK}",
    ),
)  # fmt: skip


def redact(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class TextFormatter(logging.Formatter):
    """`2026-11-20T09:00:00.123Z WARNING fleet.kube the message cluster=prod-eu1`"""

    def format(self, record: logging.LogRecord) -> str:
        message, extras, trace = _parts(record)
        # Redacted before they are quoted: afterwards a value may have been split by escapes.
        told = "".join(f" {name}={_quoted(_redacted(name, value))}" for name, value in extras.items())
        text = f"{_time(record)} {record.levelname} {record.name} {redact(message)}{told}"
        return (f"{text}\n{redact(trace)}" if trace else text)[:LINE_MAX]


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, then the extras, then `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        message, extras, trace = _parts(record)
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(message)[:LINE_MAX],
        }
        for name, value in extras.items():
            entry.setdefault(
                name, value if isinstance(value, bool | int | float) else _redacted(name, value)[:LINE_MAX]
            )
        if trace:
            entry["traceback"] = redact(trace)[:LINE_MAX]
        return msgspec.json.encode(entry).decode()


def set_up(settings: TelemetrySettings, stream: TextIO | None = None) -> Callable[[], None]:
    """Sends every log record to `stream` (stderr by default); returns what undoes that."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())

    def undo() -> None:
        root.handlers[:] = before
        root.setLevel(level)

    return undo


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, Any], str]:
    extras = {name: value for name, value in vars(record).items() if name not in _BUILT_IN and value is not None}
    trace = logging.Formatter().formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    return record.getMessage(), extras, trace


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _redacted(name: str, value: object) -> str:
    """An extra as text; its name may be what gives a secret away."""
    return redact(f"{name}={value}").removeprefix(f"{name}=")


def _quoted(value: str) -> str:
    plain = value and not any(character in value for character in ' "=\n\r\t')
    return value if plain else msgspec.json.encode(value).decode()
