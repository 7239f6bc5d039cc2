"""The command lines of a cluster's programs: pure functions of where it lives.

Everything listens on loopback only. Admission by ServiceAccount is off, so that Pods start without waiting for a token;
the nodes' lease lasts 40 s, the value at which kube-controller-manager does not take the simulated nodes for dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.build import Binaries

MANIFESTS = Path(__file__).parent / "manifests"


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of one cluster."""

    etcd: int
    peer: int
    apiserver: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a cluster keeps its files."""

    directory: Path

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def data(self) -> Path:
        return self.directory / "etcd-data"

    @property
    def audit(self) -> Path:
        return self.directory / "audit.log"

    def kubeconfig(self, user: str) -> Path:
        return self.directory / "kubeconfigs" / f"{user}.yaml"


Argv = list[str | Path]


def etcd(binaries: Binaries, layout: Layout, ports: Ports) -> Argv:
    client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.peer}"
    return [
        binaries["etcd"],
        f"--data-dir={layout.data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync=true",
        "--snapshot-count=10000",
        "--log-level=warn",
    ]


def apiserver(binaries: Binaries, layout: Layout, ports: Ports, flags: Sequence[str] = ()) -> Argv:
    pki = layout.pki
    return [
        binaries["kube-apiserver"],
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={ports.apiserver}",
        f"--cert-dir={pki}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--service-account-issuer=https://127.0.0.1:{ports.apiserver}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",
        "--profiling=false",
        f"--audit-policy-file={MANIFESTS / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.audit}",
        "--audit-log-maxsize=100000",  # MB: never rotated, the reader keeps an offset
        *flags,
    ]


def controller_manager(binaries: Binaries, layout: Layout) -> Argv:
    kubeconfig = layout.kubeconfig("system:kube-controller-manager")
    return [
        binaries["kube-controller-manager"],
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={layout.pki / 'service-account.key'}",
        f"--root-ca-file={layout.pki / 'ca.crt'}",
        "--bind-address=127.0.0.1",
        "--secure-port=0",
        "--leader-elect=false",
        "--profiling=false",
    ]


def scheduler(binaries: Binaries, layout: Layout) -> Argv:
    kubeconfig = layout.kubeconfig("system:kube-scheduler")
    return [
        binaries["kube-scheduler"],
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--secure-port=0",
        "--leader-elect=false",
        "--profiling=false",
    ]


def kwok(binaries: Binaries, layout: Layout) -> Argv:
    return [
        binaries["kwok"],
        f"--kubeconfig={layout.kubeconfig('testbed:kwok')}",
        f"--config={MANIFESTS / 'stages.yaml'}",
        "--manage-all-nodes=true",
        "--node-ip=127.0.0.1",
        "--node-lease-duration-seconds=40",
    ]
