"""compress > quantize > units: the convolutions and linear layers of a Function, by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leptonc.compress.recipe import CompressError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.ir.kinds.quantize import Dequantize, FakeQuantize, IntConv, IntLinear
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.kinds.unary import Abs
from leptonc.ir.types import DType
from leptonc.passes.fold_batchnorm import FoldBatchNorm
from leptonc.passes.fold_constants import FoldConstants

PRODUCTS = (Conv, Linear)
_KNOWN = (Constant, Dequantize, FakeQuantize)  # what makes a weight that need not be computed
Tell = Callable[[Op, str], None]  # a remark: the op that is left alone, and why
_SUFFIX = ".weight"


@dataclass(frozen=True)
class Unit:
    """One product that can be quantized: its module path, its op.

    ``reader`` counts the products of its weight in order; ``shared`` tells of other readers.
    """

    where: str
    op: Op
    reader: int = 0
    shared: bool = False

    @property
    def x(self) -> Value:
        """What it reads."""
        return self.op.operands[0]

    @property
    def weight(self) -> Value:
        """Its constant weight."""
        return self.op.operands[1]

    @property
    def name(self) -> str:
        """Name of the weight, with the number of the product where it is not the first of it."""
        return f"{self.weight.hint}#{self.reader}" if self.reader else self.weight.hint

    def owned(self, leaf: str) -> str:
        """Return the name of a constant that belongs to the unit: beside its weight."""
        path, _, own = self.weight.hint.rpartition(".")
        if self.reader:
            leaf = f"reader{self.reader}_{leaf}"
        if own != "weight":  # of several weights of a module each has its own
            return f"{self.weight.hint}_{leaf}"
        return f"{path}.{leaf}" if path else leaf


def prepared(fn: Function) -> Function:
    """Return ``fn`` with batch norms in the weights of convolutions, and weights as constants."""
    weights = (fn.producer.get(op.operands[1]) for op in fn.ops if isinstance(op.kind, PRODUCTS))
    if any(w is not None and not isinstance(w.kind, _KNOWN) for w in weights):
        fn = FoldConstants()(fn)
    return FoldBatchNorm()(fn)


def module_of(weight: str, op: Op) -> str:
    """Return the module path that owns a weight of this name."""
    return weight.removesuffix(_SUFFIX) if weight.endswith(_SUFFIX) else op.origin.module or weight


def find(fn: Function, tell: Tell) -> list[Unit]:
    """Return what can be quantized in a prepared Function, in order; ``tell`` gets the others."""
    constants = (op.result for op in fn.ops if isinstance(op.kind, Constant))
    names = Counter(v.hint for v in constants if v.type.dtype is DType.F32)
    readers = Counter[str]()
    found: list[Unit] = []
    for op in fn.ops:
        if not isinstance(op.kind, PRODUCTS):
            continue
        reason, hint = _misfit(fn, op, names), constant_name(fn, op.operands[1])
        index = readers[hint]
        readers[hint] += 1
        if reason is None:
            shared = index > 0 or fn.use_count[op.operands[1]] > 1
            where = op.origin.module if shared else None
            found.append(Unit(where or module_of(hint, op), op, index, shared))
        elif reason:
            tell(op, f"not quantized: {reason}")
    return found


def _misfit(fn: Function, op: Op, names: Counter[str]) -> str | None:
    """Return why a product is left alone; "" where that needs no remark, None where it is not."""
    x, w = op.operands[:2]
    maker = fn.producer.get(w)
    if maker is None or not isinstance(maker.kind, Constant):
        return "" if is_quantized(fn, op) else "its weight is no constant"
    if w.type.dtype is not DType.F32 or x.type.dtype is not DType.F32:
        return f"it computes in {x.type.dtype.value}, not in f32"
    if not all(_shares(fn, reader, w) for reader in fn.users[w]) or w in fn.returns:
        return f"its weight {w.hint} is shared with another op"
    if not w.hint or names[w.hint] != 1:
        return "its weight has no name of its own"
    return None


def _shares(fn: Function, op: Op, w: Value) -> bool:
    """Return whether ``op`` reads the weight ``w`` as a product or a lookup does, and only so.

    The fake quantization of another product may read it, too, and what finds its scale.
    """
    if isinstance(op.kind, Reshape):
        return all(isinstance(user.kind, Abs) for user in fn.users[op.result])
    at = 1 if isinstance(op.kind, PRODUCTS) else 0
    kinds = (*PRODUCTS, Embedding, FakeQuantize)
    places = [i for i, v in enumerate(op.operands) if v is w]
    return isinstance(op.kind, kinds) and places == [at]


def constant_name(fn: Function, v: Value) -> str:
    """Return the name of the constant that ``v`` is, or is made of by its first operands."""
    while (maker := fn.producer.get(v)) is not None and maker.operands:
        v = maker.operands[0]
    return v.hint


def is_quantized(fn: Function, op: Op) -> bool:
    """Return whether a product reads codes, or a fake-quantized weight."""
    if isinstance(op.kind, (IntConv, IntLinear)):
        return True
    maker = fn.producer.get(op.operands[1]) if isinstance(op.kind, PRODUCTS) else None
    return maker is not None and isinstance(maker.kind, (Dequantize, FakeQuantize))


def by_weight(fn: Function, name: str) -> Unit | None:
    """Return the unit of this name, if there is one (any more).

    Where its weight has one product alone, as in a Function of one op, it is that.
    """
    found = find(fn, lambda op, why: None)
    alike = [u for u in found if u.weight.hint == name.partition("#")[0]]
    only = alike if len(alike) == 1 and not alike[0].shared else []
    return next((u for u in found if u.name == name), only[0] if only else None)


def selected(units: Sequence[Unit], only: Sequence[str], skip: Sequence[str]) -> list[Unit]:
    """Return the units that ``only`` (if any) names and ``skip`` does not.

    A name is a module path, the path of a module around it, or a pattern (``layer?.*.conv1``).

    Raises:
        CompressError: a name that matches nothing; the text lists close ones.
    """
    for name in (*only, *skip):
        if not any(_matches(u.where, name) for u in units):
            raise CompressError(_unknown(name, units))
    kept = [u for u in units if not only or any(_matches(u.where, n) for n in only)]
    return [u for u in kept if not any(_matches(u.where, n) for n in skip)]


def _matches(where: str, name: str) -> bool:
    return where == name or where.startswith(f"{name}.") or fnmatch.fnmatchcase(where, name)


def _unknown(name: str, units: Sequence[Unit]) -> str:
    all_names = [u.where for u in units]
    close = difflib.get_close_matches(name, all_names, 5, 0.4) or all_names[:5]
    return f"no convolution or linear layer is named {name!r}; there are {', '.join(close)}"
