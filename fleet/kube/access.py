"""Where a cluster is and as whom we come: what a kubeconfig says (`Access`), and what a request needs (`Login`).

`kubeconfig` reads an Access, `credentials` turns it into a Login and keeps that fresh, `transport` uses the Login.
Neither shows its secrets when printed.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import msgspec

from fleet.errors import InvalidInput


class ExecPlugin(msgspec.Struct, frozen=True):
    """A client-go credential plugin (client.authentication.k8s.io)."""

    api_version: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    provide_cluster: bool = False
    """Whether the plugin is told the cluster's address and CA (`provideClusterInfo`)."""

    def __repr__(self) -> str:
        return f"ExecPlugin({self.command!r})"


class Access(msgspec.Struct, frozen=True):
    """One context of a kubeconfig with all files read; at most one way of authenticating by header is set."""

    server: str
    """`https://host:port`, with a path when the API is served below one; http only on loopback."""
    ca: bytes = b""
    """PEM; set for every https server."""
    server_name: str | None = None
    """The name the certificate must have when it is not the host of `server`."""
    proxy: str | None = None
    certificate: bytes = b""
    key: bytes = b""
    authorization: str | None = None
    """The whole header's value."""
    token_file: Path | None = None
    plugin: ExecPlugin | None = None

    def __repr__(self) -> str:
        return f"Access({self.server!r})"


class Login(msgspec.Struct, frozen=True, eq=False):
    """What one request needs. `same_as` tells whether another one could fare any better."""

    server: str
    server_name: str | None
    proxy: str | None
    tls: ssl.SSLContext | None
    material: bytes
    """Digest of everything that `tls` was made of."""
    authorization: str | None = None
    refresh_at: float = float("inf")
    """When to look for a newer one, on the monotonic clock of the event loop."""
    expires_at: float = float("inf")

    def same_as(self, other: Login) -> bool:
        return (
            self.server == other.server
            and self.material == other.material
            and self.authorization == other.authorization
        )

    def __repr__(self) -> str:
        return f"Login({self.server!r})"


def tls_context(access: Access) -> ssl.SSLContext:
    """A client context that trusts the cluster's own CA and nothing else; raises InvalidInput."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(cadata=access.ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"the certificate authority of {access.server} is no PEM certificate") from error
    if access.certificate:
        _load_client_certificate(context, access)
    return context


def _load_client_certificate(context: ssl.SSLContext, access: Access) -> None:
    """OpenSSL takes a chain from a file only: one in memory, so that the key is never written to a disk."""
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(access.certificate + b"\n" + access.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"the client certificate and key for {access.server} are no unencrypted PEM pair") from error
    finally:
        os.close(descriptor)


def _refuse_password() -> str:
    # Without this callback OpenSSL would ask for the password of an encrypted key on the terminal.
    raise ValueError("encrypted key")
