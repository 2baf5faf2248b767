"""``layout``: choose the physical axis order of every value, with as few copies as it takes.

Convolutions and their kin work on channels-last images; everything else takes what it gets where it
can. A transpose, and a reshape that keeps axes together, then moves no data: its result is merely
laid out otherwise. Where an order must change, a ``relayout`` op says so. An image flattened for
linear layers stays as it lies: their weights change order.

The pass goes once through the ops. Elementwise ops with operands in different orders take the order
that moves the fewest bytes, counting the move their result would need later.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.dims import Shape
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Relayout, Transpose
from leptonc.ir.types import TensorType
from leptonc.passes.fusing.axes import Order, as_layout, channels_last, order_of, same_order
from leptonc.passes.fusing.bias import const_in
from leptonc.passes.fusing.flatten import channels_inside, flattens, refusal
from leptonc.passes.fusing.policy import CHANNELS_LAST, Policy, policy_of
from leptonc.passes.fusing.units import SOURCES, without_dead_sources
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, kind_name

_UNKNOWN = 64  # stands for a symbolic size when bytes are compared


@dataclass(frozen=True)
class Layout(Pass):
    """Give every value its layout; params and returns stay row-major."""

    NAME: ClassVar[str] = "layout"
    ESTABLISHES: ClassVar[frozenset[str]] = frozenset({"layout"})

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with layouts and relayouts; ``fn`` itself if all is as it should be."""
        sweep = _Sweep(fn, trace)
        for op in fn.ops:
            sweep.op(op)
        returns = tuple(sweep.want(v, tuple(range(v.type.rank)), "the caller") for v in fn.returns)
        same = len(sweep.ops) == len(fn.ops) and all(map(operator.is_, sweep.ops, fn.ops))
        if same and returns == fn.returns:
            return fn
        made = Function(fn.name, fn.params, tuple(sweep.ops), returns, fn.dims)
        return without_dead_sources(made)


class _Sweep:
    """The new ops so far, and for each old value what it became, in which orders."""

    def __init__(self, fn: Function, trace: Trace) -> None:
        self.fn, self.trace = fn, trace
        self.ops: list[Op] = []
        self.now: dict[Value, Value] = {p: p for p in fn.params}
        self.versions: dict[Value, list[Value]] = {p: [p] for p in fn.params}
        self.wish = _wishes(fn)
        self.flattened: dict[Value, Shape] = {}  # images that lie there with channels innermost

    # ----- values -----

    def order(self, v: Value) -> Order:
        """Return the order that old value ``v`` was given."""
        return order_of(self.now[v].type)

    def want(self, v: Value, order: Order, reader: str) -> Value:
        """Return ``v`` in ``order``: a version that exists, else a relayout of it."""
        made = self.now[v]
        for version in self.versions[made]:
            if same_order(made.type.shape, order_of(version.type), order):
                return version
        type_ = TensorType(made.type.dtype, made.type.shape, as_layout(order))
        maker = self.fn.producer.get(v)
        if maker is not None and isinstance(maker.kind, SOURCES):
            # a constant is laid out when it is placed: no copy at run time
            op = Op(maker.kind, (), (Value(type_, v.hint),), maker.origin)
        else:
            where = self.fn.producer[v].origin if v in self.fn.producer else None
            op = Op(Relayout(order), (made,), (Value(type_, v.hint),))
            op = op if where is None else Op(op.kind, op.operands, op.results, where)
            self.trace.note(op, f"copied: {made.type} to {type_}, as {reader} reads it")
        self.ops.append(op)
        self.versions[made].append(op.result)
        return op.result

    def emit(self, op: Op, operands: tuple[Value, ...], orders: Iterable[Order]) -> None:
        """Append ``op`` on new operands, its results in ``orders``; as it is if nothing differs."""
        layouts = [as_layout(o) for o in orders]
        same = layouts == [r.type.layout for r in op.results]
        if same and all(a is b for a, b in zip(operands, op.operands, strict=True)):
            made = op
        else:
            results = tuple(
                r if same else Value(TensorType(r.type.dtype, r.type.shape, layout), r.hint)
                for r, layout in zip(op.results, layouts, strict=True)
            )
            made = Op(op.kind, operands, results, op.origin)
        self.ops.append(made)
        for old, new in zip(op.results, made.results, strict=True):
            self.now[old] = new
            self.versions[new] = [new]

    # ----- ops -----

    def op(self, op: Op) -> None:
        """Append ``op``, with relayouts of its operands before it where its kind needs them."""
        if isinstance(op.kind, Relayout):
            self.relayout(op, op.kind)
            return
        if op.operands and flattens(op, self.order(op.operands[0])):
            if (reason := refusal(op, self.fn)) is None:
                self.flatten(op)
                return
            self.trace.missed(op, f"its image is copied to be flattened: {reason}")
        if op.operands and op.operands[0] in self.flattened:
            op = self.reordered(op)
        policy = policy_of(op)
        plan = policy(op, self.view(op))
        operands = tuple(
            self.now[v] if need is None else self.want(v, need, kind_name(op))
            for v, need in zip(op.operands, plan.needs, strict=True)
        )
        self.emit(op, operands, plan.results)

    def relayout(self, op: Op, kind: Relayout) -> None:
        source = self.now[op.operands[0]]
        self.emit(op, (source,), (kind.order,))
        made = self.now[op.result]
        shared = self.versions[source]
        shared.append(made)
        self.versions[made] = shared

    def flatten(self, op: Op) -> None:
        """Flatten an image as it lies; the weights of the linear layers that read it follow."""
        x = self.now[op.operands[0]]
        perm = channels_last(x.type.rank)
        shape = tuple(x.type.shape[p] for p in perm)
        turned = Value(TensorType(x.type.dtype, shape), x.hint)
        flat = Value(op.result.type, op.result.hint)
        self.ops.append(Op(Transpose(perm), (x,), (turned,), op.origin))
        self.ops.append(Op(op.kind, (turned,), (flat,), op.origin))
        self.trace.note(op, "flattened without a copy: the weights of its readers change order")
        self.now[op.result], self.versions[flat] = flat, [flat]
        self.flattened[op.result] = x.type.shape

    def reordered(self, op: Op) -> Op:
        """Return a linear layer with its weight in the order of the image flattened for it."""
        x, w, *rest = op.operands
        const = const_in(w, self.fn)
        assert const is not None  # by_weights saw it
        made = channels_inside(const, self.flattened[x])
        weight = Value(made.type, w.hint)
        self.ops.append(Op(Constant(made), (), (weight,), op.origin))
        self.now[weight], self.versions[weight] = weight, [weight]
        return Op(op.kind, (x, weight, *rest), op.results, op.origin)

    def view(self, op: Op) -> View:
        """Return what a policy may know of the operands' orders and the results' readers."""
        return View(self, op)


