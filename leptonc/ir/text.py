"""The text form. ``parse(dump(f), constants(f))`` is ``f`` up to value identity.

::

    func @f(%x: f32[b,3,8,8]; b in [1, 64]) {
      %w = constant{const=const<sha256:9f3c21d0a1b2c3d4>}() : f32[4,3,3,3]
      %1 = conv{stride=(1,1), padding=(1,1), ...}(%x, %w) : f32[b,4,8,8]  // conv1 (net.py:12)
      return %1
    }
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from leptonc.errors import InferError, ParseError
from leptonc.ir import kinds
from leptonc.ir.constants import Const, ConstantStore
from leptonc.ir.core import NOWHERE, Builder, Function, Kind, Op, Origin, Value
from leptonc.ir.dims import DimRange
from leptonc.ir.kinds.region import Unit
from leptonc.ir.literal import literal, parse_literal
from leptonc.ir.types import QUOTED, TensorType, bracket, parse_type, same_type, split_top

_BY_NAME: Mapping[str, type[Kind]] = {k.NAME: k for k in kinds.ALL}
_HEAD = re.compile(r"func @([\w.\-]+)\((.*)\) \{")
_RANGE = re.compile(r"(\w+) in \[(-?\d+), (inf|\d+)\]")
_ORIGIN = re.compile(r"(.*?) ?(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\))?")
_SLASHES = "  // "
_COMMENT = re.compile(QUOTED + f"|{_SLASHES}")
_WORD = re.compile(r"\w+")
_BAD_NAME = re.compile(r"[^\w.\-]")
_BAD_HINT = re.compile(r"\W")


def constants(fn: Function) -> ConstantStore:
    """Return every constant of ``fn`` and of its units' bodies; all of them are hashed."""
    store = ConstantStore()
    for const in every_constant(fn):
        store.add(const)
    return store


def every_constant(fn: Function) -> Iterator[Const]:
    """Yield the constants of ``fn`` and of its units' bodies, equal ones too."""
    for op in fn.ops:
        for value in op.kind.attributes.values():
            if isinstance(value, Const):
                yield value
            elif isinstance(value, Function):
                yield from every_constant(value)


def value_names(fn: Function) -> dict[Value, str]:
    """Return a distinct printed name (``%conv1``, ``%7``) for every value of ``fn``."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for i, value in enumerate((*fn.params, *(r for op in fn.ops for r in op.results))):
        hint = _BAD_HINT.sub("_", value.hint) if value.hint else ""
        name = f"%{hint}" if hint and not hint.isdigit() else f"%{i}"
        while name in taken:
            name = f"{name}_{i}"
        names[value] = name
        taken.add(name)
    return names


def dump(fn: Function, *, origins: bool = True) -> str:
    """Return ``fn`` as text, one op a line; bodies of units are indented below their op."""
    return "\n".join(_lines(fn, origins))


def _lines(fn: Function, origins: bool) -> Iterator[str]:
    names = value_names(fn)
    params = ", ".join(f"{names[v]}: {v.type}" for v in fn.params)
    dims = "".join(f"; {d}" for d in fn.dims)
    name = _BAD_NAME.sub("_", fn.name) or "f"
    yield f"func @{name}({params}{dims}) {{"
    for op in fn.ops:
        where = f"{_SLASHES}{_one_line(op.origin)}" if origins and op.origin != NOWHERE else ""
        body = op.kind.body if isinstance(op.kind, Unit) else None
        opening = " {" if body is not None else ""
        yield f"  {_call(op, names)}{opening}{where}"
        if body is not None:
            yield from (f"    {line}" for line in _lines(body, origins))
            yield "  }"
    yield f"  return {', '.join(names[v] for v in fn.returns)}"
    yield "}"


def op_text(op: Op) -> str:
    """Return one op as a line; values without a name of their own are ``%_``."""
    names = {v: f"%{_BAD_HINT.sub('_', v.hint) or '_'}" for v in (*op.operands, *op.results)}
    where = f"{_SLASHES}{_one_line(op.origin)}" if op.origin != NOWHERE else ""
    return f"{_call(op, names)}{where}"


def _call(op: Op, names: Mapping[Value, str]) -> str:
    outs = ", ".join(names[r] for r in op.results)
    ins = ", ".join(names[v] for v in op.operands)
    types = ", ".join(str(r.type) for r in op.results)
    return f"{outs} = {kind_text(op.kind)}({ins}) : {types}"


def _one_line(origin: Origin) -> str:
    return " ".join(str(origin).split())


def kind_text(kind: Kind) -> str:
    """Return ``name{attributes}``; a unit's body is left out."""
    attrs = ", ".join(
        f"{name}={literal(value)}"
        for name, value in kind.attributes.items()
        if not isinstance(value, Function)
    )
    return kind.NAME + (f"{{{attrs}}}" if attrs else "")


