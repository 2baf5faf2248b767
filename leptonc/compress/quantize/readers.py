"""compress > quantize > readers: means of images and sums of products that read codes.

What a quantized convolution reads is held as codes, and means and sums read them (:mod:`edits`).
Anything else gets a conversion of its own where that costs nothing: where a quantized product makes
it, so that codes come out of the product instead of floats, and where nothing else needs the
floats. A sum of two products (the first block of a stage of a ResNet) reads one of them as codes:
the one that is made first; the other one ends in the sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
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
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.quantize import Dequantize, FakeQuantize
from leptonc.ir.kinds.reduce import AvgPool, MaxPool
from leptonc.ir.kinds.shape import Concat
from leptonc.ir.types import DType
from leptonc.passes.fusing.contract import is_activation
from leptonc.passes.rules.quants import MEANS, windows_of


@dataclass(frozen=True)
class Reader:
    """An op that can read codes: ``"mean"`` or ``"sum"``, its place, which operand."""

    sort: str
    place: Place
    op: Op
    operand: int = 0

    @property
    def x(self) -> Value:
        """What it reads."""
        return self.op.operands[self.operand]

    def owned(self, leaf: str) -> str:
        """Return the name of a constant of it."""
        return self.place.owned(self.sort, leaf)


def plan(
    fn: Function, made: Sequence[Edit], context: Context, codes: ranges.Codes, method: str,
    train: bool, faster: bool,
) -> list[Edit]:  # fmt: skip
    """Return edits of the ops that get codes from products which ``made`` quantizes.

    With ``faster`` those alone that take less time on codes; the product makes codes for nothing.

    Raises:
        CompressError: what one of them reads is not finite on calibration data.
    """
    wanted = {edit.where for edit in made}
    quantized = [u for u in units.find(fn, lambda op, why: None) if u.where in wanted]
    found = find(fn, quantized, context.tell("Quantize"))
    if not found:
        return []
    seen = {reader.x: ranges.Seen(context.seed) for reader in found}
    data = context.need_data("Quantize").observed(fn, seen)
    for i, values in enumerate(data):
        for reader in found:
            if not seen[reader.x].add(values[reader.x]):
                raise CompressError(
                    f"{reader.place.where}: its inputs hold NaN or infinities on calibration "
                    f"batch {i}; the model overflows there, or the data are wrong"
                )
    planned: list[Edit] = []
    for reader in found:
        x = edits.Input(codes, *ranges.METHODS[method](seen[reader.x], codes))
        if faster:
            coded = dataclasses.replace(on_codes(reader, x), dims=fn.dims)
            forms = {FLOAT: alone(fn, reader.op), "int8": coded}
            if fastest(reader.op, reader.place.where, forms, context) == FLOAT:
                continue
        make = partial(_made, reader=reader, x=x, train=train)
        what = f"{reader.sort}s of {codes.dtype.value}" + (", in training" if train else "")
        planned.append(Edit(reader.place.where, what, make))
    return planned


def on_codes(reader: Reader, x: edits.Input) -> Function:
    """Return the Function of an op that is given codes."""
    assert x.codes is not None
    op = reader.op
    b = Builder(op.kind.NAME)
    given = [b.param(v.type) for v in op.operands if v is not reader.x]
    codes = b.param(reader.x.type.with_dtype(x.codes.dtype))
    params = [edits.constant(b, torch.tensor(x.scale), "scale")]
    params.append(edits.constant(b, torch.tensor(x.zero, dtype=torch.int32), "zero"))
    given.insert(reader.operand, b(Dequantize(), codes, *params))
    return b.finish(b(op.kind, *given, origin=op.origin))


def find(fn: Function, quantized: Sequence[Unit], tell: Tell) -> list[Reader]:
    """Return the ops that get codes of their own for nothing; ``tell`` gets the other means."""
    return [*_means(fn, quantized, tell), *_sums(fn, quantized)]


def _means(fn: Function, quantized: Sequence[Unit], tell: Tell) -> Iterator[Reader]:
    read = {unit.x for unit in quantized}
    products = {id(unit.op) for unit in quantized}
    for place, op in places(fn, _is_mean):
        mean = Reader("mean", place, op)
        if (
            mean.x.type.dtype is not DType.F32
            or mean.x in read
            or not _is_made_by(fn, mean.x, products)
        ):
            continue
        if fn.use_count[mean.x] != 1:
            tell(op, "a mean of floats: other ops read them, codes would be written besides")
        else:
            yield mean


def _sums(fn: Function, quantized: Sequence[Unit]) -> Iterator[Reader]:
    """Yield the sums of two convolutions that nothing else reads."""
    made = {unit.op.result for unit in quantized if isinstance(unit.op.kind, Conv)}
    made = {value for value in made if fn.use_count[value] == 1}
    order = {op.result: i for i, op in enumerate(fn.ops) if len(op.results) == 1}
    for place, op in places(fn, _is_sum):
        if len(made & set(op.operands)) == 2 and op.result.type.dtype is DType.F32:
            yield Reader("sum", place, op, min((0, 1), key=lambda i: order[op.operands[i]]))


def _is_sum(op: Op) -> bool:
    return isinstance(op.kind, Add)


def _is_mean(op: Op) -> bool:
    return isinstance(op.kind, MEANS) and isinstance(windows_of(op), AvgPool)


_SORTS = {"mean": _is_mean, "sum": _is_sum}


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


def _made(fn: Function, reader: Reader, x: edits.Input, train: bool) -> Function:
    """Return ``fn`` with ``reader`` on codes; ``fn`` where it has them, or is gone."""
    ready, n = units.prepared(fn), reader.operand
    op = dict(places(ready, _SORTS[reader.sort])).get(reader.place)
    source = None if op is None else ready.producer.get(op.operands[n])
    if op is None or (source and isinstance(source.kind, (Dequantize, FakeQuantize))):
        return fn
    b = Builder(ready.name, origin=op.origin)
    value = edits.converted(b, op.operands[n], x, reader.owned, train)
    ops: list[Op] = []
    for at in ready.ops:
        if at is op:
            ops += b.ops
            given = (*op.operands[:n], value, *op.operands[n + 1 :])
            at = Op(op.kind, given, op.results, op.origin)
        ops.append(at)
    return Function(ready.name, ready.params, tuple(ops), ready.returns, ready.dims)