@dataclass(frozen=True)
class View:
    """What a policy sees of one op: see ``policy.Sight``."""

    sweep: _Sweep
    op: Op

    def order(self, index: int) -> Order:
        """Return the order of operand ``index``."""
        return self.sweep.order(self.op.operands[index])

    def is_source(self, index: int) -> bool:
        """Return whether operand ``index`` is a constant, which any order suits."""
        maker = self.sweep.fn.producer.get(self.op.operands[index])
        return maker is not None and isinstance(maker.kind, SOURCES)

    def move_bytes(self, index: int, order: Order) -> int:
        """Return the bytes to move to have operand ``index`` in ``order``; 0 if it exists so."""
        v = self.op.operands[index]
        made = self.sweep.now[v]
        if self.is_source(index) or any(
            same_order(v.type.shape, order_of(w.type), order) for w in self.sweep.versions[made]
        ):
            return 0
        return bytes_of(v.type)

    def wish_bytes(self, order: Order) -> int:
        """Return the bytes a later op would move if result 0 came in ``order``."""
        result = self.op.results[0]
        wish = self.sweep.wish.get(result)
        if wish is None or same_order(result.type.shape, wish, order):
            return 0
        return bytes_of(result.type)

    def readers(self) -> tuple[Op, ...]:
        """Return the ops that read result 0; empty when it is returned too."""
        result = self.op.results[0]
        return () if result in self.sweep.fn.returns else self.sweep.fn.users[result]


def bytes_of(type_: TensorType) -> int:
    """Return the bytes of a value, symbolic sizes taken as a guess."""
    total = type_.dtype.nbytes
    for d in type_.shape:
        total *= d if isinstance(d, int) else _UNKNOWN
    return total


def _wishes(fn: Function) -> dict[Value, Order]:
    """Return the order each value's readers would like, found from the last op to the first."""
    wish: dict[Value, Order] = {v: tuple(range(v.type.rank)) for v in fn.returns}
    for op in reversed(fn.ops):
        policy: Policy = policy_of(op)
        if policy is CHANNELS_LAST and op.operands:
            wish[op.operands[0]] = channels_last(op.operands[0].type.rank)
        elif op.results and (after := wish.get(op.results[0])) is not None and policy.passes_on:
            for v in op.operands:
                if v.type.rank == len(after):
                    wish.setdefault(v, after)
    return wish
