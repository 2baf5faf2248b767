"""torch_spmd > vocabulary: kind -> the text of its torch expression.

The texts mean what ``leptonc.meaning`` computes, kept on the device of the program; a kind without
a text of its own is called by its meaning, ``op[3](x)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from leptonc.ir.core import Kind
from leptonc.ir.kinds import binary, collective, contract, data, norm, pointwise, reduce, shape
from leptonc.ir.kinds import unary as u
from leptonc.ir.types import DType, TensorType

Text: TypeAlias = "Callable[[Any, Sequence[str]], str]"

DTYPE_NAMES: Mapping[DType, str] = MappingProxyType(
    {
        DType.F64: "torch.float64", DType.F32: "torch.float32", DType.F16: "torch.float16",
        DType.BF16: "torch.bfloat16", DType.I64: "torch.int64", DType.I32: "torch.int32",
        DType.I16: "torch.int16", DType.I8: "torch.int8", DType.U8: "torch.uint8",
        DType.BOOL: "torch.bool", DType.C64: "torch.complex64", DType.C128: "torch.complex128",
    }
)  # fmt: skip


def call(function: str) -> Text:
    """Return the text of a function of the operands alone."""
    return lambda k, xs: f"{function}({', '.join(xs)})"


def numbers(values: Sequence[int]) -> str:
    """Return sizes as the text of a tuple."""
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _clamp(k: pointwise.Clamp, xs: Sequence[str]) -> str:
    if k.lo is None and k.hi is None:
        return xs[0]
    return f"torch.clamp({xs[0]}, {number(k.lo)}, {number(k.hi)})"


def number(value: Any) -> str:
    """Return a Python number or None as text; what has no literal is made of its name."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return repr(value)


def _slice(k: shape.Slice, xs: Sequence[str]) -> str:
    step = f":{k.step}" if k.step != 1 else ""
    return f"{xs[0]}[{':, ' * k.axis}{k.start}:{k.stop}{step}]"


def _pad(k: shape.Pad, xs: Sequence[str]) -> str | None:
    if k.mode != "constant":
        return None
    pads = [p for pair in zip(k.low[::-1], k.high[::-1], strict=True) for p in pair]
    return f'F.pad({xs[0]}, {numbers(pads)}, "constant", {number(k.value)})'


def _full(k: data.Full, xs: Sequence[str]) -> str:
    del xs
    dtype = DTYPE_NAMES[k.dtype]
    return f"torch.full({numbers(_ints(k.shape))}, {number(k.value)}, dtype={dtype}, device=device)"


def _iota(k: data.Iota, xs: Sequence[str]) -> str | None:
    del xs
    if k.dtype is not DType.I64 or not isinstance(k.start, int) or not isinstance(k.step, int):
        return None
    step = f" * {k.step}" if k.step != 1 else ""
    start = f" + {k.start}" if k.start else ""
    return f"torch.arange({k.length}, device=device){step}{start}"


def _ints(values: Sequence[Any]) -> list[int]:
    return [int(v) for v in values]


def _index_select(k: data.IndexSelect, xs: Sequence[str]) -> str | None:
    if k.wrap:
        return None
    x, i = xs
    lead = ":, " * k.axis
    return f"{x}[{lead}{i}]"


def _conv(k: contract.Conv, xs: Sequence[str]) -> str:
    x = xs[0]
    if k.after != k.padding:
        pads = [n for p in zip(k.padding[::-1], k.after[::-1], strict=True) for n in p]
        x, padding = f"F.pad({x}, {numbers(pads)})", (0,) * len(k.stride)
    else:
        padding = k.padding
    bias = xs[2] if len(xs) > 2 else "None"
    return (
        f"F.conv{len(k.stride)}d({x}, {xs[1]}, {bias}, {numbers(k.stride)}, {numbers(padding)}, "
        f"{numbers(k.dilation)}, {k.groups})"
    )


def _conv_transpose(k: contract.ConvTranspose, xs: Sequence[str]) -> str:
    bias = xs[2] if len(xs) > 2 else "None"
    return (
        f"F.conv_transpose{len(k.stride)}d({xs[0]}, {xs[1]}, {bias}, {numbers(k.stride)}, "
        f"{numbers(k.padding)}, {numbers(k.output_padding)}, {k.groups}, {numbers(k.dilation)})"
    )


def _attention(k: contract.Attention, xs: Sequence[str]) -> str | None:
    if k.nan_rows or (k.causal and len(xs) > 3):
        return None
    mask = xs[3] if len(xs) > 3 else "None"
    return (
        f"F.scaled_dot_product_attention({', '.join(xs[:3])}, attn_mask={mask}, "
        f"is_causal={k.causal}, scale={k.scale!r}, enable_gqa={k.gqa})"
    )


