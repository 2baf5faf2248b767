"""compress > quantize > pools: means of images that read codes.

What a quantized convolution reads is held as codes, and a mean of it reads them (:mod:`edits`). A
mean of anything else gets a conversion of its own where that costs nothing: where a quantized
product makes what it reads, so that the codes come out of the product instead of floats, and where
nothing else needs the floats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from leptonc.compress.choice import FLOAT
from leptonc.compress.quantize import edits, ranges, units
from leptonc.compress.quantize.measured import fastest
from leptonc.compress.quantize.places import Place, places
from leptonc.compress.quantize.units import Tell, Unit
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.compress.timing import alone
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.quantize import Dequantize, FakeQuantize
from leptonc.ir.kinds.reduce import AvgPool, MaxPool
from leptonc.ir.kinds.shape import Concat
from leptonc.ir.types import DType
from leptonc.passes.fusing.contract import is_activation
from leptonc.passes.rules.quants import MEANS, windows_of


@dataclass(frozen=True)
class Pool:
    """A mean that can read codes: its place, its op."""

    place: Place
    op: Op

    @property
    def x(self) -> Value:
        """What it reads."""
        return self.op.operands[0]


def plan(
    fn: Function, made: Sequence[Edit], context: Context, codes: ranges.Codes, method: str,
    train: bool, faster: bool,
) -> list[Edit]:  # fmt: skip
    """Return edits of the means that get codes from products which ``made`` quantizes.

    With ``faster`` those alone that take less time on codes; the product makes codes for nothing.

    Raises:
        CompressError: what a mean reads is not finite on calibration data.
    """
    wanted = {edit.where for edit in made}
    quantized = [u for u in units.find(fn, lambda op, why: None) if u.where in wanted]
    found = find(fn, quantized, context.tell("Quantize"))
    if not found:
        return []
    seen = {pool.x: ranges.Seen(context.seed) for pool in found}
    data = context.need_data("Quantize").observed(fn, seen)
    for i, values in enumerate(data):
        for pool in found:
            if not seen[pool.x].add(values[pool.x]):
                raise CompressError(
                    f"{pool.place.where}: its inputs hold NaN or infinities on calibration "
                    f"batch {i}; the model overflows there, or the data are wrong"
                )
    planned: list[Edit] = []
    for pool in found:
        x = edits.Input(codes, *ranges.METHODS[method](seen[pool.x], codes))
        if faster:
            coded = dataclasses.replace(on_codes(pool.op, x), dims=fn.dims)
            forms = {FLOAT: alone(fn, pool.op), "int8": coded}
            if fastest(pool.op, pool.place.where, forms, context) == FLOAT:
                continue
        make = partial(_made, place=pool.place, x=x, train=train)
        what = f"means of {codes.dtype.value}" + (", in training" if train else "")
        planned.append(Edit(pool.place.where, what, make))
    return planned


def on_codes(op: Op, x: edits.Input) -> Function:
    """Return the Function of a mean that is given codes."""
    assert x.codes is not None
    b, value = Builder(op.kind.NAME), op.operands[0]
    codes = b.param(value.type.with_dtype(x.codes.dtype))
    params = [edits.constant(b, torch.tensor(x.scale), "scale")]
    params.append(edits.constant(b, torch.tensor(x.zero, dtype=torch.int32), "zero"))
    return b.finish(b(op.kind, b(Dequantize(), codes, *params), origin=op.origin))


def find(fn: Function, quantized: Sequence[Unit], tell: Tell) -> list[Pool]:
    """Return the means that get codes of their own for nothing; ``tell`` gets the others."""
    read = {unit.x for unit in quantized}
    products = {id(unit.op) for unit in quantized}
    found: list[Pool] = []
    for place, op in places(fn, _is_mean):
        pool = Pool(place, op)
        if (
            pool.x.type.dtype is not DType.F32
            or pool.x in read
            or not _is_made_by(fn, pool.x, products)
        ):
            continue
        if fn.use_count[pool.x] != 1:
            tell(op, "a mean of floats: other ops read them, codes would be written besides")
        else:
            found.append(pool)
    return found


def _is_mean(op: Op) -> bool:
    return isinstance(op.kind, MEANS) and isinstance(windows_of(op), AvgPool)


def _is_made_by(fn: Function, value: Value, products: set[int]) -> bool:
    """Return whether the units of ``products`` make ``value``, so that they can make its codes."""
    op = fn.producer.get(value)
    if op is None:
        return False
    if id(op) in products:
        return True
    if isinstance(op.kind, (Concat, MaxPool)):
        return all(_is_made_by(fn, v, products) for v in op.operands)
    if isinstance(op.kind, Add):
        return any(_is_made_by(fn, v, products) for v in op.operands)
    return is_activation(op.kind) and _is_made_by(fn, op.operands[0], products)


def _made(fn: Function, place: Place, x: edits.Input, train: bool) -> Function:
    """Return ``fn`` with the mean at ``place`` on codes; ``fn`` where it has them, or is gone."""
    ready = units.prepared(fn)
    op = dict(places(ready, _is_mean)).get(place)
    source = None if op is None else ready.producer.get(op.operands[0])
    if op is None or (source and isinstance(source.kind, (Dequantize, FakeQuantize))):
        return fn
    b = Builder(ready.name, origin=op.origin)
    value = edits.converted(b, op.operands[0], x, partial(place.owned, "mean"), train)
    ops: list[Op] = []
    for at in ready.ops:
        if at is op:
            ops += b.ops
            at = Op(op.kind, (value,), op.results, op.origin)
        ops.append(at)
    return Function(ready.name, ready.params, tuple(ops), ready.returns, ready.dims)
