"""What is read of a kubeconfig, from where, and what is refused; no error shows a credential."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.errors import InvalidInput
from fleet.kube import kubeconfig
from fleet.kube.access import Access, tls_context
from tests.testbed.certs import Authority

LIMIT = 1 << 20
AUTHORITY = Authority("qa CA")
PAIR = AUTHORITY.client("fleet")
CANARY = "canary-token-0123456789"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


CLUSTER = {"server": "https://qa.example:6443", "certificate-authority-data": encoded(AUTHORITY.certificate)}


def config(user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] = CLUSTER, name: str = "qa") -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": f"{name}-cluster", "user": f"{name}-user"}}],
            "clusters": [{"name": f"{name}-cluster", "cluster": cluster}],
            "users": [{"name": f"{name}-user", "user": user}],
        }
    )


def read(user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] = CLUSTER) -> Access:
    return kubeconfig.from_secret(config(user, cluster), "s", None, limit=LIMIT)


def read_file(path: Path, body: bytes, context: str | None = None) -> Access:
    path.write_bytes(body)
    return kubeconfig.from_path(str(path), context, limit=LIMIT)


# --- ways to authenticate --------------------------------------------------------------------------------------------


def test_token() -> None:
    access = read({"token": CANARY})
    assert access.server == "https://qa.example:6443"
    assert access.ca == AUTHORITY.certificate
    assert access.authorization == f"Bearer {CANARY}"


def test_password() -> None:
    assert read({"username": "u", "password": "p"}).authorization == "Basic dTpw"


@pytest.mark.parametrize("user", [None, {}])
def test_nobody(user: Mapping[str, Any] | None) -> None:
    access = read(user)
    assert (access.authorization, access.certificate, access.token_file, access.plugin) == (None, b"", None, None)


def test_client_certificate_inline() -> None:
    access = read(
        {"client-certificate-data": encoded(PAIR.certificate), "client-key-data": encoded(PAIR.key)},
        {**CLUSTER, "tls-server-name": "kubernetes", "proxy-url": "http://proxy:3128"},
    )
    assert (access.certificate, access.key) == (PAIR.certificate, PAIR.key)
    assert (access.server_name, access.proxy) == ("kubernetes", "http://proxy:3128")


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    PAIR.write(tmp_path / "pki", "me")
    (tmp_path / "pki" / "ca.crt").write_bytes(AUTHORITY.certificate)
    access = read_file(
        tmp_path / "config",
        config(
            {"client-certificate": "pki/me.crt", "client-key": "pki/me.key", "tokenFile": "token"},
            {"server": "https://qa:6443/", "certificate-authority": "pki/ca.crt"},
        ),
    )
    assert access.server == "https://qa:6443"
    assert (access.ca, access.certificate, access.key) == (AUTHORITY.certificate, PAIR.certificate, PAIR.key)
    assert access.token_file == tmp_path / "token"


def test_plugin(tmp_path: Path) -> None:
    api = "client.authentication.k8s.io/v1"
    access = read_file(
        tmp_path / "config",
        config(
            {
                "exec": {
                    "apiVersion": api,
                    "command": "./get-token",
                    "args": ["--cluster", "qa", 7],
                    "env": [{"name": "A", "value": "b"}],
                    "provideClusterInfo": True,
                },
                "token": CANARY,
            }
        ),
    )
    assert access.authorization is None
    plugin = access.plugin
    assert plugin is not None
    assert plugin.command == str(tmp_path / "get-token")
    assert (plugin.arguments, plugin.environment, plugin.provide_cluster) == (
        ("--cluster", "qa", "7"),
        (("A", "b"),),
        True,
    )


def test_a_plugin_without_a_folder_is_looked_up_on_the_path(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "aws", "args": None}}
    plugin = read_file(tmp_path / "config", config(user)).plugin
    assert plugin is not None
    assert (plugin.command, plugin.arguments) == ("aws", ())


def test_in_cluster(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = kubeconfig.in_cluster(environment, tmp_path, limit=LIMIT)
    assert access == Access("https://[fd00::1]:443", AUTHORITY.certificate, token_file=tmp_path / "token")
    with pytest.raises(InvalidInput, match="not running in a Pod"):
        kubeconfig.in_cluster({}, tmp_path, limit=LIMIT)


# --- contexts and files ----------------------------------------------------------------------------------------------


def test_a_context_is_chosen_by_name(tmp_path: Path) -> None:
    two = msgspec.json.decode(config({"token": "one"}))
    other = msgspec.json.decode(config({"token": "two"}, name="prod"))
    for section in ("contexts", "clusters", "users"):
        two[section] += other[section]
    assert read_file(tmp_path / "c", msgspec.json.encode(two)).authorization == "Bearer one"
    assert read_file(tmp_path / "c", msgspec.json.encode(two), "prod").authorization == "Bearer two"
    with pytest.raises(InvalidInput, match="no context 'stage'"):
        read_file(tmp_path / "c", msgspec.json.encode(two), "stage")


def test_the_first_file_of_kubeconfig_that_has_a_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(config({"token": "first"}))
    (tmp_path / "b").write_bytes(config({"token": "second"}))
    (tmp_path / "c").write_bytes(config({"token": "third"}, name="prod"))
    monkeypatch.setenv("KUBECONFIG", ":".join(str(tmp_path / name) for name in ("missing", "a", "b", "c")))
    assert kubeconfig.from_path(None, None, limit=LIMIT).authorization == "Bearer first"
    assert kubeconfig.from_path(None, "prod", limit=LIMIT).authorization == "Bearer third"


def test_a_file_that_rests_is_parsed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(config({"token": "one"}))
    os.utime(path, (1e9, 1e9))
    first = kubeconfig._document(path, LIMIT)
    assert kubeconfig._document(path, LIMIT) is first
    path.write_bytes(config({"token": "two"}))
    os.utime(path, (1e9, 1e9 + 1))
    assert kubeconfig.from_path(str(path), None, limit=LIMIT).authorization == "Bearer two"


def test_yaml_is_read_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config"
    text = config({"token": "no"}).decode()
    assert read_file(path, b"# a comment\n" + text.encode()).authorization == "Bearer no"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*absent"):
        kubeconfig.from_path(str(tmp_path / "absent"), None, limit=LIMIT)


def test_a_file_above_the_limit(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"#" * 101)
    with pytest.raises(InvalidInput, match="larger than 100 bytes"):
        kubeconfig.from_path(str(tmp_path / "config"), None, limit=100)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({**CLUSTER, "insecure-skip-tls-verify": True}, "insecure-skip-tls-verify is refused"),
        ({"server": "https://qa:6443"}, "no certificate-authority for qa:6443"),
        ({"server": "http://qa:6443"}, "not reached by https"),
        ({**CLUSTER, "server": "ftp://qa"}, "not an https:// address"),
        ({**CLUSTER, "server": "https://"}, "not an https:// address"),
        ({**CLUSTER, "server": "https://qa:x"}, "not an https:// address"),
        ({**CLUSTER, "server": f"https://u:{CANARY}@qa"}, "not an https:// address"),
        ({}, "not an https:// address"),
        ({**CLUSTER, "server": [CANARY]}, "`server` is no text"),
        ({**CLUSTER, "proxy-url": f"socks5://u:{CANARY}@proxy"}, "proxy-url must be http"),
        ({**CLUSTER, "certificate-authority-data": f"!{CANARY}"}, "certificate-authority"),
        ({"server": "https://qa", "certificate-authority": "/etc/passwd"}, "holds its data"),
        ([CANARY], "no mapping"),
    ],
)
def test_clusters_that_are_refused(cluster: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read({"token": "t"}, cluster)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"auth-provider": {"name": "oidc", "config": {"id-token": CANARY}}}, "exec credential plugin"),
        ({"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1"}}, "exec plugin is refused"),
        ({"tokenFile": "/etc/shadow"}, "`tokenFile` names a file"),
        ({"client-key": "k", "client-certificate": "c"}, "names a file"),
        ({"client-certificate-data": encoded(PAIR.certificate)}, "belong together"),
        ({"token": f"{CANARY}\r\nX-Evil: 1"}, "characters that no token has"),
        ({"token": {"a": CANARY}}, "`token` is no text"),
    ],
)
def test_users_that_are_refused(user: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read(user)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a kubeconfig"),
        (b"[]", "not a kubeconfig"),
        (b"{}", "no current-context"),
        (b"current-context: a", "no context 'a'"),
        (b"current-context: a\ncontexts: 7", "malformed `contexts`"),
        (b"current-context: a\ncontexts: [7]", "malformed `contexts`"),
        (b"current-context: a\ncontexts: [{name: a, context: {}}]", "names no cluster"),
        (b"current-context: a\ncontexts: [{name: a, context: {cluster: c}}]", "no cluster 'c'"),
        (f"users: [{CANARY}\nx".encode(), r"s:3:1: not the YAML"),
        (f"{CANARY}: 1\n{CANARY}: 2".encode(), "s:2:1: not the YAML"),
        (b"\xff\xfe\x00", "not the YAML"),
    ],
)
def test_documents_that_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        kubeconfig.from_secret(body, "s", None, limit=LIMIT)
    assert CANARY not in str(caught.value)


def test_plain_http_is_for_loopback_only() -> None:
    for server in ("http://127.0.0.1:8001", "http://[::1]:8001", "http://localhost:8001"):
        assert read(None, {"server": server}).server == server


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_only_the_clusters_own_authority_is_trusted() -> None:
    context = tls_context(Access("https://qa", AUTHORITY.certificate, certificate=PAIR.certificate, key=PAIR.key))
    assert [entry["subject"] for entry in context.get_ca_certs()] == [((("commonName", "qa CA"),),)]
    assert context.check_hostname


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access("https://qa", b"nonsense"), "certificate authority"),
        (Access("https://qa", b"\xff"), "certificate authority"),
        (Access("https://qa", AUTHORITY.certificate, certificate=b"x", key=PAIR.key), "client certificate"),
        (
            Access(
                "https://qa",
                AUTHORITY.certificate,
                certificate=PAIR.certificate,
                key=AUTHORITY.client("somebody else").key,
            ),
            "client certificate",
        ),
    ],
)
def test_material_that_is_no_certificate(access: Access, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tls_context(access)


def test_an_encrypted_key_is_refused_without_asking_anybody() -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(PAIR.key, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(InvalidInput, match="unencrypted"):
        tls_context(Access("https://qa", AUTHORITY.certificate, certificate=PAIR.certificate, key=encrypted))


def test_nothing_shows_its_secrets(tmp_path: Path) -> None:
    access = read({"token": CANARY})
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "x",
            "env": [{"name": "A", "value": CANARY}],
        }
    }
    plugin = read_file(tmp_path / "config", config(user)).plugin
    assert CANARY not in f"{access!r} {access} {plugin!r} {plugin}"


# --- what came out of Git --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./evil"}}, CLUSTER),
        ({"tokenFile": "/etc/shadow"}, CLUSTER),
        ({"client-certificate": "a.crt", "client-key": "a.key"}, CLUSTER),
        ({"token": CANARY}, {"server": "https://qa.example", "certificate-authority": "/etc/shadow"}),
    ],
)
def test_a_file_below_the_data_directory_names_no_programs_and_files(
    tmp_path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any]
) -> None:
    data_dir = tmp_path / "data"
    folder = data_dir / "exports" / "0123"
    folder.mkdir(parents=True)
    file = folder / "kubeconfig"
    file.write_bytes(config(user, cluster))
    (tmp_path / "link").symlink_to(data_dir)
    (tmp_path / "elsewhere").mkdir()
    roundabout = tmp_path / "elsewhere" / ".." / "data" / "exports" / "0123" / "kubeconfig"
    for path in (file, tmp_path / "link" / "exports" / "0123" / "kubeconfig", roundabout):
        for named in (data_dir, tmp_path / "link"):
            with pytest.raises(InvalidInput, match="a kubeconfig in the data directory"):
                kubeconfig.from_path(str(path), None, limit=LIMIT, data_dir=named)


def test_a_file_below_the_data_directory_may_hold_everything_itself(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(config({"token": CANARY}))
    access = kubeconfig.from_path(str(file), None, limit=LIMIT, data_dir=tmp_path)
    assert access.authorization == f"Bearer {CANARY}"


def test_a_file_elsewhere_may_name_programs(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(config({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login"}}))
    access = kubeconfig.from_path(str(file), None, limit=LIMIT, data_dir=tmp_path / "data")
    assert access.plugin is not None
    assert access.plugin.command == str(tmp_path / "login")
