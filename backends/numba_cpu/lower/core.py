"""Lowering context: what a lowering function may ask for while it turns one op into steps.

A lowering is ``fn(ctx: Lowering, op: Op) -> None``: it reads operands with ``ctx.view``, makes the
result with ``ctx.out`` (kernel writes it) or ``ctx.alias`` (a view of something), and adds kernel
calls with ``ctx.step``. All sizes are plain ints here: symbolic functions are specialised before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.int8_pairs import Range
from leptonc.backends.numba_cpu.kernels.pack import Fetch, aligned_empty, at_hand, copy_by_pieces
from leptonc.backends.numba_cpu.lower import choices
from leptonc.backends.numba_cpu.lower.choices import Answer, Decision, Question
from leptonc.backends.numba_cpu.lower.questions import FAR, Reuse
from leptonc.backends.numba_cpu.schedule import Scratch, Slot, Step, TorchStep
from leptonc.backends.numba_cpu.views import Buffer, Ref, View, dense, ordered, row_major
from leptonc.errors import ClaimError
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.dims import Dim
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.types import DType
from leptonc.runtime.slabs import Slabs

ALIGN = 64  # bytes; a cache line, and the widest vector register
STATUS_WORDS = 64
Make = Callable[[], np.ndarray]
_NOTHING = aligned_empty((0,))  # stands for an array that is made later


@dataclass
class ConstPool:
    """Constants of one compiled model, packed at most once, shared by every set of sizes."""

    arrays: list[np.ndarray] = field(default_factory=list[np.ndarray])
    buffers: list[Buffer] = field(default_factory=list[Buffer])
    known: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    owners: list[object] = field(default_factory=list[object])  # keeps ids in ``known`` unique
    stored: list[np.ndarray] = field(default_factory=list[np.ndarray])  # from a cache, in order
    # Packed while candidates were timed; taken out when it is asked for.
    spare: dict[Hashable, np.ndarray] = field(default_factory=dict[Hashable, np.ndarray])
    fetch: Fetch = at_hand  # how large constants are read
    put_off: bool = False  # what is made of weights is made by ``made``, not when it is asked for
    waiting: dict[int, Make] = field(default_factory=dict[int, Make])  # what was put off
    slabs: Slabs = field(default_factory=Slabs)  # where weights lie

    def get(self, key: Hashable, make: Make, owner: object = None, *, now: bool = False) -> Buffer:
        """Return the buffer of the array that ``make`` gives, made once per ``key``.

        Args:
            key: what tells it apart.
            make: gives it; may be called later, so it should hold on to little.
            owner: what its elements come from; None: from no constant of the model.
            now: its size is asked for, it cannot be put off.
        """
        at = self.known.get(key)
        if at is None:
            at = self.known[key] = len(self.arrays)
            later = self.put_off and owner is not None and not now
            array = _NOTHING if later else self._made(key, at, make, owner)
            if later:
                self.waiting[at] = make
            self.arrays.append(array)
            self.buffers.append(Buffer("const", array.nbytes, at))
            self.owners.append(owner)
        return self.buffers[at]

    def _made(self, key: Hashable, at: int, make: Make, owner: object) -> np.ndarray:
        array = self.spare.pop(key, None)
        if array is None and at < len(self.stored):
            # Lowering is deterministic: the n-th constant it asks for is the n-th that was stored.
            return self.stored[at]
        if array is None:
            array = aligned(make(), self.fetch)
        return array if owner is None else self.slabs.placed(array)

    def made(self) -> Iterator[tuple[int, np.ndarray]]:
        """Make what was put off, one after the other: the number of a constant, and its array."""
        for at in list(self.waiting):
            yield at, aligned(self.waiting[at](), self.fetch)
            del self.waiting[at]

    def trim(self) -> None:
        """Forget the latest arrays that belong to no constant of the model but to one set of sizes.

        A schedule keeps its own; the pool would grow with every size it ever saw.
        """
        while self.owners and self.owners[-1] is None:
            self.known.popitem()  # the latest
            for column in (self.arrays, self.buffers, self.owners):
                column.pop()


def aligned(array: np.ndarray, fetch: Fetch = at_hand) -> np.ndarray:
    """Return ``array`` contiguous at a 64-byte boundary with a vector's slack behind it.

    What lies in a file comes through ``fetch``, piece by piece (see ``pack_matrix``).
    """
    if _has_room(array):
        return array
    out = aligned_empty(array.shape, array.dtype.type)
    copy_by_pieces(out, array, fetch)
    return out


def _has_room(array: np.ndarray) -> bool:
    """Return whether :func:`aligned_empty` made ``array``."""
    base = array.base
    if not isinstance(base, np.ndarray) or base.dtype != np.uint8 or not array.flags.c_contiguous:
        return False
    start, end = array.ctypes.data, array.ctypes.data + array.nbytes
    return start % ALIGN == 0 and base.ctypes.data + base.nbytes - end >= ALIGN


@dataclass
class Lowering:
    """Grows the steps of one schedule; ``unit`` is the index of the unit being lowered."""

    pool: ConstPool
    threads: int
    precision: str = "fp32"
    reuse: Reuse = FAR  # of the network's weights
    unit: int = 0
    note: str = ""
    steps: list[Step | TorchStep] = field(default_factory=list[Step | TorchStep])
    views: dict[Value, View] = field(default_factory=dict[Value, View])
    outputs: dict[Value, View] = field(default_factory=dict[Value, View])
    errors: list[str] = field(default_factory=list[str])
    scratch_bytes: int = 0
    in_bands: bool = False  # convolutions become parts of a banded step: as products, or depthwise
    makers: dict[Value, Op] = field(default_factory=dict[Value, Op])
    data: dict[Value, Op] = field(default_factory=dict[Value, Op])  # constants outside units
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])  # by question
    decisions: list[Decision] = field(default_factory=list[Decision])  # of the current unit
    ranges: dict[Value, Range] = field(default_factory=dict[Value, Range])  # of codes

    def note_way(self, way: str, why: str) -> None:
        """Note how the current unit is computed where there was nothing to choose."""
        question = Question(f"{way}: {why}", {way: 0.0})
        self.decisions.append(Decision(question, Answer(way, why)))

    def decide(self, question: Question) -> str:
        """Return the candidate to lower, and note why."""
        answer = choices.answer(question, self.answers)
        self.decisions.append(Decision(question, answer))
        return answer.chosen

    # -- operands ---------------------------------------------------------------------------------

    def view(self, value: Value) -> View:
        """Return where ``value`` lies; constants are placed on first use. Raises ClaimError."""
        found = self.views.get(value)
        if found is None and (const := self.constant(value)) is not None:
            found = self.views[value] = self._place(const)
        elif found is None and (fill := self._full(value)) is not None:
            found = self.views[value] = self._splat_view(fill)
        if found is None:
            raise ClaimError(
                f"{value.hint or 'a value'}: {value.type} is read before it is lowered"
            )
        return found

    def maker(self, value: Value) -> Op | None:
        """Return the op of the current unit that makes ``value``; None for a unit's operand."""
        return self.makers.get(value)

    def constant(self, value: Value) -> Const | None:
        """Return the constant that ``value`` is, if it is one."""
        op = self.makers.get(value)
        return op.kind.const if op is not None and isinstance(op.kind, Constant) else None

    def array(self, value: Value) -> np.ndarray | None:
        """Return a constant's data row-major in its dtype (bf16 as f32); None if it is none."""
        const = self.constant(value)
        return None if const is None else meaning.array_of(const)

    def elements(self, value: Value) -> np.ndarray | None:
        """Return what ``array`` does without a copy: where ``value`` lies, of any strides."""
        const = self.constant(value)
        return None if const is None else meaning.elements_of(const)

    def splat(self, value: Value) -> bool | float | Dim | None:
        """Return the number that fills ``value`` if it is a ``Full``; None if it is not."""
        fill = self._full(value)
        return None if fill is None else fill.value

    def _full(self, value: Value) -> Full | None:
        op = self.makers.get(value)
        return op.kind if op is not None and isinstance(op.kind, Full) else None

    def _place(self, const: Const) -> View:
        key = ("raw", id(const.payload))
        buffer = self.pool.get(key, lambda: meaning.raw_elements(const), const)
        return dense(buffer, const.type)

    def _splat_view(self, fill: Full) -> View:
        # One element, broadcast by stride 0: a Full never occupies its whole shape.
        key = ("full", fill.dtype, repr(fill.value))
        one = Full((1,), fill.value, fill.dtype)
        buffer = self.pool.get(key, lambda: meaning.raw_filled(one))
        shape = tuple(int(d) for d in fill.shape)
        return View(buffer, fill.dtype, shape, (0,) * len(shape))

    # -- results ----------------------------------------------------------------------------------

    def out(self, value: Value) -> View:
        """Return fresh storage for ``value`` in its layout: the caller's if it is returned."""
        view = self.views[value] = self.outputs.get(value) or self.new(value)
        return view

    def new(self, value: Value) -> View:
        """Return fresh arena storage that fits ``value`` in its layout."""
        shape = tuple(int(d) for d in value.type.shape)
        order = value.type.layout or tuple(range(len(shape)))
        return self.temp(value.type.dtype, shape, ordered(shape, order), value.hint)

    def alias(self, value: Value, view: View) -> None:
        """Say that ``value`` is ``view``: no data moves."""
        self.views[value] = view

    def temp(
        self,
        dtype: DType,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        note: str = "",
    ) -> View:
        """Return fresh arena storage, dense; it dies with its last reader."""
        count = 1
        for n in shape:
            count *= n
        # A vector's slack: kernels may load (never use) a little beyond the last element.
        buffer = Buffer("arena", count * dtype.nbytes + ALIGN, note=note)
        return View(buffer, dtype, tuple(shape), tuple(strides or row_major(shape)))

    def packed(self, key: Hashable, make: Make, owner: object = None, *, now: bool = False) -> Ref:
        """Return the address of a constant array made once per ``key`` (include ids in the key)."""
        return Ref(self.pool.get(key, make, owner, now=now))

    def scratch(self, nbytes: int, at: int = 0) -> tuple[Scratch, Scratch]:
        """Reserve ``nbytes`` per thread from byte ``at``; return the slots (address, stride)."""
        nbytes = -(-nbytes // ALIGN) * ALIGN
        self.scratch_bytes = max(self.scratch_bytes, at + nbytes)
        return Scratch(at, nbytes), Scratch(at, nbytes, stride=True)

    def status(self, message: str) -> Ref:
        """Return the address of an int64; a kernel sets it to raise ``IndexError(message)``."""
        if message not in self.errors:
            self.errors.append(message)
        index = min(self.errors.index(message), STATUS_WORDS - 1)
        return Ref(_STATUS, 8 * index)

    # -- steps ------------------------------------------------------------------------------------

    def step(
        self,
        kernel: Kernel,
        slots: Iterable[Slot],
        reads: Iterable[View | Ref] = (),
        writes: Iterable[View | Ref] = (),
        *,
        serial: bool = False,
        note: str = "",
    ) -> None:
        """Append a kernel call. ``reads``/``writes`` drive memory reuse: name every buffer."""
        self.steps.append(
            Step(
                kernel,
                tuple(slots),
                tuple(v.buffer for v in reads),
                tuple(v.buffer for v in writes),
                self.unit,
                serial,
                note=note or self.note,
            )
        )

    def torch(
        self, body: Function, inputs: Sequence[View], results: Sequence[Value], why: str
    ) -> None:
        """Run ``body`` through torch on ``inputs``, into fresh storage of ``results``."""
        outs = tuple(self.out(v) for v in results)
        self.steps.append(TorchStep(body, tuple(inputs), outs, self.unit, why, self.note))


_STATUS = Buffer("status", 8 * STATUS_WORDS)
