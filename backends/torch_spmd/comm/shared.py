"""torch_spmd > comm > shared: the collectives of ranks on one host, through memory they share.

The fast path between processes on one machine; :mod:`reference` is what it is compared with. Only
CPU tensors. The memory is a segment of zeros that all ranks map, see :func:`segment_size`; threads
of one process may also be ranks.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leptonc.backends.numba_cpu import collective as native
from leptonc.backends.torch_spmd.comm import forms
from leptonc.backends.torch_spmd.comm.forms import Form
from leptonc.backends.torch_spmd.comm.layout import Block, even_cuts
from leptonc.runtime.group.comm import CommError, PeerError
from leptonc.runtime.group.mailbox import DTYPES

SLOT_BYTES = 256 << 10  # of a rank and round: what all ranks have in flight stays in their caches
SPLIT_BYTES = 64 << 10  # from here on ranks that are more than two each add a part of a sum
_PAUSES = 1500  # some 20 us of spinning before a rank sleeps
_MOST_PLANS = 512
_ALIGN = 64

# How values of a type are combined: as which type, by which name of a kernel.
_DIRECT = {
    torch.float32: "f32", torch.float64: "f64", torch.int64: "i64", torch.int32: "i32",
    torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
}  # fmt: skip
_HALVES = (torch.float16, torch.bfloat16)
_BOOL = {"sum": "max", "max": "max", "min": "min"}


def segment_size(world: int, slot_bytes: int = SLOT_BYTES) -> int:
    """Return the bytes of shared memory that ``world`` ranks need."""
    return native.segment_bytes(world, slot_bytes)


@dataclass(frozen=True)
class _Plan:
    """A form as the native exchange reads it, and the form's result."""

    words: np.ndarray
    record: np.ndarray | None
    result: tuple[int, ...]


