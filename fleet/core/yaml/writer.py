"""JSON values as YAML text that every reader understands the same way. Used by `core.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml as pyyaml

from fleet.core.yaml import scalars
from fleet.core.yaml.composer import TEXT_TAG


def dump_all(values: Iterable[object]) -> str:
    """JSON values as YAML documents, keys in order; text that YAML 1.1 or 1.2 would read otherwise is quoted."""
    return pyyaml.dump_all(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=4096,
        explicit_start=True,
        default_flow_style=False,
    )


# YAML 1.1 parsers fold these where they stand unescaped.
_LINE_BREAKS = re.compile("[\r\x85\u2028\u2029]")


class _Dumper(pyyaml.SafeDumper):
    """Block style, long text as literals; text that the core schema reads as a number is quoted too."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: pyyaml.SafeDumper, value: str) -> pyyaml.ScalarNode:
    style = '"' if _LINE_BREAKS.search(value) else "|" if "\n" in value else None
    return dumper.represent_scalar(TEXT_TAG, value, style=style)


_Dumper.add_representer(str, _text)
for _pattern in (scalars.BASED, scalars.FLOAT):
    # A second opinion beside PyYAML's own YAML 1.1 rules: any match makes plain style impossible for text.
    _Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"(?:{_pattern.pattern})$"), list("+-.0123456789")
    )
