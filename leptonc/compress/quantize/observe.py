"""compress > quantize > observe: what units read on calibration data.

Either all at once, as the float model has it, or unit by unit: then each reads what the units
before it leave once they are quantized, as in Frantar et al. (GPTQ, ICLR 2023), whose rounding so
makes up for the errors of earlier layers, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.compress.quantize import ranges
from leptonc.compress.quantize.gptq import ROWS, hessian, patches
from leptonc.compress.quantize.units import Unit
from leptonc.compress.recipe import Calibration, CompressError, Edit
from leptonc.compress.timing import alone, computed
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.specialize import Specializer
from leptonc.passes.decode_weights import DecodeWeights

Key = tuple[Conv, tuple[object, ...]] | None
Decide = Callable[[Unit, "Observed"], Edit | None]


def product_key(unit: Unit) -> Key:
    """Return what tells apart the products that read one value: the window of a convolution."""
    kind = unit.op.kind
    return (kind, unit.weight.type.shape[2:]) if isinstance(kind, Conv) else None


@dataclass(frozen=True)
class Wants:
    """What is to be kept besides ranges: Hessians of products, means of their rows."""

    hessians: bool
    means: bool
    seed: int


@dataclass
class Observed:
    """What one value was on calibration data, by itself and as the rows of products."""

    wants: Wants
    seen: ranges.Seen
    means: dict[Key, list[Tensor]] = field(default_factory=dict[Key, list[Tensor]])
    hessians: dict[Key, Tensor] = field(default_factory=dict[Key, Tensor])

    def add(self, x: Tensor, units: Sequence[Unit], batch: int) -> None:
        """Take one batch in. Raises CompressError for NaN or infinities."""
        if not self.seen.add(x):
            raise CompressError(
                f"{units[0].where}: its inputs hold NaN or infinities on calibration batch "
                f"{batch}; the model overflows there, or the data are wrong"
            )
        if self.wants.hessians or self.wants.means:
            for key in dict.fromkeys(map(product_key, units)):
                self._add_product(x, key)

    def _add_product(self, x: Tensor, key: Key) -> None:
        if key is not None:
            rows = patches(x, key[0], [int(n) for n in key[1]])  # type: ignore[call-overload]
        else:
            flat = x.reshape(1, -1, x.shape[-1])
            rows = flat[:, :: -(-flat.shape[1] // ROWS)]
        self.means.setdefault(key, []).append(rows.mean(1))
        if self.wants.hessians:
            more = hessian(rows)
            self.hessians[key] = self.hessians[key] + more if key in self.hessians else more


def _readers(chosen: Iterable[Unit]) -> dict[Value, list[Unit]]:
    found: dict[Value, list[Unit]] = {}
    for unit in chosen:
        found.setdefault(unit.x, []).append(unit)
    return found


def at_once(
    fn: Function, data: Calibration, chosen: Sequence[Unit], wants: Wants
) -> dict[Value, Observed]:
    """Return what ``chosen`` read in ``fn`` as it is.

    Raises:
        CompressError: inputs of a unit that are not finite.
    """
    readers = _readers(chosen)
    found = {x: Observed(wants, ranges.Seen(wants.seed)) for x in readers}
    for i, values in enumerate(data.observed(fn, readers)):
        for x, users in readers.items():
            found[x].add(values[x], users, i)
    return found


def in_order(
    fn: Function, data: Calibration, chosen: Sequence[Unit], wants: Wants, decide: Decide
) -> None:
    """Give ``decide`` each unit with what it reads after the edits that ``decide`` returned before.

    All batches go through ``fn`` side by side, once; a value is dropped with its last reader.

    Raises:
        CompressError: inputs of a unit that are not finite.
    """
    readers, left = _readers(chosen), {id(unit.op): unit for unit in chosen}
    found: dict[Value, Observed] = {}
    walk = _Walk(fn, data.batches)
    with torch.no_grad():
        for op in fn.ops:
            unit, program = left.pop(id(op), None), None
            if unit is not None:
                if unit.x not in found:
                    found[unit.x] = Observed(wants, ranges.Seen(wants.seed))
                    for i, values in enumerate(walk.values):
                        found[unit.x].add(values[unit.x], readers[unit.x], i)
                edit = decide(unit, found[unit.x])
                if edit is not None:  # its weight is decoded once, not for each batch
                    program = DecodeWeights()(edit.make(alone(fn, op)))
                readers[unit.x].remove(unit)
                if not readers[unit.x]:
                    del found[unit.x]
            if not left:
                return
            walk.step(op, program)


class _Walk:
    """The batches on their way through a Function, op by op."""

    def __init__(self, fn: Function, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self.fn, self.left = fn, dict(fn.use_count)
        self.values: list[dict[Value, Tensor]] = [
            dict(zip(fn.params, batch, strict=True)) for batch in batches
        ]
        self.fixes = [
            Specializer(meaning.bind_dims(fn, [tuple(t.shape) for t in batch])) for batch in batches
        ]

    def step(self, op: Op, program: Function | None) -> None:
        """Run ``op``, or what stands for it: a Function of its operands that are no constants."""
        for v in op.operands:
            self.left[v] -= 1
        given = op.operands if program is None else computed(self.fn, op)
        for fix, values in zip(self.fixes, self.values, strict=True):
            operands = [values[v] for v in given]
            if program is None:
                made = meaning.apply(fix.kind(op.kind) if fix.sizes else op.kind, *operands)
            else:
                made = meaning.run(program, *operands)
            values.update(zip(op.results, made, strict=True))
            for v in (*op.operands, *op.results):
                if not self.left[v]:
                    values.pop(v, None)
