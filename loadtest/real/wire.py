"""The bare connections of the measurement: one TLS client per cluster, server-side applies, patches, one watch.

Nothing of the product is used, so that the limit it is held against is that of the servers and of aiohttp.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

PATHS = {"ConfigMap": "/api/v1/namespaces/{ns}/configmaps", "Deployment": "/apis/apps/v1/namespaces/{ns}/deployments"}


class Wire:
    """A cluster by its kubeconfig (client certificate)."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        self.server: str = cluster["server"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=_pem(cluster, "certificate-authority", kubeconfig))
        with tempfile.TemporaryDirectory() as directory:
            certificate, key = Path(directory, "crt"), Path(directory, "key")
            certificate.write_text(_pem(user, "client-certificate", kubeconfig))
            key.write_text(_pem(user, "client-key", kubeconfig))
            context.load_cert_chain(certificate, key)
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0))

    async def aclose(self) -> None:
        await self.session.close()

    async def apply(self, body: dict[str, Any], manager: str) -> None:
        url = self.url(body["kind"], body["metadata"]["namespace"], body["metadata"]["name"])
        headers = {"Content-Type": "application/apply-patch+yaml"}
        parameters = {"fieldManager": manager, "force": "true"}
        async with self.session.patch(url, params=parameters, data=json.dumps(body), headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"apply {body['metadata']['name']}: {answer.status} {text[:300]!r}")

    async def patch(self, kind: str, namespace: str, name: str, body: Any, manager: str, subresource: str = "") -> None:
        url = self.url(kind, namespace, name) + subresource
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self.session.patch(
            url, params={"fieldManager": manager}, data=json.dumps(body), headers=headers
        ) as answer:
            await answer.read()
            answer.raise_for_status()

    async def create_namespace(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        async with self.session.post(f"{self.server}/api/v1/namespaces", json=body) as answer:
            await answer.read()
            if answer.status not in (201, 409):
                raise RuntimeError(f"namespace {name}: {answer.status}")

    async def watch(self, kind: str, namespace: str) -> AsyncIterator[dict[str, Any]]:
        """Events of one kind in one namespace from now on, as decoded objects."""
        url = self.server + PATHS[kind].format(ns=namespace)
        async with self.session.get(url, params={"limit": "1"}) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        parameters = {"watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self.session.get(url, params=parameters, timeout=timeout) as stream:
            buffer = b""
            async for chunk in stream.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    def url(self, kind: str, namespace: str, name: str) -> str:
        return f"{self.server}{PATHS[kind].format(ns=namespace)}/{name}"


async def each(wires: list[Wire], bodies: list[dict[str, Any]], manager: str, in_flight: int) -> None:
    """Applies all bodies to all clusters, `in_flight` at once per cluster."""

    async def one(wire: Wire) -> None:
        waiting = iter(bodies)

        async def worker() -> None:
            for body in waiting:
                await wire.apply(body, manager)

        await asyncio.gather(*(worker() for _ in range(in_flight)))

    await asyncio.gather(*(one(wire) for wire in wires))


def _pem(section: dict[str, Any], name: str, kubeconfig: Path) -> str:
    if f"{name}-data" in section:
        return base64.b64decode(str(section[f"{name}-data"])).decode()
    return (kubeconfig.parent / str(section[name])).read_text()
