"""A Git server over SSH on loopback: a process of its own that runs git-upload-pack and git-receive-pack for one key.

Clients are git with the machine's OpenSSH; `environment` gives what they need.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from types import TracebackType

import asyncssh

from tests.testbed import git_sshd, ports, processes
from tests.testbed.errors import PartMissing
from tests.testbed.processes import Process

_READY_SECONDS = 60


class GitSsh:
    """Serves the repositories below `root` at `url("name")` to the holder of `client_key`.

    `known_hosts` is the client's file with the server's key. Raises PartMissing without an OpenSSH client.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        if shutil.which("ssh") is None:
            raise PartMissing("ssh", "there is no OpenSSH client on PATH")
        self._directory = directory
        self._root = root.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = ports.free(1)
        self.client_key = directory / "id_ed25519"
        self._authorised = directory / "authorized_keys"
        self._host_key = directory / "host_ed25519"
        self.known_hosts = directory / "known_hosts"
        client, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        for path, key in ((self.client_key, client), (self._host_key, host)):
            path.touch(mode=0o600)
            path.write_bytes(key.export_private_key())
        self._authorised.write_bytes(client.export_public_key())
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host.export_public_key().decode()}")
        self._process = self._start()

    def url(self, name: str) -> str:
        """`name` is a directory below the root, e.g. `shop.git`."""
        return f"ssh://git@127.0.0.1:{self.port}/{name}"

    def environment(self) -> dict[str, str]:
        """GIT_SSH_COMMAND for git: this key, this host key, nothing of the user's own configuration."""
        options = ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=none"]
        options.append(f"UserKnownHostsFile={self.known_hosts}")
        command = ["ssh", "-F", "none", "-i", str(self.client_key)]
        return {"GIT_SSH_COMMAND": shlex.join(command + [f"-o{option}" for option in options])}

    def hang(self) -> None:
        """The kernel still accepts connections, nothing is answered."""
        self._process.pause()

    def refuse(self) -> None:
        """Nothing listens on the port any more; open connections are cut."""
        self._process.kill()

    def mend(self) -> None:
        """Back to serving, on the same port."""
        self._process.resume()
        if not self._process.alive():
            self._process = self._start()

    def close(self) -> None:
        self._process.kill()

    def __enter__(self) -> GitSsh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Process:
        arguments = [self.port, self._root, self._host_key, self._authorised]
        command = [sys.executable, "-I", git_sshd.__file__, *map(str, arguments)]
        process = processes.launcher().spawn("git-ssh", command, self._directory)
        process.wait_ready(partial(ports.listening, self.port), _READY_SECONDS)
        return process
