"""mutation > in_rules: faults in rewrite rules: dead guards, wrong constants, swapped operands."""

from __future__ import annotations

from mutation.fault import Fault

_LAWS = ("tests/passes/test_rules.py",)
_RAISED = ("tests/passes/test_recognize.py",)
_SIMPLIFY, _RECOGNIZE = (r"\bsimplify\b",), (r"\brecognize\b",)
_RULES = "passes/rules"


def _law(
    name: str, file: str, category: str, before: str, after: str, model: str, only: str
) -> Fault:
    tests = (*_LAWS, "-k", only)
    path = f"{_RULES}/{file}.py"
    return Fault(name, "rule", category, path, before, after, tests, (model,), _SIMPLIFY)


def _raised(name: str, file: str, category: str, before: str, after: str, model: str) -> Fault:
    path = f"{_RULES}/{file}.py"
    return Fault(name, "rule", category, path, before, after, _RAISED, (model,), _RECOGNIZE)


FAULTS: tuple[Fault, ...] = (
    _law("pow-three-squares", "algebra", "wrong arithmetic",
         "return b(bi.Mul(), b(bi.Mul(), x, x), x)", "return b(bi.Mul(), x, x)",
         "cube", "pow-small"),
    _law("divide-multiplies", "algebra", "wrong arithmetic",
         "inverse = 1.0 / c", "inverse = c", "eighth", "div-power-of-two"),
    _law("sub-neg-sign", "algebra", "wrong sign",
         'emit(bi.Add(), "x", "y")),\n    Rule("add-neg"',
         'emit(bi.Sub(), "x", "y")),\n    Rule("add-neg"', "sub_neg", "sub-neg"),
    _law("tanh-is-no-sign", "algebra", "dead guard",
         "un.Sigmoid, un.Exp, un.Exp2, Softmax, un.HardSigmoid, un.Abs,",
         "un.Sigmoid, un.Exp, un.Exp2, Softmax, un.HardSigmoid, un.Abs, un.Tanh,",
         "relu_tanh", "relu-of-non-negative"),
    _law("transpose-order", "shapes", "wrong axis",
         "return tuple(inner[p] for p in outer)", "return tuple(outer[p] for p in inner)",
         "two_transposes", "transpose-compose"),
    _law("slice-drops-step", "shapes", "wrong stride",
         "start = as_dim(i.start + o.start * i.step)", "start = as_dim(i.start + o.start)",
         "two_slices", "slice-slice"),
    _law("slice-of-concat-offset", "shapes", "wrong offset",
         "b(Slice(s.axis, s.start - at, s.stop - at, s.step), piece)",
         "b(Slice(s.axis, s.start, s.stop, s.step), piece)", "slice_concat", "slice-concat"),
    _law("pad-value-guard", "shapes", "dead guard",
         "same = Pad((), (), value=i.value) == Pad((), (), value=o.value)", "same = True",
         "two_pads", "pad-pad"),
    _law("flip-axes-union", "shapes", "wrong axis",
         'set(m.kind("inner", Flip).axes) ^ set(m.kind("outer", Flip).axes)',
         'set(m.kind("inner", Flip).axes) | set(m.kind("outer", Flip).axes)',
         "two_flips", "flip-flip"),
    _law("where-not-swap", "masks", "swapped operands",
         'return b(Where(), m["c"], m["y"], m["x"])', 'return b(Where(), m["c"], m["x"], m["y"])',
         "where_not", "where-not"),
    _law("where-else-branch", "masks", "wrong operand",
         "def _nested_else(m: Match, b: Builder) -> Value:\n"
         '    return b(Where(), m["c"], m["x"], m["z"])',
         "def _nested_else(m: Match, b: Builder) -> Value:\n"
         '    return b(Where(), m["c"], m["x"], m["y"])', "where_where", "where-where-else"),
    _law("clamp-forgets-outer", "clamps", "dead guard",
         "lo, hi = (min(max(v, second[0]), second[1]) for v in first)", "lo, hi = first",
         "relu_six", "clamp-clamp"),
    _law("cast-forgets-middle", "casts", "dead guard",
         "if middle not in _HOLDS.get(source, frozenset()):", "if middle is target:",
         "truncate", "cast-cast"),
    _raised("softmax-two-axes", "norms", "dead guard",
            "return top[0] if top == total and len(top) == 1 else None",
            "return top[0] if len(top) == 1 else None", "softmax_two_axes"),
    _raised("layer-norm-eps", "norms", "wrong eps",
            'return b(LayerNorm(axes, eps, "none"), m["x"])',
            'return b(LayerNorm(axes, eps * 10, "none"), m["x"])', "hand_layer_norm"),
    _raised("layer-norm-correction", "norms", "dead guard",
            "return v.keepdim and v.correction == 0", "return v.keepdim", "hand_norm_unbiased"),
    _raised("gelu-digits", "activations", "dead guard", "_DIGITS = 1e-5", "_DIGITS = 1e-1",
            "nearly_gelu"),
    _raised("leaky-threshold", "activations", "dead guard",
            "Node(Where, (Node(Gt, (X, Lit(0))), X, Node(Mul", "Node(Where, (Node(Gt, (X, "
            'Lit(name="at"))), X, Node(Mul', "leaky_above_one"),
    _raised("hard-swish-is-silu", "activations", "wrong activation",
            'Node(Mul, (X, Node(HardSigmoid, (X,)))), emit(HardSwish(), "x"), once=True),',
            'Node(Mul, (X, Node(HardSigmoid, (X,)))), emit(Silu(), "x"), once=True),',
            "hand_hard_swish"),
    _raised("attention-divisor", "attention", "wrong scale",
            "scale = 1 / divisor if divisor else math.nan", "scale = divisor",
            "hand_attention"),
    _raised("attention-mask-branches", "attention", "wrong mask default",
            "branches = (low, zero) if fill_where else (zero, low)",
            "branches = (zero, low) if fill_where else (low, zero)", "hand_attention_filled"),
    _raised("attention-query-scale", "attention", "wrong scale",
            "attention = replace(a, scale=a.scale * c)", "attention = replace(a, scale=c)",
            "scaled_query"),
    _raised("causal-off-by-one", "attention", "off-by-one band",
            "lower = np.tri(s, t, dtype=np.bool_)", "lower = np.tri(s, t, -1, dtype=np.bool_)"
            " | np.eye(s, t, dtype=np.bool_) | np.eye(s, t, 1, dtype=np.bool_)", "band_mask"),
    _raised("conv-pad-side", "linears", "wrong padding side",
            "low = tuple(p + q for p, q in zip(conv.padding, pad.low[2:], strict=True))\n"
            "    high = tuple(p + q for p, q in zip(conv.after, pad.high[2:], strict=True))",
            "low = tuple(p + q for p, q in zip(conv.padding, pad.high[2:], strict=True))\n"
            "    high = tuple(p + q for p, q in zip(conv.after, pad.low[2:], strict=True))",
            "one_sided_pad"),
    _raised("conv-pad-value", "linears", "dead guard",
            'if pad.mode != "constant" or pad.value != 0:', 'if pad.mode != "constant":',
            "pad_of_ones"),
    _raised("pool-before-padded", "linears", "dead guard",
            "whole = not conv.padded and not any(pool.padding) and pool.divisor is None",
            "whole = not conv.padded", "conv_pool_padded"),
)  # fmt: skip
