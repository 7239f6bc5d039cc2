"""`{{ cluster.name }}` in a bundle's files: Jinja2, cut down until nothing in it can run away.

Templates see `cluster.name`, `cluster.labels` and `cluster.values`, and nothing else: no attribute of a Python object,
no call, no assignment, no import. What is undefined is an error. Conditions and loops are there; the items of all loops
of one file together, what its filters work on, its size and its output are bounded, so that no file takes long.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.sandbox
import msgspec
from jinja2 import nodes
from jinja2.filters import do_default
from jinja2.runtime import LoopContext
from jinja2.visitor import NodeTransformer

from fleet.errors import RenderError
from fleet.model.fleetfile import Cluster

MAX_TEMPLATE = 1 << 20
"""Characters of a file."""
MAX_OUTPUT = 4 << 20
"""Characters that one file may become."""
MAX_ITEMS = 10_000
"""Items of all loops of one file."""
MAX_WORK = 64 << 20
"""Characters and items that all filters of one file are given together."""
MAX_INDENT = 64

_MARKS = ("{{", "{%", "{#")
_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Keyword,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Add,
    nodes.Sub,
    nodes.Neg,
    nodes.List,
    nodes.Tuple,
    nodes.If,
    nodes.For,
)
_LOOP = ("index", "index0", "first", "last", "length")
_TESTS = ("defined", "undefined", "none", "string", "number", "boolean", "mapping", "sequence", "in", "true", "false")

Chain = tuple[str, ...]
"""What a template reads of the cluster: ("labels", "env")."""


class Template(msgspec.Struct, frozen=True):
    """A file that was understood: what it reads of the cluster, and how to expand it."""

    reads: frozenset[Chain]
    expand: Callable[[Mapping[str, Any]], str]


def expand(text: str, cluster: Cluster, where: str) -> str:
    """The text for a cluster; raises RenderError with `where` and the line."""
    if not any(mark in text for mark in _MARKS):
        return text
    return _compile(text, where).expand(_context(cluster))


def reads(text: str, where: str) -> frozenset[Chain]:
    """What of the cluster the text depends on; a chain stands for all that is below it."""
    return _compile(text, where).reads if any(mark in text for mark in _MARKS) else frozenset()


def inputs(chains: Iterable[Chain], cluster: Cluster) -> str:
    """The values of these chains for a cluster, as text that is equal exactly when they are."""
    context = _context(cluster)
    found = []
    for chain in sorted(set(chains)):
        value: Any = context
        depth = 0  # absent and null expand differently, and so do two places where a look-up ends
        for key in chain:
            if not isinstance(value, Mapping) or key not in value:
                value = None if isinstance(value, Mapping) else value
                break
            value = value[key]
            depth += 1
        found.append([list(chain), depth, value])
    return json.dumps(found, sort_keys=True)


def _context(cluster: Cluster) -> dict[str, Any]:
    return {"name": cluster.name, "labels": dict(cluster.labels), "values": dict(cluster.values)}


# --- the language ----------------------------------------------------------------------------------------------------


class _TooMuch(Exception):
    """A bound was hit; the text says which."""


class _Budget:
    """Counts the items of loops and the work of filters in one expansion."""

    def __init__(self) -> None:
        self._left = MAX_ITEMS
        self._work = MAX_WORK

    def guard(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, charged for what it is given."""

        def charged(value: Any, *arguments: Any, **keywords: Any) -> Any:
            self._work -= len(value) if isinstance(value, str | list | dict) else 1
            if self._work < 0:
                raise _TooMuch("its filters work on too much")
            return filter_(value, *arguments, **keywords)

        return charged

    def take(self, items: Any) -> Iterator[Any]:
        if isinstance(items, str) or not isinstance(items, Iterable):
            raise _TooMuch("a loop goes over a list or a mapping, not over a single value")
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise _TooMuch(f"its loops have more than {MAX_ITEMS} items")
            yield item


class _Environment(jinja2.sandbox.SandboxedEnvironment):
    """Dots and brackets look into mappings and lists; there is nothing else to reach. Sums are of numbers."""

    intercepted_binops = frozenset("+-")

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise _TooMuch(f"`{operator}` takes numbers; texts are joined by writing them one after the other")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, jinja2.Undefined):
            return obj[argument]  # raises, naming what is undefined
        if isinstance(obj, LoopContext) and argument in _LOOP:
            return getattr(obj, argument)
        if isinstance(obj, dict) and isinstance(argument, str | int) and argument in obj:
            return obj[argument]
        whole = isinstance(argument, int) and not isinstance(argument, bool)
        if isinstance(obj, list | tuple) and whole and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


def _bounded(text: str) -> str:
    if len(text) > MAX_OUTPUT:
        raise _TooMuch(f"it becomes larger than {MAX_OUTPUT} characters")
    return text


def _text(value: Any) -> str:
    """A value as it stands in YAML and JSON: true and null, not Python's spelling."""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises, naming what is undefined
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _text(value)


