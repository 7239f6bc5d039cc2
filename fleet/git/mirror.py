"""Bare mirrors of Git sources below the data directory; one per URL, shared by the sources that have it.

`resolve` asks the server which commit a ref is (`ls-remote`), `fetch` brings that commit and keeps it by a ref of its
own (`refs/fleet/<sha>`), so that a force-push takes nothing away that is still in use. Everything else reads the copy.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from fleet.errors import NotFound, SourceError
from fleet.git import credentials as secrets
from fleet.git import export, trees
from fleet.git.credentials import Credentials
from fleet.git.failures import ContentRefused, LocalDisk, NoRef, display, translate
from fleet.git.transport import GitSettings, Transport, is_sha
from fleet.model.fleetfile import GitSource

_KEEP = "refs/fleet"
_DAMAGE = re.compile(
    r"bad object|object file .* is empty|loose object .* is corrupt|packfile|unable to read (tree|sha1|[0-9a-f]{40})"
    r"|not a git repository|inflate: data stream error|unresolved delta|missing (blob|tree|commit)|bad config",
    re.IGNORECASE,
)
_BAD_REF = re.compile(r"^[-/.]|\.\.|//|@\{|[\x00-\x20\x7f~^:?*\[\\]|[/.]$|\.lock(/|$)")
_REMEMBERED = 256


class Commit(msgspec.Struct, frozen=True):
    """What a commit says of itself."""

    sha: str
    author: str
    """E-mail of the author."""
    message: str
    """First line."""
    time: float
    """Committer time, seconds since the epoch."""


class Repository:
    """The bare copy of one URL; one writer at a time."""

    def __init__(self, url: str, folder: Path, settings: GitSettings) -> None:
        self.transport = Transport(url, settings)
        self.folder = folder
        self.writing = anyio.Lock()
        self.names: dict[str, str] = {}
        """Commit → the ref that led to it, for servers that serve only refs. Bounded."""
        self._ready = False

    @property
    def url(self) -> str:
        return display(self.transport.url)

    async def local(self, *arguments: str, stdin: bytes = b"", limit: int | None = None) -> bytes:
        return await self.transport.local(f"--git-dir={self.folder}", *arguments, stdin=stdin, limit=limit)

    async def prepare(self) -> None:
        """Makes the bare repository, or removes what a killed process left in it. Call with `writing` held."""
        if self._ready:
            return
        try:
            await anyio.to_thread.run_sync(_sweep, self.folder)
        except OSError as error:
            raise LocalDisk(f"the mirror of {self.url} cannot be written: {error.strerror or error}") from error
        await self.transport.local("init", "--quiet", "--bare", "--template=", str(self.folder))
        self._ready = True

    async def discard(self) -> None:
        """Throws a damaged copy away; the next `prepare` begins anew. Call with `writing` held."""
        self._ready = False
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.folder, ignore_errors=True))

    async def has(self, sha: str) -> bool:
        """Whether the commit is here."""
        if not self._ready:
            return False
        done = await self.transport.attempt(
            f"--git-dir={self.folder}", "rev-parse", "--quiet", "--verify", f"{sha}^{{commit}}"
        )
        if done.returncode != 0 and _DAMAGE.search(done.complaint):
            raise translate(self.transport.url, done.complaint)
        return done.returncode == 0

    def remember(self, sha: str, name: str) -> None:
        self.names[sha] = name
        while len(self.names) > _REMEMBERED:
            del self.names[next(iter(self.names))]


class GitMirror:
    """One source: a repository, a ref in it and the credentials to read it (engine.ports.Mirror)."""

    def __init__(self, repository: Repository, ref: str, credentials: Credentials, exports: trees.Exports) -> None:
        self._repository = repository
        self._ref = ref
        self._credentials = credentials
        self._exports = exports

    async def resolve(self) -> str:
        """The full SHA of the commit that the ref is on the server now; a branch wins over a tag of the same name."""
        if is_sha(self._ref):
            return self._ref
        repository, names = self._repository, _candidates(self._ref)
        asked = [name for candidate in names for name in (candidate, f"{candidate}^{{}}")]
        answer = await repository.transport.remote(
            "ls-remote",
            "--quiet",
            "--",
            repository.transport.url,
            *asked,
            credentials=self._credentials,
            deadline=repository.transport.settings.resolve_deadline,
        )
        found = _refs(answer)
        for name in names:
            # The peeled entry is the commit behind an annotated tag.
            if sha := found.get(f"{name}^{{}}") or found.get(name):
                repository.remember(sha, name)
                return sha
        raise NoRef(f"{repository.url}: there is no branch or tag {self._ref}")

    async def fetch(self, sha: str) -> None:
        """Makes the commit available; costs nothing on the network when it already is."""
        if not is_sha(sha):
            raise NoRef(f"{sha!r} is no full commit id")
        repository = self._repository
        async with repository.writing:
            try:
                await repository.prepare()
                if not await repository.has(sha):
                    await self._fetch(sha)
            except SourceError as error:
                if not _DAMAGE.search(str(error)) or isinstance(error, LocalDisk):
                    raise
                # A copy is only a copy: damaged by a power cut or a full disk, it is made anew, once.
                await repository.discard()
                await repository.prepare()
                await self._fetch(sha)

    async def _fetch(self, sha: str) -> None:
        repository = self._repository
        try:
            # Brings the object and names it, or fails: there is nothing to check afterwards.
            await self._pull(f"+{sha}:{_KEEP}/{sha}")
            return
        except NoRef:
            # The server serves only refs: take the ref, which holds the commit unless it was forced away meanwhile.
            name = repository.names.get(sha)
            for spec in (
                [f"+{name}:{_KEEP}/tip"] if name else ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            ):
                await self._pull(spec)
        if not await repository.has(sha):
            raise NoRef(f"{repository.url}: {sha} is not a commit of this repository (any more)")
        await repository.local("update-ref", f"{_KEEP}/{sha}", sha)

    async def _pull(self, spec: str) -> None:
        repository = self._repository
        await repository.transport.remote(
            f"--git-dir={repository.folder}",
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--",
            repository.transport.url,
            spec,
            credentials=self._credentials,
            deadline=repository.transport.settings.fetch_deadline,
        )

    async def maintain(self) -> None:
        """Drops old commits and packs what came; to be called when there is time, not on a commit's way."""
        repository = self._repository
        async with repository.writing:
            await repository.prepare()
            kept = await repository.local("for-each-ref", "--sort=-committerdate", "--format=%(refname)", _KEEP)
            old = kept.decode().splitlines()[repository.transport.settings.kept_commits :]
            if old:
                await repository.local(
                    "update-ref", "--stdin", stdin="".join(f"delete {ref}\n" for ref in old).encode()
                )
            await repository.local("gc", "--auto", "--quiet")

    async def info(self, sha: str) -> Commit:
        """Author, first line and time of a fetched commit."""
        answer = await self._repository.local(
            "show", "--no-patch", "--no-show-signature", "--no-mailmap", "--format=%H%x00%ae%x00%ct%x00%s", f"{sha}^0"
        )
        full, author, time, message = answer.decode("utf-8", "replace").rstrip("\n").split("\0", 3)
        return Commit(full, author, message, float(time))

    async def read(self, sha: str, path: str, limit: int) -> bytes:
        """One file of a fetched commit; NotFound when it has none there, SourceError above `limit` bytes."""
        clean = export.confine(path)
        asked = f"{sha}:{clean}\n".encode()
        kind = (await self._inspect(sha, [clean]))[clean]
        if kind is None:
            raise NotFound(f"the commit {sha[:12]} has no file {clean}")
        if kind[0] != "blob":
            raise ContentRefused(f"{clean} is no file")
        if kind[2] > limit:
            raise ContentRefused(f"{clean} has {kind[2]} bytes, more than {limit}")
        answer = await self._repository.local(
            "cat-file", "--batch", "--follow-symlinks", stdin=asked, limit=limit + 256
        )
        return answer.partition(b"\n")[2][: kind[2]]

    def tree(self, sha: str) -> trees.GitTree:
        """The files of a fetched commit."""
        return trees.GitTree(self, sha, self._exports)

    async def folders(self, sha: str, paths: Sequence[str]) -> Mapping[str, str]:
        """Tree id of every path of `paths` that is a folder of the commit."""
        found = await self._inspect(sha, paths)
        return {path: item[1] for path, item in found.items() if item is not None and item[0] == "tree"}

    async def export(self, sha: str, paths: Sequence[str], into: Path) -> None:
        """Writes the folders at `paths` of a commit into the new directory `into`, at their places."""
        repository, settings = self._repository, self._repository.transport.settings
        wanted = [path for path in export.outermost(paths) if path]
        listing = await repository.local(
            "ls-tree", "-r", "-z", "-l", "--full-tree", sha, "--", *wanted, limit=settings.listing_limit
        )
        found = export.entries(listing, settings)
        blobs = into.with_name(f"{into.name}.blobs")
        try:
            if found:
                ids = "".join(f"{entry.oid}\n" for entry in found).encode()
                await repository.transport.spool(
                    f"--git-dir={repository.folder}", "cat-file", "--batch", stdin=ids, into=blobs
                )
            else:
                await anyio.Path(blobs).touch(mode=0o600)
            await anyio.to_thread.run_sync(export.write, found, blobs, into)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.Path(blobs).unlink(missing_ok=True)

    async def _inspect(self, sha: str, paths: Sequence[str]) -> dict[str, tuple[str, str, int] | None]:
        """(type, id, size) of every path of a commit, symlinks within it followed; None where there is nothing."""
        asked = "".join(f"{sha}:{export.confine(path)}\n" for path in paths).encode()
        answer = await self._repository.local(
            "cat-file",
            "--batch-check=%(objecttype) %(objectname) %(objectsize)",
            "--follow-symlinks",
            stdin=asked,
            limit=512 * len(paths) + len(asked) * 2,
        )
        lines = [line for line in answer.decode("utf-8", "replace").split("\n") if line]
        # What is not there is echoed with a word such as `missing`; `dangling N` is followed by one more line.
        result: dict[str, tuple[str, str, int] | None] = {}
        remaining = iter(lines)
        for path in paths:
            words = next(remaining, "missing").split(" ")
            if len(words) == 3 and words[0] in ("tree", "blob") and is_sha(words[1]):
                result[path] = (words[0], words[1], int(words[2]))
                continue
            result[path] = None
            if words[0] in ("dangling", "symlink", "loop", "notdir"):
                next(remaining, None)
        return result


