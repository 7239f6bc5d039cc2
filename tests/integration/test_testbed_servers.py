"""The testbed's Git servers and trace backend, driven by git itself and by the OpenTelemetry exporter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.testbed import git
from tests.testbed.git import Repository, Symlink
from tests.testbed.git_https import GitHttps
from tests.testbed.git_ssh import GitSsh
from tests.testbed.jaeger import Jaeger

pytestmark = pytest.mark.real


def run_git(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        env={**git.environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class TestRepository:
    def test_commits_build_on_one_another(self, repository: Repository) -> None:
        first = repository.commit({"a.yaml": "a: 1\n", "dir/ä b.yaml": "b: 1\n", "link": Symlink("a.yaml")}, "first")
        second = repository.commit({"a.yaml": None, "c.yaml": b"c: 1\n"}, "second")
        assert repository.git("rev-parse", f"{second}~1") == first
        listed = repository.git("-c", "core.quotePath=false", "ls-tree", "-r", "--format=%(objectmode) %(path)", second)
        assert listed.splitlines() == ["100644 c.yaml", "100644 dir/ä b.yaml", "120000 link"]
        assert repository.git("show", f"{first}:a.yaml") == "a: 1"

    def test_a_rewrite_forgets_the_history(self, repository: Repository) -> None:
        first = repository.commit({"a": "1"})
        repository.commit({"a": "2"})
        assert repository.git("rev-list", "--count", repository.rewrite({"b": "1"})) == "1"
        assert repository.git("rev-parse", f"{repository.rewrite({'b': '2'}, onto=first)}~1") == first

    def test_a_revert_restores_the_content(self, repository: Repository) -> None:
        first = repository.commit({"a": "1"})
        repository.commit({"a": "2"})
        reverted = repository.revert()
        assert repository.git("diff", first, reverted) == ""
        assert repository.head() == reverted

    def test_a_deleted_branch_has_no_head(self, repository: Repository) -> None:
        repository.commit({"a": "1"}, branch="topic")
        repository.delete_branch("topic")
        assert repository.head("topic") is None


class TestHttps:
    def trusting(self, server: GitHttps) -> dict[str, str]:
        return {"GIT_SSL_CAINFO": str(server.ca)}

    def test_clone_and_push(self, repository: Repository, git_https: GitHttps, tmp_path: Path) -> None:
        head, work, trust = repository.commit({"a": "1"}), tmp_path / "work", self.trusting(git_https)
        assert run_git("clone", git_https.url("shop.git"), work, environment=trust).returncode == 0
        assert run_git("-C", work, "commit", "--allow-empty", "-m", "more").returncode == 0
        pushed = run_git("-C", work, "push", "origin", "HEAD:main", environment=trust)
        assert pushed.returncode == 0, pushed.stderr
        assert repository.git("rev-parse", f"{repository.head()}~1") == head
        assert [each.command for each in git_https.requests].count("receive-pack") == 1

    def test_an_untrusted_server_is_refused_by_git(self, repository: Repository, git_https: GitHttps) -> None:
        assert "certificate" in run_git("ls-remote", git_https.url(repository.path.name)).stderr

    def test_a_listing_is_told_from_a_fetch(self, repository: Repository, git_https: GitHttps) -> None:
        head = repository.commit({"a": "1"})
        listed = run_git("ls-remote", git_https.url("shop.git"), "main", environment=self.trusting(git_https))
        assert listed.stdout == f"{head}\trefs/heads/main\n"
        assert [each.command for each in git_https.requests] == ["advertise", "ls-refs"]

    @pytest.mark.parametrize(("password", "code"), [("right", 0), ("wrong", 128)])
    def test_credentials(self, repository: Repository, git_https: GitHttps, password: str, code: int) -> None:
        repository.commit({"a": "1"})
        git_https.require("robot", "right")
        url = git_https.url("shop.git").replace("https://", f"https://robot:{password}@")
        assert run_git("ls-remote", url, environment=self.trusting(git_https)).returncode == code
        assert any(each.authorised for each in git_https.requests) == (code == 0)

    def test_faults_and_their_end(self, repository: Repository, git_https: GitHttps) -> None:
        repository.commit({"a": "1"})
        command = ("ls-remote", git_https.url("shop.git"))
        trust = self.trusting(git_https)
        git_https.hang()
        with pytest.raises(subprocess.TimeoutExpired):
            run_git(*command, environment=trust, timeout=0.5)
        git_https.fail(503)
        assert "503" in run_git(*command, environment=trust).stderr
        git_https.refuse()
        assert "Failed to connect" in run_git(*command, environment=trust).stderr
        git_https.mend()
        assert run_git(*command, environment=trust).returncode == 0

    def test_close_ends_a_hanging_request(self, repository: Repository, git_https: GitHttps) -> None:
        git_https.hang()
        command = ["git", "ls-remote", git_https.url(repository.path.name)]
        environment = {**git.environment(), **self.trusting(git_https)}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as client:
            while not git_https.requests and client.poll() is None:
                os.sched_yield()
            git_https.close()
            assert client.wait(30) == 128


class TestSsh:
    def test_clone_and_push(self, repository: Repository, git_ssh: GitSsh, tmp_path: Path) -> None:
        head, work, trust = repository.commit({"a": "1" * 300_000}), tmp_path / "work", git_ssh.environment()
        cloned = run_git("clone", git_ssh.url("shop.git"), work, environment=trust)
        assert cloned.returncode == 0, cloned.stderr
        assert run_git("-C", work, "commit", "--allow-empty", "-m", "more").returncode == 0
        assert run_git("-C", work, "push", "origin", "HEAD:main", environment=trust).returncode == 0
        assert repository.git("rev-parse", f"{repository.head()}~1") == head

    @pytest.mark.parametrize("name", ["absent.git", "../outside.git"])
    def test_nothing_outside_the_root(self, repository: Repository, git_ssh: GitSsh, name: str) -> None:
        Repository.create(repository.path.parent.parent / "outside.git")
        refused = run_git("ls-remote", git_ssh.url(name), environment=git_ssh.environment())
        assert "no such service or repository" in refused.stderr

    def test_another_key_is_refused(self, repository: Repository, git_ssh: GitSsh, tmp_path: Path) -> None:
        other = GitSsh(repository.path.parent, tmp_path / "other")
        other.close()
        environment = {
            name: value.replace(str(git_ssh.client_key), str(other.client_key))
            for name, value in git_ssh.environment().items()
        }
        assert "Permission denied" in run_git("ls-remote", git_ssh.url("shop.git"), environment=environment).stderr

    def test_faults_and_their_end(self, repository: Repository, git_ssh: GitSsh) -> None:
        head = repository.commit({"a": "1"})
        command, trust = ("ls-remote", git_ssh.url("shop.git"), "main"), git_ssh.environment()
        git_ssh.hang()
        with pytest.raises(subprocess.TimeoutExpired):
            run_git(*command, environment=trust, timeout=0.5)
        git_ssh.mend()
        assert run_git(*command, environment=trust).stdout.startswith(head)
        git_ssh.refuse()
        assert "Connection refused" in run_git(*command, environment=trust).stderr
        git_ssh.mend()
        assert run_git(*command, environment=trust).stdout.startswith(head)


class TestJaeger:
    def test_an_exported_trace_is_found(self, jaeger: Jaeger) -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{jaeger.otlp_endpoint}/v1/traces")))
        with provider.get_tracer("test").start_as_current_span("outer") as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            with provider.get_tracer("test").start_as_current_span("inner"):
                pass
        provider.shutdown()
        spans = jaeger.wait_trace(trace_id, lambda found: len(found) == 2)
        assert {each["operationName"] for each in spans} == {"outer", "inner"}

    def test_an_unknown_trace_is_empty(self, jaeger: Jaeger) -> None:
        assert jaeger.trace("0" * 31 + "1") == []
