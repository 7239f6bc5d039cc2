"""How clients get at a cluster: kubeconfigs for any user, group or token, ServiceAccounts, kubectl."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.testbed.api import Api
from tests.testbed.certs import Authority, Pair
from tests.testbed.components import Layout
from tests.testbed.errors import ApiFailed, KubectlFailed, TestbedError

ADMIN = "testbed-admin"


class Access:
    """Credentials for the API server on `port`, signed by the cluster's own authority.

    Every kubeconfig holds its credentials inline, so that it can be copied anywhere; its cluster and context have the
    cluster's name.
    """

    def __init__(self, name: str, layout: Layout, authority: Authority, port: int) -> None:
        self._name = name
        self._layout = layout
        self._authority = authority
        self._port = port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def certificate(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig with a client certificate for the user and groups."""
        pair = self._authority.client(user, groups)
        return self._write(user, self.credentials(pair))

    def token(self, name: str, token: str) -> Path:
        """A kubeconfig, named `name`, with a bearer token."""
        return self._write(name, {"token": token})

    def user(self, name: str, credentials: dict[str, Any]) -> Path:
        """A kubeconfig with any user entry, e.g. {"tokenFile": …} or {"exec": …}."""
        return self._write(name, credentials)

    def credentials(self, pair: Pair) -> dict[str, str]:
        """The kubeconfig user entry of a client certificate."""
        return {
            "client-certificate-data": base64.b64encode(pair.certificate).decode(),
            "client-key-data": base64.b64encode(pair.key).decode(),
        }

    def api(self, user: str, groups: Iterable[str] = (), *, user_agent: str = "testbed", timeout: float = 10) -> Api:
        """A client with a certificate for the user and groups."""
        pair = self._authority.client(user, groups).write(self._layout.pki, _file_name(user))
        return Api(self._port, self._layout.pki / "ca.crt", certificate=pair, user_agent=user_agent, timeout=timeout)

    def _write(self, user: str, credentials: dict[str, Any]) -> Path:
        authority = base64.b64encode(self._authority.certificate).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": self._name, "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": self._name, "context": {"cluster": self._name, "user": user}}],
            "current-context": self._name,
        }
        path = self._layout.kubeconfig(_file_name(user))
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path


def service_account_token(api: Api, namespace: str, name: str, *, seconds: int = 3600) -> str:
    """A bearer token by TokenRequest (at least 600 s); the ServiceAccount is created if it is missing."""
    collection = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    try:
        api.create(collection, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    except ApiFailed as error:
        if error.status != 409:
            raise
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
    return str(api.create(f"{collection}/{name}/token", request)["status"]["token"])


def kubectl(binary: Path, kubeconfig: Path, *arguments: str, stdin: str | None = None, timeout: float = 30) -> str:
    """Runs kubectl; its stdout. Raises KubectlFailed for an exit code, TestbedError after `timeout` seconds."""
    try:
        done = subprocess.run(
            [binary, f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent / 'cache'}", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"HOME": str(kubeconfig.parent), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"kubectl {' '.join(arguments)}: no end after {timeout:.0f} s") from error
    if done.returncode != 0:
        raise KubectlFailed(arguments, done.returncode, done.stderr)
    return done.stdout


def _file_name(user: str) -> str:
    return user.replace("/", "_")
