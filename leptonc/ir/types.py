"""Value types: dtype, shape in elements, and the physical axis order where one is chosen."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from leptonc.errors import ParseError
from leptonc.ir.dims import Dim, Shape, dim_text, is_static, parse_dim, product, same_dim


class DType(Enum):
    """Element type; the value is the text form used in IR dumps."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"
    C64 = "c64"
    C128 = "c128"
    OTHER = "other"  # a dtype that only torch ops carry (float8, uint16, quantized, ...)

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow

    @property
    def is_float(self) -> bool:
        """Whether this is a real floating-point type."""
        return self in _FLOATS

    @property
    def is_int(self) -> bool:
        """Whether this is an integer type (bool is none)."""
        return self in _INTS

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return _BYTES[self]


_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_INTS = frozenset({DType.I64, DType.I32, DType.I16, DType.I8, DType.U8})
_BYTES = {
    DType.F64: 8, DType.F32: 4, DType.F16: 2, DType.BF16: 2, DType.I64: 8, DType.I32: 4,
    DType.I16: 2, DType.I8: 1, DType.U8: 1, DType.BOOL: 1, DType.C64: 8, DType.C128: 16,
    DType.OTHER: 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor.

    ``layout`` is the physical axis order, outermost first (NHWC of an NCHW shape is
    ``(0, 2, 3, 1)``); None means row-major, which is also what ``infer`` returns.
    """

    dtype: DType
    shape: Shape
    layout: tuple[int, ...] | None = None

    def __str__(self) -> str:
        base = f"{self.dtype.value}[{','.join(map(dim_text, self.shape))}]"
        return base if self.layout is None else f"{base}@{''.join(map(_axis, self.layout))}"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every size is a plain int."""
        return is_static(self.shape)

    def logical(self) -> TensorType:
        """Return this type without its physical layout."""
        return self if self.layout is None else replace(self, layout=None)

    def with_shape(self, shape: Shape) -> TensorType:
        """Return a row-major type of this dtype and another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """Return a row-major type of this shape and another dtype."""
        return TensorType(dtype, self.shape)


def same_type(a: TensorType, b: TensorType) -> bool:
    """Return whether dtype and sizes are equal (provably, for symbols), whatever the layouts."""
    if a.dtype is not b.dtype or len(a.shape) != len(b.shape):
        return False
    return a.shape == b.shape or all(map(same_dim, a.shape, b.shape))


_TYPE = re.compile(r"(\w+)\[([^\]]*)\](?:@([0-9a-z]*))?")


def _axis(a: int) -> str:
    return "0123456789abcdefghij"[a]


@lru_cache(maxsize=4096)
def parse_type(text: str) -> TensorType:
    """Read a type such as ``f32[s0,3,224,224]@0231``. Raises ParseError."""
    m = _TYPE.fullmatch(text.strip())
    if m is None or m[1] not in DType._value2member_map_:
        raise ParseError(f"not a type: {text!r}")
    dims = tuple(parse_dim(d) for d in split_top(m[2]))
    layout = None if m[3] is None else tuple(int(c, 36) for c in m[3])
    return TensorType(DType(m[1]), dims, layout)


QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_MARKS = {sep: re.compile(QUOTED + rf"|[()\[\]{{}}<>{sep}]") for sep in ",;"}


def split_top(text: str, sep: str = ",") -> list[str]:
    """Split at separators that stand outside brackets and quotes; [] for blank text.

    Args:
        text: what to split.
        sep: a comma or a semicolon.
    """
    parts, depth, start = list[str](), 0, 0
    for m in _MARKS[sep].finditer(text):
        c = m[0]
        if c == sep:
            if depth == 0:
                parts.append(text[start : m.start()].strip())
                start = m.end()
        elif c in "([{<":
            depth += 1
        elif c in ")]}>":
            depth -= 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []


def bracket(text: str, left: str) -> tuple[str, str]:
    """Return the inside of a leading bracket ``left`` and the rest; ("", text) without one.

    Raises:
        ParseError: the bracket is never closed.
    """
    if not text.startswith(left):
        return "", text
    depth = 0
    for m in _MARKS[","].finditer(text):
        if m[0] in "([{<":
            depth += 1
        elif m[0] in ")]}>":
            depth -= 1
            if depth == 0:
                return text[1 : m.start()], text[m.end() :]
    raise ParseError(f"unclosed {left!r} in {text!r}")
