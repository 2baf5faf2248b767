"""compress > timing: what Functions take when they are compiled, against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc import api
from leptonc.capture import Captured, InputSpec, OutputSpec
from leptonc.compress.raised import raise_
from leptonc.ir.core import Builder, Function, Op
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import TensorType
from leptonc.meaning import TORCH_DTYPES

FEWEST_ROUNDS = 5
MARGIN = 0.97  # codes must take at most this part of the time of floats: the rest is noise


def captured_of(fn: Function) -> Captured:
    """Return a Function of positional tensors as what capture gives of a module."""
    count = len(fn.params)
    in_spec = pytree.tree_flatten((tuple(range(count)), {}))[1]
    returned = 0 if len(fn.returns) == 1 else tuple(range(len(fn.returns)))
    return Captured(
        fn, in_spec, pytree.tree_flatten(returned)[1],
        tuple(InputSpec(f"x{i}", param=i, tensor=True) for i in range(count)),
        tuple(OutputSpec(result=i) for i in range(len(fn.returns))),
    )  # fmt: skip


def alone(fn: Function, op: Op) -> Function:
    """Return the Function of one op of ``fn``: constants stay, other operands are parameters."""
    b = Builder(op.kind.NAME)
    operands = [
        b(maker.kind, hint=v.hint)
        if (maker := fn.producer.get(v)) is not None and isinstance(maker.kind, Constant)
        else b.param(v.type, v.hint)
        for v in op.operands
    ]
    return b.finish(*b.emit(op.kind, *operands, origin=op.origin))


def random_inputs(fn: Function, seed: int = 0) -> tuple[Tensor, ...]:
    """Return operands of the parameters' types: normal floats, small whole numbers."""
    g = torch.Generator().manual_seed(seed)
    return tuple(_random(v.type, g) for v in fn.params)


def _random(t: TensorType, g: torch.Generator) -> Tensor:
    shape = [int(d) for d in t.shape]
    if t.dtype.is_float:
        return torch.randn(shape, generator=g).to(TORCH_DTYPES[t.dtype])
    return torch.randint(0, 2, shape, generator=g).to(TORCH_DTYPES[t.dtype])


def compiled_ms(fns: Sequence[Function], seconds: float = 0.1) -> list[float]:
    """Return the median milliseconds of a call of each Function, compiled, called in turns.

    Their sizes must be numbers. Inputs are random and the same for all that take the same.
    """
    calls = []
    for fn in fns:
        inputs = random_inputs(fn)
        net = api.compile(raise_(captured_of(fn)), inputs, verify="off", cache=False)
        calls.append((net, inputs))
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < FEWEST_ROUNDS or time.perf_counter() < end:
        for (net, inputs), kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            net(*inputs)
            kept.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(kept) for kept in times]
