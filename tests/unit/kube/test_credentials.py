"""Logins are renewed in time, once for all who need them, and never in a storm. Plugins are real programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fleet.errors import FleetError, InvalidInput, Unauthorized, Unavailable
from fleet.kube.access import Access, ExecPlugin, Login
from fleet.kube.bounds import Bounds
from fleet.kube.credentials import Credentials, run_plugin
from tests.testbed.certs import Authority
from tests.unit.kube.conftest import QUICK, bounds

pytestmark = pytest.mark.anyio

API = "client.authentication.k8s.io/v1"
SERVER = "http://127.0.0.1:1"
CANARY = "canary-token-0123456789"


def plugin(tmp_path: Path, script: str, **options: Any) -> ExecPlugin:
    """A plugin that is a shell script; each run adds a line to `runs`."""
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
    path.chmod(0o700)
    return ExecPlugin(API, str(path), **options)


def runs(tmp_path: Path) -> int:
    file = tmp_path / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def answer(**status: Any) -> str:
    body = msgspec.json.encode({"apiVersion": API, "kind": "ExecCredential", "status": status}).decode()
    return f"cat <<'EOF'\n{body}\nEOF"


def expiring(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def credentials(
    exec_plugin: ExecPlugin | None = None, read: Callable[[], Access] | None = None, limits: Bounds = QUICK
) -> Credentials:
    return Credentials("qa", read or (lambda: Access(SERVER, plugin=exec_plugin)), limits)


async def outcomes(attempts: int, attempt: Callable[[], Any]) -> list[Login | FleetError]:
    """What the same attempt gives to so many tasks at once."""
    results: list[Login | FleetError] = []

    async def one() -> None:
        try:
            results.append(await attempt())
        except FleetError as error:
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(attempts):
            tasks.start_soon(one)
    return results


# --- plugins ---------------------------------------------------------------------------------------------------------


async def test_a_plugin_gives_a_token(tmp_path: Path) -> None:
    login = await credentials(plugin(tmp_path, answer(token=CANARY, expirationTimestamp=expiring(1000)))).login()
    assert login.authorization == f"Bearer {CANARY}"
    now = anyio.current_time()
    assert 600 < login.refresh_at - now < 800.5
    assert 800 < login.expires_at - now < 1000.5
    assert CANARY not in repr(login)


async def test_a_plugin_is_told_what_the_protocol_says(tmp_path: Path) -> None:
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/info; printf %s "$1 $A" > {tmp_path}/told\n'
    told = plugin(
        tmp_path, script + answer(token="t"), arguments=("x",), environment=(("A", "b"),), provide_cluster=True
    )
    await run_plugin(told, Access("https://qa", b"CA", server_name="name", proxy="http://p"), QUICK)
    assert msgspec.json.decode((tmp_path / "info").read_bytes()) == {
        "apiVersion": API,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://qa",
                "certificate-authority-data": "Q0E=",
                "tls-server-name": "name",
                "proxy-url": "http://p",
            },
        },
    }
    assert (tmp_path / "told").read_text() == "x b"


async def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    authority = Authority("qa CA")
    pair = authority.client("me")
    granting = plugin(
        tmp_path,
        answer(clientCertificateData=pair.certificate.decode(), clientKeyData=pair.key.decode()),
    )
    plain = Credentials("qa", lambda: Access("https://qa", authority.certificate), QUICK)
    by_plugin = Credentials("qa", lambda: Access("https://qa", authority.certificate, plugin=granting), QUICK)
    login = await by_plugin.login()
    assert login.tls is not None
    assert login.authorization is None
    assert not login.same_as(await plain.login())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"echo {CANARY} >&2; exit 3", "failed with exit code 3"),
        (f"echo {CANARY}", "did not answer with an ExecCredential"),
        (f"""echo '{{"apiVersion":"{API}","kind":"Token","status":{{"token":"{CANARY}"}}}}'""", "does not speak"),
        (f"""echo '{{"apiVersion":"v0","kind":"ExecCredential","status":{{"token":"{CANARY}"}}}}'""", "does not speak"),
        (answer(), "neither a token nor a certificate"),
        (answer(clientKeyData=CANARY), "neither a token nor a certificate"),
        (answer(token=f"{CANARY} x"), "characters that no token has"),
        (answer(token=CANARY, expirationTimestamp="tomorrow"), "is no time"),
        ("yes | head -c 3000000", "could not be run"),
    ],
)
async def test_a_plugin_that_fails_is_unauthorized_and_not_quoted(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(Unauthorized, match=message) as caught:
        await credentials(plugin(tmp_path, script)).login()
    assert CANARY not in str(caught.value)


async def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match="could not be run"):
        await credentials(ExecPlugin(API, str(tmp_path / "absent"))).login()


async def test_a_plugin_that_hangs_is_killed(tmp_path: Path) -> None:
    hanging = plugin(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    with pytest.raises(Unavailable, match="took longer"):
        await credentials(hanging, limits=bounds(plugin=0.3)).login()
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- renewal ---------------------------------------------------------------------------------------------------------


async def test_many_callers_share_one_run(tmp_path: Path) -> None:
    kept = credentials(plugin(tmp_path, answer(token="t", expirationTimestamp=expiring(1000))))
    first = await outcomes(50, kept.login)
    assert len({id(login) for login in first}) == 1
    assert runs(tmp_path) == 1
    assert await kept.login() is first[0]
    assert runs(tmp_path) == 1


async def test_90_refusals_of_one_login_make_one_renewal(tmp_path: Path) -> None:
    kept = credentials(plugin(tmp_path, answer(token="t")))
    refused = await kept.login()
    renewed = await outcomes(90, lambda: kept.renew(refused))
    assert len({id(login) for login in renewed}) == 1
    assert renewed[0] is not refused
    assert isinstance(renewed[0], Login)
    assert renewed[0].same_as(refused)
    assert runs(tmp_path) == 2


async def test_a_token_that_has_expired_is_renewed_before_it_is_used(tmp_path: Path) -> None:
    kept = credentials(plugin(tmp_path, answer(token="t", expirationTimestamp="2020-01-01T00:00:00.123456789Z")))
    await kept.login()
    await kept.login()
    assert runs(tmp_path) == 2


async def test_a_failing_plugin_is_not_run_by_everybody(tmp_path: Path) -> None:
    kept = credentials(plugin(tmp_path, "exit 1"))
    results = await outcomes(90, kept.login)
    assert all(isinstance(result, Unauthorized) for result in results)
    assert runs(tmp_path) == 1


async def test_a_login_that_has_not_expired_survives_a_failed_renewal(tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    script = f"test -e {flag} && exit 1\n" + answer(token="t", expirationTimestamp=expiring(1000))
    kept = credentials(plugin(tmp_path, script))
    first = await kept.login()
    flag.touch()
    with pytest.raises(Unauthorized):
        await kept.renew(first)
    assert await kept.login() is first


async def test_a_cancelled_renewal_leaves_it_to_the_next(tmp_path: Path) -> None:
    flag = tmp_path / "slow"
    flag.touch()
    kept = credentials(plugin(tmp_path, f"test -e {flag} && sleep 600\n" + answer(token="t")))
    with anyio.move_on_after(0.2) as scope:
        await kept.login()
    assert scope.cancelled_caught
    flag.unlink()
    assert (await kept.login()).authorization == "Bearer t"


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    kept = credentials(read=lambda: Access(SERVER, token_file=file), limits=bounds(token_file=0.0))
    assert (await kept.login()).authorization == "Bearer one"
    file.write_text("two\n")
    assert (await kept.login()).authorization == "Bearer two"


@pytest.mark.parametrize("content", [None, "", "two words", "x" * 70000])
async def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Unauthorized, match="token file"):
        await credentials(read=lambda: Access(SERVER, token_file=file)).login()


async def test_connections_outlive_a_renewal_that_changes_only_the_token() -> None:
    authority = Authority("qa CA")
    tokens = iter(("Bearer one", "Bearer two"))
    kept = credentials(
        read=lambda: Access("https://qa", authority.certificate, authorization=next(tokens)),
    )
    first = await kept.login()
    second = await kept.renew(first)
    assert second.tls is first.tls
    assert not second.same_as(first)


async def test_a_kubeconfig_that_breaks_while_in_use_is_unauthorized() -> None:
    def read() -> Access:
        raise InvalidInput("config:1:1: not the YAML of a kubeconfig")

    with pytest.raises(Unauthorized, match="qa: config:1:1"):
        await credentials(read=read).login()
