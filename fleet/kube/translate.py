"""What a server's refusal means: HTTP answers and Status objects → the exceptions of `fleet.errors`.

The classes are those measured on kube-apiserver 1.36 (drift.md 1.4). Two rules stand above them: an answer that no
API server gives (HTML of a proxy, a redirect, garbage) says nothing about the cluster and is Unavailable, never
NotFound; and the message of a refusal that concerns a Secret is withheld where it may quote the value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from fleet.errors import FleetError, NotFound, Rejected, Unauthorized, Unavailable

MESSAGE_LIMIT = 2000
"""Characters of a server's message that are kept."""


class Busy(Unavailable):
    """Something before the API server asks not to be asked again for `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    group: str = ""
    kind: str = ""
    causes: tuple[Cause, ...] | None = None
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """meta/v1 Status: how an API server says no."""

    kind: str = ""
    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None

    @property
    def causes(self) -> tuple[Cause, ...]:
        return (self.details.causes or ()) if self.details else ()


_decoder = msgspec.json.Decoder(Status)


def status_of(body: bytes) -> Status | None:
    """The Status in an answer; None when it is something else (or was cut)."""
    try:
        status = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return status if status.kind == "Status" else None


def refusal(
    code: int, body: bytes, *, content_type: str, retry_after: float | None, what: str, secret: bool = False
) -> FleetError:
    """The exception for an answer that is no success; `what` names the request, such as "GET /api/v1/nodes".

    `secret` says that the request concerned a Secret.
    """
    status = status_of(body)
    if status is not None:
        return explain(status, code=code, retry_after=retry_after, secret=secret)
    if code == 401:
        return Unauthorized("the cluster refuses our credentials")
    if code == 404 and body.startswith(b"404 page not found"):
        # How the server's own router, which knows no such group or version, answers.
        return Rejected("unserved", code, "NotFound", f"{what}: the cluster does not serve this kind")
    if code == 410:
        return Rejected("gone", code, "Gone", f"{what}: too old")
    if code == 429:
        return Rejected("transient", code, "TooManyRequests", f"{what}: too many requests", retry_after)
    if 300 <= code < 400:
        return Unavailable(f"{what} was redirected ({code}), which no API server does")
    media = content_type.partition(";")[0].strip() or "nothing"
    message = f"{what} was answered with {code} and {media}, which is no answer of an API server"
    return Unavailable(message) if retry_after is None else Busy(message, retry_after)


def explain(status: Status, *, code: int = 0, retry_after: float | None = None, secret: bool = False) -> FleetError:
    """The exception for a Status; `code` is the HTTP status where there was one (a watch has it in its body)."""
    code = status.code or code
    message = _message(status, code, secret)
    if code == 401:
        return Unauthorized(f"the cluster refuses our credentials: {message}")
    if code == 404 and status.details is not None and status.details.name:
        return NotFound(message)
    if retry_after is None and status.details is not None and status.details.retry_after_seconds > 0:
        retry_after = float(status.details.retry_after_seconds)
    return Rejected(_kind(status, code), code, status.reason or str(code), message, retry_after)


# --- classes ---------------------------------------------------------------------------------------------------------

_IMMUTABLE = re.compile(r"immutable|cannot change|may not change once set|updates to .* are forbidden|Forbidden")
_AUTHORIZER = re.compile(r"\bcannot \w+ (resource|path)\b")
_REFUSED_USER = re.compile(r'[\w.]+(?: "[^"]*")? is forbidden: User "[^"]*" cannot \w+ resource\b')
"""How the authorizer begins; it knows names only. What admission says (webhooks, policies) may quote what it judged."""
_LOCKS = ("metadata.uid", "metadata.resourceVersion")
_PERMANENT_500 = re.compile(
    r"failed to create typed patch object|unable to convert unstructured object|request is too large"
)
"""Values that do not fit their type (a quantity, a time, base64) come as the second; a conversion webhook that is away
says something else."""
_BY_CODE = {
    400: "definite",
    404: "unserved",
    409: "conflict",
    410: "gone",
    413: "definite",
}


def _kind(status: Status, code: int) -> str:
    if code == 403:
        return _kind_of_403(status)
    if code == 422:
        return _kind_of_422(status)
    if status.reason in ("Expired", "Gone"):
        return "gone"
    if code >= 500:
        # A 5xx although the manifest is what is wrong: the server could not read it as the kind that it claims to be.
        return "definite" if _PERMANENT_500.search(status.message) else "transient"
    if code in (408, 425, 429):
        return "transient"
    return _BY_CODE.get(code, "definite")


def _kind_of_403(status: Status) -> str:
    if any(cause.reason == "NamespaceTerminating" for cause in status.causes):
        return "terminating"
    # The authorizer's sentence; other 403 come from admission (quota, Pod security, policies) and judge the manifest.
    return "forbidden" if _AUTHORIZER.search(status.message) else "definite"


def _kind_of_422(status: Status) -> str:
    causes = status.causes
    if causes and all(cause.field in _LOCKS for cause in causes):
        return "conflict"  # not our object any more: it was recreated, or moved on
    if not causes and "metadata.uid" in status.message:
        return "conflict"
    told = [f"{cause.reason} {cause.message}" for cause in causes] or [status.message]
    if any(_IMMUTABLE.search(text) for text in told):
        return "immutable"
    if any(cause.reason == "FieldValueDuplicate" or "Duplicate value" in cause.message for cause in causes):
        return "duplicate"
    return "definite"


# --- messages --------------------------------------------------------------------------------------------------------


def _message(status: Status, code: int, secret: bool) -> str:
    if secret and not (code in (401, 404, 409, 410, 429) or (code == 403 and _REFUSED_USER.match(status.message))):
        fields = ", ".join(sorted({_field(cause.field) for cause in status.causes if cause.field}))
        at = f" at {fields}" if fields else ""
        return f"the server rejects this Secret{at} ({status.reason or code}); its message may quote the value"
    text = " ".join(status.message.split()) or status.reason or f"status {code}"
    return text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + "…"


def _field(field: str) -> str:
    """A field's path, without what stands in quotes or brackets beyond a key."""
    return field if re.fullmatch(r"[\w.\[\]/-]{1,200}", field) else "a field"


def seconds(header: str | None, longest: float) -> float | None:
    """Retry-After as seconds, between 0 and `longest`; it is a number of seconds or a date (RFC 9110 10.2.3)."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), longest)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), longest)
