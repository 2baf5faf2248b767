"""mutation > in_lowering: faults in what turns a unit into kernel calls, and in packed weights."""

from __future__ import annotations

from mutation.fault import Fault

_NUMBA = "backends/numba_cpu"
_TESTS = "tests/backends/numba_cpu"


def _lower(
    name: str, file: str, category: str, before: str, after: str, tests: str, *models: str
) -> Fault:
    own = tuple(f"{_TESTS}/test_{t}.py" for t in tests.split())
    path = f"{_NUMBA}/{file}.py"
    return Fault(name, "lowering", category, path, before, after, own, models)


FAULTS: tuple[Fault, ...] = (
    _lower("residual-before-activation", "lower/epilogue", "wrong epilogue order",
           "return replace(found, res=other, mode=Res.AFTER if late else Res.BEFORE)",
           "return replace(found, res=other, mode=Res.BEFORE)", "contract", "conv_relu_add"),
    _lower("residual-lost", "lower/epilogue", "missing residual",
           "res = residual(ctx, epilogue, out, order)\n    return Finish(",
           "res = None\n    return Finish(", "contract", "conv_relu_add"),
    _lower("product-for-sum", "lower/epilogue", "wrong epilogue order",
           "return replace(found, res=other, mode=Res.TIMES)",
           "return replace(found, res=other, mode=Res.AFTER)", "contract", "gated_linear"),
    _lower("leaky-slope", "lower/epilogue", "wrong activation",
           "LeakyRelu: lambda k: (Act.LEAKY_RELU, float(k.slope), 0.0),",
           "LeakyRelu: lambda k: (Act.LEAKY_RELU, 0.01, 0.0),", "contract", "linear_leaky"),
    _lower("silu-is-hard", "lower/epilogue", "wrong activation",
           "Relu: Act.RELU, Silu: Act.SILU,", "Relu: Act.RELU, Silu: Act.HARDSWISH,",
           "contract", "linear_silu"),
    _lower("clamp-low-zero", "lower/epilogue", "wrong activation",
           "low = -math.inf if k.lo is None else float(k.lo)\n    return Act.CLAMP",
           "low = 0.0\n    return Act.CLAMP", "contract", "linear_hardtanh"),
    _lower("bias-of-nothing", "lower/epilogue", "missing residual",
           "parts = [v for v in (*values, shift) if v is not None]",
           "parts = [v for v in (shift,) if v is not None]", "contract", "linear_silu"),
    _lower("linear-untransposed", "lower/contract", "transposed weights",
           "lambda: pack_linear(array), const)", "lambda: pack_linear(array.T), const)",
           "contract", "square_linear"),
    _lower("computed-weight-untransposed", "lower/contract", "transposed weights",
           "packed = pack_at_run_time(ctx, weight.transpose((1, 0)))",
           "packed = pack_at_run_time(ctx, weight)", "contract", "linear_of_inputs"),
    _lower("conv-panels-flipped", "kernels/pack", "transposed weights",
           "w = weight.reshape(groups, out // groups, inner, taps)\n    return",
           "w = weight.reshape(groups, out // groups, inner, taps)[..., ::-1]\n    return",
           "contract igemm", "conv_relu_add"),
    _lower("dilation-ignored", "lower/conv", "wrong stride",
           "dilation=s.dilation, groups=s.groups,\n    )  # fmt: skip\n    b, reads",
           "dilation=(1,) * len(s.dilation), groups=s.groups,\n    )  # fmt: skip\n    b, reads",
           "contract", "dilated_conv"),
    _lower("merged-groups-diagonal", "lower/conv", "wrong offset",
           "wide[:, i, :, i] = parts[:, i]", "wide[:, i, :, 0] = parts[:, i]",
           "contract", "grouped_conv"),
    _lower("depthwise-stride", "lower/conv", "wrong stride",
           '**_axes("stride", _three(s.stride, 1)),', '**_axes("stride", _three(s.dilation, 1)),',
           "contract depthwise", "depthwise_conv"),
    _lower("depthwise-padding-side", "lower/conv", "wrong padding side",
           '**_axes("pad", _three(s.padding, 0)), **_axes("dilation"',
           '**_axes("pad", _three((0,) * len(s.padding), 0)), **_axes("dilation"',
           "contract depthwise", "depthwise_conv"),
    _lower("transposed-conv-phase", "lower/conv", "wrong offset",
           "view = view.slice(axis, start, view.shape[axis], step)",
           "view = view.slice(axis, 0, view.shape[axis], step)", "contract", "transposed_conv"),
    _lower("conv-bias-groups", "kernels/igemm_plan", "wrong offset",
           "b_o1=-(-columns // PANEL) * PANEL * len(table) * depth, bias_o1=columns,",
           "b_o1=-(-columns // PANEL) * PANEL * len(table) * depth, bias_o1=0,",
           "igemm contract", "two_wide_groups"),
    _lower("norm-eps", "lower/norm", "wrong eps",
           "float(r.eps),\n        int(r.rms),", "1e-12,\n        int(r.rms),", "norm",
           "layer_norm"),
    _lower("norm-residual-lost", "lower/norm", "missing residual",
           "k.eps, isinstance(k, n.RmsNorm), weight, bias, residual, total)",
           "k.eps, isinstance(k, n.RmsNorm), weight, bias, None, total)", "norm", "add_norm"),
    _lower("softmax-axis", "lower/norm", "wrong axis",
           "softmax_view(ctx, x, made, k.axis, isinstance(k, n.LogSoftmax))",
           "softmax_view(ctx, x, made, x.rank - 1, isinstance(k, n.LogSoftmax))", "norm",
           "softmax_first"),
    _lower("group-norm-count", "lower/norm", "wrong arithmetic",
           'reduce_view(ctx, "var", x, var, axes, 1.0 / count, mean)',
           'reduce_view(ctx, "var", x, var, axes, 1.0 / max(count - 1, 1), mean)', "norm",
           "group_norm"),
    _lower("pool-counts-padding", "lower/pool", "wrong padding side",
           '"include_pad": int(mean and kind.include_pad)', '"include_pad": int(mean)', "pool",
           "mean_pool"),
    _lower("attention-groups", "lower/attention", "wrong offset",
           "heads // k.shape[1],\n", "1,\n", "attention", "grouped_attention"),
    _lower("attention-mask-kind", "lower/attention", "wrong mask default",
           "return (view.ref, kernels.FLOAT_MASK, *view.strides), (view,)",
           "return (view.ref, kernels.NO_MASK, *view.strides), (view,)", "attention",
           "masked_attention"),
    _lower("reciprocal-not-squared", "lower/elementwise", "wrong arithmetic",
           '-2.0: "inverse_square",', '-2.0: "reciprocal",',
           "elementwise", "inverse_square"),
    _lower("clamp-without-top", "lower/elementwise", "dead guard",
           "return low, math.inf if k.hi is None else float(k.hi)", "return low, math.inf",
           "elementwise", "two_clamps"),
    _lower("backward-walk-state", "lower/recurrent", "stale buffer",
           "[s.slice(0, i, i + 1) for s in first],", "[s.slice(0, 0, 1) for s in first],",
           "recurrent", "lstm"),
)  # fmt: skip