def _batch_norm(k: norm.BatchNorm, xs: Sequence[str]) -> str:
    return f"F.batch_norm({', '.join(xs)}, training=False, eps={k.eps!r})"


def _layer_norm(k: norm.LayerNorm, xs: Sequence[str]) -> str:
    x, *rest = xs
    affine = [*rest, "None", "None"][:2]
    return f"F.layer_norm({x}, {x}.shape[-{k.axes}:], {', '.join(affine)}, {k.eps!r})"


def _rms_norm(k: norm.RmsNorm, xs: Sequence[str]) -> str:
    weight = xs[1] if len(xs) > 1 else "None"
    return f"F.rms_norm({xs[0]}, {xs[0]}.shape[-{k.axes}:], {weight}, {k.eps!r})"


def _group_norm(k: norm.GroupNorm, xs: Sequence[str]) -> str:
    affine = [*xs[1:], "None", "None"][:2]
    return f"torch.group_norm({xs[0]}, {k.groups}, {', '.join(affine)}, {k.eps!r})"


def _reduced(function: str, typed: bool = False) -> Text:
    def text(k: Any, xs: Sequence[str]) -> str:
        if not k.axes:
            return xs[0]
        dtype = f", dtype={xs[0]}.dtype" if typed else ""
        return f"{function}({xs[0]}, {numbers(k.axes)}, keepdim={k.keepdim}{dtype})"

    return text


def _max_pool(k: reduce.MaxPool, xs: Sequence[str]) -> str:
    dilation = numbers(k.dilation) if k.dilation else "1"
    return (
        f"F.max_pool{len(k.kernel)}d({xs[0]}, {numbers(k.kernel)}, {numbers(k.stride)}, "
        f"{numbers(k.padding)}, {dilation}, ceil_mode={k.ceil})"
    )


def _avg_pool(k: reduce.AvgPool, xs: Sequence[str]) -> str | None:
    if len(k.kernel) == 1:
        return None
    return (
        f"F.avg_pool{len(k.kernel)}d({xs[0]}, {numbers(k.kernel)}, {numbers(k.stride)}, "
        f"{numbers(k.padding)}, {k.ceil}, {k.include_pad}, {k.divisor})"
    )


def _adaptive(kind: str) -> Text:
    return lambda k, xs: (
        f"F.adaptive_{kind}_pool{len(k.output)}d({xs[0]}, {numbers(_ints(k.output))})"
    )


def _meet(k: Kind, xs: Sequence[str]) -> str:
    """Return the call of a collective; attributes are its arguments."""
    own = {n: v for n, v in k.attributes.items() if n != "part"}
    order = [f"{v!r}" if n != "op" else f'"{v}"' for n, v in own.items()]
    return f"comm.{k.NAME}({', '.join([*xs, *order])})"


_FUNCTIONS: Mapping[str, tuple[type[Kind], ...]] = {
    "torch": (
        u.Relu, u.Sigmoid, u.Tanh, u.Exp, u.Expm1, u.Exp2, u.Log, u.Log1p, u.Log2, u.Log10,
        u.Sqrt, u.Rsqrt, u.Reciprocal, u.Neg, u.Abs, u.Sign, u.Sin, u.Cos, u.Tan, u.Asin, u.Acos,
        u.Atan, u.Sinh, u.Cosh, u.Asinh, u.Acosh, u.Atanh, u.Erf, u.Erfc, u.LogicalNot,
        u.BitwiseNot, binary.Remainder, binary.Fmod, binary.Pow, binary.Maximum, binary.Minimum,
        binary.Atan2, binary.BitwiseAnd, binary.BitwiseOr, binary.BitwiseXor, binary.LogicalAnd,
        binary.LogicalOr, binary.LogicalXor, contract.Matmul, pointwise.Where,
    ),
    "F": (u.Silu, u.Mish),
}  # fmt: skip
_SIGNS: Mapping[type[Kind], str] = {
    binary.Add: "+", binary.Sub: "-", binary.Mul: "*", binary.Div: "/", binary.Eq: "==",
    binary.Ne: "!=", binary.Lt: "<", binary.Le: "<=", binary.Gt: ">", binary.Ge: ">=",
}  # fmt: skip


def _sign(sign: str) -> Text:
    return lambda k, xs: f"{xs[0]} {sign} {xs[1]}"


