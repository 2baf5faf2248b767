"""numba_cpu > kernels > winograd_calls: the transforms of Winograd convolution, for its driver.

A part (:mod:`part`) for each form, compiled when a network has such a convolution: the driver finds
its address in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vectype import F32, I64
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, Form
from leptonc.backends.numba_cpu.kernels.winograd_transform import (
    emit_border,
    emit_input,
    emit_output,
    emit_pooled,
)

_INPUT, _BORDER = [I64] * 8, [I64] * 13
_OUTPUT, _POOLED = [*[I64] * 9, F32, F32, I64], [*[I64] * 6, F32, F32, I64]


@dataclass(frozen=True)
class Transforms:
    """The transforms of one form: of inputs, of those at a border, of outputs, of pooled ones.

    There is no ``pooled`` where tiles are not whole pairs of lines.
    """

    read: Part
    edge: Part
    write: Part
    pooled: Part | None

    @property
    def inside(self) -> tuple[Part, Part]:
        """Those of tiles that lie in the image."""
        return self.read, self.write

    @property
    def needed(self) -> tuple[Part, Part, Part]:
        """Those that every convolution of this form needs."""
        return self.edge, self.read, self.write

    def slots(self, pool: int) -> dict[str, Part | int]:
        """Return what the record says of them; ``pool`` as there."""
        pooled = self.pooled if pool == 2 and self.pooled is not None else 0
        return {"read": self.read, "edge": self.edge, "write": self.write, "pooled": pooled}


def name_of(form: Form, what: str) -> str:
    """Return the name of a part of a form."""
    (y, x), by = form, f"_by{form.stride}" if form.stride > 1 else ""
    return f"wino_{what}_{y.m}x{x.m}_{y.taps}x{x.taps}{by}"


def _part(name: str, params: list[ir.Type], emit: Callable[..., None], form: Form) -> Part:
    """Return the part that is one transform of ``form``."""

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        emit(form, b, *args)

    return part(name_of(form, name), params)(body)


TRANSFORMS: Mapping[Form, Transforms] = {
    form: Transforms(
        _part("in", _INPUT, emit_input, form),
        _part("edge", _BORDER, emit_border, form),
        _part("out", _OUTPUT, emit_output, form),
        _part("pooled", _POOLED, emit_pooled, form) if form.pools else None,
    )
    for form in FORMS
}


def call_of(params: list[ir.Type]) -> Callable[..., Any]:
    """Return the code of an intrinsic that takes the address of a part and its arguments."""
    kind = ir.FunctionType(ir.VoidType(), params)

    def code(context: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> Any:
        address, *rest = args
        b.call(b.inttoptr(address, kind.as_pointer()), rest)
        return context.get_dummy_value()

    return code


_CALL_INPUT, _CALL_BORDER = call_of(_INPUT), call_of(_BORDER)
_CALL_OUTPUT, _CALL_POOLED = call_of(_OUTPUT), call_of(_POOLED)


@intrinsic
def transform_input(typingctx, code, src, y_step, x_step, dst, step, count, dst_step, phase_step):
    """Write ``BT d B`` of one tile, ``count`` (at least 1) vectors of channels.

    ``code``: the address of the form's transform. ``src``: the address of pixel (0, 0), ``y_step``
    and ``x_step`` the bytes from line to line and from pixel to pixel. ``dst``: where plane 0 goes,
    ``step`` the bytes from plane to plane, ``dst_step`` from vector to vector, ``phase_step`` from
    phase to phase within a plane.
    """
    return types.void(*(types.int64,) * 9), _CALL_INPUT


@intrinsic
def transform_border(
    typingctx, code, src, y_step, x_step, dst, step, count, dst_step, phase_step,
    i0, i1, j0, j1, zeros,
):  # fmt: skip
    """As :func:`transform_input`, of a tile of which only part lies in the image.

    Lines ``i0`` to ``i1`` and pixels ``j0`` to ``j1`` of them are read; in place of the others,
    ``count`` vectors at ``zeros``.
    """
    return types.void(*(types.int64,) * 14), _CALL_BORDER


@intrinsic
def transform_output(
    typingctx, code, src, step, dst, dst_y, dst_x, bias, res, res_y, res_x, low, high, count
):
    """Write ``AT M A`` plus bias and residual, within bounds: ``count`` vectors of one tile.

    ``code``: the address of the form's transform. ``src``: the address of plane 0, the planes ROWS
    vectors apart; ``step``: the bytes from vector to vector. ``dst``, ``res``: addresses of the
    first pixel, their ``_y`` and ``_x`` the bytes from line to line and pixel to pixel; ``bias``:
    address; ``res`` and ``bias`` may be 0. ``low``, ``high``: float32 bounds of the result.
    """
    numbers = (types.int64,) * 10
    sig = types.void(*numbers, types.float32, types.float32, types.int64)
    return sig, _CALL_OUTPUT


@intrinsic
def transform_pooled(typingctx, code, src, step, dst, dst_y, dst_x, bias, low, high, count):
    """As :func:`transform_output` without a residual; the largest of each two by two is written.

    ``dst_y``, ``dst_x``: the bytes from line to line and from pixel to pixel of what is written.
    """
    numbers = (types.int64,) * 7
    sig = types.void(*numbers, types.float32, types.float32, types.int64)
    return sig, _CALL_POOLED
