"""Importers of normalisations and softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, Unclaimed, axis_of, want
from leptonc.errors import CaptureError
from leptonc.ir.core import Kind, Value
from leptonc.ir.kinds.binary import Div, Mul
from leptonc.ir.kinds.norm import BatchNorm, GroupNorm, LayerNorm, LogSoftmax, RmsNorm, Softmax
from leptonc.ir.kinds.reduce import Sum
from leptonc.ir.kinds.unary import Sqrt
from leptonc.meaning import TORCH_DTYPES


def _affine(c: Context, weight: Value | None, bias: Value | None) -> tuple[str, tuple[Value, ...]]:
    """Return the kind's word for the operands given, and them; a missing partner is made."""
    if bias is None:
        return ("none", ()) if weight is None else ("weight", (weight,))
    if weight is None:
        weight = c.full(1, bias.type.dtype, bias.type.shape)
    return "both", (weight, bias)


def _batch_norm(c: Context, a: Args) -> Any:
    x = next(iter(a.given.values()))
    training = a.get("training", a.get("train", False)) or a.get("use_input_stats", False)
    mean: Value | None = a.running_mean
    if training and mean is not None:
        raise CaptureError(
            "a batch norm in training mode updates its statistics; call model.eval()"
        )
    if mean is None:
        raise Unclaimed("it computes statistics of the batch")
    word, operands = _affine(c, a.weight, a.bias)
    made = c(BatchNorm(float(a.eps), word), x, mean, a.running_var, *operands)
    return _only_first(c, made)


def _only_first(c: Context, made: Value) -> Any:
    """Return the first of several results, after a check that no other is read."""
    if len(c.outs) == 1:
        return made
    want(not any(c.used(i) for i in range(1, len(c.outs))), "its saved statistics are read")
    return (made, *[None] * (len(c.outs) - 1))


def _instance_norm(c: Context, a: Args) -> Value:
    if not a.use_input_stats:
        return _batch_norm(c, a)
    if a.running_mean is not None:
        raise CaptureError("an instance norm in training mode updates its statistics")
    want(isinstance(a.input.type.shape[1], int), "a dynamic number of channels")
    word, operands = _affine(c, a.weight, a.bias)
    return c(GroupNorm(a.input.type.shape[1], float(a.eps), word), a.input, *operands)


def _group_norm(c: Context, a: Args) -> Any:
    groups = a.get("num_groups", a.get("group"))
    word, operands = _affine(c, a.weight, a.bias)
    return _only_first(c, c(GroupNorm(groups, float(a.eps), word), a.input, *operands))


def _layer_norm(c: Context, a: Args) -> Any:
    word, operands = _affine(c, a.weight, a.bias)
    kind = LayerNorm(len(a.normalized_shape), float(a.eps), word)
    return _only_first(c, c(kind, a.input, *operands))


def _rms_norm(c: Context, a: Args) -> Value:
    eps = torch.finfo(TORCH_DTYPES[c.dtype]).eps if a.eps is None else a.eps
    word, operands = _affine(c, a.weight, None)
    return c(RmsNorm(len(a.normalized_shape), float(eps), word), a.input, *operands)


def _weight_norm(c: Context, a: Args) -> Value:
    """Import ``v * (g / |v|)``, the norm over every axis but ``dim`` (-1: over all)."""
    v, rank = a.v, a.v.type.rank
    axes = tuple(i for i in range(rank) if a.dim == -1 or i != axis_of(a.dim, rank))
    want(bool(axes), "a norm over no axis")
    norm = c(Sqrt(), c(Sum(axes, a.dim != -1), c(Mul(), v, v)))
    return c(Mul(), v, c(Div(), a.g, norm))


def _softmax(kind: Callable[..., Kind]) -> Importer:
    def build(c: Context, a: Args) -> Value:
        x = c.cast(a.self, c.dtype)
        if x.type.rank == 0:
            return c.reshape(c(kind(0), c.reshape(x, (1,))), ())
        return c(kind(axis_of(a.dim, x.type.rank)), x)

    return build


_SOFTMAX = ("softmax.int", "_softmax.default", "special_softmax.default")
_LOG = ("log_softmax.int", "_log_softmax.default", "special_log_softmax.default")

IMPORTERS: Mapping[str, Importer] = {
    **named(
        _batch_norm, "batch_norm.default", "_native_batch_norm_legit_no_training.default",
        "native_batch_norm.default",
    ),
    **named(_instance_norm, "instance_norm.default"),
    **named(_group_norm, "group_norm.default", "native_group_norm.default"),
    **named(_layer_norm, "layer_norm.default", "native_layer_norm.default"),
    **named(_rms_norm, "rms_norm.default"),
    **named(_weight_norm, "_weight_norm.default"),
    **named(_softmax(Softmax), *_SOFTMAX),
    **named(_softmax(LogSoftmax), *_LOG),
}  # fmt: skip
