"""Every class of refusal in drift.md 1.4, with the words of a real kube-apiserver, and answers of everything else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import FleetError, NotFound, Rejected, Unauthorized, Unavailable
from fleet.kube import translate


def answer(code: int, message: str, reason: str = "", details: dict[str, Any] | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }
    )


def cause(reason: str, message: str, field: str = "") -> dict[str, Any]:
    return {"name": "a", "causes": [{"reason": reason, "message": message, "field": field}]}


def refused(code: int, body: bytes, *, secret: bool = False, retry_after: float | None = None) -> FleetError:
    return translate.refusal(
        code, body, content_type="application/json", retry_after=retry_after, what="GET /x", secret=secret
    )


CASES = [
    pytest.param(
        409,
        answer(
            409,
            'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas',
            "Conflict",
            cause("FieldManagerConflict", 'conflict with "kubectl"', ".spec.replicas"),
        ),
        "conflict",
        id="field manager",
    ),
    pytest.param(409, answer(409, 'configmaps "a" already exists', "AlreadyExists"), "conflict", id="exists"),
    pytest.param(
        409,
        answer(409, "the object has been modified; please apply your changes to the latest version", "Conflict"),
        "conflict",
        id="optimistic lock",
    ),
    pytest.param(
        422,
        answer(
            422,
            'ConfigMap "a" is invalid: metadata.uid: Invalid value: "x": field is immutable',
            "Invalid",
            cause("FieldValueInvalid", 'Invalid value: "x": field is immutable', "metadata.uid"),
        ),
        "conflict",
        id="another uid",
    ),
    pytest.param(
        422,
        answer(
            422,
            'Job.batch "a" is invalid: spec.template: Invalid value: …: field is immutable',
            "Invalid",
            cause("FieldValueInvalid", "Invalid value: …: field is immutable", "spec.template"),
        ),
        "immutable",
        id="job template",
    ),
    pytest.param(
        422,
        answer(
            422,
            'StatefulSet.apps "a" is invalid: spec: Forbidden: updates to statefulset spec for fields other than',
            "Invalid",
            cause("FieldValueForbidden", "Forbidden: updates to statefulset spec for fields other than …", "spec"),
        ),
        "immutable",
        id="statefulset",
    ),
    pytest.param(
        422,
        answer(
            422,
            'Service "a" is invalid: spec.clusterIPs[0]: Invalid value: "None": may not change once set',
            "Invalid",
            cause("FieldValueInvalid", 'Invalid value: "None": may not change once set', "spec.clusterIPs[0]"),
        ),
        "immutable",
        id="cluster IP",
    ),
    pytest.param(
        422,
        answer(
            422,
            'ClusterRoleBinding "a" is invalid: roleRef: Invalid value: …: cannot change roleRef',
            "Invalid",
            cause("FieldValueInvalid", "Invalid value: …: cannot change roleRef", "roleRef"),
        ),
        "immutable",
        id="roleRef",
    ),
    pytest.param(
        422,
        answer(
            422,
            'Deployment.apps "a" is invalid: spec.ports[1].name: Duplicate value: "http"',
            "Invalid",
            cause("FieldValueDuplicate", 'Duplicate value: "http"', "spec.ports[1].name"),
        ),
        "duplicate",
        id="duplicate",
    ),
    pytest.param(
        422,
        answer(
            422,
            'Deployment.apps "a" is invalid: spec.replicas: Invalid value: -1',
            "Invalid",
            cause("FieldValueInvalid", "Invalid value: -1", "spec.replicas"),
        ),
        "definite",
        id="invalid value",
    ),
    pytest.param(
        403,
        answer(
            403,
            'configmaps "a" is forbidden: unable to create new content in namespace n because it is being terminated',
            "Forbidden",
            cause("NamespaceTerminating", "namespace n is being terminated", "metadata.namespace"),
        ),
        "terminating",
        id="namespace terminating",
    ),
    pytest.param(
        403,
        answer(
            403,
            'deployments.apps "a" is forbidden: User "fleet" cannot patch resource "deployments" in API group "apps" '
            'in the namespace "n"',
            "Forbidden",
            {"name": "a", "group": "apps", "kind": "deployments"},
        ),
        "forbidden",
        id="rbac",
    ),
    pytest.param(
        403,
        answer(403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest"', "Forbidden"),
        "definite",
        id="admission",
    ),
    pytest.param(
        404, answer(404, "the server could not find the requested resource", "NotFound", {}), "unserved", id="no kind"
    ),
    pytest.param(404, b"404 page not found\n", "unserved", id="no group"),
    pytest.param(
        500,
        answer(500, "failed to create typed patch object (n/a; v1, Kind=ConfigMap): .x: field not declared in schema"),
        "definite",
        id="typed patch",
    ),
    pytest.param(
        500,
        answer(
            500,
            "failed to convert new object (n/a; v1, Kind=Secret) to proper version: unable to convert unstructured "
            "object to v1, Kind=Secret: error decoding from json: illegal base64 data at input byte 4",
        ),
        "definite",
        id="not of its type",
    ),
    pytest.param(
        500,
        answer(
            500,
            "failed to convert new object (n/a; x.io/v2, Kind=X) to proper version: conversion webhook for x.io/v1, "
            'Kind=X failed: Post "https://x.x.svc:443/": dial tcp: connect: connection refused',
        ),
        "transient",
        id="conversion webhook away",
    ),
    pytest.param(500, answer(500, "etcdserver: request is too large"), "definite", id="too large for etcd"),
    pytest.param(
        500, answer(500, "request to convert CR from an invalid group/version: x/v1beta1"), "transient", id="convert"
    ),
    pytest.param(
        500,
        answer(500, 'Internal error occurred: failed calling webhook "w": connection refused', "InternalError"),
        "transient",
        id="admission webhook",
    ),
    pytest.param(503, answer(503, "service unavailable", "ServiceUnavailable"), "transient", id="API service"),
    pytest.param(504, answer(504, "request did not complete", "Timeout"), "transient", id="timeout"),
    pytest.param(429, answer(429, "too many requests", "TooManyRequests"), "transient", id="flow control"),
    pytest.param(429, b"Too many requests, please try again later.\n", "transient", id="overload"),
    pytest.param(410, answer(410, "too old resource version: 1 (2)", "Expired"), "gone", id="expired"),
    pytest.param(410, b"", "gone", id="bare 410"),
    pytest.param(400, answer(400, "strict decoding error", "BadRequest"), "definite", id="bad request"),
    pytest.param(413, answer(413, "request entity too large", "RequestEntityTooLarge"), "definite", id="413"),
    pytest.param(415, answer(415, "unsupported media type", "UnsupportedMediaType"), "definite", id="415"),
    pytest.param(405, answer(405, "does not allow this method", "MethodNotAllowed"), "definite", id="405"),
]


@pytest.mark.parametrize(("code", "body", "kind"), CASES)
def test_kinds(code: int, body: bytes, kind: str) -> None:
    error = refused(code, body)
    assert isinstance(error, Rejected)
    assert (error.kind, error.status) == (kind, code)
    assert str(error)


def test_an_object_that_is_not_there_is_not_found() -> None:
    body = answer(404, 'configmaps "a" not found', "NotFound", {"name": "a", "kind": "configmaps"})
    assert isinstance(refused(404, body), NotFound)


def test_rbac_errors_name_verb_and_resource() -> None:
    code, body, _ = next(case.values for case in CASES if case.id == "rbac")
    assert isinstance(code, int)
    assert isinstance(body, bytes)
    assert 'cannot patch resource "deployments" in API group "apps"' in str(refused(code, body))


@pytest.mark.parametrize("body", [answer(401, "Unauthorized", "Unauthorized"), b"", b"<html>login</html>"])
def test_401(body: bytes) -> None:
    assert isinstance(refused(401, body), Unauthorized)


@pytest.mark.parametrize("code", [200, 302, 400, 403, 404, 500, 502, 503])
@pytest.mark.parametrize("body", [b"", b"<html>404</html>", b'{"kind":"Status"', b'{"kind":"Pod"}', b"[]", b"\xff"])
def test_what_no_api_server_says_means_nothing(code: int, body: bytes) -> None:
    error = refused(code, body)
    assert type(error) is Unavailable
    assert str(code) in str(error)


def test_the_status_in_the_body_says_how_long_to_wait_unless_the_header_did() -> None:
    body = answer(429, "wait", "TooManyRequests", {"retryAfterSeconds": 4})
    waits = []
    for header in (None, 9.0):
        error = refused(429, body, retry_after=header)
        assert isinstance(error, Rejected)
        waits.append(error.retry_after)
    assert waits == [4.0, 9.0]


def test_a_proxy_that_asks_for_a_pause_is_unavailable_for_so_long() -> None:
    error = refused(503, b"<html>", retry_after=7.0)
    assert isinstance(error, translate.Busy)
    assert error.retry_after == 7.0


CANARY = "c2VjcmV0LWNhbmFyeQ"


@pytest.mark.parametrize(
    "body",
    [
        answer(500, f'failed to create typed patch object: .data.x: expected string, got "{CANARY}"'),
        answer(
            422,
            f'Secret "a" is invalid: data[x]: Invalid value: "{CANARY}"',
            "Invalid",
            cause("FieldValueInvalid", f'Invalid value: "{CANARY}"', "data[x]"),
        ),
        answer(400, f"illegal base64 data in {CANARY}", "BadRequest"),
    ],
)
def test_the_values_of_a_secret_are_in_no_error(body: bytes) -> None:
    code = msgspec.json.decode(body)["code"]
    error = refused(code, body, secret=True)
    assert isinstance(error, Rejected)
    assert error.kind == "definite"
    assert CANARY not in str(error)
    assert CANARY not in repr(vars(error))
    assert CANARY in str(refused(code, body))


def test_names_in_errors_about_secrets_are_told() -> None:
    body = answer(403, 'secrets "a" is forbidden: User "u" cannot patch resource "secrets"', "Forbidden")
    assert "cannot patch" in str(refused(403, body, secret=True))
    body = answer(403, 'secrets is forbidden: User "u" cannot list resource "secrets" in API group ""', "Forbidden")
    assert "cannot list" in str(refused(403, body, secret=True))


@pytest.mark.parametrize(
    "message",
    [
        f'admission webhook "policy" denied the request: data.x is "{CANARY}"',
        f'secrets "a" is forbidden: ValidatingAdmissionPolicy "p" denied request: {CANARY}',
        f'admission webhook "policy" denied the request: User cannot patch resource with {CANARY}',
    ],
)
def test_admission_that_quotes_a_secret_is_withheld(message: str) -> None:
    body = answer(403, message, "Forbidden")
    told = str(refused(403, body, secret=True))
    assert CANARY not in told
    assert "rejects this Secret" in told
    assert CANARY in str(refused(403, body))


def test_messages_are_one_bounded_line() -> None:
    text = str(refused(400, answer(400, "two\nlines " + "x" * 100_000)))
    assert text.startswith("two lines x")
    assert len(text) <= translate.MESSAGE_LIMIT + 1


@pytest.mark.parametrize(
    ("header", "wait"), [(None, None), ("", None), ("3", 3.0), ("999999999999", 60.0), ("x", None)]
)
def test_retry_after_in_seconds(header: str | None, wait: float | None) -> None:
    assert translate.seconds(header, 60.0) == wait


def test_retry_after_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    assert translate.seconds(soon, 60.0) == 60.0
    assert translate.seconds("Wed, 21 Oct 2015 07:28:00 GMT", 60.0) == 0.0


@given(st.integers(300, 599), st.binary(max_size=200), st.text(max_size=20))
def test_anything_becomes_an_expected_error(code: int, body: bytes, header: str) -> None:
    wait = translate.seconds(header, 60.0)
    assert wait is None or 0.0 <= wait <= 60.0
    assert isinstance(refused(code, body, retry_after=wait), Unavailable | Rejected | NotFound)
