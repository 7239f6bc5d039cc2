"""The recorded drift cases against the product's own decision: `python -m tests.drift_cases [FILE…]`.

A case is what real servers answered: the response to an apply, the object that a watch delivered after somebody's
change, and whether a dry-run apply then differed. The verdict is the filter's and, for a suspect, the dry-run's. Read
are the files named as arguments; without any, tests/data/drift-cases.jsonl and every file that FLEET_DRIFT_CASES names
(separated by `:`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from fleet.core import normalize, ownership
from fleet.core.drift import verdict
from fleet.errors import FleetError
from tests.unit.core.live import as_live

RECORDED = Path(__file__).parent / "data" / "drift-cases.jsonl"
KEY = b"any key will do"

Answer = Literal["ok", "drift", "missing"]


class Expect(msgspec.Struct, frozen=True):
    owned: Answer
    strict: Answer | None = None


class Case(msgspec.Struct, frozen=True):
    """One recorded case; further keys of the file (the heals) are of no concern here."""

    id: str
    field_manager: str
    desired: dict[str, Any]
    applied: dict[str, Any]
    after: dict[str, Any] | None
    dry_run_differs: bool
    expect: Expect
    description: str = ""
    mutation: str = ""


class Failure(msgspec.Struct, frozen=True):
    """A case that was answered wrongly, with what the filter saw."""

    case: str
    where: str
    wanted: str
    got: str
    filter: str
    description: str

    def __str__(self) -> str:
        return (
            f"{self.case} ({self.description})\n"
            f"    wanted  {self.wanted}\n"
            f"    got     {self.got}\n"
            f"    filter  {self.filter}\n"
            f"    in      {self.where}"
        )


def files(environment: str) -> tuple[Path, ...]:
    """The recorded file and those named in FLEET_DRIFT_CASES."""
    return RECORDED, *(Path(name) for name in environment.split(":") if name)


def read(path: Path) -> Iterator[tuple[int, Case | str]]:
    """The cases of a file with their line numbers; of a line that holds none, what is wrong with it."""
    decoder = msgspec.json.Decoder(Case)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line)
            except msgspec.DecodeError as error:
                yield number, str(error)


def filtered(case: Case) -> verdict.Verdict:
    """What the decision on the watch event says, exactly as the control plane asks it."""
    desired = normalize.normalize(case.desired)
    presence = ownership.presence_only(desired)
    wanted = normalize.manifest(desired)
    manager = case.field_manager
    applied = as_live(case.applied)
    baseline = verdict.remember(wanted, "recorded", applied, manager=manager, key=KEY, presence_only=presence)
    if case.after is None:
        return verdict.judge(baseline, applied, "DELETED", manager=manager, key=KEY, presence_only=presence)
    after = as_live(case.after)
    return verdict.judge(baseline, after, "MODIFIED", manager=manager, key=KEY, presence_only=presence)


def answer(case: Case, seen: verdict.Verdict) -> Answer:
    """The filter's verdict, and for a suspect that of the dry-run that follows."""
    if isinstance(seen, verdict.Gone):
        return "missing"
    if isinstance(seen, verdict.Suspect):
        return "drift" if case.dry_run_differs else "ok"
    return "ok"


def check(paths: Iterable[Path]) -> tuple[int, tuple[Failure, ...]]:
    """How many cases have the expected verdict, and the others."""
    passed, failures = 0, []
    for path in paths:
        for number, case in read(path):
            failure = _unreadable(path, number, case) if isinstance(case, str) else _judge(path, number, case)
            if failure is None:
                passed += 1
            else:
                failures.append(failure)
    return passed, tuple(failures)


def _judge(path: Path, number: int, case: Case) -> Failure | None:
    try:
        seen = filtered(case)
        got, shown = str(answer(case, seen)), str(seen)
    except FleetError as error:
        got, shown = "an error", str(error)
    if got == case.expect.owned:
        return None
    return Failure(case.id, f"{path}:{number}", case.expect.owned, got, shown, case.description)


def _unreadable(path: Path, number: int, problem: str) -> Failure:
    return Failure(f"line {number}", f"{path}:{number}", "a case", problem, "not asked", "not a recorded case")


def main(arguments: Sequence[str]) -> int:
    paths = tuple(Path(name) for name in arguments) or files(os.environ.get("FLEET_DRIFT_CASES", ""))
    try:
        passed, failures = check(paths)
    except OSError as error:
        print(f"cannot read the cases: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(failure)
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
