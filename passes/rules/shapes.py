"""Laws of data movement. All bitwise: they move elements and compute none."""

from __future__ import annotations

from dataclasses import dataclass

from leptonc.ir.core import Builder, Kind, Trait, Value
from leptonc.ir.dims import Dim, as_dim, same_dim, same_shape
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.shape import Concat, Expand, Flip, Pad, Reshape, Roll, Slice, Transpose
from leptonc.ir.types import DType
from leptonc.rewrite.pattern import Many, Node, Var
from leptonc.rewrite.rule import Exactness, Match, Rule

BITWISE = Exactness.BITWISE
X, Y = Var("x"), Var("y")
UNARY: tuple[type[Kind], ...] = (
    *(k for k in unary.KINDS if Trait.ELEMENTWISE in k.TRAITS),
    *(k for k in pointwise.KINDS if k is not pointwise.Where),
)
BINARY: tuple[type[Kind], ...] = tuple(k for k in binary.KINDS if Trait.ELEMENTWISE in k.TRAITS)


def _same_type(m: Match, _b: Builder) -> Value | None:
    """Drop an op whose result has the operand's very type."""
    x = m["x"]
    return x if same_shape(x.type.shape, m.root.result.type.shape) else None


def _reshape_outer(m: Match, b: Builder) -> Value:
    return b(m.kind("outer", Reshape), m["x"])


def _transpose_identity(m: Match, _b: Builder) -> Value | None:
    perm = m.kind("outer", Transpose).perm
    return m["x"] if perm == tuple(range(len(perm))) else None


