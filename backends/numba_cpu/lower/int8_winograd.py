"""numba_cpu > lower > int8_winograd: a convolution of codes by Winograd's algorithm as a step."""

from __future__ import annotations

import math
from typing import Any

from leptonc.backends.numba_cpu.kernels import int8_winograd_plan as winograd_plan
from leptonc.backends.numba_cpu.kernels.int8_gemm import Int8Gemm
from leptonc.backends.numba_cpu.kernels.int8_winograd import (
    Int8Winograd,
    int8_winograd,
    scratch_bytes,
)
from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import Form
from leptonc.backends.numba_cpu.lower.int8_job import Job, emit
from leptonc.backends.numba_cpu.views import View


def emit_winograd(
    job: Job, form: Form, call: Int8Gemm, x: View, padding: tuple[int, int]
) -> None:  # fmt: skip
    """Append the step of ``call``, the direct convolution's record with all strides set.

    ``call.zero_row`` must be there; ``padding``: lines above the image, pixels left of it.
    """
    channels, columns = x.shape[1], job.out.shape[1]
    tiles = x.shape[0] * math.prod(-(-n // form.m) for n in job.out.shape[2:])
    block = winograd_plan.tile_block(form, tiles, channels)
    size = scratch_bytes(form.m, block, winograd_plan.pitch(channels), columns)
    values: dict[str, Any] = vars(call) | {
        "depth": winograd_plan.pairs(channels), "row_block": block, "scratch_bytes": size,
        "m": form.m, "channels": channels, "pad_y": padding[0], "pad_x": padding[1],
    }  # fmt: skip
    b = job.packed(
        "int_winograd", lambda: winograd_plan.transform_weights(form, job.weight), form.m
    )
    emit(job, Int8Winograd(**values), x, {"b": b}, 1, int8_winograd)
