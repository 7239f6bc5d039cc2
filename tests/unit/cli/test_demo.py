"""The parts of the demo that need no cluster: its repository, what it writes, what it refuses, what it tells."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fleet.cli.demo import repository, stage, testbed
from fleet.cli.demo.follow import told
from fleet.cli.demo.narrator import Narrator
from fleet.cli.demo.shell import Shell
from fleet.cli.failure import Failure
from fleet.core import fleetfile, targets

CLUSTERS = ["qa-eu1", "qa-us1", "prod-eu1", "prod-us1"]


def demo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fleet", "demo", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_real_clusters_it_says_what_to_type() -> None:
    done = demo()
    assert done.returncode == 2
    assert "not supported yet" in done.stderr
    assert "fleet demo --real" in done.stderr


def test_it_never_writes_into_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = demo("--real", "--tour-only", "--directory", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_installed_package_says_where_the_clusters_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed, "CHECKOUT", tmp_path)
    with pytest.raises(Failure, match="tests/testbed") as raised:
        testbed.load()
    assert "make demo" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("count", "qa", "prod"),
    [
        (2, ["qa-eu1"], ["prod-eu1"]),
        (4, ["qa-eu1", "qa-us1"], ["prod-eu1", "prod-us1"]),
        (5, ["qa-eu1", "qa-us1"], ["prod-eu1", "prod-us1", "prod-ap1"]),
        (
            10,
            ["qa-eu1", "qa-us1", "qa-ap1", "qa-sa1", "qa-eu2"],
            ["prod-eu1", "prod-us1", "prod-ap1", "prod-sa1", "prod-eu2"],
        ),
    ],
)
def test_half_of_the_clusters_are_qa(count: int, qa: list[str], prod: list[str]) -> None:
    assert repository.cluster_names(count) == (qa, prod)


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_its_fleet_yaml_is_valid_for_every_number_of_clusters(count: int) -> None:
    qa, prod = repository.cluster_names(count)
    assert len({*qa, *prod}) == count
    parsed = fleetfile.parse(repository.fleet_file((repository.SHOP / "fleet.yaml").read_text(), [*qa, *prod]))
    assert (parsed.problems, parsed.warnings) == ((), ())
    assert parsed.fleet is not None
    waves = [sorted(members) for _, members in targets.waves(parsed.fleet, parsed.fleet.bundles[0])]
    assert waves == [sorted(qa), sorted(prod)]


def test_the_repository_is_pushed_and_a_new_image_can_be_committed(tmp_path: Path) -> None:
    made = repository.create(tmp_path, CLUSTERS)
    assert repository.run(made.bare, "rev-parse", "main") == made.head()
    assert repository.run(made.clone, "status", "--porcelain") == ""
    made.set_image("1.0", "1.1")
    changed = repository.run(made.clone, "diff", "--unified=0").splitlines()
    assert [line for line in changed if line.startswith(("+ ", "- ", "+  ", "-  "))] == [
        '-  - {name: registry.example/shop/web, newTag: "1.0"}',
        '+  - {name: registry.example/shop/web, newTag: "1.1"}',
    ]
    with pytest.raises(Failure, match=r"not 1\.0"):
        made.set_image("1.0", "1.2")


def test_the_environment_of_a_caller_cannot_lead_git_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    made = repository.create(tmp_path, CLUSTERS)
    assert len(made.head()) == 40
    assert not (tmp_path / "elsewhere").exists()


def test_one_kubeconfig_has_every_cluster_with_its_own_user(tmp_path: Path) -> None:
    files = {}
    for name in CLUSTERS:
        files[name] = tmp_path / name
        own = {
            "clusters": [{"name": "c", "cluster": {"server": f"https://{name}"}}],
            "users": [{"name": "admin", "user": {"token": name}}],
        }
        files[name].write_text(yaml.safe_dump(own))
    stage.write_kubeconfig(tmp_path / "kubeconfig", files)
    merged = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    users = {each["name"]: each["user"]["token"] for each in merged["users"]}
    servers = {each["name"]: each["cluster"]["server"] for each in merged["clusters"]}
    for context in merged["contexts"]:
        name = context["name"]
        assert users[context["context"]["user"]] == name
        assert servers[context["context"]["cluster"]] == f"https://{name}"
    assert [context["name"] for context in merged["contexts"]] == CLUSTERS
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600


def test_env_sh_gives_a_shell_the_very_values(tmp_path: Path) -> None:
    wanted = {"FLEET_SERVER": "http://127.0.0.1:1", "PATH": "/a b:/c'd:/usr/bin:/bin"}
    stage.write_exports(tmp_path / "env.sh", wanted)
    script = f'. {shlex.quote(str(tmp_path / "env.sh"))}; printf "%s\\n" "$FLEET_SERVER" "$PATH"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == list(wanted.values())


def test_a_command_that_ends_otherwise_than_expected_ends_the_step(tmp_path: Path) -> None:
    out = io.StringIO()
    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"}, Narrator(out))
    assert shell("sh", "-c", "echo said") == "said\n"
    assert out.getvalue().split() == ["$", "sh", "-c", "'echo", "said'", "said"]
    assert shell("sh", "-c", "exit 3", expect=3) == ""
    with pytest.raises(Failure, match="exit 3: why"):
        shell("sh", "-c", "echo why; exit 3")
    with pytest.raises(Failure, match="cannot be run"):
        shell("no-such-program-anywhere")


def test_what_a_commit_says_cannot_move_the_cursor() -> None:
    out = io.StringIO()
    Narrator(out).event(1.25, "shop-1", "Halted", "because \x1b[2J of \nthis")
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().split() == ["1.2s", "shop-1", "Halted", "because", "�[2J", "of", "this"]


def test_only_events_that_people_care_for_are_told() -> None:
    def event(type: str, **data: object) -> dict[str, object]:
        about = {"rollout": "shop-1", "wave": "qa", "cluster": "qa-eu1", "actor": "system"}
        return {"type": type, "data": data, **about}

    assert told(event("rollout.state", to="Halted", reason="qa failed")) == ["shop-1   ", "Halted", "qa failed"]
    assert told(event("cluster.state", to="Updated")) == ["qa-eu1   ", "Updated", ""]
    assert told(event("gate.state", to="Passed", gate="go") | {"actor": "ada"}) == ["gate go", "Passed", "by ada"]
    assert told(event("drift.healed", object="Service shop/web"))[1:] == ["healed", "Service shop/web"]
    for quiet in ("source.fetched", "apply.started", "health.changed", "command"):
        assert told(event(quiet)) == []
    assert told(event("cluster.state", to="Applying")) == []


def test_the_picture_fetches_nothing(tmp_path: Path) -> None:
    narrator = Narrator(io.StringIO(), record=True)
    narrator.say("before")
    narrator.forget()
    narrator.done("after")
    narrator.picture(tmp_path / "demo.svg", "a <title>")
    drawn = (tmp_path / "demo.svg").read_text()
    assert "after" in drawn
    assert "before" not in drawn
    assert "url(http" not in drawn
    assert "@import" not in drawn