def _finalize(value: Any) -> Any:
    return value if isinstance(value, jinja2.Undefined) else _text(value)


def _replace(value: Any, old: str, new: str) -> str:
    text = _text(value)
    if not old:
        raise _TooMuch("replace needs a text to replace")
    if len(text) + text.count(old) * len(new) > MAX_OUTPUT:
        raise _TooMuch(f"replace makes more than {MAX_OUTPUT} characters")
    return text.replace(old, new)


def _indent(value: Any, width: int = 4, first: bool = False) -> str:
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise _TooMuch(f"indent takes a width of 0 to {MAX_INDENT}")
    lines = _text(value).split("\n")
    _bounded(" " * width * len(lines))
    indented = [(" " * width if line and (number or first) else "") + line for number, line in enumerate(lines)]
    return "\n".join(indented)


def _join(values: Iterable[Any], separator: str = "") -> str:
    texts = [_text(value) for value in _Budget().take(values)]
    if sum(map(len, texts)) + len(texts) * len(separator) > MAX_OUTPUT:
        raise _TooMuch(f"join makes more than {MAX_OUTPUT} characters")
    return separator.join(texts)


def _int(value: Any) -> int:
    try:
        return int(value)  # Python itself refuses texts of more than 4,300 digits
    except (TypeError, ValueError) as error:
        raise _TooMuch(f"{_text(value)[:40]!r} is no integer") from error


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise _TooMuch("items takes a mapping")
    return sorted(value.items())


_FILTERS: dict[str, Callable[..., Any]] = {
    "b64encode": lambda value: base64.b64encode(_text(value).encode()).decode(),
    "default": do_default,
    "d": do_default,
    "first": lambda values: next(iter(values)) if values else "",
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": lambda values: values[-1] if values else "",
    "length": len,
    "lower": lambda value: _text(value).lower(),
    "replace": _replace,
    "string": _text,
    "tojson": _json,
    "trim": lambda value: _text(value).strip(),
    "upper": lambda value: _text(value).upper(),
}
_BUDGET_FILTER = "\0budget"


class _CountLoops(NodeTransformer):
    """Sends what every loop goes over through the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _BUDGET_FILTER, [], [], None, None, lineno=node.lineno)
        return node


def _environment(budget: _Budget) -> _Environment:
    environment = _Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=_finalize,
        optimized=False,
        cache_size=0,
        extensions=(),
    )
    environment.globals.clear()
    environment.filters = {name: budget.guard(filter_) for name, filter_ in _FILTERS.items()}
    environment.filters[_BUDGET_FILTER] = budget.take
    environment.tests = {name: test for name, test in environment.tests.items() if name in _TESTS}
    return environment


@lru_cache(maxsize=512)
def _compile(text: str, where: str) -> Template:
    if len(text) > MAX_TEMPLATE:
        raise RenderError(f"{where}: a template may have {MAX_TEMPLATE} characters")
    environment = _environment(_Budget())
    try:
        tree = environment.parse(text)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, _ALLOWED):
                raise RenderError(
                    f"{where}:{node.lineno}: `{type(node).__name__.lower()}` is not available in templates; "
                    "they have values, filters, if and for"
                )
        chains = frozenset(_chains(tree))
        code = environment.compile(_CountLoops().visit(tree), name=where, filename=where)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(f"{where}:{error.lineno}: {error.message}") from error
    except (RecursionError, SyntaxError, MemoryError) as error:
        raise RenderError(f"{where}: the template is nested too deeply") from error
    return Template(chains, lambda context: _run(code, context, where))


def _run(code: Any, context: Mapping[str, Any], where: str) -> str:
    environment = _environment(_Budget())
    template = jinja2.Template.from_code(environment, code, {})
    size, pieces = 0, []
    try:
        for piece in template.generate(cluster=context):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise _TooMuch(f"it becomes larger than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except (_TooMuch, jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
        line = _line(error, where)
        raise RenderError(f"{where}{line}: {_sentence(error)}") from error
    return "".join(pieces)


def _line(error: BaseException, where: str) -> str:
    """`:7` for the template's line that raised, from the traceback that Jinja has rewritten."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == where:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _sentence(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, jinja2.UndefinedError):
        return f"{text}; the cluster in fleet.yaml must give it, or the template a `default`"
    return f"the template cannot be expanded: {text[:200]}"


def _chains(node: nodes.Node) -> Iterator[Chain]:
    """Every reading of `cluster`, as far down as the template says it in constants."""
    chain = _chain(node)
    if chain is not None:
        yield chain
        return
    for child in node.iter_child_nodes():
        yield from _chains(child)


def _chain(node: nodes.Node) -> Chain | None:
    """The chain of a name or of constant look-ups in it; None for anything else."""
    if isinstance(node, nodes.Name):
        return () if node.name == "cluster" else None
    if isinstance(node, nodes.Getattr):
        inner, key = _chain(node.node), node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        inner, key = _chain(node.node), node.arg.value
    else:
        return None
    return None if inner is None else (*inner, key)
