"""Keeps one cluster's `Login` fresh: read the kubeconfig, run its plugin or read its token file, build the TLS context.

Renewed at 80 % of a token's life, at a token file's age, and once for every Login that a server refused; many callers
share one renewal. A renewal that fails is not tried again before a growing pause is over, and meanwhile a Login that
has not expired stays in use.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from fleet.aio import process
from fleet.aio.limits import Breaker, jitter
from fleet.errors import FleetError, InvalidInput, Unauthorized, Unavailable
from fleet.kube import kubeconfig
from fleet.kube.access import Access, ExecPlugin, Login, tls_context
from fleet.kube.bounds import Bounds

REFRESH_AT = 0.8
"""Share of a token's life after which it is renewed."""
_RENEWAL_PAUSE, _RENEWAL_PAUSE_CAP = 1.0, 30.0


class Credentials:
    """The Login of one cluster. `read` gives its Access anew each time (blocking, run in a thread)."""

    def __init__(self, cluster: str, read: Callable[[], Access], bounds: Bounds) -> None:
        self._cluster = cluster
        self._read = read
        self._bounds = bounds
        self._lock = anyio.Lock()
        self._login: Login | None = None
        self._failures = Breaker(1, _RENEWAL_PAUSE, _RENEWAL_PAUSE_CAP)
        self._failure: FleetError | None = None

    async def login(self) -> Login:
        """A Login that is worth trying; raises Unavailable or Unauthorized when there is none."""
        login = self._login
        now = anyio.current_time()
        if login is not None and (now < login.refresh_at or (self._lock.locked() and now < login.expires_at)):
            return login
        try:
            return await self._renewal(login)
        except FleetError:
            if login is not None and anyio.current_time() < login.expires_at:
                return login
            raise

    async def renew(self, refused: Login) -> Login:
        """A newer Login than the one that a server refused; it may turn out to be the same credentials again."""
        return await self._renewal(refused)

    async def _renewal(self, stale: Login | None) -> Login:
        async with self._lock:
            if self._login is not None and self._login is not stale:
                return self._login
            if self._failures.admit(anyio.current_time()) > 0 and self._failure is not None:
                # Raised anew: one exception object raised by many tasks would collect all their tracebacks.
                raise type(self._failure)(str(self._failure))
            answered = False
            try:
                self._login = await self._make()
                answered = True
            except FleetError as error:
                answered = True
                self._failure = error
                self._failures.failed(anyio.current_time(), jitter.random())
                raise
            finally:
                if not answered:
                    self._failures.abandoned()
            self._failures.succeeded()
            return self._login

    async def _make(self) -> Login:
        timeouts = self._bounds.timeouts
        try:
            with anyio.fail_after(timeouts.plugin + timeouts.connect):
                return await self._login_by(await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True))
        except TimeoutError:
            raise Unavailable(f"the credentials of {self._cluster} could not be read in time") from None
        except InvalidInput as error:
            # It was valid when the cluster was connected: somebody is changing it, and it is read again.
            raise Unauthorized(f"{self._cluster}: {error}") from error

    async def _login_by(self, access: Access) -> Login:
        if access.plugin is not None:
            return await self._by_plugin(access, access.plugin)
        if access.token_file is not None:
            limit = self._bounds.sizes.token
            header = await anyio.to_thread.run_sync(_read_token, access.token_file, limit, abandon_on_cancel=True)
            access = msgspec.structs.replace(access, authorization=header)
            return self._login_of(access, refresh_in=self._bounds.timeouts.token_file)
        return self._login_of(access)

    async def _by_plugin(self, access: Access, plugin: ExecPlugin) -> Login:
        granted = await run_plugin(plugin, access, self._bounds)
        access = msgspec.structs.replace(
            access,
            authorization=granted.authorization,
            certificate=granted.certificate or access.certificate,
            key=granted.key or access.key,
        )
        if granted.life is None:
            return self._login_of(access)
        return self._login_of(access, refresh_in=granted.life * REFRESH_AT, expires_in=granted.life)

    def _login_of(self, access: Access, *, refresh_in: float = float("inf"), expires_in: float = float("inf")) -> Login:
        now = anyio.current_time()
        material = hashlib.blake2b(
            msgspec.msgpack.encode((access.server, access.server_name, access.ca, access.certificate, access.key)),
            digest_size=16,
        ).digest()
        previous = self._login
        if access.server.startswith("http://"):
            tls = None
        elif previous is not None and previous.material == material:
            tls = previous.tls  # open connections belong to a context: a new one would abandon them
        else:
            tls = tls_context(access)
        return Login(
            server=access.server,
            server_name=access.server_name,
            proxy=access.proxy,
            tls=tls,
            material=material,
            authorization=access.authorization,
            refresh_at=now + refresh_in,
            expires_at=now + expires_in,
        )


