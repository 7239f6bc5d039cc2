"""A cluster of fleet.yaml → a client for it: `engine.ports.Connector`, given to the engine by `app`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from fleet.errors import InvalidInput, NotFound
from fleet.kube import kubeconfig
from fleet.kube.access import Access
from fleet.kube.bounds import Bounds
from fleet.kube.client import KubeClient
from fleet.kube.credentials import Credentials
from fleet.kube.transport import Transport
from fleet.model.fleetfile import Cluster


class KubeConnector:
    """Makes clients: `KubeConnector(bounds.of(settings.kube))`. They share one limit on concurrent lists.

    A kubeconfig below `data_dir`, where files from Git lie, may name no program and no file.
    """

    def __init__(self, bounds: Bounds | None = None, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._bounds = bounds or Bounds()
        self._lists = anyio.CapacityLimiter(self._bounds.rates.fleet_lists)

    async def connect(self, cluster: Cluster, secrets: Mapping[str, bytes]) -> KubeClient:
        """A client for `cluster`; `secrets` holds the kubeconfig under the cluster's `secret_ref`.

        Reads the kubeconfig, so that what is wrong in it is told here (InvalidInput; NotFound without the secret), and
        sends nothing: whether the cluster answers is told by the first request.
        """
        read = self._reader(cluster, secrets)
        await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        credentials = Credentials(cluster.name, read, self._bounds)
        return KubeClient(Transport(cluster.name, credentials, self._bounds), self._lists)

    def _reader(self, cluster: Cluster, secrets: Mapping[str, bytes]) -> Callable[[], Access]:
        limit = self._bounds.sizes.kubeconfig
        reference = cluster.kubeconfig
        if cluster.in_cluster:
            return partial(kubeconfig.in_cluster, os.environ, limit=limit)
        if cluster.secret_ref is not None:
            if cluster.secret_ref not in secrets:
                raise NotFound(f"cluster {cluster.name}: there is no secret {cluster.secret_ref}")
            context = reference.context if reference else None
            body = secrets[cluster.secret_ref]
            return partial(kubeconfig.from_secret, body, cluster.secret_ref, context, limit=limit)
        if reference is None:
            raise InvalidInput(f"cluster {cluster.name} has no kubeconfig, secretRef or inCluster")
        return partial(kubeconfig.from_path, reference.path, reference.context, limit=limit, data_dir=self._data_dir)