class SharedComm:
    """The collectives of one rank over a shared segment; for one thread at a time.

    Args:
        memory: address of the segment, zeros before the first rank uses it.
        rank: this rank's number.
        world: number of ranks.
        deadline_s: how long to wait for another rank in one exchange, in seconds.
        keep: what holds the memory.
        slot_bytes: bytes of a slot, the same for all ranks.
        crowded: there are fewer cores than ranks, so spinning is in the way.
    """

    def __init__(
        self,
        memory: int,
        rank: int,
        world: int,
        *,
        deadline_s: float = 60.0,
        keep: object = None,
        slot_bytes: int = SLOT_BYTES,
        crowded: bool = False,
    ) -> None:
        self.rank = rank
        self.world = world
        self._keep = keep
        self._slot_bytes = slot_bytes
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._state = np.zeros(native.STATE_WORDS, np.int64)
        self._state[native.SEGMENT] = memory
        self._state[native.RANK] = rank
        self._state[native.WORLD] = world
        self._state[native.SLOT_BYTES] = slot_bytes
        self._state[native.PAUSES] = 0 if crowded else _PAUSES
        self._state[native.SLEEP + 1] = native.SLEEP_NS
        self._state[native.PATIENCE_NS] = int(deadline_s * 1e9)

    def prepare(self) -> None:
        """Compile or load the native code, which the first exchange would otherwise do."""
        _ = native.exchange.address, native.abort.address
        _ = native.combining("sum", "f32").address

    def abort(self) -> None:
        """Let every rank's exchange fail: this rank will not take part any more."""
        native.abort(self._state)

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`; adds 16-bit floats in float32."""
        forms.check_op(op)
        if self.world == 1:
            return x.clone()
        if x.dtype in _HALVES:
            return self.all_reduce(x.float(), op).to(x.dtype)
        if x.dtype == torch.bool:
            return self.all_reduce(x.view(torch.uint8), _BOOL[op]).view(torch.bool)
        if self.world > 2 and op == "sum" and x.nbytes >= SPLIT_BYTES:
            return self._split_sum(x)
        shape = tuple(x.shape)
        key = (1, op, x.dtype, shape)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._keep_plan(key, forms.all_reduce(shape, op, self.world), x, op)
        return self._run(plan, x)

    def all_gather(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`."""
        shape = tuple(x.shape)
        key = (2, axis, cuts, x.dtype, shape)
        plan = self._plans.get(key)
        if plan is None:
            form = forms.all_gather(shape, axis, cuts, self.rank, self.world)
            plan = self._keep_plan(key, form, x, None)
        return x.clone() if self.world == 1 else self._run(plan, x)

    def reduce_scatter(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`; adds 16-bit floats in float32."""
        if x.dtype in _HALVES:
            return self.reduce_scatter(x.float(), axis, cuts).to(x.dtype)
        if x.dtype == torch.bool:
            return self._scatter(x.view(torch.uint8), axis, cuts, "max").view(torch.bool)
        return self._scatter(x, axis, cuts, "sum")

    def all_to_all(
        self,
        x: Tensor,
        split: int,
        split_cuts: tuple[int, ...],
        join: int,
        join_cuts: tuple[int, ...],
    ) -> Tensor:
        """See :class:`leptonc.runtime.group.comm.Comm`."""
        shape = tuple(x.shape)
        key = (4, split, split_cuts, join, join_cuts, x.dtype, shape)
        plan = self._plans.get(key)
        if plan is None:
            form = forms.all_to_all(
                shape, split, split_cuts, join, join_cuts, self.rank, self.world
            )
            plan = self._keep_plan(key, form, x, None)
        return x.clone() if self.world == 1 else self._run(plan, x)

    def barrier(self) -> None:
        """Return once every rank has called this."""
        self.all_gather(_NOTHING, 0, (0,) * (self.world + 1))

    def _scatter(self, x: Tensor, axis: int, cuts: tuple[int, ...], op: str) -> Tensor:
        shape = tuple(x.shape)
        key = (3, axis, cuts, op, x.dtype, shape)
        plan = self._plans.get(key)
        if plan is None:
            form = forms.reduce_scatter(shape, axis, cuts, self.rank, self.world)
            plan = self._keep_plan(key, form, x, op)
        return x.clone() if self.world == 1 else self._run(plan, x)

    def _split_sum(self, x: Tensor) -> Tensor:
        """Return the sum, of which every rank has added a part: fewer bytes pass by."""
        cuts = even_cuts(x.numel(), self.world)
        mine = self._scatter(x.reshape(-1), 0, cuts, "sum")
        return self.all_gather(mine, 0, cuts).view(x.shape)

    def _keep_plan(self, key: tuple[object, ...], form: Form, x: Tensor, op: str | None) -> _Plan:
        """Return the plan of a form, kept for the next call; the least recent half may go."""
        if x.device.type != "cpu":
            raise CommError(
                f"a tensor on {x.device} cannot go through shared memory: expected one on the CPU; "
                "use the gloo or nccl backend"
            )
        if len(self._plans) >= _MOST_PLANS:
            for old in list(self._plans)[: _MOST_PLANS // 2]:
                del self._plans[old]
        plan = self._plans[key] = self._plan(form, x.dtype, op)
        return plan

    def _plan(self, form: Form, dtype: torch.dtype, op: str | None) -> _Plan:
        """Return ``form`` as words."""
        size = dtype.itemsize
        piece = self._slot_bytes // len(form.sent) // _ALIGN * _ALIGN
        rounds = max(1, math.ceil(form.most * size / piece))
        kernel, record = 0, None
        if op is not None:
            kernel = _combining(op, dtype)
            record = np.zeros(native.COMBINE_WORDS + self.world, np.int64)
            record[2] = self.world
        kind = DTYPES.index(dtype) if dtype in DTYPES else -1
        mark = forms.fingerprint(form.fingerprint, size, kind)
        head = (
            self._state.ctypes.data, 0, 0, mark, rounds, len(form.sent), piece, kernel,
            0 if record is None else record.ctypes.data,
        )  # fmt: skip
        blocks = [_block_words(b, size) for b in (*form.sent, *form.received)]
        words = np.array([*head, *(w for b in blocks for w in b)], np.int64)
        return _Plan(words, record, form.result)

    def _run(self, plan: _Plan, x: Tensor) -> Tensor:
        """Return the result of a plan."""
        if not x.is_contiguous():
            x = x.contiguous()
        out = torch.empty(plan.result, dtype=x.dtype)
        plan.words[native.SOURCE] = x.data_ptr()
        plan.words[native.TARGET] = out.data_ptr()
        native.exchange(plan.words)
        if self._state[native.STATUS]:
            raise self._failure()
        return out

    def _failure(self) -> PeerError:
        """Return the error that the state tells of; the communicator is of no use from then on."""
        culprit, seconds = int(self._state[native.CULPRIT]), self._state[native.PATIENCE_NS] / 1e9
        text = {
            native.ABORTED: f"rank {culprit} has given up",
            native.LATE: f"rank {culprit} did not come within {seconds:g} s",
            native.MISMATCH: f"rank {culprit} runs another collective, or one of other sizes: all "
            "ranks must call the same ones in the same order",
        }[int(self._state[native.STATUS])]
        return PeerError(f"rank {self.rank} waited in a collective: {text}")


_NOTHING = torch.empty(0, dtype=torch.uint8)


def _block_words(block: Block, size: int) -> tuple[int, ...]:
    return tuple(n * size for n in (block.offset, block.count, block.width, block.step))


@functools.cache
def _combining(op: str, dtype: torch.dtype) -> int:
    """Return the address of the kernel that combines values of a type.

    Raises:
        CommError: values of this type cannot be combined.
    """
    name = _DIRECT.get(dtype)
    if name is None:
        known = sorted(str(d) for d in (*_DIRECT, *_HALVES, torch.bool))
        raise CommError(f"{op} of {dtype}: expected one of {', '.join(known)}")
    return native.combining(op, name).address