def compose(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that does ``inner``, then ``outer``."""
    return tuple(inner[p] for p in outer)


def _transpose_compose(m: Match, b: Builder) -> Value:
    perm = compose(m.kind("inner", Transpose).perm, m.kind("outer", Transpose).perm)
    return b(Transpose(perm), m["x"])


def _transpose_is_reshape(m: Match, b: Builder) -> Value | None:
    """Reshape instead where the axes longer than 1 keep their order."""
    perm, sizes = m.kind("outer", Transpose).perm, m["x"].type.shape
    long = [p for p in perm if not same_dim(sizes[p], 1)]
    if long != sorted(long) or perm == tuple(range(len(perm))):
        return None
    return b(Reshape(m.root.result.type.shape), m["x"])


def _through_unary(m: Match, b: Builder) -> Value:
    perm = compose(m.kind("inner", Transpose).perm, m.kind("outer", Transpose).perm)
    return b(Transpose(perm), b(m.kind("f", Kind), m["x"]))


def _reshape_through_unary(m: Match, b: Builder) -> Value:
    return b(m.kind("outer", Reshape), b(m.kind("f", Kind), m["x"]))


def _hoist_from_binary(m: Match, b: Builder) -> Value | None:
    p, q = m.kind("p", Transpose), m.kind("q", Transpose)
    if p != q or m["p"] is m["q"]:
        return None
    return b(p, b(m.kind("f", Kind), m["x"], m["y"]))


def _inside_unit_axes(m: Match, b: Builder) -> Value | None:
    """Compute without leading axes of size 1 that are put on and taken off again."""
    x, y, wide = m["x"].type, m["y"].type, m["inner"].type.shape
    extra = len(wide) - x.rank
    if extra <= 0 or not same_shape(wide, (*(1,) * extra, *x.shape)):
        return None
    if not same_shape(m.root.result.type.shape, x.shape) or m["f"].type.shape != wide:
        return None
    over = max(y.rank - x.rank, 0)
    if not all(same_dim(d, 1) for d in y.shape[:over]):
        return None
    other = b(Reshape(y.shape[over:]), m["y"]) if over else m["y"]
    return b(m.kind("f", Kind), m["x"], other)


def _expand_expand(m: Match, b: Builder) -> Value:
    return b(m.kind("outer", Expand), m["x"])


def _slice_slice(m: Match, b: Builder) -> Value | None:
    i, o = m.kind("inner", Slice), m.kind("outer", Slice)
    if i.axis != o.axis:
        return None
    start = as_dim(i.start + o.start * i.step)
    step = i.step * o.step
    if step == 1:
        return b(Slice(o.axis, start, as_dim(i.start + o.stop), 1), m["x"])
    if not isinstance(i.stop, int) or not isinstance(o.stop, int) or not isinstance(start, int):
        return None
    count = m.root.result.type.shape[o.axis]
    if not isinstance(count, int):
        return None
    stop = start if count == 0 else start + (count - 1) * step + 1
    return b(Slice(o.axis, start, stop, step), m["x"])


def _slice_concat(m: Match, b: Builder) -> Value | None:
    """Slice the one piece of a concat that the slice lies in."""
    c, s = m.kind("c", Concat), m.kind("s", Slice)
    if c.axis != s.axis or not isinstance(s.start, int) or not isinstance(s.stop, int):
        return None
    at = 0
    for piece in m.lists["xs"]:
        size = piece.type.shape[c.axis]
        if not isinstance(size, int):
            return None
        if at <= s.start and s.stop <= at + size and (s.start < at + size or s.start == s.stop):
            return b(Slice(s.axis, s.start - at, s.stop - at, s.step), piece)
        at += size
    return None


def _concat_of_one(m: Match, _b: Builder) -> Value | None:
    xs = m.lists["xs"]
    return xs[0] if len(xs) == 1 else None


def _concat_drop_empty(m: Match, b: Builder) -> Value | None:
    axis, xs = m.kind("c", Concat).axis, m.lists["xs"]
    full = [x for x in xs if not same_dim(x.type.shape[axis], 0)]
    return b(Concat(axis), *full) if full and len(full) < len(xs) else None


def _concat_flatten(m: Match, b: Builder) -> Value | None:
    c = m.kind("c", Concat)
    flat: list[Value] = []
    for x in m.lists["xs"]:
        op = b.producer.get(x)
        inner = op is not None and isinstance(op.kind, Concat) and op.kind.axis == c.axis
        flat.extend(op.operands if op is not None and inner else (x,))
    return b(c, *flat) if len(flat) > len(m.lists["xs"]) else None


@dataclass
class _Run:
    """Neighbouring operands of a concat that together are one slice of ``source``."""

    operand: Value  # what to keep where the run is one operand long
    source: Value | None = None
    start: Dim = 0
    stop: Dim = 0
    length: int = 1

    def piece(self, b: Builder, axis: int) -> Value:
        """Return the one value that stands for the run."""
        if self.source is None or self.length == 1:
            return self.operand
        if self.start == 0 and same_dim(self.stop, self.source.type.shape[axis]):
            return self.source
        return b(Slice(axis, self.start, self.stop, 1), self.source)


def _run_of(x: Value, axis: int, b: Builder) -> _Run:
    op = b.producer.get(x)
    if op is None or not isinstance(op.kind, Slice) or op.kind.axis != axis or op.kind.step != 1:
        return _Run(x)
    return _Run(x, op.operands[0], op.kind.start, op.kind.stop)


def _concat_of_slices(m: Match, b: Builder) -> Value | None:
    """Join neighbouring slices of one value back together."""
    axis = m.kind("c", Concat).axis
    runs: list[_Run] = []
    for x in m.lists["xs"]:
        run, last = _run_of(x, axis, b), runs[-1] if runs else None
        joins = last is not None and last.source is not None and last.source is run.source
        if last is not None and joins and same_dim(last.stop, run.start):
            last.stop, last.length = run.stop, last.length + 1
        else:
            runs.append(run)
    if len(runs) == len(m.lists["xs"]):
        return None
    pieces = [r.piece(b, axis) for r in runs]
    return pieces[0] if len(pieces) == 1 else b(Concat(axis), *pieces)


def _pad_identity(m: Match, _b: Builder) -> Value | None:
    p = m.kind("outer", Pad)
    return m["x"] if not any((*p.low, *p.high)) else None


def _pad_pad(m: Match, b: Builder) -> Value | None:
    """Constant pads of one value add up; a crop after a pad does not."""
    i, o = m.kind("inner", Pad), m.kind("outer", Pad)
    same = Pad((), (), value=i.value) == Pad((), (), value=o.value)
    if i.mode != "constant" or o.mode != "constant" or not same:
        return None
    if min((*i.low, *i.high, *o.low, *o.high), default=0) < 0:
        return None
    low = tuple(a + c for a, c in zip(i.low, o.low, strict=True))
    high = tuple(a + c for a, c in zip(i.high, o.high, strict=True))
    return b(Pad(low, high, "constant", i.value), m["x"])


def _flip_flip(m: Match, b: Builder) -> Value:
    axes = set(m.kind("inner", Flip).axes) ^ set(m.kind("outer", Flip).axes)
    return b(Flip(tuple(sorted(axes))), m["x"]) if axes else m["x"]


def _flip_nothing(m: Match, _b: Builder) -> Value | None:
    shape_ = m["x"].type.shape
    return m["x"] if all(same_dim(shape_[a], 1) for a in m.kind("outer", Flip).axes) else None


def _roll_nothing(m: Match, _b: Builder) -> Value | None:
    return m["x"] if not any(m.kind("outer", Roll).shifts) else None


def _full_moved(m: Match, b: Builder) -> Value:
    full, t = m.kind("full", Full), m.root.result.type
    return b(Full(t.shape, full.value, t.dtype))


_FULL = Node(Full, (), "full")
_MOVES: tuple[type[Kind], ...] = (Reshape, Transpose, Expand, Slice, Flip, Roll)
_R, _T = "f32[2,3,4]", "f32[2,1,3]"
# Axes of one size: a wrong order of them has the right shape.
_CUBES = {"x": ("f32[3,3,3]", "f32[2,2,2,2]", _R)}

_CONCATS = """
func @f(%x: f32[2,3], %y: f32[1,3]) {
  %a = concat{axis=0}(%x, %y) : f32[3,3]
  %b = concat{axis=0}(%a, %x) : f32[5,3]
  return %b
}"""
_SLICES = """
func @f(%x: f32[5,3]) {
  %a = slice{axis=0, start=0, stop=2, step=1}(%x) : f32[2,3]
  %b = slice{axis=0, start=2, stop=5, step=1}(%x) : f32[3,3]
  %c = concat{axis=0}(%a, %b) : f32[5,3]
  return %c
}"""
_SOME_SLICES = """
func @f(%x: f32[5,3], %y: f32[2,3]) {
  %a = slice{axis=0, start=1, stop=2, step=1}(%x) : f32[1,3]
  %b = slice{axis=0, start=2, stop=4, step=1}(%x) : f32[2,3]
  %c = concat{axis=0}(%y, %a, %b, %y) : f32[7,3]
  return %c
}"""

RULES: tuple[Rule, ...] = (
    Rule("reshape-identity", "reshape[shape of x](x) = x", BITWISE,
         Node(Reshape, (X,), "outer"), _same_type),
    Rule("reshape-reshape", "reshape[s](reshape[r](x)) = reshape[s](x)", BITWISE,
         Node(Reshape, (Node(Reshape, (X,), "inner"),), "outer"), _reshape_outer),
    Rule("transpose-identity", "transpose[id](x) = x", BITWISE,
         Node(Transpose, (X,), "outer"), _transpose_identity),
    Rule("transpose-compose", "transpose[q](transpose[p](x)) = transpose[p∘q](x)", BITWISE,
         Node(Transpose, (Node(Transpose, (X,), "inner"),), "outer"), _transpose_compose,
         hints=_CUBES),
    Rule("transpose-is-reshape", "transpose[p](x) = reshape(x) if p moves only axes of size 1",
         BITWISE, Node(Transpose, (X,), "outer"), _transpose_is_reshape,
         hints={"x": (_T, "f32[1,4]"), "outer": (Transpose((1, 0, 2)), Transpose((1, 0)))}),
    Rule("transpose-through-unary", "transpose[q](f(transpose[p](x))) = transpose[p∘q](f(x))",
         BITWISE,
         Node(Transpose, (Node(UNARY, (Node(Transpose, (X,), "inner"),), "f", once=True),),
              "outer"),
         _through_unary),
    Rule("reshape-through-unary", "reshape[s](f(reshape[r](x))) = reshape[s](f(x))", BITWISE,
         Node(Reshape, (Node(UNARY, (Node(Reshape, (X,), "inner"),), "f", once=True),), "outer"),
         _reshape_through_unary),
    Rule("transpose-out-of-binary", "f(transpose[p](x), transpose[p](y)) = transpose[p](f(x, y))",
         BITWISE,
         Node(BINARY, (Node(Transpose, (X,), "p", once=True),
                       Node(Transpose, (Y,), "q", once=True)), "f"),
         _hoist_from_binary,
         hints={"x": (_R, "f32[2,3]"), "y": (_R, "f32[1,3]"),
                "p": (Transpose((1, 0, 2)), Transpose((1, 0))),
                "q": (Transpose((1, 0, 2)), Transpose((1, 0)))}),
    Rule("unit-axes-around-binary", "reshape(f(reshape[1,..](x), y)) = f(x, reshape(y))", BITWISE,
         Node(Reshape, (Node(BINARY, (Node(Reshape, (X,), "inner", once=True), Y),
                             "f", once=True),), "outer"), _inside_unit_axes,
         hints={"x": ("f32[2,3]",), "y": ("f32[1,2,3]", "f32[3]", "f32[1,1,3]"),
                "inner": (Reshape((1, 2, 3)),), "outer": (Reshape((2, 3)),)}),
    Rule("expand-identity", "expand[shape of x](x) = x", BITWISE,
         Node(Expand, (X,), "outer"), _same_type),
    Rule("expand-expand", "expand[s](expand[r](x)) = expand[s](x)", BITWISE,
         Node(Expand, (Node(Expand, (X,), "inner"),), "outer"), _expand_expand),
    Rule("slice-identity", "x[0:n] = x", BITWISE,
         Node(Slice, (X,), "outer", where=lambda s: s.start == 0 and s.step == 1), _same_type),
    Rule("slice-slice", "x[a:b:c][d:e:f] = x[a+cd : .. : cf]", BITWISE,
         Node(Slice, (Node(Slice, (X,), "inner"),), "outer"), _slice_slice,
         hints={"x": ("f32[7,2]",) * 2, "inner": (Slice(0, 1, 6, 1), Slice(0, 0, 7, 2)),
                "outer": (Slice(0, 1, 4, 2), Slice(0, 1, 4, 1))}),
    Rule("slice-concat", "concat(.., x, ..)[a:b] = x[a':b'] if the slice lies in x", BITWISE,
         Node(Slice, (Node(Concat, (Many("xs"),), "c"),), "s"), _slice_concat,
         hints={"xs": ("f32[2,3]", "f32[4,3]"), "c": (Concat(0),),
                "s": (Slice(0, 2, 5, 2), Slice(0, 0, 2, 1))}),
    Rule("concat-one", "concat(x) = x", BITWISE, Node(Concat, (Many("xs"),), "c"), _concat_of_one),
    Rule("concat-drop-empty", "concat(.., empty, ..) = concat(..)", BITWISE,
         Node(Concat, (Many("xs"),), "c"), _concat_drop_empty,
         hints={"xs": ("f32[0,3]", "f32[2,3]"), "c": (Concat(0),)}),
    Rule("concat-flatten", "concat(concat(x, y), z) = concat(x, y, z) along one axis", BITWISE,
         Node(Concat, (Many("xs"),), "c"), _concat_flatten, examples=(_CONCATS,)),
    Rule("concat-of-slices", "concat(x[a:b], x[b:c]) = x[a:c]", BITWISE,
         Node(Concat, (Many("xs"),), "c"), _concat_of_slices, examples=(_SLICES, _SOME_SLICES)),
    Rule("pad-identity", "pad[0](x) = x", BITWISE, Node(Pad, (X,), "outer"), _pad_identity,
         hints={"x": ("f32[2,3]",), "outer": (Pad((0, 0), (0, 0)),)}),
    Rule("pad-pad", "pad[p, v](pad[q, v](x)) = pad[p+q, v](x)", BITWISE,
         Node(Pad, (Node(Pad, (X,), "inner", once=True),), "outer"), _pad_pad,
         hints={"x": ("f32[2,3]",), "inner": (Pad((0, 1), (2, 0)), Pad((0, 1), (1, 1), value=1.5)),
                "outer": (Pad((1, 0), (0, 1)),)}),
    Rule("flip-flip", "flip[a](flip[b](x)) = flip[a xor b](x)", BITWISE,
         Node(Flip, (Node(Flip, (X,), "inner"),), "outer"), _flip_flip),
    Rule("flip-nothing", "flip(x) = x along axes of size 1", BITWISE,
         Node(Flip, (X,), "outer"), _flip_nothing,
         hints={"x": ("f32[1,3]",), "outer": (Flip((0,)),)}),
    Rule("roll-nothing", "roll[0](x) = x", BITWISE, Node(Roll, (X,), "outer"), _roll_nothing,
         hints={"x": ("f32[4,3]",), "outer": (Roll((0,), (1,)),)}),
    Rule("move-full", "f(full(v)) = full(v) for reshape, transpose, expand, slice, flip, roll",
         BITWISE, Node(_MOVES, (_FULL,), "outer"), _full_moved,
         hints={"full": (Full((2, 3), 1.5, DType.F32),)}),
)  # fmt: skip
