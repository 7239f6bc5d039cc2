"""Mirrors against real git over local repositories: refs, force-push, damage, limits, confinement."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fleet.errors import NotFound, SourceError
from fleet.git import failures, mirror, transport
from fleet.model.fleetfile import GitSource
from tests.integration.repository import WorkingRepository

pytestmark = pytest.mark.anyio


@pytest.fixture
def repository(tmp_path: Path) -> WorkingRepository:
    return WorkingRepository(tmp_path / "work")


@pytest.fixture
def mirrors(tmp_path: Path) -> mirror.GitMirrors:
    return mirror.GitMirrors(tmp_path / "data")


def source(repository: WorkingRepository, ref: str = "main") -> GitSource:
    return GitSource(name="apps", url=str(repository.path), ref=ref)


async def fetched(mirrors: mirror.GitMirrors, of: GitSource) -> tuple[mirror.GitMirror, str]:
    found = mirrors.mirror(of, None)
    sha = await found.resolve()
    await found.fetch(sha)
    return found, sha


async def test_a_branch_becomes_its_full_sha(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"a.yaml": "a: 1\n"}, "first line\n\nbody")
    found, sha = await fetched(mirrors, source(repository))
    assert sha == first
    info = await found.info(sha)
    assert (info.sha, info.author, info.message) == (first, "alice@acme.example", "first line")
    assert info.time == float(repository.git("show", "-s", "--format=%ct"))


async def test_file_urls_work_like_paths(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"a.yaml": "a: 1\n"})
    of = GitSource(name="apps", url=f"file://{repository.path}")
    assert (await fetched(mirrors, of))[1] == first


async def test_uncommitted_changes_are_not_read(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"a.yaml": "committed"})
    repository.write({"a.yaml": "edited"})
    found, sha = await fetched(mirrors, source(repository))
    assert await found.read(sha, "a.yaml", 100) == b"committed"


async def test_tags_are_peeled_and_branches_win(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"a": "1"})
    repository.git("tag", "-a", "-m", "annotated", "v1")
    repository.git("tag", "light")
    repository.git("tag", "both")
    second = repository.commit({"a": "2"})
    repository.git("branch", "both")
    for ref, expected in {
        "v1": first,
        "light": first,
        "both": second,
        "refs/tags/both": first,
        "HEAD": second,
        first: first,
    }.items():
        found, sha = await fetched(mirrors, source(repository, ref))
        assert sha == expected, ref
        assert (await found.info(sha)).sha == expected


async def test_a_fetched_commit_survives_a_force_push(
    repository: WorkingRepository, mirrors: mirror.GitMirrors
) -> None:
    repository.commit({"a": "base"})
    lost = repository.commit({"a": "lost"})
    found, sha = await fetched(mirrors, source(repository))
    assert sha == lost
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    forced = repository.commit({"a": "forced"})
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    assert await found.resolve() == forced
    await found.fetch(forced)
    assert await found.read(forced, "a", 10) == b"forced"
    assert await found.read(lost, "a", 10) == b"lost"
    await found.fetch(lost)


async def test_a_deleted_branch_is_named(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"a": "1"})
    repository.git("branch", "gone")
    found, sha = await fetched(mirrors, source(repository, "gone"))
    repository.git("branch", "-D", "gone")
    with pytest.raises(failures.NoRef, match="no branch or tag gone"):
        await found.resolve()
    assert await found.read(sha, "a", 10) == b"1"


@pytest.mark.parametrize("ref", ["--upload-pack=touch x", "-h", "a..b", "a b", "", "x\ny", "a:b", "^main", "m*"])
async def test_a_ref_cannot_be_an_option_or_a_pattern(mirrors: mirror.GitMirrors, ref: str) -> None:
    with pytest.raises(failures.NoRef):
        mirrors.mirror(GitSource(name="apps", url="/nowhere", ref=ref), None)


@pytest.mark.parametrize(
    "url", ["http://git.example/a.git", "ext::sh -c id", "git://git.example/a", "--upload-pack=id", "relative/path"]
)
async def test_other_protocols_are_refused(mirrors: mirror.GitMirrors, url: str) -> None:
    with pytest.raises(SourceError, match="only https://"):
        mirrors.mirror(GitSource(name="apps", url=url), None)


async def test_credentials_in_a_url_are_refused_and_not_repeated(mirrors: mirror.GitMirrors) -> None:
    with pytest.raises(SourceError) as caught:
        mirrors.mirror(GitSource(name="apps", url="https://me:hunter2@git.example/a.git"), None)
    assert "hunter2" not in str(caught.value)
    assert "secretRef" in str(caught.value)


async def test_no_repository_at_the_path(tmp_path: Path, mirrors: mirror.GitMirrors) -> None:
    (tmp_path / "empty").mkdir()
    for path in ("empty", "absent"):
        with pytest.raises(failures.NoRepository, match="no repository at this URL"):
            await mirrors.mirror(GitSource(name="apps", url=str(tmp_path / path)), None).resolve()


async def test_a_commit_that_does_not_exist_is_named(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"a": "1"})
    with pytest.raises(failures.NoRef, match=r"no longer has that commit|is not a commit"):
        await mirrors.mirror(source(repository, "f" * 40), None).fetch("f" * 40)


async def test_fetching_what_is_here_asks_nobody(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"a": "1"})
    found, sha = await fetched(mirrors, source(repository))
    repository.path.rename(repository.path.with_name("moved"))
    await found.fetch(sha)
    with pytest.raises(failures.NoRepository):
        await found.resolve()


async def test_hooks_and_configuration_of_a_repository_do_not_run(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path
) -> None:
    canary = tmp_path / "ran"
    repository.commit({"a": "1", ".gitattributes": "* filter=evil export-ignore\n"})
    for hook in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
        script = repository.path / ".git/hooks" / hook
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {canary}\n")
        script.chmod(0o755)
    repository.git("config", "core.fsmonitor", f"touch {canary}")
    repository.git("config", "filter.evil.smudge", f"touch {canary}")
    found, sha = await fetched(mirrors, source(repository))
    folder = await found.tree(sha).folder([""])
    assert (folder / "a").read_text() == "1"
    assert not canary.exists()


async def test_a_killed_fetch_leaves_nothing_that_blocks(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path
) -> None:
    repository.commit({"a": "1"})
    _, first = await fetched(mirrors, source(repository))
    [bare] = (tmp_path / "data/git").iterdir()
    second = repository.commit({"a": "2"})
    (bare / f"refs/fleet/{second}.lock").touch()
    (bare / "config.lock").touch()
    (bare / "objects/pack/tmp_pack_abc").touch()
    found, sha = await fetched(mirror.GitMirrors(tmp_path / "data"), source(repository))
    assert (first, sha) == (first, second)
    assert await found.read(sha, "a", 10) == b"2"
    assert not list(bare.rglob("*.lock"))
    assert not list(bare.rglob("tmp_pack*"))


@pytest.mark.parametrize("damage", ["objects", "config"])
async def test_a_damaged_mirror_is_made_anew(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path, damage: str
) -> None:
    repository.commit({"a": "1"})
    await fetched(mirrors, source(repository))
    [bare] = (tmp_path / "data/git").iterdir()
    if damage == "objects":
        for path in bare.glob("objects/??/*"):
            path.chmod(0o600)
            path.write_bytes(b"")
    else:
        (bare / "HEAD").write_text("garbage")
        (bare / "config").write_text("[garbage")
    repository.commit({"a": "2"})
    found, sha = await fetched(mirror.GitMirrors(tmp_path / "data"), source(repository))
    assert await found.read(sha, "a", 10) == b"2"


async def test_maintenance_keeps_the_newest_commits(repository: WorkingRepository, tmp_path: Path) -> None:
    mirrors = mirror.GitMirrors(tmp_path / "data", transport.GitSettings(kept_commits=2))
    shas = []
    for number in range(4):
        repository.git("commit", "--quiet", "--allow-empty", "-m", "x", f"--date=2026-01-0{number + 1}T00:00:00Z")
        found, sha = await fetched(mirrors, source(repository))
        shas.append(sha)
    await found.maintain()
    [bare] = (tmp_path / "data/git").iterdir()
    kept = {path.name for path in (bare / "refs/fleet").iterdir()}
    assert len(kept) == 2
    assert kept <= set(shas)
    assert (await found.info(shas[-1])).sha == shas[-1]


async def test_reading_one_file(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.write({"d/real.yaml": "x" * 50})
    (repository.path / "link.yaml").symlink_to("d/real.yaml")
    (repository.path / "out.yaml").symlink_to("/etc/passwd")
    repository.commit()
    found, sha = await fetched(mirrors, source(repository))
    assert await found.read(sha, "./d/real.yaml", 50) == b"x" * 50
    assert await found.read(sha, "link.yaml", 50) == b"x" * 50
    with pytest.raises(NotFound, match=r"no file nope\.yaml"):
        await found.read(sha, "nope.yaml", 50)
    with pytest.raises(SourceError, match="more than 49"):
        await found.read(sha, "d/real.yaml", 49)
    with pytest.raises(SourceError, match="is no file"):
        await found.read(sha, "d", 50)
    with pytest.raises(SourceError, match="leads out"):
        await found.read(sha, "../x", 50)
    with pytest.raises(NotFound):
        await found.read(sha, "out.yaml", 5000)


async def test_hashes_are_of_content(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"a/x": "1", "b/x": "1", "c/x": "2", "file": ""})
    found, sha = await fetched(mirrors, source(repository))
    hashes = await found.tree(sha).hashes(["a", "b", "c", "", "file", "absent", "a/nothing"])
    assert set(hashes) == {"a", "b", "c", ""}
    assert hashes["a"] == hashes["b"] != hashes["c"]


async def test_an_export_holds_the_folders_at_their_places(
    repository: WorkingRepository, mirrors: mirror.GitMirrors
) -> None:
    repository.write({"apps/shop/a.yaml": "a", "base/b.yaml": "b\r\n", "other/c.yaml": "c", "apps/shop/empty": ""})
    (repository.path / "apps/shop/inner").symlink_to("a.yaml")
    repository.commit()
    found, sha = await fetched(mirrors, source(repository))
    folder = await found.tree(sha).folder(["apps/shop", "base", "apps/shop/"])
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "apps/shop/a.yaml": b"a",
        "apps/shop/inner": b"a",
        "apps/shop/empty": b"",
        "base/b.yaml": b"b\r\n",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*.yaml")])


async def test_equal_content_is_exported_once(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path
) -> None:
    repository.commit({"apps/a.yaml": "a", "README": "1"})
    found, first = await fetched(mirrors, source(repository))
    one = await found.tree(first).folder(["apps"])
    inode = (one / "apps/a.yaml").stat().st_ino
    second = repository.commit({"README": "2"})
    await found.fetch(second)
    trees = [found.tree(second), found.tree(first), found.tree(second)]
    folders: list[Path] = []
    async with anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            folders.append(await trees[number].folder(["apps"]))

        for number in range(3):
            group.start_soon(ask, number)
    assert folders == [one] * 3
    assert (one / "apps/a.yaml").stat().st_ino == inode
    assert [path.name for path in (tmp_path / "data/exports").iterdir()] == [one.name]


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ({"apps/out": "../../../etc/passwd"}, "nowhere|leads out"),
        ({"apps/out": "/etc/passwd"}, "leads out"),
        ({"apps/out": "gone"}, "nowhere"),
        ({"apps/loop": "loop"}, "nowhere"),
        ({"apps/up": "..", "apps/out": "up/../../escape"}, "nowhere|leads out"),
        ({"apps/d/e/l": "../../..", "apps/out": "d/e/l/.."}, "leads out"),
        ({"apps/data": "../secret"}, "nowhere"),
    ],
)
async def test_symlinks_may_not_leave_the_export(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path, links: dict[str, str], reason: str
) -> None:
    repository.write({"apps/a.yaml": "a", "secret/s": "s"})
    for name, target in links.items():
        (repository.path / name).parent.mkdir(parents=True, exist_ok=True)
        (repository.path / name).symlink_to(target)
    repository.commit()
    found, sha = await fetched(mirrors, source(repository))
    with pytest.raises(failures.ContentRefused, match=reason):
        await found.tree(sha).folder(["apps"])
    assert list((tmp_path / "data/exports").iterdir()) == []


async def test_a_forged_tree_cannot_write_outside(
    repository: WorkingRepository, mirrors: mirror.GitMirrors, tmp_path: Path
) -> None:
    repository.commit({"a": "x"})
    blob = repository.git("rev-parse", "HEAD:a")
    inner = repository.git("mktree", stdin=f"100644 blob {blob}\tevil\n")
    raw = b"40000 ..\0" + bytes.fromhex(inner)
    (tmp_path / "raw").write_bytes(raw)
    tree = repository.git("hash-object", "-t", "tree", "-w", "--literally", str(tmp_path / "raw"))
    commit = repository.git("commit-tree", tree, "-m", "evil")
    repository.git("update-ref", "refs/heads/evil", commit)
    found, sha = await fetched(mirrors, source(repository, "evil"))
    with pytest.raises(SourceError, match=r"path '\.\./evil'|\.\."):
        await found.tree(sha).folder([""])
    assert not list((tmp_path / "data").rglob("evil"))


async def test_an_export_is_bounded(repository: WorkingRepository, tmp_path: Path) -> None:
    repository.commit(
        {f"many/{n}": "x" for n in range(5)} | {"big/one": "x" * 101, "sum/1": "x" * 80, "sum/2": "x" * 80}
    )
    limits = transport.GitSettings(max_files=4, max_file=100, max_export=150)
    found, sha = await fetched(mirror.GitMirrors(tmp_path / "data", limits), source(repository))
    for path, reason in {"many": "more than 4 files", "big": "101 bytes", "sum": "together"}.items():
        with pytest.raises(failures.ContentRefused, match=reason):
            await found.tree(sha).folder([path])


async def test_a_submodule_is_refused_by_name(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    first = repository.commit({"apps/a": "1"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{first},apps/sub")
    repository.git("commit", "--quiet", "-m", "submodule")
    found, sha = await fetched(mirrors, source(repository))
    with pytest.raises(failures.ContentRefused, match="apps/sub is a submodule"):
        await found.tree(sha).folder(["apps"])


async def test_a_missing_folder_is_named(repository: WorkingRepository, mirrors: mirror.GitMirrors) -> None:
    repository.commit({"apps/a": "1"})
    found, sha = await fetched(mirrors, source(repository))
    with pytest.raises(failures.ContentRefused, match="no folder shop"):
        await found.tree(sha).folder(["shop"])


async def test_a_hanging_server_ends_at_the_deadline(tmp_path: Path) -> None:
    hanging = tmp_path / "git"
    hanging.write_text("#!/bin/sh\nsleep 600\n")
    hanging.chmod(0o755)
    settings = transport.GitSettings(git=str(hanging), resolve_deadline=0.2)
    found = mirror.GitMirrors(tmp_path / "data", settings).mirror(GitSource(name="a", url="/srv/a.git"), None)
    with pytest.raises(failures.Unreachable, match=r"/srv/a\.git: no answer within"):
        await found.resolve()


async def test_a_read_only_data_directory_is_said(repository: WorkingRepository, tmp_path: Path) -> None:
    repository.commit({"a": "1"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/git").write_text("not a folder")
    with pytest.raises(SourceError):
        await fetched(mirror.GitMirrors(tmp_path / "data"), source(repository))