TEXTS: Mapping[type[Kind], Callable[[Any, Sequence[str]], str | None]] = MappingProxyType(
    {
        **{k: call(f"{m}.{k.NAME}") for m, kinds in _FUNCTIONS.items() for k in kinds},
        **{k: _sign(sign) for k, sign in _SIGNS.items()},
        **dict.fromkeys(collective.KINDS[:4], _meet),
        collective.Owned: lambda k, xs: xs[0] if k.rank == 0 else f"torch.zeros_like({xs[0]})",
        u.HardSwish: call("F.hardswish"),
        u.HardSigmoid: call("F.hardsigmoid"),
        u.LogSigmoid: call("F.logsigmoid"),
        u.IsNan: call("torch.isnan"),
        u.IsInf: call("torch.isinf"),
        u.IsFinite: call("torch.isfinite"),
        binary.FloorDiv: call("torch.floor_divide"),
        binary.TruncDiv: lambda k, xs: f'torch.div({xs[0]}, {xs[1]}, rounding_mode="trunc")',
        pointwise.Gelu: lambda k, xs: (
            f'F.gelu({xs[0]}, approximate="{"tanh" if k.tanh else "none"}")'
        ),
        pointwise.LeakyRelu: lambda k, xs: f"F.leaky_relu({xs[0]}, {number(k.slope)})",
        pointwise.Softplus: lambda k, xs: (
            f"F.softplus({xs[0]}, {number(k.beta)}, {number(k.threshold)})"
        ),
        pointwise.Clamp: _clamp,
        pointwise.Cast: lambda k, xs: f"{xs[0]}.to({DTYPE_NAMES[k.dtype]})",
        contract.Linear: call("F.linear"),
        contract.Conv: _conv,
        contract.ConvTranspose: _conv_transpose,
        contract.Attention: _attention,
        norm.BatchNorm: _batch_norm,
        norm.LayerNorm: _layer_norm,
        norm.RmsNorm: _rms_norm,
        norm.GroupNorm: _group_norm,
        norm.Softmax: lambda k, xs: f"torch.softmax({xs[0]}, {k.axis})",
        norm.LogSoftmax: lambda k, xs: f"torch.log_softmax({xs[0]}, {k.axis})",
        reduce.Sum: _reduced("torch.sum", typed=True),
        reduce.Mean: _reduced("torch.mean"),
        reduce.Amax: _reduced("torch.amax"),
        reduce.Amin: _reduced("torch.amin"),
        reduce.CumSum: lambda k, xs: f"torch.cumsum({xs[0]}, {k.axis}, dtype={xs[0]}.dtype)",
        reduce.MaxPool: _max_pool,
        reduce.AvgPool: _avg_pool,
        reduce.AdaptiveAvgPool: _adaptive("avg"),
        shape.Reshape: lambda k, xs: f"{xs[0]}.reshape({numbers(_ints(k.shape))})",
        shape.Transpose: lambda k, xs: f"{xs[0]}.permute({numbers(k.perm)})",
        shape.Expand: lambda k, xs: f"{xs[0]}.expand({numbers(_ints(k.shape))})",
        shape.Slice: _slice,
        shape.Flip: lambda k, xs: f"torch.flip({xs[0]}, {numbers(k.axes)})",
        shape.Concat: lambda k, xs: f"torch.cat(({', '.join(xs)},), {k.axis})",
        shape.Pad: _pad,
        data.Full: _full,
        data.Iota: _iota,
        data.Embedding: lambda k, xs: f"F.embedding({xs[1]}.to(torch.int64), {xs[0]})",
        data.IndexSelect: _index_select,
        data.Gather: lambda k, xs: f"torch.gather({xs[0]}, {k.axis}, {xs[1]}.to(torch.int64))",
        data.Triangle: lambda k, xs: (
            f"torch.{'tril' if k.lower else 'triu'}({xs[0]}, {k.diagonal})"
        ),
    }
)


def text_of(kind: Kind, operands: Sequence[str], types: Sequence[TensorType] = ()) -> str | None:
    """Return the torch expression of a kind whose attributes hold no symbols, None without one.

    Args:
        kind: what to write.
        operands: their names.
        types: theirs; torch's pools take one or two axes before the window, and floats.
    """
    made = TEXTS.get(type(kind))
    if made is None or (isinstance(kind, _POOLS) and not _pools(kind, types)):
        return None
    if isinstance(kind, contract.Conv) and types and types[0].dtype is DType.F64:
        return None  # the meaning adds depthwise ones tap by tap
    return made(kind, operands)


_POOLS = (reduce.Pool, reduce.AdaptiveAvgPool)


def _pools(kind: Any, types: Sequence[TensorType]) -> bool:
    n = len(kind.kernel if isinstance(kind, reduce.Pool) else kind.output)
    return bool(types) and types[0].dtype.is_float and types[0].rank in (n + 1, n + 2)
