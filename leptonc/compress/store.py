"""compress > store: weights kept in 16 bits, computed with in 32 (mixed precision storage)."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.types import DType
from leptonc.meaning import TORCH_DTYPES, const_of, tensor_of

DTYPES = {"bf16": DType.BF16, "fp16": DType.F16}


@dataclass(frozen=True)
class Store:
    """Keep weights as bfloat16 or float16: half the bytes of the state; products stay float32.

    A relative error of at most ``2**-8`` (bf16) or ``2**-11`` (fp16) a weight, by rounding to the
    nearest; float16 has no numbers beyond 65504 and loses precision below ``6e-5``.

    Attributes:
        dtype: ``"bf16"`` or ``"fp16"``.
        least: elements from which on a constant is stored so: small ones are not worth it.
        skip: names of weights, or patterns, that stay.

    Raises:
        CompressError: another dtype.
    """

    dtype: str = "bf16"
    least: int = 256
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CompressError(f"Store: dtype must be bf16 or fp16, got {self.dtype!r}")
        skip = (self.skip,) if isinstance(self.skip, str) else tuple(self.skip)
        object.__setattr__(self, "skip", skip)

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return an edit for each weight.

        Raises:
            CompressError: no weight is left, a name that matches none, a weight that float16
                cannot hold.
        """
        del context
        held = [op for op in fn.ops if isinstance(op.kind, Constant) and _is_weight(op, self.least)]
        names = [op.result.hint for op in held]
        for pattern in self.skip:
            if not fnmatch.filter(names, pattern):
                raise CompressError(f"Store: {pattern!r} matches no weight: {', '.join(names[:5])}")
        kept = [op for op in held if not any(fnmatch.fnmatch(op.result.hint, p) for p in self.skip)]
        if not kept:
            raise CompressError(f"Store: no f32 weight of {self.least} elements or more is left")
        for op in kept:
            self._check(op)
        what = f"kept as {self.dtype}"
        return [
            Edit(op.result.hint, what, partial(_stored, name=op.result.hint, dtype=self.dtype))
            for op in kept
        ]

    def _check(self, op: Op) -> None:
        most = torch.finfo(TORCH_DTYPES[DTYPES[self.dtype]]).max
        largest = float(tensor_of(op.kind.const).abs().max())  # type: ignore[attr-defined]
        if not largest <= most:
            raise CompressError(
                f"Store: {op.result.hint} holds {largest:g}, {self.dtype} ends at {most:g}; "
                "skip it, or keep it as bf16"
            )


def _is_weight(op: Op, least: int) -> bool:
    t = op.result.type
    return t.dtype is DType.F32 and int(t.numel) >= least and bool(op.result.hint)


def _stored(fn: Function, name: str, dtype: str) -> Function:
    """Return ``fn`` with the constant of that name in 16 bits; ``fn`` if it has none in float32."""
    found = [op for op in fn.ops if isinstance(op.kind, Constant) and op.result.hint == name]
    if len(found) != 1 or found[0].result.type.dtype is not DType.F32:
        return fn
    (op,) = found
    made = tensor_of(op.kind.const).to(TORCH_DTYPES[DTYPES[dtype]])  # type: ignore[attr-defined]
    held = Value(op.result.type.with_dtype(DTYPES[dtype]), name)
    back = Op(Cast(DType.F32), (held,), (op.result,), op.origin)
    constant = Op(Constant(const_of(made)), (), (held,), op.origin)
    ops = tuple(new for o in fn.ops for new in ((constant, back) if o is op else (o,)))
    return Function(fn.name, fn.params, ops, fn.returns, fn.dims)