def parse(text: str, store: Mapping[str, Const] | None = None) -> Function:
    """Read one function; ``store`` resolves its constants.

    Raises:
        ParseError: text that is not IR, with its line number.
        InferError: an op whose operands do not fit.
    """
    reader = _Reader(text.strip().split("\n"), store or ConstantStore())
    fn = reader.function()
    if reader.at < len(reader.lines) and any(s.strip() for s in reader.lines[reader.at :]):
        raise reader.error("text after the function")
    return fn


class _Reader:
    """Cursor over the lines of one text."""

    def __init__(self, lines: list[str], store: Mapping[str, Const]) -> None:
        self.lines, self.store, self.at = lines, store, 0
        self._kinds: dict[str, Kind] = {}  # kinds are immutable: equal text is one object

    def error(self, message: str) -> ParseError:
        return ParseError(f"line {self.at}: {message}")

    def next(self) -> str:
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            self.at += 1
            if line and not line.startswith("//"):
                return line
        raise self.error("the text ends inside a function")

    def function(self) -> Function:
        head = self.next()
        if not (m := _HEAD.fullmatch(head)):
            raise self.error(f"expected 'func @name(...) {{', got {head!r}")
        first, *ranges = split_top(m[2], ";") or [""]
        b, env = Builder(m[1], dims=tuple(map(self.range_, ranges))), dict[str, Value]()
        for part in split_top(first):
            name, _, type_ = part.partition(":")
            env[name.strip()] = b.param(parse_type(type_), _hint(name))
        while True:
            line = self.next()
            if line == "return" or line.startswith("return "):
                returns = [self.lookup(env, n) for n in split_top(line[6:])]
                if self.next() != "}":
                    raise self.error("expected '}' after return")
                return b.finish(*returns)
            try:
                self.op(line, b, env)
            except ParseError as e:
                raise e if str(e).startswith("line ") else self.error(str(e)) from e

    def range_(self, text: str) -> DimRange:
        if not (m := _RANGE.fullmatch(text)):
            raise self.error(f"expected 'name in [min, max]', got {text!r}")
        return DimRange(m[1], int(m[2]), None if m[3] == "inf" else int(m[3]))

    def lookup(self, env: Mapping[str, Value], name: str) -> Value:
        if name not in env:
            raise self.error(f"{name} is read before it is made")
        return env[name]

    def op(self, line: str, b: Builder, env: dict[str, Value]) -> None:
        line, origin = _split_origin(line)
        region = line.endswith("{")
        outs, _, rest = f" {line.removesuffix('{').strip()}".partition(" = ")
        name = _WORD.match(rest)
        if name is None or name[0] not in _BY_NAME:
            raise self.error(f"not an op: {line!r}")
        attrs, rest = bracket(rest[name.end() :], "{")
        ins, rest = bracket(rest, "(")
        types = _types(rest)
        kind = self.kind(name[0], attrs, region)
        operands = tuple([self.lookup(env, n) for n in split_top(ins)])
        self.check(kind, operands, types)
        names = split_top(outs)
        if len(names) != len(types):
            raise self.error(f"{kind.NAME}: {len(names)} names for {len(types)} results")
        results = tuple([Value(t, _hint(n)) for t, n in zip(types, names, strict=True)])
        b.append(Op(kind, operands, results, origin))
        env.update(zip(names, results, strict=True))

    def kind(self, name: str, attrs: str, region: bool) -> Kind:
        text = f"{name} {attrs}"
        if not region and (known := self._kinds.get(text)) is not None:
            return known
        fields: dict[str, Any] = {}
        for part in split_top(attrs):
            key, _, value = part.partition("=")
            fields[key.strip()] = parse_literal(value, self.store)
        if region:
            fields["body"] = self.function()
            if self.next() != "}":
                raise self.error("expected '}' after a unit's body")
        try:
            made = _BY_NAME[name](**fields)
        except TypeError as e:
            raise self.error(f"{name}: {e}") from e
        if not region:
            self._kinds[text] = made
        return made

    def check(self, kind: Kind, operands: tuple[Value, ...], types: tuple[TensorType, ...]) -> None:
        try:
            inferred = kind.infer(tuple([v.type for v in operands]))
        except InferError as e:
            raise InferError(f"line {self.at}: {e}") from e
        if len(types) != len(inferred) or not all(map(same_type, types, inferred)):
            want, got = (", ".join(map(str, ts)) for ts in (inferred, types))
            raise self.error(f"{kind.NAME} makes {want}, the text says {got}")


@lru_cache(maxsize=4096)
def _types(text: str) -> tuple[TensorType, ...]:
    return tuple(parse_type(t) for t in split_top(text.strip().removeprefix(":")))


def _hint(name: str) -> str:
    bare = name.strip().removeprefix("%")
    return "" if bare.isdigit() else bare


def _split_origin(line: str) -> tuple[str, Origin]:
    """Return the line without its trailing ``  // origin``, and that origin."""
    if _SLASHES not in line:
        return line, NOWHERE
    for mark in _COMMENT.finditer(line):
        if mark[0] == _SLASHES:
            m = _ORIGIN.fullmatch(line, mark.end())
            return line[: mark.start()], Origin(m[1], m[2] or "") if m else NOWHERE
    return line, NOWHERE
