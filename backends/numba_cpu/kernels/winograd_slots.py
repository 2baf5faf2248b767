"""numba_cpu > kernels > winograd_slots: the record of :mod:`winograd`."""

from __future__ import annotations

NAMES = (
    "read", "edge", "write", "pooled", "line", "products", "low", "half", "block",
    "stride", "m_y", "m_x", "n_y", "n_x", "side_y", "side_x",
    "x", "x_b", "x_y", "x_x", "batch", "in_h", "in_w", "channels", "steps", "columns",
    "pad_y", "pad_x", "out_h", "out_w", "out", "out_b", "out_y", "out_x", "weights", "bias",
    "res", "res_b", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1", "pool",
    "tile_block", "panel_block", "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: the addresses of the form's transforms, ``pooled`` or 0, ``edge``
0 where all tiles lie in the image (:class:`winograd_calls.Transforms`); where weights are
transformed late the address of what makes the planes of a line, or of few tiles those of their
products, of the products of a smaller group, and of what makes half-lines or 0, and a block of
channels, else 0 (:class:`winograd_late.Late`); its stride, 1 or 2, and the sides of its tiles of
outputs, transformed and of inputs (:func:`winograd_plan.slots`); addresses (bytes; ``bias``,
``res`` or 0), strides (elements, of image, line and pixel), sizes;
``steps`` of products take the channels of one phase that are not zeros (:mod:`winograd_product`).
``res_mode`` is a ``Res``, ``act`` an ``Act``. ``pool`` is 1, or 2 where only the largest of each
two by two outputs is written, after the activation: the output sizes are even then, the strides of
the output those of the pooled image, and there is no residual. ``weights`` and blocks come from
:mod:`winograd_plan`."""

(
    READ, EDGE, WRITE, POOLED, LINE, PRODUCTS, LOW, HALF, BLOCK,
    STRIDE, M_Y, M_X, N_Y, N_X, SIDE_Y, SIDE_X,
    X, X_B, X_Y, X_X, BATCH, IN_H, IN_W, CHANNELS, STEPS, COLUMNS,
    PAD_Y, PAD_X, OUT_H, OUT_W, OUT, OUT_B, OUT_Y, OUT_X, WEIGHTS, BIAS,
    RES, RES_B, RES_Y, RES_X, RES_MODE, ACT, ACT_P0, ACT_P1, POOL,
    TILE_BLOCK, PANEL_BLOCK, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip
