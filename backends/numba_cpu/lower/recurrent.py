"""Lowering of LSTM, GRU and RNN stacks: a product for all inputs, then a walk through time."""

from __future__ import annotations

from collections.abc import Sequence

from leptonc.backends.numba_cpu.kernels import recurrent as kernels
from leptonc.backends.numba_cpu.kernels.pack import pack_linear
from leptonc.backends.numba_cpu.legal import Claim, f32_only
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product import Finish, rows_product
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.views import Ref, View
from leptonc.errors import ClaimError
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.data import Recurrent
from leptonc.ir.types import DType
from leptonc.meaning import elements_of

_CELLS = {"lstm": kernels.LSTM, "gru": kernels.GRU, "tanh": kernels.TANH, "relu": kernels.RELU}


def claim(op: Op) -> Claim:
    """Claim float32 stacks."""
    return f32_only(op)


def lower(ctx: Lowering, op: Op) -> None:
    """Add the steps of every layer and direction, bottom up."""
    kind = op.kind
    assert isinstance(kind, Recurrent)
    directions = 2 if kind.bidirectional else 1
    states = 2 if kind.cell == "lstm" else 1
    per = 4 if kind.bias else 2
    weights = op.operands[1 + states :]
    first = [contiguous(ctx, ctx.view(v)) for v in op.operands[1 : 1 + states]]
    last = [ctx.out(v) for v in op.results[1:]]
    x = ctx.view(op.operands[0])
    hidden = first[0].shape[2]
    for layer in range(kind.layers):
        top = layer == kind.layers - 1
        shape = (*x.shape[:2], hidden * directions)
        y = ctx.out(op.results[0]) if top else ctx.temp(DType.F32, shape)
        for d in range(directions):
            i = layer * directions + d
            part = y.slice(2, d * hidden, (d + 1) * hidden)
            walk = _Walk(ctx, kind, weights[i * per : (i + 1) * per])
            walk.add(
                x,
                [s.slice(0, i, i + 1) for s in first],
                part,
                [s.slice(0, i, i + 1) for s in last],
                d,
            )
        x = y


class _Walk:
    """One layer in one direction."""

    def __init__(self, ctx: Lowering, kind: Recurrent, weights: Sequence[Value]) -> None:
        self.ctx, self.cell, self.weights = ctx, _CELLS[kind.cell], weights

    def add(
        self, x: View, first: Sequence[View], y: View, last: Sequence[View], reverse: int
    ) -> None:
        """Add the input product and the walk; states are ``[1,b,h]`` views."""
        ctx, hidden = self.ctx, first[0].shape[2]
        w_ih, w_hh, *biases = self.weights
        wide = kernels.GATE_COUNT[self.cell] * hidden
        gates = ctx.temp(DType.F32, (*x.shape[:2], wide))
        b_ih, b_hh = (contiguous(ctx, ctx.view(b)) for b in biases) if biases else (None, None)
        end = Finish() if b_ih is None else Finish(bias=b_ih.ref, reads=(b_ih,))
        rows_product(ctx, x, self._packed(w_ih), gates, end)
        bias: Ref | int = 0 if b_hh is None else b_hh.ref
        h0, c0, hn, cn = first[0], first[-1], last[0], last[-1]
        ctx.step(
            kernels.recurrence,
            (
                self.cell, x.shape[0], x.shape[1], hidden, reverse,
                gates.ref, gates.strides[0], gates.strides[1], self._packed(w_hh), bias,
                h0.ref, h0.strides[1], c0.ref, c0.strides[1],
                y.ref, y.strides[0], y.strides[1],
                hn.ref, hn.strides[1], cn.ref, cn.strides[1],
                *ctx.scratch(kernels.scratch_bytes(self.cell, hidden)),
            ),
            reads=(gates, *first, *([] if b_hh is None else [b_hh])),
            writes=(y, *last),
        )  # fmt: skip

    def _packed(self, weight: Value) -> Ref:
        const = self.ctx.constant(weight)
        if const is None:
            raise ClaimError("recurrent: the hidden weights are computed, not constant")
        key, fetch = ("linear", id(const.payload)), self.ctx.pool.fetch
        return self.ctx.packed(key, lambda: pack_linear(elements_of(const), fetch), const)


LOWER = {Recurrent: (claim, lower)}
