"""Probes: inputs on which a function is compared with its reference, made from one example.

The example alone leaves most of a kernel unseen: a rectified input hides a wrong sign, a wrong
bias drowns in large sums. Generated probes keep what the example says of the domain: integers are
permuted (an index stays valid, wherever it stands), masks of huge or infinite numbers stay as they
are, dtypes never change, shapes only in :func:`resized`. Which values are drawn depends on what the
function does with them: NaN goes only where every op on the way defines it, and a function that
turns floats into integers, or runs ops that only torch knows, sees no values outside the range of
the example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.ir.core import Function, Op, Trait
from leptonc.ir.dims import DimRange
from leptonc.ir.kinds import data, norm, reduce, shape
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.specialize import specialize

EXAMPLE = "the example"
PERMUTED = "permuted integers"
MASK = 1e30  # floats beyond this stand for minus infinity in masks: arithmetic would overflow
LARGE = 1e3
SPARSE = 16  # one element in so many becomes special


@dataclass(frozen=True)
class Probe:
    """Inputs of a function, one per parameter, and what they are, for messages."""

    name: str
    inputs: tuple[Tensor, ...]


Make = Callable[[Tensor, torch.Generator], Tensor]


def _negated(t: Tensor, _: torch.Generator) -> Tensor:
    return -t


def _zeros(t: Tensor, _: torch.Generator) -> Tensor:
    return torch.zeros_like(t)


def _large(t: Tensor, _: torch.Generator) -> Tensor:
    largest = max(float(t.abs().max()), torch.finfo(t.dtype).tiny)
    # A quarter of the exponents of the type: squares, and sums of them, stay finite.
    room = torch.finfo(t.dtype).max ** 0.25 / largest
    return t * max(1.0, min(LARGE, room))


def _uniform(t: Tensor, random: torch.Generator) -> Tensor:
    low, high = float(t.min()), float(t.max())
    drawn = torch.rand(t.shape, generator=random, dtype=torch.float64) * (high - low) + low
    return drawn.to(t.dtype).clamp(t.min(), t.max())  # rounding may leave the range


def _sprinkled(values: Sequence[float]) -> Make:
    def make(t: Tensor, random: torch.Generator) -> Tensor:
        flat = _uniform(t, random).reshape(-1)
        order = torch.randperm(flat.numel(), generator=random)
        for i, value in enumerate(values):
            flat[order[i :: SPARSE * len(values)]] = value
        return flat.reshape(t.shape)

    return make


_INF = float("inf")

# What is drawn for floats, in the order of the checks. The set names what a function must be to
# see it: nothing, "free" (any value is in its domain), "nan" or "inf" (it defines them).
_FLOATS: Mapping[str, tuple[str, Make]] = {
    "uniform numbers": ("", _uniform),
    "zeros": ("free", _zeros),
    "the negated example": ("free", _negated),
    "large numbers": ("free", _large),
    "NaN": ("nan", _sprinkled([float("nan")])),
    "infinities": ("inf", _sprinkled([_INF, -_INF, -0.0])),
}

_SOURCES = (data.Constant, data.Full, data.Iota)
_MOVES = (*shape.KINDS, *_SOURCES, data.IndexSelect, data.Gather, data.Embedding, data.Triangle)
_PICKS = (reduce.Amax, reduce.Amin, reduce.MaxPool, reduce.AdaptiveMaxPool)
_ROWS = (norm.Softmax, norm.LogSoftmax)  # a NaN fills its row and no other


def nature(fn: Function) -> frozenset[str]:
    """Return what values ``fn`` defines a result for: a subset of ``free``, ``nan``, ``inf``."""
    ops = list(_inner(fn))
    if any(isinstance(op.kind, TorchOp) or _truncates(op) for op in ops):
        return frozenset()
    found = {"free"}
    if all(_is_elementwise(op) or isinstance(op.kind, (*_MOVES, *_PICKS, *_ROWS)) for op in ops):
        found.add("nan")
    if all(_is_elementwise(op) or isinstance(op.kind, (*_MOVES, *_PICKS)) for op in ops):
        found.add("inf")
    return frozenset(found)


def _inner(fn: Function) -> Iterator[Op]:
    """Yield the ops of ``fn``; of a unit, those of its body."""
    for op in fn.ops:
        if isinstance(op.kind, Unit):
            yield from _inner(op.kind.body)
        else:
            yield op


def _is_elementwise(op: Op) -> bool:
    return Trait.ELEMENTWISE in op.kind.traits


def _truncates(op: Op) -> bool:
    """Return whether ``op`` turns floats into integers: out of range that is undefined."""
    if not isinstance(op.kind, Cast):
        return False
    (x,) = op.operands
    return x.type.dtype.is_float and op.kind.dtype.is_int


def probes(fn: Function, example: Sequence[Tensor], skip: Sequence[str] = ()) -> Iterator[Probe]:
    """Yield the example and what is drawn from it; the same probes at every call.

    Args:
        fn: the function that they are for.
        example: one tensor per parameter.
        skip: names of probes that are not wanted.
    """
    first = tuple(example)
    yield Probe(EXAMPLE, first)
    varied = [t for t in first if _varies(t)]
    if varied and not any(t.is_floating_point() for t in varied):
        random = torch.Generator().manual_seed(0)
        yield Probe(PERMUTED, tuple(_drawn(t, _uniform, random) for t in first))
    if not any(t.is_floating_point() for t in varied):
        return
    defined = nature(fn)
    for seed, (name, (needs, make)) in enumerate(_FLOATS.items()):
        if name in skip or (needs and needs not in defined):
            continue
        random = torch.Generator().manual_seed(seed)
        made = tuple(_drawn(t, make, random) for t in first)
        if any(map(_differs, first, made)):
            yield Probe(name, made)


def resized(fn: Function, example: Sequence[Tensor]) -> Iterator[tuple[Mapping[str, int], Probe]]:
    """Yield other sizes that ``fn`` declares, with the example cut or repeated to them.

    The smallest ones, and odd ones between these and the example's: larger ones cost more than they
    show, vectors and tiles are full or not at small sizes, too.
    """
    now = meaning.bind_dims(fn, [t.shape for t in example])
    tried = [now]
    for pick in (_smallest, _odd):
        sizes = {d.name: pick(d, now[d.name]) for d in fn.dims}
        if sizes in tried:
            continue
        tried.append(sizes)
        shapes = [v.type.shape for v in specialize(fn, sizes).params]
        inputs = tuple(map(_resize, example, shapes))
        text = ", ".join(f"{name} = {n}" for name, n in sizes.items())
        yield sizes, Probe(f"{EXAMPLE} with {text}", inputs)


def _smallest(d: DimRange, _now: int) -> int:
    return max(d.min, 1)


def _odd(d: DimRange, now: int) -> int:
    """Return an odd size between the smallest and the present one, which stays if there is none."""
    found = (_smallest(d, now) + now) // 2 | 1
    return found if found <= now else now


def _resize(t: Tensor, shape: Sequence[Any]) -> Tensor:
    """Return ``t`` with each axis cut, or repeated from its start, to ``shape``."""
    for axis, n in enumerate(shape):
        if t.shape[axis] == 0 and n:
            return torch.zeros([int(n) for n in shape], dtype=t.dtype)
        if t.shape[axis] != n:
            t = t.index_select(axis, torch.arange(int(n)) % max(t.shape[axis], 1))
    return t.contiguous()


def _drawn(t: Tensor, make: Make, random: torch.Generator) -> Tensor:
    if not _varies(t):
        return t
    if t.is_floating_point():
        return make(t, random)
    order = torch.randperm(t.numel(), generator=random)
    return t.reshape(-1)[order].reshape(t.shape)


def _varies(t: Tensor) -> bool:
    """Return whether other values than the example's may be drawn for ``t``."""
    if t.numel() == 0 or t.is_complex() or t.dtype is torch.bool or t.dtype not in _DTYPES:
        return False
    # Also False where there are NaN.
    return not t.is_floating_point() or float(t.abs().max()) < MASK


_DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    }
)  # fmt: skip


def _differs(a: Tensor, b: Tensor) -> bool:
    return a is not b and not torch.equal(a, b)
