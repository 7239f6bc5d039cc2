from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import msgspec
import pytest

from fleet.errors import NotFound, StoreError
from fleet.settings import StoreSettings
from fleet.store import Store, objects, open_store
from tests.unit.store import values

pytestmark = pytest.mark.anyio

CANARY = "canary-5f1d0e7c"


def query(data_dir: Path, statement: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(data_dir / "fleet.db") as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def contents(data_dir: Path) -> bytes:
    """Everything that lies in the data directory but the key."""
    return b"".join(path.read_bytes() for path in data_dir.iterdir() if path.name != "key")


async def test_a_set_comes_back_in_its_order(store: Store) -> None:
    wanted = values.manifests(*(values.manifest(name) for name in ("c", "a", "b")), values.manifest("s", "Secret"))
    await store.put_manifests(wanted)
    await store.put_manifests(wanted)
    assert await store.manifests(wanted.digest) == wanted


async def test_a_large_set_needs_more_than_one_statement(store: Store) -> None:
    wanted = values.manifests(*(values.manifest(f"m{number}") for number in range(600)))
    await store.put_manifests(wanted)
    assert await store.manifests(wanted.digest) == wanted


async def test_the_same_manifest_twice_in_a_set(store: Store) -> None:
    wanted = values.manifests(values.manifest("a"), values.manifest("a"))
    await store.put_manifests(wanted)
    assert await store.manifests(wanted.digest) == wanted


async def test_equal_manifests_are_stored_once(store: Store, data_dir: Path) -> None:
    common = [values.manifest(f"m{number}") for number in range(20)]
    await store.put_manifests(values.manifests(*common, values.manifest("own", text="qa")))
    await store.put_manifests(values.manifests(*common, values.manifest("own", text="prod")))
    assert query(data_dir, "select count(*) from manifest") == [(22,)]


async def test_an_empty_set_and_an_unknown_one_differ(store: Store) -> None:
    await store.put_manifests(values.manifests())
    assert (await store.manifests(values.manifests().digest)).manifests == ()
    with pytest.raises(NotFound, match="no manifests sha256:unknown"):
        await store.manifests("sha256:unknown")


async def test_large_manifests_are_compressed(store: Store, data_dir: Path) -> None:
    wanted = values.manifests(
        values.manifest("big", text="spec " * 100_000), values.manifest("s", "Secret", "x" * 9000)
    )
    await store.put_manifests(wanted)
    assert await store.manifests(wanted.digest) == wanted
    sizes = query(data_dir, "select form, length(body) from manifest order by form")
    assert [form for form, _ in sizes] == [objects.COMPRESSED, objects.COMPRESSED | objects.SEALED]
    assert all(isinstance(size, int) and size < 10_000 for _, size in sizes)


async def test_no_secret_and_no_plain_digest_of_one_reaches_the_disk(data_dir: Path) -> None:
    encoded = base64.b64encode(CANARY.encode()).decode()
    secret = values.manifest("token", "Secret", text=encoded)
    config = values.manifest("open", text="plainly readable")
    wanted = values.manifests(secret, config)
    base = msgspec.structs.replace(values.baseline("token", "Secret"), manifest=secret.digest)
    async with await open_store(data_dir, StoreSettings()) as store:
        await store.put_manifests(wanted)
        await store.put_baselines("qa-1", [base])
        await store.commit(values.commit())
        before_checkpoint = contents(data_dir)
    after = contents(data_dir)
    for written in (before_checkpoint, after):
        assert b"plainly readable" in written
        for hidden in (CANARY.encode(), encoded.encode(), encoded[4:-4].encode(), secret.digest, secret.body):
            assert hidden not in written
    async with await open_store(data_dir, StoreSettings()) as store:
        assert await store.manifests(wanted.digest) == wanted
        assert await store.baselines("qa-1") == (base,)


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap"])
async def test_a_changed_byte_is_noticed(data_dir: Path, kind: str) -> None:
    wanted = values.manifests(values.manifest("web", kind, text="stable"))
    async with await open_store(data_dir, StoreSettings()) as store:
        await store.put_manifests(wanted)
    changed = "replace(body, cast('stable' as blob), cast('stolen' as blob))"
    damage = (
        f"cast({changed} as blob)" if kind == "ConfigMap" else "cast(substr(body, 1, length(body) - 1) || 'x' as blob)"
    )
    query(data_dir, f"update manifest set body = {damage}")
    async with await open_store(data_dir, StoreSettings()) as store:
        with pytest.raises(StoreError, match="damaged"):
            await store.manifests(wanted.digest)


async def test_a_missing_manifest_is_not_an_empty_place(data_dir: Path) -> None:
    wanted = values.manifests(values.manifest("a"), values.manifest("b"))
    async with await open_store(data_dir, StoreSettings()) as store:
        await store.put_manifests(wanted)
    query(data_dir, "delete from manifest where rowid = 1")
    async with await open_store(data_dir, StoreSettings()) as store:
        with pytest.raises(StoreError, match="incomplete"):
            await store.manifests(wanted.digest)
