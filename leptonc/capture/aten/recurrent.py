"""Importers of recurrent layers and cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.aten.contract import present
from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Kind, Value
from leptonc.ir.kinds import binary, unary
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Recurrent


def _layer(cell: str) -> Importer:
    """Return the importer of a whole layer stack; batch-first input is transposed around it."""

    def build(c: Context, a: Args) -> Any:
        want(not (a.train and a.dropout > 0.0), "dropout between layers is random")
        directions = 2 if a.bidirectional else 1
        per = 4 if a.has_biases else 2
        fits = len(a.params) == a.num_layers * directions * per
        want(fits, "a projection of the hidden state has no kind")
        x = next(iter(a.given.values()))
        want(x.type.rank == 3, "a packed sequence has no kind")
        states = a.hx if isinstance(a.hx, (list, tuple)) else [a.hx]
        kind = Recurrent(cell, a.num_layers, bool(a.bidirectional), bool(a.has_biases))
        x = c.swap(x, 0, 1) if a.batch_first else x
        y, *final = c.emit(kind, x, *states, *a.params)
        return (c.swap(y, 0, 1) if a.batch_first else y, *final)

    return build


def _gates(c: Context, a: Args, state: Value) -> tuple[Value, Value]:
    """Return the input's and the state's share of every gate."""
    x = c(Linear(), *present(a.input, a.w_ih, a.b_ih))
    return x, c(Linear(), *present(state, a.w_hh, a.b_hh))


def _parts(c: Context, v: Value, n: int) -> list[Value]:
    size = v.type.shape[-1]
    want(isinstance(size, int), "a dynamic state size")
    step = int(size) // n  # type: ignore[arg-type]
    return [c.slice(v, v.type.rank - 1, i * step, step) for i in range(n)]


def _lstm_cell(c: Context, a: Args) -> Any:
    """Import Hochreiter and Schmidhuber's cell, gates in torch's order i, f, g, o."""
    h, state = a.hx
    i, f, g, o = _parts(c, c(binary.Add(), *_gates(c, a, h)), 4)
    keep = c(binary.Mul(), c(unary.Sigmoid(), f), state)
    new = c(binary.Mul(), c(unary.Sigmoid(), i), c(unary.Tanh(), g))
    state = c(binary.Add(), keep, new)
    return c(binary.Mul(), c(unary.Sigmoid(), o), c(unary.Tanh(), state)), state


def _gru_cell(c: Context, a: Args) -> Value:
    """Import Cho et al.'s cell, gates in torch's order r, z, n."""
    x, s = _gates(c, a, a.hx)
    (xr, xz, xn), (hr, hz, hn) = _parts(c, x, 3), _parts(c, s, 3)
    r = c(unary.Sigmoid(), c(binary.Add(), xr, hr))
    z = c(unary.Sigmoid(), c(binary.Add(), xz, hz))
    n = c(unary.Tanh(), c(binary.Add(), xn, c(binary.Mul(), r, hn)))
    return c(binary.Add(), n, c(binary.Mul(), z, c(binary.Sub(), a.hx, n)))


def _plain_cell(kind: type[Kind]) -> Importer:
    return lambda c, a: c(kind(), c(binary.Add(), *_gates(c, a, a.hx)))


IMPORTERS: Mapping[str, Importer] = {
    **named(_layer("lstm"), "lstm.input"),
    **named(_layer("gru"), "gru.input"),
    **named(_layer("tanh"), "rnn_tanh.input"),
    **named(_layer("relu"), "rnn_relu.input"),
    **named(_lstm_cell, "lstm_cell.default"),
    **named(_gru_cell, "gru_cell.default"),
    **named(_plain_cell(unary.Tanh), "rnn_tanh_cell.default"),
    **named(_plain_cell(unary.Relu), "rnn_relu_cell.default"),
}
