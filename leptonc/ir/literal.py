"""Attribute literals of the text form: printing and a reader that evaluates nothing."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.errors import ParseError
from leptonc.ir.constants import PREFIX, Const
from leptonc.ir.dims import dim_text, parse_dim
from leptonc.ir.kinds.region import Arg
from leptonc.ir.types import DType, TensorType, bracket, parse_type, split_top

_WORDS: Mapping[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "inf": float("inf"),
    "-inf": float("-inf"),
    "nan": float("nan"),
    **{d.value: d for d in DType},
}


def literal(value: Any) -> str:
    """Return the text of an attribute value; ``parse_literal`` reads it back exactly."""
    if isinstance(value, tuple):
        parts = [literal(v) for v in cast("tuple[Any, ...]", value)]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    if isinstance(value, Const):
        return f"const<sha256:{value.digest[:PREFIX]}>"
    if isinstance(value, sympy.Expr):
        return dim_text(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (TensorType, Arg)):
        return str(value)
    return repr(value)


def parse_literal(text: str, store: Mapping[str, Const]) -> Any:
    """Read one attribute value. Raises ParseError."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith("("):
        inner, rest = bracket(text, "(")
        if not rest:  # else an expression such as (s0+1)*(s1+2)
            return tuple(parse_literal(t, store) for t in split_top(inner) if t)
    if text.startswith("const<sha256:"):
        digest = text[len("const<sha256:") : -1]
        if digest not in store:
            raise ParseError(f"{text} is not among the given constants")
        return store[digest]
    if text.startswith("$"):
        return Arg(int(text[1:]))
    if text[:1] in "'\"":
        return _python(text)
    if text.endswith("]") or "]@" in text:
        return parse_type(text)
    number = _number(text)
    return parse_dim(text) if number is None else number


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _python(text: str) -> Any:
    try:
        return ast.literal_eval(text)  # strings only: the caller saw the quote
    except (ValueError, SyntaxError) as e:
        raise ParseError(f"not a string: {text}") from e
