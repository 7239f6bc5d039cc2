"""kubeconfig → `Access`. The only module that imports kubernetes_asyncio, and only when there is a kubeconfig to read.

That import takes about 1 s and 40 MiB (its package imports every model), so a process that only runs inside its own
cluster never pays it. All functions block on files: call them in a worker thread. They raise InvalidInput with what is
wrong and where, never with the value that is wrong.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from fleet.core import yaml
from fleet.errors import InvalidInput
from fleet.kube.access import Access, ExecPlugin

if TYPE_CHECKING:
    from kubernetes_asyncio.config.kube_config import ConfigNode

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SETTLED = 2.0
"""Seconds after which a second change of a file surely has another time stamp than the first."""
_PLUGIN_APIS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Origin(msgspec.Struct, frozen=True):
    """Where a kubeconfig came from; it may name no files and programs of this machine where `confined` says why."""

    name: str
    confined: str = ""


def from_path(path: str | None, context: str | None, *, limit: int, data_dir: Path | None = None) -> Access:
    """Reads one kubeconfig file, or those of $KUBECONFIG, or ~/.kube/config; the first file that has a name wins.

    What lies below `data_dir` came out of Git, whose authors shall not thereby run programs here or read files.
    """
    given = path or os.environ.get("KUBECONFIG") or str(Path("~", ".kube", "config"))
    files = [Path(part).expanduser() for part in ([given] if path else given.split(os.pathsep)) if part]
    # A name in $KUBECONFIG may be missing, as for kubectl; a file named in fleet.yaml must be there.
    present = files if path else [file for file in files if file.exists()]
    if not present:
        raise InvalidInput(f"there is no kubeconfig at {given}")
    nodes = [_document(file, limit) for file in present]
    fetched = data_dir is not None and any(file.resolve().is_relative_to(data_dir.resolve()) for file in present)
    return _access(nodes, context, Origin(given, confined="in the data directory" if fetched else ""))


def from_secret(body: bytes, name: str, context: str | None, *, limit: int) -> Access:
    """Reads a kubeconfig that was kept as a secret: everything must be inline, since who can write a secret shall not
    thereby run programs here or read files."""
    return _access(
        [_parse(body, f"secret {name}", None, limit)],
        context,
        Origin(f"secret {name}", confined="that is kept as a secret"),
    )


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT, *, limit: int) -> Access:
    """The service account of the Pod we run in."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise InvalidInput("inCluster: not running in a Pod (KUBERNETES_SERVICE_HOST and _PORT are not set)")
    bracketed = f"[{host}]" if ":" in host else host
    ca = _read(directory / "ca.crt", limit)
    return Access(server=f"https://{bracketed}:{port}", ca=ca, token_file=directory / "token")


# --- documents -------------------------------------------------------------------------------------------------------


def _read(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as stream:
            body = stream.read(limit + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror or error}") from error
    if len(body) > limit:
        raise InvalidInput(f"{file} is larger than {limit} bytes")
    return body


def _document(file: Path, limit: int) -> ConfigNode:
    """A whole kubeconfig. Often hundreds of clusters share one, and parsing a large one takes a second."""
    try:
        stat = file.stat()
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror or error}") from error
    if time.time() - stat.st_mtime < _SETTLED:
        return _parse(_read(file, limit), str(file), str(file.absolute()), limit)
    return _unchanged(file, (stat.st_mtime_ns, stat.st_size, stat.st_ino), limit)


@lru_cache(maxsize=4)
def _unchanged(file: Path, stamp: tuple[int, ...], limit: int) -> ConfigNode:
    return _parse(_read(file, limit), str(file), str(file.absolute()), limit)


def _parse(body: bytes, name: str, path: str | None, limit: int) -> ConfigNode:
    from kubernetes_asyncio.config.kube_config import ConfigNode

    limits = yaml.Limits(size=limit, expanded=4 * limit, depth=32, documents=1)
    try:
        documents = yaml.load_all(body, file=name, limits=limits)
    except yaml.InvalidDocument as error:
        # The reader's own message may quote the text, and the text is credentials.
        problem = error.problems[0]
        raise InvalidInput(f"{name}:{problem.line}:{problem.column}: not the YAML of a kubeconfig") from None
    document = documents[0] if documents else None
    if not isinstance(document, dict):
        raise InvalidInput(f"{name}: not a kubeconfig")
    return ConfigNode(name, document, path)


def _named(nodes: Sequence[ConfigNode], section: str, inner: str, name: str, origin: Origin) -> ConfigNode:
    """The entry `name` of clusters, contexts or users in the first file that has it."""
    from kubernetes_asyncio.config import ConfigException

    for node in nodes:
        entries = node.safe_get(section)
        if not entries:
            continue
        try:
            if not isinstance(entries, list):
                raise TypeError(section)
            entry = node[section].get_with_name(name, safe=True)
            if entry is not None:
                # A user without anything is written `user: {}` or `user: null`.
                return entry[inner] if entry.safe_get(inner) else type(entry)(inner, {}, entry.path)
        except (ConfigException, TypeError) as error:
            raise InvalidInput(f"{origin.name}: malformed `{section}`") from error
    raise InvalidInput(f"{origin.name} has no {inner} {name!r}")


def _access(nodes: Sequence[ConfigNode], context: str | None, origin: Origin) -> Access:
    name = context or next((found for node in nodes if (found := node.safe_get("current-context"))), None)
    if not isinstance(name, str):
        raise InvalidInput(f"{origin.name} has no current-context: name a context")
    chosen = _named(nodes, "contexts", "context", name, origin)
    cluster_name, user_name = _text(chosen, "cluster", origin), _text(chosen, "user", origin)
    if cluster_name is None:
        raise InvalidInput(f"{origin.name}: context {name!r} names no cluster")
    cluster = _named(nodes, "clusters", "cluster", cluster_name, origin)
    access = _cluster(cluster, origin)
    if user_name is None:
        return access
    return _user(_named(nodes, "users", "user", user_name, origin), access, origin)


