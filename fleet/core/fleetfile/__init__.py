"""fleet.yaml from bytes to frozen values, with everything that is wrong in it said at once.

`document` describes what can be written, `reader` reads by it, `rules` check what spans several values, `build` makes
the values, `schema` renders the description as JSON Schema. What needs a file system (does a bundle's path exist?) is
for the caller, who reports it with `Parsed.problem`.
"""

from __future__ import annotations

import msgspec

from fleet.core import yaml
from fleet.core.fleetfile import build, reader, rules
from fleet.core.fleetfile.document import ROOT
from fleet.core.fleetfile.schema import schema
from fleet.model.fleetfile import Fleet, Problem

__all__ = ["Parsed", "parse", "schema"]


class Parsed(msgspec.Struct, frozen=True):
    """What a fleet.yaml says; `fleet` is None exactly when there are problems. Both lists are in the file's order."""

    file: str
    fleet: Fleet | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    positions: dict[yaml.Path, yaml.Position]

    def problem(self, path: yaml.Path, message: str, suggestion: str | None = None) -> Problem:
        """A further problem at the value of `path`, such as ("bundles", 0, "path")."""
        line, column = reader.locate(self.positions, path)
        return Problem(self.file, line, column, reader.spell(path), message, suggestion)


def parse(data: bytes | str, *, file: str = "fleet.yaml") -> Parsed:
    """Reads one fleet.yaml of at most 1 MiB; never raises."""
    document = yaml.examine(data, file=file)
    errors = reader.Report(file, document.positions)
    warnings = reader.Report(file, document.positions)
    root: object = reader.INVALID
    # A document that breaks off would also seem to lack what comes after the break.
    if document.complete:
        root = reader.Reader(errors).read(ROOT, document.value, ())
        if isinstance(root, dict) and isinstance(document.value, dict):
            rules.check(root, document.value, errors, warnings)
    problems = _merged(document.problems, errors)
    fleet = build.fleet(root) if isinstance(root, dict) and not problems else None
    return Parsed(file, fleet, problems, tuple(warnings.problems()), document.positions)


def _merged(syntactic: tuple[Problem, ...], errors: reader.Report) -> tuple[Problem, ...]:
    """All problems in order; what YAML refused already needs no second message at the same place."""
    places = {(problem.line, problem.column) for problem in syntactic}
    others = [problem for problem in errors.problems() if (problem.line, problem.column) not in places]
    return tuple(sorted([*syntactic, *others], key=lambda problem: (problem.line, problem.column)))
