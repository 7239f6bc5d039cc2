"""The SSH server's process: `git_sshd.py PORT ROOT HOST_KEY AUTHORISED_KEYS`; started and ended by `git_ssh`.

It runs the two services of Git's SSH transport (gitprotocol-pack) below ROOT and refuses every other command.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from functools import partial
from pathlib import Path

import asyncssh

_SERVICES = frozenset({"git-upload-pack", "git-receive-pack"})


def service_of(command: str | None, root: Path) -> list[str] | None:
    """The program and arguments for what the client asks; None when it is not a repository below the root."""
    words = shlex.split(command or "")
    if len(words) != 2 or words[0] not in _SERVICES:
        return None
    repository = (root / words[1].lstrip("/")).resolve()
    if not repository.is_relative_to(root.resolve()) or not repository.is_dir():
        return None
    return ["git", words[0].removeprefix("git-"), str(repository)]


async def serve(root: Path, process: asyncssh.SSHServerProcess[bytes]) -> None:
    """One command of one client, its streams connected to git's."""
    service = service_of(process.command, root)
    if service is None:
        process.stderr.write(b"no such service or repository\n")
        process.exit(128)
        return
    child = await asyncio.create_subprocess_exec(
        *service,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    await process.stdout.drain()
    process.exit(await child.wait())


async def main(port: int, root: Path, host_key: str, authorised: str) -> None:
    server = await asyncssh.create_server(
        asyncssh.SSHServer,
        "127.0.0.1",
        port,
        server_host_keys=[host_key],
        authorized_client_keys=authorised,
        process_factory=partial(serve, root),
        encoding=None,
    )
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
