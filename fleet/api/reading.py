"""Requests as values: every parameter typed and bounded, every unknown one refused, all faults named."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec
from aiohttp import web

from fleet.api.endpoint import LIMIT, Parameter
from fleet.api.problem import FieldError, InvalidRequest

DEFAULT_LIMIT = 100
MAX_NAME = 256
MAX_SEQ = (1 << 63) - 1
_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0", ""})

B = TypeVar("B", bound=msgspec.Struct)


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every command may carry: who speaks. Nothing verifies it as long as the server has no sign-in."""

    as_: str = msgspec.field(default="", name="as")
    """Name of the actor, by default `token`."""
    groups: tuple[str, ...] = ()
    comment: str = ""


def check_query(request: web.Request, parameters: tuple[Parameter, ...]) -> None:
    """Raises InvalidRequest for parameters that the endpoint does not know, or that are given twice."""
    known = [parameter.name for parameter in parameters if parameter.place == "query"]
    errors = [
        FieldError(name, f"unknown parameter; this takes {', '.join(known) or 'none'}")
        for name in sorted(set(request.query) - set(known))
    ]
    errors += [FieldError(name, "given twice") for name in known if len(request.query.getall(name, [])) > 1]
    if errors:
        raise InvalidRequest("; ".join(f"{error.path}: {error.message}" for error in errors), tuple(errors))


def integer(request: web.Request, name: str, default: int, minimum: int, maximum: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not minimum <= int(text) <= maximum:
        raise _wrong(name, f"{_shown(text)} is not a whole number from {minimum} to {maximum}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false").lower()
    if text not in _TRUE | _FALSE:
        raise _wrong(name, f"{_shown(text)} is neither true nor false")
    return text in _TRUE


def name(request: web.Request, parameter: str) -> str | None:
    text = request.query.get(parameter)
    if text is not None and not 0 < len(text) <= MAX_NAME:
        raise _wrong(parameter, f"a name of 1 to {MAX_NAME} characters is wanted")
    return text


def page(request: web.Request) -> tuple[str | None, int]:
    """(where the page begins, its size)."""
    return _untoken(request.query.get("next")), integer(request, "limit", DEFAULT_LIMIT, 1, LIMIT.maximum or 1)


def token(key: str | None) -> str | None:
    """The opaque `next` for a key of the list."""
    return None if key is None else base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


async def body(request: web.Request, kind: type[B]) -> B:
    """The JSON body as `kind`; an empty body is an empty object. Raises InvalidRequest with the JSON path."""
    if request.content_type not in ("application/json", "application/octet-stream", ""):
        raise InvalidRequest(f"the body must be application/json, not {request.content_type}", status=415)
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        found = FieldError(path.rstrip("`") or "$", message)
        raise InvalidRequest(f"{found.path}: {message}", (found,)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None


def actor(said: Said) -> tuple[str, tuple[str, ...]]:
    """(name, groups) of who speaks, as stated."""
    who = said.as_.strip()
    for text in (who, *said.groups):
        if len(text) > MAX_NAME or not text.isprintable():
            raise InvalidRequest(
                f"$.as: at most {MAX_NAME} printable characters are wanted", (FieldError("$.as", "not a name"),)
            )
    if len(said.groups) > 100 or len(said.comment) > 4096:
        raise InvalidRequest("at most 100 groups and a comment of 4096 characters are accepted")
    return who or "token", said.groups


def if_match(request: web.Request) -> int | None:
    """The version in If-Match (`42`, `"42"` or `*` for any); None when the header is absent or `*`."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    digits = text.strip().removeprefix("W/").strip('"')
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise _wrong("If-Match", f'{_shown(text)} is not a version such as "42"')
    return int(digits)


def idempotency_key(request: web.Request) -> str | None:
    text = request.headers.get("Idempotency-Key")
    if text is not None and (not 0 < len(text) <= MAX_NAME or not text.isprintable()):
        raise _wrong("Idempotency-Key", f"1 to {MAX_NAME} printable characters are wanted")
    return text


def _untoken(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        if len(text) > 4 * MAX_NAME:
            raise ValueError("too long")
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _wrong("next", "not a `next` that this server gave") from None


def _wrong(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {message}", (FieldError(place, message),))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
