"""The Git side of the demo: a bare repository that the control plane reads, and a clone to work in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.cli.failure import Exit, Failure

SHOP = Path(__file__).parent.parent / "shop"
IMAGES = "apps/shop/base/kustomization.yaml"
AUTHOR = ("Bea", "bea@shop.example")
_SECONDS = 30
_REGIONS = ("eu", "us", "ap", "sa")


@dataclass(frozen=True)
class Repository:
    bare: Path
    clone: Path

    def head(self) -> str:
        """The full id of the clone's commit."""
        return run(self.clone, "rev-parse", "HEAD")

    def set_image(self, old: str, new: str) -> None:
        """Replaces the tag of the web image in the base. Raises Failure when it is not `old`."""
        file = self.clone / IMAGES
        text = file.read_text()
        before, after = f'shop/web, newTag: "{old}"', f'shop/web, newTag: "{new}"'
        if text.count(before) != 1:
            raise Failure(Exit.NO, f"{file}: the image is not {old}")
        file.write_text(text.replace(before, after))


def create(directory: Path, clusters: Sequence[str]) -> Repository:
    """`shop.git` and its clone `shop` below `directory`, with the shop and its fleet.yaml committed and pushed."""
    made = Repository(directory / "shop.git", directory / "shop")
    run(directory, "init", "--quiet", "--bare", "--initial-branch=main", str(made.bare))
    run(directory, "clone", "--quiet", str(made.bare), str(made.clone))
    name, email = AUTHOR
    for key, value in {"user.name": name, "user.email": email, "commit.gpgsign": "false"}.items():
        run(made.clone, "config", key, value)
    run(made.clone, "switch", "--quiet", "--orphan", "main")
    shutil.copytree(SHOP, made.clone, dirs_exist_ok=True)
    file = made.clone / "fleet.yaml"
    file.write_text(fleet_file(file.read_text(), clusters))
    run(made.clone, "add", "--all")
    run(made.clone, "commit", "--quiet", "--message", "The shop, and the fleet it runs on")
    run(made.clone, "push", "--quiet", "--set-upstream", "origin", "main")
    return made


def fleet_file(text: str, clusters: Sequence[str]) -> str:
    """The template with these clusters; a cluster's environment is the first word of its name."""
    return text.replace("@CLUSTERS@", "\n".join(_entry(name) for name in clusters))


def cluster_names(count: int) -> tuple[list[str], list[str]]:
    """Names for `count` clusters: the smaller half of them qa, the others prod."""
    places = [f"{region}{number}" for number in range(1, count // len(_REGIONS) + 2) for region in _REGIONS]
    return [f"qa-{place}" for place in places[: count // 2]], [
        f"prod-{place}" for place in places[: count - count // 2]
    ]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For git and what calls it: this process's, without what would point git at another repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", **(extra or {})}


def run(directory: Path, *arguments: str) -> str:
    """git in `directory`; its output without the last newline. Raises Failure."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            text=True,
        )
    except FileNotFoundError as error:
        raise Failure(Exit.NO, "git is not installed", "install git and try again") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(Exit.NO, f"git {arguments[0]}: no end after {_SECONDS} s") from error
    if done.returncode:
        raise Failure(Exit.NO, f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")


def _entry(name: str) -> str:
    environment, _, place = name.partition("-")
    labels = f"{{env: {environment}, region: {place.rstrip('0123456789')}}}"
    return f"  - {{name: {name}, labels: {labels}, kubeconfig: {{context: {name}}}}}"
