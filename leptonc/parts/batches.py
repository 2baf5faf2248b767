"""parts > batches: which axis of which tensor is the batch; cutting along it, joining, checking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import sympy
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.errors import InputError
from leptonc.ir.core import Function, Value
from leptonc.ir.dims import free_symbols

Axes: TypeAlias = "int | str | Mapping[str, int] | None"


@dataclass(frozen=True)
class Batching:
    """Where the batch is.

    Attributes:
        inputs: axis of each parameter; None where it has none.
        outputs: axis of each return.
        symbol: name of the symbolic size, "" if the size is fixed.
        least: smallest batch that the program takes.
        fixed: the only batch that it takes, 0 if sizes may change.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    symbol: str = ""
    least: int = 1
    fixed: int = 0


def batching(fn: Function, names: Sequence[str], returns: Sequence[str], axes: Axes) -> Batching:
    """Return where the batch of ``fn`` is.

    Args:
        fn: the program.
        names: of its parameters.
        returns: names of what it returns.
        axes: the name of a symbolic size; an axis of all inputs; an axis for each named input; None
            takes the one symbolic size that begins a shape.

    Raises:
        InputError: no batch, several, or an output without one.
    """
    if isinstance(axes, Mapping):
        if unknown := sorted(axes.keys() - set(names)):
            raise InputError(f"batch: no input {', '.join(unknown)}; there are: {', '.join(names)}")
        found = [axes.get(n) for n in names]
    elif isinstance(axes, int):
        found = [axes] * len(names)
    else:
        return _by_symbol(fn, names, returns, axes or _only_symbol(fn, names))
    for p, name, axis in zip(fn.params, names, found, strict=True):
        if axis is not None and not 0 <= axis < p.type.rank:
            raise InputError(f"batch: {name}: {p.type} has no axis {axis}")
    sizes = {
        p.type.shape[a] for p, a in zip(fn.params, found, strict=True) if a is not None
    }  # fmt: skip
    if len(sizes) != 1:
        listed = ", ".join(map(str, sizes)) or "none"
        raise InputError(f"batch: the inputs must have one size along it, they have: {listed}")
    (size,) = sizes
    if not isinstance(size, int):
        return _by_symbol(fn, names, returns, str(size))
    axis = next(a for a in found if a is not None)
    for v, name in zip(fn.returns, returns, strict=True):
        if v.type.rank <= axis or v.type.shape[axis] != size:
            raise _no_axis(name, v, f"size {size} at axis {axis}")
    return Batching(tuple(found), (axis,) * len(fn.returns), fixed=size)


def _only_symbol(fn: Function, names: Sequence[str]) -> str:
    """Return the one symbolic size that is the first axis of an input."""
    first = {str(p.type.shape[0]) for p in fn.params if p.type.rank and _bare(p.type.shape[0])}
    if len(first) == 1:
        return first.pop()
    several = f"several sizes may be it: {', '.join(sorted(first))}"
    what = several if first else "all sizes are fixed"
    raise InputError(
        f"which axis is the batch? {what}. Say batch=0 or batch={{{names[0] if names else 'x'!r}: "
        "0}, or declare it: dynamic={'x': {0: Dim('batch')}}"
    )


def _bare(dim: object) -> bool:
    return isinstance(dim, sympy.Symbol)


def _by_symbol(fn: Function, names: Sequence[str], returns: Sequence[str], symbol: str) -> Batching:
    dim = next((d for d in fn.dims if d.name == symbol), None)
    if dim is None:
        declared = ", ".join(d.name for d in fn.dims) or "none"
        raise InputError(f"batch: there is no symbolic size {symbol!r}; there are: {declared}")
    inputs = [_axis(p, n, symbol) for p, n in zip(fn.params, names, strict=True)]
    outputs: list[int] = []
    for v, name in zip(fn.returns, returns, strict=True):
        axis = _axis(v, name, symbol)
        if axis is None:
            raise _no_axis(name, v, f"size {symbol}")
        outputs.append(axis)
    return Batching(tuple(inputs), tuple(outputs), symbol, max(1, dim.min))


def _axis(v: Value, name: str, symbol: str) -> int | None:
    """Return the axis of ``v`` whose size is ``symbol``, None if no size knows it."""
    at = [i for i, d in enumerate(v.type.shape) if symbol in free_symbols((d,))]
    if not at:
        return None
    if len(at) > 1 or not _bare(v.type.shape[at[0]]):
        raise InputError(f"{name}: {v.type} cannot be cut or joined along {symbol}")
    return at[0]


