"""mutation > in_kernels: faults in compiled kernels: tails, bands, shares of threads, NaN."""

from __future__ import annotations

from mutation.fault import Fault

_KERNELS = "backends/numba_cpu/kernels"
_TESTS = "tests/backends/numba_cpu"


def _kernel(
    name: str, file: str, category: str, before: str, after: str, tests: str, *models: str,
    threads: int = 1,
) -> Fault:  # fmt: skip
    own = tuple(f"{_TESTS}/test_{t}.py" for t in tests.split())
    path = f"{_KERNELS}/{file}.py"
    return Fault(name, "kernel", category, path, before, after, own, models, threads=threads)


FAULTS: tuple[Fault, ...] = (
    _kernel("sum-drops-tail", "runs", "dropped tail",
            "while i < end:\n            a = vadd(a, vload_n(x, i, end - i))",
            "while i + LANES <= end:\n            a = vadd(a, vload_n(x, i, end - i))",
            "reduce", "row_sums"),
    _kernel("extreme-swallows-nan", "runs", "NaN swallowed",
            "if vany(odd):\n            return NAN",
            "if vany(odd) and n < 0:\n            return NAN",
            "reduce", "row_maxima"),
    _kernel("squares-keep-tail", "runs", "dropped tail",
            "u = vselect(vfirst(end - i), vsub(vload_n(x, i, end - i), mean), vzero())",
            "u = vsub(vload_n(x, i, end - i), mean)", "reduce norm", "layer_norm"),
    _kernel("softmax-tail-counts", "softmax", "dropped tail",
            "e = vselect(vfirst(n - i), vexp_down(vsub(vload_n(x, i, n - i), top)), vzero())\n"
            "        vstore_n",
            "e = vexp_down(vsub(vload_n(x, i, n - i), top))\n        vstore_n", "norm",
            "softmax_last"),
    _kernel("softmax-share", "softmax", "wrong thread share",
            "n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 4)\n"
            "    for o in range(count * tid // nt, count * (tid + 1) // nt):",
            "n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 4)\n"
            "    for o in range(count // nt * tid, count // nt * (tid + 1)):",
            "norm", "softmax_many", threads=2),
    _kernel("rms-takes-mean", "norm", "dead guard",
            "center = 0.0 if rms != 0 else run_sum(s, n) / n", "center = run_sum(s, n) / n",
            "norm", "rms_norm"),
    _kernel("group-variance", "norm", "wrong arithmetic",
            "var += ldf(arg(args, 1), c) + d * d", "var += ldf(arg(args, 1), c)", "norm",
            "group_norm"),
    _kernel("norm-bias-tail", "norm", "dropped tail",
            "vstore_n(out, i, vfma(v, vload_n(weight, i, n - i), vload_n(bias, i, n - i)), n - i)",
            "vstore_n(out, i, vmul(v, vload_n(weight, i, n - i)), n - i)", "norm", "layer_norm"),
    _kernel("pool-starts-at-zero", "pool", "wrong padding default",
            '_reductions(vmax, float("-inf"))', "_reductions(vmax, 0.0)", "pool", "max_pool"),
    _kernel("pool-window-end", "pool", "off-by-one band",
            "return first, max(min(last, size) - first, 0), covered",
            "return first, max(min(last, size - 1) - first, 0), covered", "pool", "max_pool"),
    _kernel("causal-diagonal", "attention", "off-by-one band",
            "seen = min(keys, s0 + i + 1) if causal != 0 else keys",
            "seen = min(keys, max(s0 + i, 1)) if causal != 0 else keys", "attention",
            "causal_attention"),
    _kernel("attention-stale-head", "attention", "stale cache",
            "shared = b * heads + g", "shared = b * heads", "attention", "causal_attention"),
    _kernel("mask-row-scale", "attention", "wrong scale",
            "vstore(row, t, vfma(x, factor, vload(mask, t)))",
            "vstore(row, t, vfma(x, factor, vmul(factor, vload(mask, t))))", "attention",
            "masked_attention"),
    _kernel("late-relu-early", "igemm", "wrong epilogue order",
            "if last and _late(args) == NO_RES:\n        if act == _RELU:",
            "if _late(args) == NO_RES:\n        if act == _RELU:", "igemm", "deep_linear"),
    _kernel("conv-right-edge", "igemm", "off-by-one band",
            "high = (arg(args, IN_W) - 1 - dx) // step_x + 1",
            "high = (arg(args, IN_W) - 1 - dx) // step_x", "igemm", "conv_relu_add"),
    _kernel("depthwise-last-tap", "depthwise", "off-by-one band",
            "last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0",
            "last = min(kernel, (size - 1 - start) // dilation) if start < size else 0",
            "depthwise", "depthwise_conv"),
    _kernel("band-keeps-too-late", "banded", "off-by-one band",
            "_keep(inner, (first - held[0]) * step, (start - first) * step)",
            "_keep(inner, (first - held[0] - 1) * step, (start - first) * step)", "banded",
            "inverted_residual"),
    _kernel("band-window-pad", "banded", "wrong padding side",
            "pad = arg(source, dw.PAD_Y) - y * arg(source, dw.STRIDE_Y) + first",
            "pad = arg(source, dw.PAD_Y) - y * arg(source, dw.STRIDE_Y)", "banded",
            "inverted_residual"),
    _kernel("band-taps-stay", "banded", "off-by-one band",
            "sti64(table, i + 1, ldi64(taps, i + 1) + down)",
            "sti64(table, i + 1, ldi64(taps, i + 1) + down - down % 4)", "banded",
            "first_convolution"),
    _kernel("band-taps-first-only", "banded", "stale cache",
            "for i in range(0, 3 * arg(source, ig.TAPS), 3):",
            "for i in range(0, 3 * (arg(source, ig.TAPS) - 1), 3):", "banded",
            "first_convolution"),
    _kernel("walk-starts-late", "depthwise", "wrong padding side",
            "run_walk(stride, frame, lines, -pad, 4 * c0",
            "run_walk(stride, frame, lines, 1 - pad, 4 * c0", "depthwise", "depthwise_conv"),
    _kernel("tiles-skip-rows", "igemm", "dropped tail",
            "i += some * many", "i += some * many + (many - 1)", "igemm", "large_products"),
    _kernel("gather-share", "gather", "wrong thread share",
            "total = outer * count\n    for k in range(total * tid // nt, total * (tid + 1) // nt):"
            "\n        o, i = k // count, k % count\n        at = ldi64",
            "total = outer * count\n    for k in range(total // nt * tid, total // nt * (tid + 1)):"
            "\n        o, i = k // count, k % count\n        at = ldi64", "gather_shares",
            "embedding", threads=2),
    _kernel("gru-gates-swapped", "recurrent", "swapped operands",
            "vadd(vmul(vsub(vsplat(1.0), z), u), vmul(z, old))",
            "vadd(vmul(vsub(vsplat(1.0), z), old), vmul(z, u))", "recurrent", "gru"),
    _kernel("lines-last-of-image", "lines", "off-by-one band",
            "if 0 <= at < arg(args, IN_H):", "if 0 <= at < arg(args, IN_H) - 1:", "lines",
            "image_pool"),
    _kernel("lines-share", "lines", "wrong thread share",
            "for line in range(count * tid // nt, count * (tid + 1) // nt):",
            "for line in range(count // nt * tid, count // nt * (tid + 1)):", "lines",
            "image_pool", threads=2),
    _kernel("pool-in-registers-swallows-nan", "vecmath", "NaN swallowed",
            'odd = b.or_(b.fcmp_unordered("uno", x, y), b.fcmp_unordered("uno", z, w))',
            'odd = b.fcmp_unordered("uno", x, y)', "lines", "image_pool_of_nan"),
    _kernel("winograd-edge-reads-on", "winograd_transform", "off-by-one band",
            'b.icmp_signed(">", high, i64(k))', 'b.icmp_signed(">=", high, i64(k))', "winograd",
            "conv_pool"),
    _kernel("winograd-pool-of-three", "winograd_tiles", "dropped tail",
            "vmax(vmax(a, b), vmax(c, d))", "vmax(vmax(a, b), c)", "winograd", "conv_pool"),
)  # fmt: skip
