"""numba_cpu > lower > banded: a depthwise convolution with its neighbours as one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leptonc.backends.numba_cpu.kernels import banded as kb
from leptonc.backends.numba_cpu.kernels import depthwise as dw
from leptonc.backends.numba_cpu.kernels import igemm_record as ig
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.pack import pad_image
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.legal import No
from leptonc.backends.numba_cpu.lower.contract import claim, function_of, lower_contract
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import match
from leptonc.backends.numba_cpu.schedule import Slot, Step, TorchStep
from leptonc.backends.numba_cpu.views import Buffer
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant, Full

CACHE_BYTES = 320 * 1024  # what the lines between the kernels may take of a second-level cache


def lower_banded(ctx: Lowering, body: Function) -> bool:
    """Lower a chain of convolutions with their epilogues; one step if they are of that form.

    Returns:
        False if the body is no such chain; nothing has been lowered then.
    """
    parts = _parts(body)
    found = [match(ctx, part) for part in parts]
    if any(f is None or isinstance(claim(f[0]), No) for f in found):
        return False
    mark, scratch = len(ctx.steps), ctx.scratch_bytes
    ctx.scratch_bytes, ctx.in_bands = 0, True
    try:
        for part in parts:
            lower_contract(ctx, part)
    finally:
        ctx.in_bands = False
    first = ctx.steps[mark]
    if isinstance(first, Step) and first.kernel is pad_image:
        mark += 1  # the image that the first convolution of a network reads: small, made at once
    step = _one_step(ctx, ctx.steps[mark:])
    if step is not None:
        ctx.steps[mark:] = [step]
    ctx.scratch_bytes = max(scratch, ctx.scratch_bytes)
    return True


def _parts(body: Function) -> list[Function]:
    """Return a function for each convolution of ``body`` and what follows it up to the next."""
    groups: list[list[Op]] = []
    for op in body.ops:
        if isinstance(op.kind, (Constant, Full)):
            continue
        if isinstance(op.kind, Conv) or not groups:
            groups.append([])
        groups[-1].append(op)
    return [function_of(body, ops) for ops in groups]


@dataclass(frozen=True)
class _Chain:
    """The steps of a chain and their records by name."""

    expand: Step | None
    window: Step
    project: Step | None

    @property
    def steps(self) -> list[Step]:
        """Those that exist, in order."""
        return [s for s in (self.expand, self.window, self.project) if s is not None]


def _chain(steps: Sequence[Step | TorchStep]) -> _Chain | None:
    """Return ``[igemm,] depthwise [, igemm]`` if the steps are that and each feeds the next."""
    found: list[Step] = []
    for step in steps:
        if isinstance(step, TorchStep) or step.kernel not in (igemm, dw.depthwise):
            return None
        if found and found[-1].writes[0] not in step.reads:
            return None
        found.append(step)
    at = [i for i, s in enumerate(found) if s.kernel is dw.depthwise]
    if len(found) < 2 or len(at) != 1 or at[0] > 1 or len(found) - at[0] > 2:
        return None
    before = found[0] if at[0] else None
    after = found[at[0] + 1] if len(found) > at[0] + 1 else None
    return _Chain(before, found[at[0]], after)


def _is_pointwise(step: Step | None) -> bool:
    """Return whether a product is a 1x1 convolution that reads every pixel of images."""
    if step is None:
        return True
    s = step.slots
    plain = (ig.OUTER0, ig.OUTER1, ig.TAPS, ig.STEP_Z, ig.STEP_Y, ig.STEP_X)
    return all(s[i] == 1 for i in plain) and s[ig.TAP_TABLE] == 0


def _has_taps(step: Step | None) -> bool:
    """Return whether a product is an ungrouped convolution of images with a table of taps."""
    if step is None:
        return False
    s = step.slots
    return all(s[i] == 1 for i in (ig.OUTER0, ig.OUTER1, ig.STEP_Z)) and s[ig.TAP_TABLE] != 0


def _ints(step: Step, slots: Sequence[int]) -> list[int]:
    """Return slots of a record that hold sizes."""
    values = [step.slots[i] for i in slots]
    return [int(v) for v in values if isinstance(v, int)]


def _one_step(ctx: Lowering, steps: Sequence[Step | TorchStep]) -> Step | None:
    """Return the steps of a chain as one banded step; None if they are of another form."""
    chain = _chain(steps)
    if chain is None or not _is_pointwise(chain.project):
        return None
    if not (_is_pointwise(chain.expand) or _has_taps(chain.expand)):
        return None
    w = chain.window.slots
    if any(w[i] != 1 for i in (dw.IN_D, dw.OUT_D, dw.KERNEL_Z, dw.DILATION_Y)):
        return None
    pixels = [w[dw.X_X]] * (chain.expand is not None) + [w[dw.OUT_X]] * (chain.project is not None)
    if any(step != w[dw.CHANNELS] for step in pixels):
        return None
    channels, in_w, out_w, kernel_y, stride_y, batch, out_h = _ints(
        chain.window,
        (dw.CHANNELS, dw.IN_W, dw.OUT_W, dw.KERNEL_Y, dw.STRIDE_Y, dw.BATCH, dw.OUT_H),
    )
    # A product of one row adds up in another order than one of many: a band must not be one.
    if 1 in [in_w] * (chain.expand is not None) + [out_w] * (chain.project is not None):
        return None
    inner = 0 if chain.expand is None else -(-channels * in_w // LANES) * LANES
    outer = 0 if chain.project is None else -(-channels * out_w // LANES) * LANES
    fixed, each = (kernel_y - stride_y) * inner, stride_y * inner + outer
    band = max(1, (CACHE_BYTES // 4 - fixed) // each)
    band = min(band, -(-batch * out_h // ctx.threads))
    work = ctx.scratch_bytes
    lines = kb.inner_lines(band, kernel_y, stride_y)
    taps = 0 if chain.expand is None else _ints(chain.expand, (ig.TAPS,))[0]
    _, stride = ctx.scratch(kb.work_bytes(lines * inner, band * outer, taps), work)
    base, _ = ctx.scratch(0)
    values: dict[str, Slot] = {
        "expand": 0 if chain.expand is None else igemm, "depthwise": dw.depthwise,
        "project": 0 if chain.project is None else igemm, "band": band,
        "inner_line": inner, "outer_line": outer, "scratch": base, "scratch_bytes": stride,
        "work": work,
    }  # fmt: skip
    slots = [values[name] for name in kb.NAMES]
    inside = {s.writes[0] for s in chain.steps[:-1]}
    reads: list[Buffer] = []
    for s in chain.steps:
        slots += s.slots
        reads += [b for b in s.reads if b not in inside]
    last = chain.steps[-1]
    return Step(kb.banded, tuple(_without(slots, inside)), tuple(reads), last.writes, last.unit,
                note=last.note)  # fmt: skip


def _without(slots: Sequence[Slot], inside: set[Buffer]) -> list[Slot]:
    """Return ``slots`` with 0 for the addresses of buffers that are not needed any more."""
    return [0 if getattr(s, "buffer", None) in inside else s for s in slots]