class GitMirrors:
    """All mirrors of a control plane (engine.ports.Mirrors); mirrors lie in `data_dir`/git, exports in /exports."""

    def __init__(self, data_dir: Path, settings: GitSettings | None = None) -> None:
        self._folder = data_dir / "git"
        self._settings = settings or GitSettings()
        self._repositories: dict[str, Repository] = {}
        self.exports = trees.Exports(data_dir / "exports")

    def mirror(self, source: GitSource, credentials: bytes | None) -> GitMirror:
        """The mirror of a source; raises SourceError for a URL, a ref or a secret that cannot be used."""
        if not source.ref or _BAD_REF.search(source.ref):
            raise NoRef(f"{display(source.url)}: {source.ref!r} is no name of a branch or tag")
        repository = self._repositories.get(source.url)
        if repository is None:
            folder = self._folder / sha256(source.url.encode()).hexdigest()[:32]
            repository = self._repositories[source.url] = Repository(source.url, folder, self._settings)
        return GitMirror(repository, source.ref, secrets.parse(credentials), self.exports)


def _candidates(ref: str) -> list[str]:
    if ref == "HEAD" or ref.startswith("refs/"):
        return [ref]
    return [f"refs/heads/{ref}", f"refs/tags/{ref}"]


def _refs(answer: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in answer.decode("utf-8", "replace").splitlines():
        sha, _, name = line.partition("\t")
        if is_sha(sha):
            found[name] = sha
    return found


def _sweep(folder: Path) -> None:
    """Removes locks and half-received packs: the data directory has one owner, so whoever held them is dead."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not folder.is_dir():
        return
    for leftover in (*folder.rglob("*.lock"), *folder.glob("objects/pack/tmp_*"), *folder.glob("objects/*/tmp_obj_*")):
        leftover.unlink(missing_ok=True)
