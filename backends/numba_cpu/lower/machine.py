"""numba_cpu > lower > machine: builds one step of the elementwise machine.

::

    m = Machine(ctx, shape)
    m.store(m.op("add", m.load(x), m.load(y)), out)
    m.emit()
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.elementwise import (
    LINE,
    LOADS,
    MOVE,
    OPERATE,
    ROWS,
    STORES,
    elementwise,
)
from leptonc.backends.numba_cpu.kernels.elementwise_ops import (
    FLOATS,
    compute_type,
    find,
    result_type,
)
from leptonc.backends.numba_cpu.kernels.ew_loop import SIZE
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.kinds.data import Full
from leptonc.ir.types import DType

CACHE_BYTES = 24 * 1024  # what a block's registers may take of the first-level cache
SMALLEST_BLOCK, LARGEST_BLOCK = 256, 4096  # elements
SHORT_ROW, LONG_ROW = 4 * LANES, 16 * LANES  # elements: see _Plan.by_rows
SHARES = 4  # blocks per thread wanted, so that threads finish together
_EXACT = frozenset(
    {"neg", "abs", "relu", "maximum", "minimum", "where", "sign", "floor", "ceil", "round", "trunc"}
)  # rounding their results to a narrower format changes nothing


@dataclass(frozen=True, eq=False)
class Node:
    """A value of the program: a memory operand (``view``) or an operation on other values."""

    kind: str  # element type
    view: View | None = None
    kernel: Kernel | None = None
    operands: tuple[Node, ...] = ()
    params: tuple[int | float, ...] = ()


@dataclass
class Machine:
    """Collects a program over one iteration space ``shape``, then emits it as one step."""

    ctx: Lowering
    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    stores: list[tuple[Node, View]] = field(default_factory=list)

    def load(self, view: View) -> Node:
        """Return the values of ``view``, broadcast to the space, in their compute type."""
        view = view.expand(self.shape)
        key = (view.buffer, view.dtype, view.strides, view.offset)
        raw = next((n for n in self.nodes if n.view is not None and _key(n.view) == key), None)
        raw = raw or self._add(Node(view.dtype.value, view))
        wide = compute_type(raw.kind)
        if wide == raw.kind:
            return raw
        kernel = find(f"widen_{raw.kind}", "f32")
        known = (n for n in self.nodes if n.kernel is kernel and n.operands == (raw,))
        return next(known, None) or self._add(Node(wide, None, kernel, (raw,)))

    def number(self, value: float) -> Node:
        """Return a float32 constant."""
        one = Full((1,), value, DType.F32)
        buffer = self.ctx.pool.get(
            ("full", DType.F32, repr(value)), lambda: meaning.raw_filled(one)
        )
        return self.load(View(buffer, DType.F32, (1,) * len(self.shape), (0,) * len(self.shape)))

    def op(
        self, name: str, *operands: Node, params: tuple[int | float, ...] = (), stored: str = ""
    ) -> Node:
        """Return operation ``name`` of values of one compute type, that of the last operand.

        Args:
            name: see ``elementwise_ops``.
            operands: values.
            params: at most four numbers.
            stored: the dtype of the result; a narrow float one rounds it as torch does.
        """
        kind = operands[-1].kind
        out = result_type(name, kind)
        made = self._add(Node(out, None, find(name, kind), operands, params))
        if stored in ("bf16", "f16") and out == "f32" and name not in _EXACT:
            made = self._add(Node(out, None, find(f"round_{stored}", "f32"), (made,)))
        return made

    def store(self, node: Node, view: View) -> None:
        """Write the values to ``view``, whose shape is the space's and whose dtype fits theirs."""
        want = view.dtype.value
        if want != node.kind:
            if want not in FLOATS or node.kind != "f32":
                raise TypeError(f"values of {node.kind} do not fit {want}")
            node = self._add(Node(want, None, find(f"narrow_{want}", "f32"), (node,)))
        self.stores.append((node, view))

    def _add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def emit(self, note: str = "") -> None:
        """Append the step (nothing for an empty space)."""
        if math.prod(self.shape) == 0:
            return
        reads = [n.view for n in self.nodes if n.view is not None]
        self._join()
        writes = [v for _, v in self.stores]
        plan = _Plan.of(self)
        slots = plan.slots()
        self.ctx.step(elementwise, slots, reads, writes, serial=plan.blocks == 1, note=note)

    def _join(self) -> None:
        """Replace operations by longer ones that give the same bits in fewer walks of a block."""
        used = Counter((*(o for n in self.nodes for o in n.operands), *(n for n, _ in self.stores)))
        became: dict[Node, Node] = {}
        inside: set[Node] = set()
        for n in self.nodes:
            new = replace(n, operands=tuple(became[o] for o in n.operands))
            part = next((o for o in new.operands if used[o] == 1 and _joins(o, new)), None)
            if part is not None:
                rest = [o for o in new.operands if o is not part]
                kernel = find(_JOINED[_name(part), _name(new)], "f32")
                new = replace(new, kernel=kernel, operands=(*part.operands, *rest))
                inside.add(part)
            became[n], used[new] = new, used[n]
        self.nodes = [m for m in became.values() if m not in inside]
        self.stores = [(became[n], v) for n, v in self.stores]


