"""``fold-batchnorm``: no batch norm is left where its statistics are constants.

After a convolution, transposed convolution or linear layer it scales the weight and shifts the
bias; before one likewise, where padding allows; alone it becomes a multiply and an add with a
constant per channel, which fuse elsewhere. A multiply by a constant per channel (a layer scale)
after a contraction folds likewise. Weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.types import DType
from leptonc.passes.fusing.bias import const_in, is_channel_vector
from leptonc.passes.fusing.channels import (
    Affine,
    affine_of,
    all_finite,
    is_zero,
    scale_only,
    scaled_inputs,
    scaled_outputs,
)
from leptonc.passes.fusing.rebuild import Rebuild
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, named, readers_text, value_text

_NO_VECTOR = "the factor is constant, but not one number for each channel"
_INFINITE = "the weight would not be finite"
_OF_BATCH = (
    "it is in training mode or keeps no running statistics: it normalizes every batch by its own"
)
_HOSTS = (Conv, ConvTranspose, Linear)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms with constant statistics into their neighbours."""

    NAME: ClassVar[str] = "fold-batchnorm"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` without them; ``fn`` itself when nothing folds."""
        if not any(isinstance(op.kind, (BatchNorm, Mul, TorchOp)) for op in fn.ops):
            return fn
        folder = _Folder(fn, trace)
        for op in fn.ops:
            folder.op(op)
        return folder.new.finish()


class _Folder:
    """One sweep: the function that grows, and the norms that wait for the op that reads them."""

    def __init__(self, fn: Function, trace: Trace) -> None:
        self.fn, self.trace = fn, trace
        self.new = Rebuild(fn)
        self.waiting: dict[Value, tuple[Op, Affine]] = {}

    def op(self, op: Op) -> None:
        if op.operands and op.operands[0] in self.waiting:
            self.before(op, *self.waiting.pop(op.operands[0]))
        elif self.trace.spent:
            self.new.keep(op)
        elif isinstance(op.kind, BatchNorm):
            self.norm(op)
        elif not (isinstance(op.kind, Mul) and self.scale(op)):
            if isinstance(op.kind, TorchOp) and "batch_norm" in op.kind.target:
                self.of_batch(op)
            self.new.keep(op)

    def of_batch(self, bn: Op) -> None:
        """Say of a batch norm without running statistics what keeps it from being folded."""
        host = next((m for v in bn.operands if (m := self.new.maker(v)) is not None), None)
        into = f" into {named(host)}" if host and isinstance(host.kind, _HOSTS) else ""
        self.trace.missed(bn, f"not folded{into}: {_OF_BATCH}")

    def norm(self, bn: Op) -> None:
        consts = [self.new.const_in(self.new.now[v]) for v in bn.operands[1:]]
        if any(c is None for c in consts):
            self.trace.missed(bn, "not folded: its statistics or weights are no constants")
            self.new.keep(bn)
            return
        assert isinstance(bn.kind, BatchNorm)
        affine = affine_of(bn.kind, [c for c in consts if c is not None])
        if self.after(bn, bn.operands[0], affine):
            return
        if self.reader_takes(bn, affine):
            self.waiting[bn.result] = (bn, affine)
            return
        self.alone(bn, affine)

    # ----- after a contraction -----

    def scale(self, mul: Op) -> bool:
        """Fold a multiply by a constant per output channel into the contraction before it."""
        for x, v in (mul.operands, mul.operands[::-1]):
            host, factor = self.new.maker(x), self.new.const_in(self.new.now[v])
            if host is None or not isinstance(host.kind, _HOSTS):
                continue
            if factor is None and not self.is_full(v):
                continue
            if factor is not None and is_channel_vector(v.type, host) and mul.result.type == x.type:
                return self.after(mul, x, scale_only(factor))
            self.trace.missed(mul, f"not folded into {named(host)}: {_NO_VECTOR}")
        return False

    def is_full(self, v: Value) -> bool:
        """Return whether ``v`` is one number everywhere, known now."""
        maker = self.new.maker(v)
        return maker is not None and isinstance(maker.kind, Full)

    def after(self, bn: Op, x: Value, affine: Affine) -> bool:
        """Fold ``bn``, which is ``affine`` of ``x``, into the contraction that makes ``x``."""
        host = self.new.maker(x)
        if host is None or not isinstance(host.kind, _HOSTS):
            return False
        reason = self._after_misfit(bn, x, host)
        if reason is not None:
            self.trace.missed(bn, f"not folded into {named(host)}: {reason}")
            return False
        w, b = scaled_outputs(host.kind, *self._weights(host), affine, _dtype(host))
        if not all_finite(w, b):
            self.trace.missed(bn, f"not folded into {named(host)}: {_INFINITE}")
            return False
        self.new.absorb(host)
        shift = bn.operands[4] if len(bn.operands) > 4 else None
        self._emit(host, host.operands[0], w, b, bn.result, shift)
        self.trace.applied(bn, f"scales the weight of {named(host)} before it")
        return True

    def _after_misfit(self, bn: Op, x: Value, host: Op) -> str | None:
        if self.fn.use_count[x] != 1:
            others = readers_text(self.fn.users[x], (bn,)) or "the caller"
            return f"{value_text(x)} is also read by {others}"
        along_rows = isinstance(bn.kind, BatchNorm) and isinstance(host.kind, Linear)
        if along_rows and x.type.rank != 2:
            return "the norm runs along another axis than the linear layer's outputs"
        if any(self.new.const_in(v) is None for v in host.operands[1:]):
            return "its weight or bias is no constant"
        return None

    # ----- before a contraction -----

    def reader_takes(self, bn: Op, affine: Affine) -> bool:
        """Return whether the only reader of the norm is a contraction that can take it in."""
        y = bn.result
        hosts = (u for u in self.fn.users[y] if isinstance(u.kind, _HOSTS))
        host = next((u for u in hosts if u.operands[0] is y), None)
        if host is None:
            return False
        reason = self._before_misfit(host, affine)
        if reason is not None:
            self.trace.missed(bn, f"not folded into {named(host)} after it: {reason}")
        return reason is None

    def _before_misfit(self, host: Op, affine: Affine) -> str | None:
        kind, y = host.kind, host.operands[0]
        if self.fn.use_count[y] != 1:
            others = readers_text(self.fn.users[y], (host,)) or "the caller"
            return f"{value_text(y)} is also read by {others}"
        if any(const_in(v, self.fn) is None for v in host.operands[1:]):
            return "its weight or bias is no constant"
        if isinstance(kind, Linear) and host.operands[0].type.rank != 2:
            return "the norm runs along another axis than the linear layer's inputs"
        padded = isinstance(kind, ConvTranspose) or (isinstance(kind, Conv) and kind.padded)
        if padded and not is_zero(affine.shift):
            return "padding is zero behind the norm, and would not be before it"
        return None

    def before(self, host: Op, bn: Op, affine: Affine) -> None:
        now = tuple(self.new.now[v] for v in host.operands[1:])
        moved = Op(host.kind, (bn.operands[0], *now), host.results, host.origin)
        w, b = scaled_inputs(host.kind, *self._weights(moved), affine, _dtype(host))
        if not all_finite(w, b):
            self.trace.missed(bn, f"not folded into {named(host)}: {_INFINITE}")
            self.alone(bn, affine)
            self.new.keep(host)
            return
        self._emit(moved, self.new.now[bn.operands[0]], w, b, host.result)
        self.trace.applied(bn, f"scales the weight of {named(host)} after it")

    # ----- alone -----

    def alone(self, bn: Op, affine: Affine) -> None:
        """Emit ``x * scale + shift``, the constants of shape ``[c,1,...]``."""
        x = self.new.now[bn.operands[0]]
        scale, shift = affine.columns(bn.result.type.rank, _dtype(bn))
        s = self.new.constant(scale, bn.origin, "scale")
        product = Value(bn.result.type, bn.result.hint and f"{bn.result.hint}_scaled")
        self.new.emit(Mul(), x, s, result=product, origin=bn.origin)
        t = self.new.constant(shift, bn.origin, "shift")
        self.new.emit(Add(), product, t, result=bn.result, origin=bn.origin)
        self.trace.applied(bn, "becomes a multiply and an add per channel")

    # ----- both -----

    def _weights(self, host: Op) -> tuple[Const, Const | None]:
        w, *b = (self.new.const_in(v) for v in host.operands[1:])
        assert w is not None
        return w, (b[0] if b else None)

    def _emit(
        self, host: Op, x: Value, w: Const, b: Const, result: Value, shift: Value | None = None
    ) -> None:
        """Emit ``host`` on new constants; a new bias is named as ``shift``, what it comes from."""
        bias = next((v.hint for v in (*host.operands[2:], shift) if v is not None), "")
        values = (
            self.new.constant(w, host.origin, host.operands[1].hint),
            self.new.constant(b, host.origin, bias),
        )
        self.new.emit(host.kind, x, *values, result=result, origin=host.origin)


def _dtype(op: Op) -> DType:
    return op.results[0].type.dtype
