"""numba_cpu > kernels > winograd_calls: the transforms of Winograd convolution, for its driver.

One function for all forms each, a part (:mod:`part`) that the driver calls by its symbol.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.vectype import F32, I64, i64, shared_function
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, Form
from leptonc.backends.numba_cpu.kernels.winograd_transform import (
    emit_border,
    emit_input,
    emit_output,
    emit_pooled,
)


def _switch(
    name: str, forms: Sequence[Form], params: list[ir.Type], emit, b: ir.IRBuilder, *args: ir.Value
) -> None:
    """Write the choice among ``forms`` by place in ``FORMS``, which is the first argument."""
    end = b.append_basic_block("end")
    place, *rest = args
    switch = b.switch(place, end)
    for form in forms:
        at = FORMS.index(form)
        block = b.append_basic_block(f"form_{at}")
        switch.add_case(i64(at), block)
        b.position_at_end(block)
        body = functools.partial(emit, form)
        b.call(shared_function(b.module, f"{name}_{at}", ir.VoidType(), params, body), rest)
        b.branch(end)
    b.position_at_end(end)


_INPUT, _BORDER = [I64] * 8, [I64] * 13
_OUTPUT, _POOLED = [*[I64] * 9, F32, F32, I64], [*[I64] * 6, F32, F32, I64]


@part("wino_in", [I64, *_INPUT])
def INPUT(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write :func:`transform_input` of all forms."""
    _switch("lep_wino_in", FORMS, _INPUT, emit_input, b, *args)


@part("wino_edge", [I64, *_BORDER])
def BORDER(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write :func:`transform_border` of all forms."""
    _switch("lep_wino_edge", FORMS, _BORDER, emit_border, b, *args)


@part("wino_out", [I64, *_OUTPUT])
def OUTPUT(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write :func:`transform_output` of all forms."""
    _switch("lep_wino_out", FORMS, _OUTPUT, emit_output, b, *args)


@part("wino_pooled", [I64, *_POOLED])
def POOLED(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write :func:`transform_pooled` of the forms whose tiles are whole pairs of lines."""
    forms = [form for form in FORMS if form.pools]
    _switch("lep_wino_pooled", forms, _POOLED, emit_pooled, b, *args)


PARTS = (BORDER, INPUT, OUTPUT, POOLED)


@intrinsic
def transform_input(typingctx, form, src, y_step, x_step, dst, step, count, dst_step, phase_step):
    """Write ``BT d B`` of one tile, ``count`` (at least 1) vectors of channels.

    ``form``: the place of one in ``FORMS``. ``src``: the address of pixel (0, 0), ``y_step`` and
    ``x_step`` the bytes from line to line and from pixel to pixel. ``dst``: where plane 0 goes,
    ``step`` the bytes from plane to plane, ``dst_step`` from vector to vector, ``phase_step`` from
    phase to phase within a plane.
    """
    return types.void(*(types.int64,) * 9), INPUT.code


@intrinsic
def transform_border(
    typingctx, form, src, y_step, x_step, dst, step, count, dst_step, phase_step,
    i0, i1, j0, j1, zeros,
):  # fmt: skip
    """As :func:`transform_input`, of a tile of which only part lies in the image.

    Lines ``i0`` to ``i1`` and pixels ``j0`` to ``j1`` of them are read; in place of the others,
    ``count`` vectors at ``zeros``.
    """
    return types.void(*(types.int64,) * 14), BORDER.code


@intrinsic
def transform_output(
    typingctx, form, src, step, dst, dst_y, dst_x, bias, res, res_y, res_x, low, high, count
):
    """Write ``AT M A`` plus bias and residual, within bounds: ``count`` vectors of one tile.

    ``form``: the place of one in ``FORMS``. ``src``: the address of plane 0, the planes ROWS
    vectors apart; ``step``: the bytes from vector to vector. ``dst``, ``res``: addresses of the
    first pixel, their ``_y`` and ``_x`` the bytes from line to line and pixel to pixel; ``bias``:
    address; ``res`` and ``bias`` may be 0. ``low``, ``high``: float32 bounds of the result.
    """
    numbers = (types.int64,) * 10
    sig = types.void(*numbers, types.float32, types.float32, types.int64)
    return sig, OUTPUT.code


@intrinsic
def transform_pooled(typingctx, form, src, step, dst, dst_y, dst_x, bias, low, high, count):
    """As :func:`transform_output` without a residual; the largest of each two by two is written.

    ``dst_y``, ``dst_x``: the bytes from line to line and from pixel to pixel of what is written.
    """
    numbers = (types.int64,) * 7
    sig = types.void(*numbers, types.float32, types.float32, types.int64)
    return sig, POOLED.code