# What an operation and the one that reads its result become. Operands: the first one's, the rest.
_JOINED = {("mul", "add"): "mul_add", ("mul_add", "relu"): "mul_add_relu"}


def _name(node: Node) -> str:
    """Return the name of a float32 operation that can be joined, else nothing."""
    names = dict.fromkeys(name for pair in _JOINED for name in pair)
    return next((name for name in names if node.kernel is find(name, "f32")), "")


def _joins(part: Node, node: Node) -> bool:
    return part is not node and (_name(part), _name(node)) in _JOINED


def _key(view: View) -> tuple[object, ...]:
    return (view.buffer, view.dtype, view.strides, view.offset)


def collapse(views: Sequence[View]) -> list[View]:
    """Return ``views`` of one shape with axes ordered as the last's and merged where all allow it.

    Axes of size 1 go; at least two axes remain (of size 1 where there are none).
    """
    lead = views[-1]
    order = [a for a in lead.order if lead.shape[a] != 1]
    views = [v.transpose(order) for v in views]
    a = len(order) - 2
    while a >= 0:
        if all(v.strides[a] == v.strides[a + 1] * v.shape[a + 1] for v in views):
            views = [_merge(v, a) for v in views]
        a -= 1
    pad = max(0, 2 - views[0].rank)
    return [replace(v, shape=(1,) * pad + v.shape, strides=(0,) * pad + v.strides) for v in views]


def _merge(v: View, a: int) -> View:
    shape = (*v.shape[:a], v.shape[a] * v.shape[a + 1], *v.shape[a + 2 :])
    return replace(v, shape=shape, strides=(*v.strides[:a], *v.strides[a + 1 :]))