# --- the cluster's part ----------------------------------------------------------------------------------------------


def _cluster(node: ConfigNode, origin: Origin) -> Access:
    server = (_text(node, "server", origin) or "").rstrip("/")
    parts = _url(server, origin)
    if node.safe_get("insecure-skip-tls-verify"):
        raise InvalidInput(
            f"{origin.name}: insecure-skip-tls-verify is refused for {parts.netloc}: give its certificate-authority"
        )
    proxy = _text(node, "proxy-url", origin)
    if proxy is not None and urlsplit(proxy).scheme not in ("http", "https"):
        raise InvalidInput(f"{origin.name}: proxy-url must be http:// or https://")
    if parts.scheme == "http":
        if not _loopback(parts.hostname or ""):
            raise InvalidInput(f"{origin.name}: {parts.netloc} is not reached by https")
        return Access(server=server, proxy=proxy)
    ca = _pem(node, "certificate-authority", origin)
    if not ca:
        raise InvalidInput(
            f"{origin.name}: no certificate-authority for {parts.netloc}; where its certificate comes from a public "
            "authority, name the file that holds that authority's certificate"
        )
    return Access(server=server, ca=ca, server_name=_text(node, "tls-server-name", origin) or None, proxy=proxy)


def _url(server: str, origin: Origin) -> Any:
    try:
        parts = urlsplit(server)
        valid = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(f"{origin.name}: `server` is not an https:// address")
    return parts


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the user's part -------------------------------------------------------------------------------------------------


def _user(node: ConfigNode, access: Access, origin: Origin) -> Access:
    if node.safe_get("auth-provider"):
        raise InvalidInput(
            f"{origin.name}: auth-provider is not supported (Kubernetes dropped it): use an exec credential plugin"
        )
    certificate, key = _pem(node, "client-certificate", origin), _pem(node, "client-key", origin)
    if bool(certificate) != bool(key):
        raise InvalidInput(f"{origin.name}: client-certificate and client-key belong together")
    access = msgspec.structs.replace(access, certificate=certificate, key=key)
    # The order of client-go: a plugin before a token file before a token before a password.
    if node.safe_get("exec"):
        return msgspec.structs.replace(access, plugin=_plugin(node["exec"], origin))
    if file := _text(node, "tokenFile", origin):
        return msgspec.structs.replace(access, token_file=_local(node, file, "tokenFile", origin))
    if token := _text(node, "token", origin):
        return msgspec.structs.replace(access, authorization=bearer(token, origin.name))
    user, password = _text(node, "username", origin), _text(node, "password", origin)
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return msgspec.structs.replace(access, authorization=f"Basic {pair}")
    return access


def bearer(token: str, source: str) -> str:
    """The header of a token; raises InvalidInput when it could not be one (a line break would forge headers)."""
    stripped = token.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise InvalidInput(f"{source}: the token is empty or holds characters that no token has")
    return f"Bearer {stripped}"


def _plugin(node: ConfigNode, origin: Origin) -> ExecPlugin:
    if origin.confined:
        raise InvalidInput(f"{origin.name}: an exec plugin is refused in a kubeconfig {origin.confined}")
    command, api = _text(node, "command", origin), _text(node, "apiVersion", origin)
    if not command or api not in _PLUGIN_APIS:
        raise InvalidInput(f"{origin.name}: exec needs `command` and `apiVersion` ({' or '.join(_PLUGIN_APIS)})")
    if os.sep in command:
        command = str(_local(node, command, "exec", origin))
    arguments, variables = node.safe_get("args") or [], node.safe_get("env") or []
    try:
        environment = tuple((str(item["name"]), str(item["value"])) for item in variables)
        return ExecPlugin(
            api_version=api,
            command=command,
            arguments=tuple(str(argument) for argument in arguments),
            environment=environment,
            provide_cluster=bool(node.safe_get("provideClusterInfo")),
        )
    except (TypeError, KeyError) as error:
        raise InvalidInput(f"{origin.name}: malformed args or env of exec") from error


# --- leaves ----------------------------------------------------------------------------------------------------------


def _text(node: ConfigNode, key: str, origin: Origin) -> str | None:
    if not isinstance(node.value, dict):
        raise InvalidInput(f"{origin.name}: {node.name.rpartition('/')[2]} is no mapping")
    value = node.safe_get(key)
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise InvalidInput(f"{origin.name}: `{key}` is no text")
    return str(value)


def _local(node: ConfigNode, file: str, key: str, origin: Origin) -> Path:
    """A path of this machine, relative to the kubeconfig that names it."""
    if origin.confined:
        raise InvalidInput(f"{origin.name}: `{key}` names a file; a kubeconfig {origin.confined} holds its data")
    return Path(node.path or ".").parent / file


def _pem(node: ConfigNode, key: str, origin: Origin) -> bytes:
    """The bytes of KEY-data, or of the file that KEY names; empty when neither is there."""
    from kubernetes_asyncio.config.kube_config import FileOrData

    file = _text(node, key, origin)
    base = ""
    if file and not _text(node, f"{key}-data", origin):
        base = str(_local(node, file, key, origin).parent)
        node = type(node)(node.name, {key: Path(file).name}, node.path)
    try:
        encoded = FileOrData(node, key, file_base_path=base).as_data() or ""
        return base64.b64decode("".join(encoded.split()), validate=True)
    except OSError as error:
        raise InvalidInput(f"{origin.name}: cannot read the {key} {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidInput(f"{origin.name}: `{key}` is no PEM, in base64 where it is inline") from error
