"""Capture > whole_layers: recurrent layers and batch norms traced by their shapes alone.

Torch gives a traced LSTM, GRU or RNN its shapes by unrolling it over time, which fixes the length
of the sequence and takes seconds for a long one, and a batch norm by running its decomposition in
Python, a tenth of the tracing of a ResNet. Inside ``whole_layers()`` a shape rule answers instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

_COMPOSITE = DispatchKey.CompositeImplicitAutograd
_KEYS = (_COMPOSITE, DispatchKey.Autograd)
_LOCK = threading.RLock()  # the tables below are torch's, one for all threads


def _result(x: Tensor, hidden: Any, bidirectional: bool) -> Tensor:
    """Return an empty tensor of the output's shape ``[...,h*directions]`` for ``x: [...,k]``."""
    wide = hidden * 2 if bidirectional else hidden
    return x.new_empty((*x.shape[:-1], wide))


def _lstm(
    x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    h, c = hx
    y = _result(x, h.shape[2], bidirectional)
    return y, h.new_empty(h.shape), c.new_empty(c.shape)


def _plain(
    x: Tensor, hx: Tensor, params: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _result(x, hx.shape[2], bidirectional), hx.new_empty(hx.shape)


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """Answer for stored statistics of ``x: [n,c,...]``; else torch, which also finds what is wrong.

    Statistics of the batch change the module's state, which only torch's own trace shows.
    """
    given = [t for t in (weight, bias, mean, var) if t is not None]
    known = not training and mean is not None and var is not None and x.ndim >= 2
    if known and all(t.shape == x.shape[1:2] and t.dtype == x.dtype for t in given):
        return torch.empty_like(x)
    op = _aten.batch_norm.default
    return op._op_dk(_COMPOSITE, x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled)


_aten = torch.ops.aten
_RULES = {
    _aten.lstm.input: _lstm,
    _aten.gru.input: _plain,
    _aten.rnn_tanh.input: _plain,
    _aten.rnn_relu.input: _plain,
    _aten.batch_norm.default: _batch_norm,
}


@contextmanager
def whole_layers() -> Iterator[None]:
    """Let shape rules stand for these layers in a trace."""
    with _LOCK:
        before = {op: dict(op.py_kernels) for op in _RULES}
        try:
            for op, rule in _RULES.items():
                op.py_kernels.update(dict.fromkeys(_KEYS, rule))
                op._dispatch_cache.clear()
            yield
        finally:
            for op, kernels in before.items():
                op.py_kernels.clear()
                op.py_kernels.update(kernels)
                op._dispatch_cache.clear()