def ceildiv(n: int, d: int) -> int:
    """Return ``n / d`` rounded up."""
    return -(-n // d)


@dataclass
class _Plan:
    """Registers, blocks and instructions of a program."""

    machine: Machine
    memory: list[View]
    shape: tuple[int, ...]
    block: tuple[int, int] = (1, 1)
    hoisted: list[tuple[Slot, ...]] = field(default_factory=list)
    code: list[tuple[Slot, ...]] = field(default_factory=list)
    where: dict[Node, int] = field(default_factory=dict)  # register of each value
    free: list[int] = field(default_factory=list)
    used: int = 0

    @classmethod
    def of(cls, m: Machine) -> _Plan:
        """Return the finished plan of a machine."""
        loads = [n for n in m.nodes if n.view is not None]
        views = collapse([n.view for n in loads if n.view is not None] + [v for _, v in m.stores])
        # collapse orders by the last view, the last store
        plan = cls(m, views, views[0].shape)
        plan.block = plan._choose_block()
        plan.used = len(views)
        plan._write(loads)
        return plan

    @property
    def counts(self) -> tuple[int, int]:
        """Blocks along rows and along columns."""
        rows, cols = self.shape[-2:]
        return -(-rows // self.block[0]), -(-cols // self.block[1])

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.shape[:-2]) * math.prod(self.counts)

    def _choose_block(self) -> tuple[int, int]:
        values = len(self.memory) + min(3, len(self.machine.nodes))
        size = max(SIZE[n.kind] for n in self.machine.nodes)
        want = 1 << int(math.log2(max(CACHE_BYTES // (size * values), 1)))
        want = min(max(want, SMALLEST_BLOCK), LARGEST_BLOCK)
        total, shares = math.prod(self.shape), SHARES * self.machine.ctx.threads
        while want > SMALLEST_BLOCK and total < want * shares:
            want //= 2
        rows, cols = self.shape[-2:]
        if cols >= want:
            pieces = -(-cols // want)
            return 1, min(cols, ceildiv(ceildiv(cols, pieces), 16) * 16)
        return min(rows, max(1, want // cols)), cols

    def _contiguous(self, view: View) -> bool:
        """Whether every block of the operand lies without gaps, row-major."""
        (rows, cols), (rs, cs) = self.block, view.strides[-2:]
        return (cols == 1 or cs == 1) and (rows == 1 or rs == cols)

    @cached_property
    def by_rows(self) -> bool:
        """Whether operations take the rows of strided operands one by one, without copying them.

        Each row costs a call, and its last vector, if not full, a detour: short rows are copied.
        """
        cols = self.shape[-1]
        long = cols >= LONG_ROW or (cols >= SHORT_ROW and cols % LANES == 0)
        apart = [v for v in self.memory if not (self._contiguous(v) or self._steady(v))]
        return long and self.block[0] > 1 and any(v.strides[-1] == 1 for v in apart)

    def _direct(self, view: View) -> bool:
        """Whether operations can take a block of the operand where it lies."""
        return self._contiguous(view) or (self.by_rows and view.strides[-1] == 1)

    def _row_bytes(self, register: int, size: int) -> int:
        """Return the bytes between the rows of a block in a register of elements of ``size``."""
        if register < len(self.memory):
            return self.memory[register].strides[-2] * size
        return self.block[1] * size

    def _steady(self, view: View) -> bool:
        """Whether every block of the operand holds the same values."""
        same = not any(view.strides[:-1]) and (view.strides[-1] == 0 or self.counts[1] == 1)
        return same

    def _take(self) -> int:
        if self.free:
            return self.free.pop()
        self.used += 1
        return self.used - 1

    def _write(self, loads: list[Node]) -> None:
        """Write all instructions; scratch registers are reused once their value is dead."""
        read = [o for n in self.machine.nodes for o in n.operands]
        left = Counter((*read, *(n for n, _ in self.machine.stores)))
        target = self._targets(len(loads))
        slots = {n: i for i, n in enumerate(loads)}
        kept = set(slots.values())
        for n in loads:
            self._load(n, slots[n], kept)
        for n in self.machine.nodes:
            if n.view is None:
                self._operate(n, target.get(n), left, kept)
        for i, (n, _) in enumerate(self.machine.stores):
            self._store(n, len(loads) + i, target)

    def _targets(self, first: int) -> dict[Node, int]:
        """Return the operations that write their result in place, with its register."""
        found: dict[Node, int] = {}
        often = Counter(n for n, _ in self.machine.stores)
        for i, (n, _) in enumerate(self.machine.stores):
            view = self.memory[first + i]
            # What is stored once more is copied from where it lies without gaps.
            fits = self._direct(view) if often[n] == 1 else self._contiguous(view)
            if n.view is None and n not in found and fits:
                found[n] = first + i
        return found

    def _load(self, n: Node, m: int, kept: set[int]) -> None:
        view = self.memory[m]
        stored = any(n is s for s, _ in self.machine.stores)
        if self._contiguous(view) if stored else self._direct(view):
            self.where[n] = m
            return
        size = SIZE[n.kind]
        # Values that never change are loaded once; their register is nobody else's.
        to = self.used
        self.used += 1
        steps = (view.strides[-2] * size, view.strides[-1] * size)
        line = (LOADS[size], MOVE, to, m, 0, 0, *steps, 0, 0, 0, 0, 0, 0)
        (self.hoisted if self._steady(view) else self.code).append(line)
        self.where[n] = to
        kept.add(to)

    def _operate(self, n: Node, target: int | None, left: Counter[Node], kept: set[int]) -> None:
        registers = [self.where[o] for o in n.operands]
        dead: list[int] = []
        for o, r in zip(n.operands, registers, strict=True):
            left[o] -= 1
            if left[o] == 0 and r >= len(self.memory) and r not in kept:
                dead.append(r)
        same = [
            r for o, r in zip(n.operands, registers, strict=True) if SIZE[o.kind] == SIZE[n.kind]
        ]
        if target is not None:
            to = target
        else:
            reuse = next((r for r in dead if r in same), None)
            if reuse is not None:
                dead.remove(reuse)
            to = self._take() if reuse is None else reuse
        self.free.extend(r for r in dict.fromkeys(dead) if r != to)
        self.where[n] = to
        abc = (*registers, 0, 0, 0)[:3]
        params = (*n.params, 0, 0, 0, 0)[:4]
        assert n.kernel is not None
        values = (n, *n.operands)
        places = list(zip((to, *registers), values, strict=True))
        rows = any(r < len(self.memory) and not self._contiguous(self.memory[r]) for r, _ in places)
        steps = (*(self._row_bytes(r, SIZE[v.kind]) for r, v in places), 0, 0, 0)[:4]
        self.code.append((n.kernel, ROWS if rows else OPERATE, to, *abc, *params, *steps))

    def _store(self, n: Node, m: int, target: dict[Node, int]) -> None:
        if target.get(n) == m:
            return
        view, size = self.memory[m], SIZE[n.kind]
        steps = (view.strides[-2] * size, view.strides[-1] * size)
        self.code.append((STORES[size], MOVE, m, self.where[n], 0, 0, *steps, 0, 0, 0, 0, 0, 0))

    def slots(self) -> list[Slot]:
        """Return the record of the step."""
        outer, (rows, cols) = self.shape[:-2], self.shape[-2:]
        width = max(SIZE[n.kind] for n in self.machine.nodes)
        register = -(-(self.block[0] * self.block[1] * width) // LINE) * LINE
        head = -(-8 * self.used // LINE) * LINE
        scratch = self.machine.ctx.scratch(head + (self.used - len(self.memory)) * register)
        slots: list[Slot] = [len(outer), rows, cols, *self.block, *self.counts, self.blocks]
        slots += [
            len(self.memory),
            self.used,
            len(self.hoisted),
            len(self.code),
            *scratch,
            register,
        ]
        slots += outer
        for view in self.memory:
            size = view.dtype.nbytes
            slots += [view.ref, *(s * size for s in view.strides)]
        for line in (*self.hoisted, *self.code):
            slots += line
        return slots