def _no_axis(name: str, v: Value, want: str) -> InputError:
    return InputError(
        f"{name}: the result {v.type} has no axis of {want}, so the results of pieces of a batch "
        "cannot be joined; run the batch whole"
    )


# ----- cutting and joining ------------------------------------------------------------------------


def size_of(tensors: Sequence[Tensor], names: Sequence[str], where: Batching) -> int:
    """Return the size of the batch. Raises InputError if inputs disagree."""
    found = {
        n: t.shape[a] if a < t.ndim else -1
        for n, t, a in zip(names, tensors, where.inputs, strict=True)
        if a is not None
    }
    if len(set(found.values())) != 1:
        told = ", ".join(f"{n} has {size}" for n, size in found.items())
        raise InputError(f"the inputs must have one batch, but {told or 'none has any'}")
    return next(iter(found.values()))


def even(total: int, pieces: int, least: int = 1) -> tuple[int, ...]:
    """Return ``total`` as at most ``pieces`` sizes that differ by one at most, the larger first.

    There are fewer where one would be below ``least``.
    """
    count = max(1, min(pieces, total // max(1, least)))
    base, more = divmod(total, count)
    return tuple(base + (i < more) for i in range(count))


def pieces_of(total: int, pieces: int, where: Batching) -> tuple[int, ...]:
    """Return the sizes that a batch is cut into. Raises InputError where the size is fixed."""
    if not where.fixed:
        return even(total, pieces, where.least)
    if total == where.fixed * pieces:
        return (where.fixed,) * pieces
    whole = total // where.fixed
    advice = f"ask for {whole} pieces, or " if whole > 1 and whole * where.fixed == total else ""
    raise InputError(
        f"a batch of {total} in {pieces} pieces: the program takes batches of {where.fixed} only; "
        f"{advice}declare the size: dynamic={{'x': {{0: Dim('batch')}}}}"
    )


def cut(tensors: Sequence[Tensor], where: Batching, sizes: Sequence[int]) -> list[list[Tensor]]:
    """Return the tensors of each piece; those without a batch are in every piece."""
    ends = [0, *accumulate(sizes)]
    return [
        [
            t if axis is None else t.narrow(axis, a, b - a)
            for t, axis in zip(tensors, where.inputs, strict=True)
        ]
        for a, b in pairwise(ends)
    ]


def join(results: Sequence[Sequence[Tensor]], where: Batching) -> list[Tensor]:
    """Return the results of pieces as those of the batch."""
    if len(results) == 1:
        return list(results[0])
    return [
        torch.cat(column, axis)
        for column, axis in zip(zip(*results, strict=True), where.outputs, strict=True)
    ]


# ----- rows must not know of each other -----------------------------------------------------------


def mixing(fn: Function, inputs: Sequence[Tensor], where: Batching) -> int | None:
    """Return the index of a result whose rows depend on other rows of the batch, None if none does.

    ``fn`` is interpreted on a batch of different rows and on its two halves. Programs of a fixed
    size cannot be asked.
    """
    if where.fixed:
        return None
    rows = max(1, where.least)
    example = [_rows(t, a, rows) for t, a in zip(inputs, where.inputs, strict=True)]
    other = [t if a is None else _other(t) for t, a in zip(example, where.inputs, strict=True)]
    both = [
        a if axis is None else torch.cat([a, b], axis)
        for a, b, axis in zip(example, other, where.inputs, strict=True)
    ]
    whole = meaning.run(fn, *both)
    halves = join([meaning.run(fn, *example), meaning.run(fn, *other)], where)
    pairs = enumerate(zip(whole, halves, strict=True))
    return next((i for i, (a, b) in pairs if not _alike(a, b)), None)


def _rows(t: Tensor, axis: int | None, rows: int) -> Tensor:
    """Return ``rows`` rows of ``t``, repeated if it has fewer."""
    if axis is None:
        return t
    index = torch.arange(rows) % max(1, t.shape[axis])
    return t.index_select(axis, index)


def _other(t: Tensor) -> Tensor:
    """Return different rows of the same kind: of integers, the same in another order."""
    if t.is_floating_point() or t.is_complex():
        return t * 1.5 + 0.25
    return t.flip(tuple(range(t.ndim)))


def _alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two results differ by rounding at most."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return float((a != b).double().mean()) <= 0.1 if a.numel() else True
    loose = torch.finfo(a.dtype).eps ** 0.5
    a, b = a.double(), b.double()
    scale = float(torch.nan_to_num(a, 0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=loose, atol=loose * scale, equal_nan=True)
