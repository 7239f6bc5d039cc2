from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fleet.api.auth import token_of
from fleet.errors import InvalidInput, StoreError


def test_the_first_start_makes_a_token_that_later_starts_find(tmp_path: Path) -> None:
    token = token_of(tmp_path)
    assert len(token) >= 43
    assert token_of(tmp_path) == token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["token"]


def test_tokens_differ(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert token_of(tmp_path / "a") != token_of(tmp_path / "b")


def test_a_token_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    token_of(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(InvalidInput, match=r"mode 0644.*chmod 600"):
        token_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 5000, b"has blanks in its middle", b"\xff" * 40])
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(InvalidInput, match="not a token"):
        token_of(tmp_path)


def test_a_directory_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        token_of(tmp_path / "missing")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("a-token-of-enough-length")
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be read"):
        token_of(tmp_path)