def _read_token(file: Path, limit: int) -> str:
    try:
        with file.open("rb") as stream:
            body = stream.read(limit + 1)
    except OSError as error:
        raise Unauthorized(f"cannot read the token file {file}: {error.strerror or error}") from error
    if len(body) > limit:
        raise InvalidInput(f"the token file {file} is larger than {limit} bytes")
    return kubeconfig.bearer(body.decode("ascii", "replace"), f"the token file {file}")


# --- exec credential plugins -----------------------------------------------------------------------------------------


class Granted(msgspec.Struct, frozen=True):
    """What a plugin answered; `life` in seconds, None when the credentials do not expire."""

    authorization: str | None
    certificate: bytes
    key: bytes
    life: float | None

    def __repr__(self) -> str:
        return "Granted()"


class _ExecStatus(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: str | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    status: _ExecStatus


async def run_plugin(plugin: ExecPlugin, access: Access, bounds: Bounds) -> Granted:
    """Runs an exec plugin once, by the protocol of client.authentication.k8s.io, never on a terminal.

    Raises Unauthorized when it fails, is missing or answers nonsense, Unavailable when it takes too long. What it
    printed is in no error, since it may be a credential.
    """
    environment = dict(os.environ) | dict(plugin.environment)
    environment["KUBERNETES_EXEC_INFO"] = _exec_info(plugin, access).decode()
    name = Path(plugin.command).name
    try:
        completed = await process.run(
            [plugin.command, *plugin.arguments],
            env=environment,
            deadline=bounds.timeouts.plugin,
            stdout_limit=bounds.sizes.plugin,
        )
    except process.DeadlinePassed as error:
        raise Unavailable(f"the credential plugin {name} took longer than {bounds.timeouts.plugin:g} s") from error
    except process.ProcessError as error:
        raise Unauthorized(f"the credential plugin {name} could not be run: {error}") from error
    if completed.returncode != 0:
        raise Unauthorized(
            f"the credential plugin {name} failed with exit code {completed.returncode}: run it by hand to see why"
        )
    try:
        answer = msgspec.json.decode(completed.stdout, type=_ExecCredential)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unauthorized(f"the credential plugin {name} did not answer with an ExecCredential") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        raise Unauthorized(f"the credential plugin {name} does not speak {plugin.api_version}")
    return _granted(answer.status, name)


def _exec_info(plugin: ExecPlugin, access: Access) -> bytes:
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster:
        cluster: dict[str, object] = {"server": access.server, "certificate-authority-data": access.ca}
        if access.server_name:
            cluster["tls-server-name"] = access.server_name
        if access.proxy:
            cluster["proxy-url"] = access.proxy
        spec["cluster"] = cluster
    return msgspec.json.encode({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec})


def _granted(status: _ExecStatus, name: str) -> Granted:
    certificate = (status.client_certificate_data or "").encode()
    key = (status.client_key_data or "").encode()
    if bool(certificate) != bool(key) or not (status.token or certificate):
        raise Unauthorized(f"the credential plugin {name} gave neither a token nor a certificate with its key")
    try:
        authorization = kubeconfig.bearer(status.token, name) if status.token else None
    except InvalidInput as error:
        raise Unauthorized(str(error)) from error
    life = _seconds_until(status.expiration_timestamp, name) if status.expiration_timestamp else None
    return Granted(authorization, certificate, key, life)


def _seconds_until(timestamp: str, name: str) -> float:
    # Go writes up to nine digits of a second, Python reads six.
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", timestamp)
    try:
        moment = datetime.fromisoformat(trimmed)
    except ValueError:
        raise Unauthorized(f"the credential plugin {name} gave an expirationTimestamp that is no time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
