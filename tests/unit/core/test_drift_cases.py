"""The recorded cases of real servers, and the command that runs them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from fleet.core.drift import verdict
from tests import drift_cases

_PATHS = drift_cases.files(os.environ.get("FLEET_DRIFT_CASES", ""))


def test_every_recorded_case_has_the_expected_verdict() -> None:
    passed, failures = drift_cases.check(_PATHS)
    assert not failures, "\n".join(map(str, failures))
    assert passed >= 93


def test_the_filter_alone_is_right_but_for_known_cases() -> None:
    """More suspects would mean more dry-runs, fewer would mean missed drift; B0 was a race of the recording."""
    wrong = set()
    for _, case in drift_cases.read(drift_cases.RECORDED):
        assert not isinstance(case, str)
        suspect = isinstance(drift_cases.filtered(case), verdict.Suspect)
        if case.after is not None and suspect != case.dry_run_differs:
            wrong.add(case.id)
    assert wrong == {"B0", "C8", "M1", "S34"}


def test_a_wrong_verdict_and_a_broken_line_fail_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = drift_cases.RECORDED.read_bytes().splitlines()[2]
    wrong = msgspec.json.decode(line) | {"expect": {"owned": "missing"}}
    more = tmp_path / "more.jsonl"
    more.write_bytes(line + b"\n\n" + msgspec.json.encode(wrong) + b"\n{}\n")
    assert drift_cases.main([str(more)]) == 1
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "1 passed, 2 failed"
    assert f"{more}:3" in shown
    assert "wanted  missing" in shown
    assert "line 4" in shown
    monkeypatch.setenv("FLEET_DRIFT_CASES", f"{more}:")
    assert drift_cases.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "94 passed, 2 failed"


def test_a_missing_file_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift_cases.main([str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
