"""compress > quantize > freezing: trained fake quantizations become codes.

The scales of weights are computed anew, from the weights as training left them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from leptonc import meaning
from leptonc.compress.quantize.edits import dequantized
from leptonc.compress.quantize.units import module_of
from leptonc.compress.quantize.weights import RANGES, largest_scale, rounded
from leptonc.compress.raised import Raised, raise_
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import RANGES as TYPES
from leptonc.ir.kinds.quantize import Dequantize, FakeQuantize, Quantize
from leptonc.rewrite.driver import drop_dead

_BITS = {r: bits for bits, r in RANGES.items()}


@dataclass(frozen=True)
class FreezeQuant:
    """Turn every fake quantization into codes: of a weight, or of what a unit reads."""

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return an edit for each. Raises CompressError if there is none."""
        fakes = [op for op in fn.ops if isinstance(op.kind, FakeQuantize)]
        if not fakes:
            raise CompressError("FreezeQuant: no fake quantization; train with Quantize(qat=True)")
        return [_edit(fn, op) for op in fakes]


def freeze(module: Raised) -> Raised:
    """Return a module with codes in the place of the fake quantizations of a trained one.

    Raises:
        CompressError: nothing in the module is fake-quantized, or it was not raised from IR.
    """
    if not isinstance(module, Raised):
        kind = type(module).__name__
        raise CompressError(f"freeze: takes what leptonc.compress returned, got a {kind}")
    captured = module.captured()
    fn = captured.function
    for edit in FreezeQuant().plan(fn, Context()):
        fn = edit.make(fn)
    return raise_(dataclasses.replace(captured, function=fn))


def _edit(fn: Function, op: Op) -> Edit:
    weight = _constant(fn, op.operands[0])
    key = weight.result.hint if weight else op.operands[1].hint
    where = module_of(key, op) if weight else key.removesuffix("input_scale").rstrip("._") or key
    what = "weight frozen" if weight else "inputs frozen"
    return Edit(where, what, partial(_frozen, key=key))


def _constant(fn: Function, v: Value) -> Op | None:
    maker = fn.producer.get(v)
    return maker if maker is not None and isinstance(maker.kind, Constant) else None


def _frozen(fn: Function, key: str) -> Function:
    """Return ``fn`` with the fake quantization of weight or scale ``key`` frozen; else ``fn``."""
    op = next((o for o in fn.ops if isinstance(o.kind, FakeQuantize) and _is_of(fn, o, key)), None)
    if op is None:
        return fn
    b = Builder(fn.name, origin=op.origin)
    b.producer.update(fn.producer)
    weight = _constant(fn, op.operands[0])
    made = _codes(b, op) if weight is None else _weight(fn, b, op, weight)
    *new, last = b.ops
    new.append(Op(last.kind, last.operands, op.results, op.origin))
    assert last.results == (made,)
    ops = [o for at in fn.ops for o in (new if at is op else [at])]
    return drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))


def _is_of(fn: Function, op: Op, key: str) -> bool:
    weight = _constant(fn, op.operands[0])
    return (weight.result.hint if weight else op.operands[1].hint) == key


def _codes(b: Builder, op: Op) -> Value:
    fake, (x, *params) = op.kind, op.operands
    assert isinstance(fake, FakeQuantize)
    fits = (d for d, (low, high) in TYPES.items() if low <= fake.low and fake.high <= high)
    dtype = next(fits, None)
    if dtype is None:
        raise CompressError(f"{op.origin}: no type of codes holds {fake.low} to {fake.high}")
    return b(Dequantize(fake.axis), b(Quantize(fake.low, fake.high, dtype, fake.axis), x, *params),
             *params)  # fmt: skip


def _weight(fn: Function, b: Builder, op: Op, weight: Op) -> Value:
    """Emit codes of a weight with scales of its own range, channel by channel or group by group."""
    fake, scale = op.kind, op.operands[1].type
    assert isinstance(fake, FakeQuantize) and isinstance(weight.kind, Constant)
    bits = _BITS.get((fake.low, fake.high))
    if bits is None or scale.rank == 0 or len(op.operands) > 2 or fake.axis:
        return _codes(b, op)
    w = meaning.tensor_of(weight.kind.const)
    groups = int(scale.shape[1]) if scale.rank == 2 else 1
    blocks = w.reshape(len(w), groups, -1)
    scales = largest_scale(blocks, bits)
    codes = rounded(blocks, scales, bits).reshape(len(w), -1).to(torch.int8)
    shape = tuple(int(d) for d in weight.result.type.shape)
    return dequantized(b, weight.result.hint, codes, scales, bits, shape)
