"""What can go wrong in the testbed; the root of every exception that it raises."""

from __future__ import annotations


class TestbedError(Exception):
    """A part of the testbed did not do what was asked of it."""

    __test__ = False  # the name begins as a test class does: pytest is not to collect it


class PartMissing(TestbedError):
    """A part cannot be had on this machine: tests that need it are skipped, under the part's name.

    `part` is the name shown in the test summary, `reason` says what is missing and how to get it.
    """

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason


class BuildFailed(TestbedError):
    """The Go toolchain refused to build a tool; carries the end of its output."""


class NotReady(TestbedError):
    """A process ended early or did not answer within its deadline; carries the end of its log."""


class PortTaken(NotReady):
    """A process found its port in use; a start with other ports may succeed."""


class KubectlFailed(TestbedError):
    """kubectl answered with an error."""

    def __init__(self, arguments: tuple[str, ...], code: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: exit {code}: {stderr.strip()}")
        self.code = code
        self.stderr = stderr


class ApiFailed(TestbedError):
    """An API server answered with an HTTP error; `status` is the code, `body` what it said."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {body[:500]}")
        self.status = status
        self.body = body
