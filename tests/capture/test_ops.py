"""Each importer against eager: the captured function, interpreted, gives what torch gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from capture.harness import Fn, check
from torch import Tensor

aten = torch.ops.aten


def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape) + 7)
    if dtype is torch.bool:
        return torch.rand(shape, generator=g) > 0.5
    if not dtype.is_floating_point:
        return torch.randint(-4, 5, shape, generator=g, dtype=dtype)
    return torch.randn(shape, generator=g).to(dtype)


X, N, B = t(2, 3, 8), t(2, 3, 8, dtype=torch.int64), t(2, 3, 8, dtype=torch.bool)
IMG, M = t(2, 4, 9, 9), t(4, 5)
ODD = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.5, -2.5, 3.0])

UNARY = [
    "relu", "sigmoid", "tanh", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sqrt",
    "rsqrt", "reciprocal", "neg", "abs", "sign", "floor", "ceil", "trunc", "round", "sin", "cos",
    "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc",
    "isnan", "isinf", "isfinite", "logical_not", "square", "positive", "nan_to_num", "logit",
]  # fmt: skip
ACTIVATIONS = [
    F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.relu6, F.elu, F.celu, F.selu, F.leaky_relu,
    F.mish, F.softplus, F.softsign, F.tanhshrink, F.hardshrink, F.logsigmoid, F.hardtanh,
]  # fmt: skip

CASES = {
    **{f"{n}_odd": (getattr(torch, n), (ODD,)) for n in UNARY},
    **{f.__name__: (f, (t(4, 8) * 3,)) for f in ACTIVATIONS},
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), (X,)),
    "softmax": (lambda x: F.softmax(x, -1), (X,)),
    "softmax_dtype": (lambda x: F.softmax(x, 1, dtype=torch.float64), (X,)),
    "log_softmax": (lambda x: F.log_softmax(x, 1), (X,)),
    "softmax_0d": (lambda x: F.softmax(x, 0), (t(),)),
    "threshold": (lambda x: F.threshold(x, 0.1, 20), (ODD,)),
    "prelu": (lambda x, w: F.prelu(x, w), (IMG, t(4))),
    "prelu_one": (lambda x, w: F.prelu(x, w), (IMG, t(1))),
    "glu": (lambda x: F.glu(x, 1), (IMG,)),
    "clamp": (lambda x: x.clamp(-0.5, 1), (ODD,)),
    "clamp_int": (lambda x: x.clamp(min=0), (N,)),
    "clamp_int_float": (lambda x: x.clamp(0.5, 2.5), (N,)),
    "clamp_tensor": (lambda x, a, b: x.clamp(a, b), (X, t(8), t(8) + 2)),
    "relu_int": (lambda x: x.relu(), (N,)),
    "sqrt_int": (lambda x: x.sqrt(), (N.abs(),)),
    "floor_int": (lambda x: x.floor(), (N,)),
    # arithmetic and promotion
    "add": (lambda x, y: x + y, (X, t(3, 1))),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=3), (X, X)),
    "add_scalar": (lambda x: x + 1, (X,)),
    "add_int_float": (lambda x, y: x + y, (N, X)),
    "add_int_scalar": (lambda x: x + 1.5, (N,)),
    "add_bool": (lambda x, y: x + y, (B, B)),
    "add_bool_int": (lambda x: x + 1, (B,)),
    "add_0d_f64": (lambda x, y: x + y, (X, t(dtype=torch.float64))),
    "add_0d_int": (lambda x, y: x + y, (N.int(), torch.tensor(3))),
    "rsub": (lambda x: 1 - x, (X,)),
    "rsub_alpha": (lambda x, y: torch.rsub(x, y, alpha=2), (X, X)),
    "mul_half": (lambda x: x * 0.5, (X.half(),)),
    "mul_bf16_f32": (lambda x, y: x * y, (X.bfloat16(), X)),
    "div_int": (lambda x, y: x / y, (N, N.abs() + 1)),
    "div_floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), (X, X + 9)),
    "div_trunc": (lambda x: torch.div(x, 3, rounding_mode="trunc"), (N,)),
    "floordiv": (lambda x: x // 3, (N,)),
    "remainder": (lambda x: x % 3, (N,)),
    "remainder_neg": (lambda x: x % -1.5, (X,)),
    "fmod": (lambda x: torch.fmod(x, 1.5), (X,)),
    "pow2": (lambda x: x**2, (ODD,)),
    "pow3": (lambda x: x**3, (N,)),
    "pow_half": (lambda x: x**0.5, (ODD,)),
    "pow_minus_half": (lambda x: x**-0.5, (ODD,)),
    "pow_minus_one": (lambda x: x**-1, (ODD,)),
    "pow_int_float": (lambda x: x**1.5, (N.abs(),)),
    "pow_tensor": (lambda x, y: x**y, (X.abs(), X)),
    "pow_scalar": (lambda x: 2**x, (X,)),
    "maximum": (torch.maximum, (ODD, ODD.flip(0))),
    "minimum": (torch.minimum, (N, N.flip(0))),
    "atan2": (torch.atan2, (ODD, ODD.flip(0))),
    "compare": (lambda x, y: (x < y, x >= y, x == 1, x != 0.5), (N, X)),
    "compare_int_float_scalar": (lambda x: x > 0.5, (N,)),
    "logical": (lambda x, y: (x & y, x | y, x ^ y, ~x, x.logical_and(y)), (B, B.flip(0))),
    "logical_float": (lambda x, y: x.logical_or(y), (ODD, ODD.flip(0))),
    "bitwise_int": (lambda x: (x & 3, x | 4, x ^ 1, ~x), (N,)),
    "where": (lambda c, x: torch.where(c, x, 0.0), (B, X)),
    "where_promote": (lambda c, x, y: torch.where(c, x, y), (B, N, X)),
    "masked_fill": (lambda x, m: x.masked_fill(m, float("-inf")), (X, B)),
    "masked_fill_int": (lambda x, m: x.masked_fill(m, 7), (N, B)),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), (X,)),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x + 9), (X,)),
    "lerp": (lambda x, y: (torch.lerp(x, y, 0.3), torch.lerp(x, y, 0.8)), (X, X.flip(0))),
    "casts": (lambda x: (x.long(), x.half(), x.bool(), x.to(torch.float64)), (X,)),
    "type_as": (lambda x, y: x.type_as(y), (N, X)),
    # reductions
    "sum": (lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True)), (X,)),
    "sum_bool": (lambda x: (x.sum(), x.sum(-1)), (B,)),
    "sum_dtype": (lambda x: x.sum(1, dtype=torch.float64), (X,)),
    "mean": (lambda x: (x.mean(), x.mean((1, 2)), x.mean(-1, keepdim=True)), (X,)),
    "prod": (lambda x: (x.prod(), x.prod(1)), (X,)),
    "var": (lambda x: (x.var(), x.var(1, unbiased=False), x.var((0, 1), correction=2)), (X,)),
    "std_mean": (lambda x: torch.std_mean(x, 1), (X,)),
    "var_mean": (lambda x: torch.var_mean(x, (0, 2), keepdim=True), (X,)),
    "amax": (lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min()), (X,)),
    "max_dim": (lambda x: x.max(1), (X,)),
    "min_values": (lambda x: x.min(-1, keepdim=True).values, (X,)),
    "aminmax": (lambda x: torch.aminmax(x, dim=1), (X,)),
    "argmax": (lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)), (X,)),
    "any_all": (lambda x: (x.any(), x.all(), x.any(1), x.all(-1, keepdim=True)), (B,)),
    "any_float": (lambda x: x.any(0), (X,)),
    "norms": (lambda x: (x.norm(), x.norm(dim=1), x.norm(1, -1), x.norm(torch.inf, 1)), (X,)),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True), (X,)),
    "normalize": (lambda x: F.normalize(x, dim=1), (X,)),
    "logsumexp": (lambda x: (x.logsumexp(1), x.logsumexp((0, 2), keepdim=True)), (X,)),
    "logsumexp_inf": (lambda x: x.logsumexp(0), (torch.full((3,), -float("inf")),)),
    "cumsum": (lambda x, i: (x.cumsum(1), i.cumsum(-1)), (X, N)),
    "cumsum_bool": (lambda x: x.cumsum(0), (B,)),
    "count_nonzero": (lambda x: x.count_nonzero(1), (N,)),
    # products
    "matmul_ranks": (
        lambda v, m, b: (v @ m, m.mT @ v, v @ v, b @ m, m.mT @ b.mT, v @ b.mT),
        (t(4), M, t(2, 3, 4)),
    ),
    "matmul_broadcast": (lambda x, y: x @ y, (t(2, 1, 3, 4), t(5, 4, 6))),
    "matmul_int": (lambda x, y: x @ y, (N, N.mT)),
    "linear": (F.linear, (X, t(5, 8), t(5))),
    "linear_no_bias": (lambda x, w: F.linear(x, w), (X, t(5, 8))),
    "linear_vector": (lambda x, w: F.linear(x, w), (t(8), t(8))),
    "addmm": (lambda b, x, y: torch.addmm(b, x, y), (t(5), t(3, 4), M)),
    "addmm_scaled": (
        lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2),
        (t(3, 5), t(3, 4), M),
    ),
    "baddbmm": (
        lambda b, x, y: torch.baddbmm(b, x, y, beta=0.5),
        (t(2, 3, 5), t(2, 3, 4), t(2, 4, 5)),
    ),
    "outer": (torch.outer, (t(3), t(4))),
    "dot": (torch.dot, (t(5), t(5))),
    "mv": (torch.mv, (M, t(5))),
    "einsum_bmm": (
        lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y),
        (t(2, 3, 4, 5), t(2, 3, 6, 5)),
    ),
    "einsum_out": (lambda x, y: torch.einsum("bchw,bc->bhw", x, y), (IMG, t(2, 4))),
    "einsum_outer": (lambda x, y: torch.einsum("i,j->ji", x, y), (t(3), t(4))),
    "einsum_dots": (lambda x, y: torch.einsum("...ij,jk->...ik", x, y), (t(2, 3, 4), M)),
    "einsum_implicit": (lambda x, y: torch.einsum("ij,jk", x, y), (t(3, 4), M)),
    "einsum_three": (lambda x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z), (t(2, 3), t(3, 4), M)),
    "einsum_sum": (lambda x: torch.einsum("abc->b", x), (X,)),
    "tensordot": (lambda x, y: torch.tensordot(x, y, dims=([1, 2], [2, 0])), (X, t(8, 4, 3))),
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2, padding=1), (X, t(5, 3, 3))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), (IMG, t(6, 2, 3, 3), t(6))),
    "conv2d_dilated": (lambda x, w: F.conv2d(x, w, dilation=2), (IMG, t(6, 4, 3, 3))),
    "conv2d_same": (lambda x, w: F.conv2d(x, w, padding="same"), (IMG, t(6, 4, 4, 3))),
    "conv2d_valid": (lambda x, w: F.conv2d(x, w, padding="valid"), (IMG, t(6, 4, 3, 3))),
    "conv2d_unbatched": (lambda x, w: F.conv2d(x, w), (t(4, 9, 9), t(6, 4, 3, 3))),
    "conv3d": (
        lambda x, w: F.conv3d(x, w, padding=(1, 0, 1)),
        (t(1, 2, 5, 5, 5), t(3, 2, 3, 3, 3)),
    ),
    "conv_transpose1d": (lambda x, w: F.conv_transpose1d(x, w, stride=2), (X, t(3, 5, 3))),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, groups=2),
        (IMG, t(4, 3, 3, 3), t(6)),
    ),
    "convolution": (
        lambda x, w: aten.convolution(x, w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1),
        (IMG, t(4, 3, 3, 3)),
    ),
    "attention": (F.scaled_dot_product_attention, (t(2, 3, 4, 8), t(2, 3, 5, 8), t(2, 3, 5, 6))),
    "attention_causal": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3),
        (t(2, 3, 4, 8),),
    ),
    "attention_mask": (
        lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m),
        (t(2, 3, 4, 8), t(4, 4)),
    ),
    "attention_bool_mask": (
        lambda q: F.scaled_dot_product_attention(q, q, q, torch.ones(4, 4).tril().bool()),
        (t(2, 3, 4, 8),),
    ),
    "attention_gqa": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        (t(2, 4, 5, 8), t(2, 2, 5, 8)),
    ),
    # norms
    "batch_norm": (lambda x, m, v: F.batch_norm(x, m, v), (IMG, t(4), t(4).abs())),
    "batch_norm_weight": (lambda x, m: F.batch_norm(x, m, m.abs(), weight=m), (IMG, t(4))),
    "batch_norm_stats": (lambda x: F.batch_norm(x, None, None, training=True), (IMG,)),
    "layer_norm": (lambda x, w: F.layer_norm(x, (3, 8), w, w), (X, t(3, 8))),
    "layer_norm_bias": (lambda x, w: F.layer_norm(x, (8,), None, w), (X, t(8))),
    "group_norm": (lambda x, w: F.group_norm(x, 2, w, w), (IMG, t(4))),
    "instance_norm": (lambda x: F.instance_norm(x), (IMG,)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (8,), w), (X, t(8))),
    "native_layer_norm": (lambda x, w: torch.native_layer_norm(x, (8,), w, w, 1e-5)[0], (X, t(8))),
    # pools and resampling
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), (X,)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (IMG,)),
    "max_pool2d_dilated": (lambda x: F.max_pool2d(x, 2, dilation=2), (IMG,)),
    "max_pool_unbatched": (lambda x: F.max_pool2d(x, 2), (IMG[0],)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), (t(1, 2, 4, 4, 4),)),
    "max_pool_indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), (IMG,)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (X,)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), (IMG,)),
    "avg_pool2d_divisor": (lambda x: F.avg_pool2d(x, 3, divisor_override=4), (IMG,)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), (t(1, 2, 4, 4, 4),)),
    "adaptive_avg": (
        lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (3, 5))),
        (IMG,),
    ),
    "adaptive_avg1d": (lambda x: F.adaptive_avg_pool1d(x, 3), (X,)),
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, (3, None)), (IMG,)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2.0), (IMG,)),
    "nearest_size": (lambda x: F.interpolate(x, (5, 13)), (IMG,)),
    "nearest_odd_scale": (lambda x: F.interpolate(x, scale_factor=1.7), (IMG,)),
    "nearest_exact": (lambda x: F.interpolate(x, (5, 13), mode="nearest-exact"), (IMG,)),
    "bilinear": (lambda x: F.interpolate(x, (5, 13), mode="bilinear"), (IMG,)),
    "bilinear_corners": (
        lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True),
        (IMG,),
    ),
    "bicubic": (lambda x: F.interpolate(x, (12, 7), mode="bicubic"), (IMG,)),
    "linear1d": (lambda x: F.interpolate(x, 11, mode="linear"), (X,)),
    # shapes
    "views": (lambda x: (x.view(6, 8), x.reshape(-1), x.flatten(1), x.unflatten(2, (2, 4))), (X,)),
    "squeezes": (lambda x: (x[None].squeeze(), x[:, None].squeeze(1), x.unsqueeze(-1)), (X,)),
    "permutes": (lambda x: (x.permute(2, 0, 1), x.transpose(-1, 0), x.mT, x[0].t()), (X,)),
    "movedim": (lambda x: (x.movedim(0, -1), x.movedim((0, 1), (2, 0))), (X,)),
    "expand": (lambda x: (x[:1].expand(4, -1, 8), x[:, :1].expand_as(x)), (X,)),
    "repeat": (lambda x: (x.repeat(2, 1, 3), x.repeat(2, 1, 1, 1), x.tile((2,))), (X,)),
    "repeat_interleave": (lambda x: (x.repeat_interleave(2, 1), x.repeat_interleave(3)), (X,)),
    "rolls": (lambda x: (x.roll(1, 1), x.roll((1, -2), (0, 2)), x.roll(5)), (X,)),
    "flip": (lambda x: (x.flip(0, -1), x.flipud(), x.fliplr()), (X,)),
    "pads": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (1, -1, 0, 2), value=3.0)), (X,)),
    "pad_reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), (IMG,)),
    "pad_replicate": (lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), (IMG,)),
    "pad_circular": (lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), (IMG,)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (IMG,)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 3), (IMG,)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), (IMG,)),
    "joins": (lambda x: (torch.cat((x, x), -1), torch.stack((x, x), 1)), (X,)),
    "cat_promote": (lambda x, i: torch.cat((x, i), 1), (X, N)),
    "stacks": (lambda x: (torch.hstack((x, x)), torch.vstack((x[0, 0], x[0, 0]))), (X,)),
    "splits": (
        lambda x: (*x.split(3, 2), *x.chunk(3, -1), *x.split((1, 2), 1), *x.tensor_split(3, 2)),
        (X,),
    ),
    "unbind": (lambda x: x.unbind(1), (X,)),
    "select": (lambda x: (x[0], x[:, -1], x[..., 2]), (X,)),
    "slices": (lambda x: (x[:, 1:], x[..., -3:], x[..., 1:7:2], x[:, :99], x[..., 5:2]), (X,)),
    "narrow": (lambda x: x.narrow(2, 1, 4), (X,)),
    "slice_scatter": (lambda x: torch.slice_scatter(x, x[..., :2] * 2, 2, 3, 5), (X,)),
    "select_scatter": (lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, -1), (X,)),
    "diff": (lambda x: (x.diff(), x.diff(n=2, dim=-1), x.diff(prepend=x[..., :1])), (X,)),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="ij"), (t(3), t(4))),
    "meshgrid_xy": (lambda x, y: torch.meshgrid(x, y, indexing="xy"), (t(3), t(4))),
    "broadcast_tensors": (lambda x, y: torch.broadcast_tensors(x, y), (t(3, 1), t(4))),
    # look-ups and making
    "embedding": (lambda w, i: F.embedding(i, w), (t(9, 4), torch.tensor([[0, 8], [3, 3]]))),
    "index": (
        lambda x, i: (x[i], x[:, i], x[..., i]),
        (t(3, 3, 3), torch.tensor([[0, -1], [2, 1]])),
    ),
    "index_range": (lambda x, i: x[torch.arange(3), i], (t(3, 5), torch.tensor([0, -1, 4]))),
    "index_grid": (
        lambda x: x[torch.arange(3)[:, None], torch.arange(2)[None, :]],
        (t(3, 5, 2),),
    ),
    "index_select": (lambda x, i: x.index_select(1, i), (X, torch.tensor([2, 0]))),
    "gather": (lambda x, i: x.gather(-1, i), (X, N.abs())),
    "arange": (lambda: (torch.arange(5), torch.arange(1, 9, 2), torch.arange(0.0, 1.0, 0.25)), ()),
    "makers": (
        lambda x: (torch.zeros(3), torch.ones_like(x), x.new_full((2,), 3), torch.eye(3)),
        (X,),
    ),
    "full_bool": (lambda x: torch.full((3,), True) & x[0, 0, :3].bool(), (X,)),
    "constant_tensor": (lambda x: x + torch.tensor([1.0, 2.0])[0], (X,)),
    "triangles": (lambda x: (x.tril(), x.triu(1), x.bool().tril(-1)), (X,)),
    "tril_ones": (lambda: torch.ones(4, 4, dtype=torch.bool).tril(), ()),
    "dropout_eval": (lambda x: F.dropout(x, 0.5, training=False), (X,)),
    "no_ops": (lambda x: x.contiguous().detach().clone().to(torch.float32) + 0, (X,)),
    "weight_norm": (lambda v, g: torch._weight_norm(v, g, 0), (t(4, 3), t(4, 1))),
    "opaque_topk": (lambda x: x.topk(2), (X,)),
    "opaque_complex": (lambda x: torch.fft.rfft(x).abs(), (X,)),
}
OPAQUE = {
    "batch_norm_stats", "max_pool_indices", "makers", "opaque_topk", "opaque_complex",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_importer_agrees_with_eager(name: str) -> None:
    fn, args = CASES[name]
    captured = check(Fn(fn), tuple(args))
    assert bool(captured.opaque) == (name in OPAQUE), captured.remarks
    assert len(captured.remarks) == len(captured.opaque)


OPTIONS = [{}, {"batch_first": True, "bidirectional": True}, {"bias": False}]


@pytest.mark.parametrize("cls", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("options", OPTIONS)
def test_recurrent_layers(cls: type, options: dict[str, bool]) -> None:
    net = cls(5, 4, num_layers=2, **options).eval()
    assert not check(net, (t(3, 2, 5),)).opaque


def test_recurrent_relu_and_projection() -> None:
    assert not check(torch.nn.RNN(5, 4, nonlinearity="relu").eval(), (t(3, 2, 5),)).opaque
    assert check(torch.nn.LSTM(5, 4, proj_size=2).eval(), (t(3, 2, 5),)).opaque


@pytest.mark.parametrize("cell", [torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell])
def test_recurrent_cells(cell: type) -> None:
    assert not check(cell(5, 4).eval(), (t(2, 5),)).opaque


def test_random_ops_are_opaque_and_impure() -> None:
    from capture.harness import capture

    captured = capture(Fn(lambda x: x + torch.rand_like(x)), (X,))
    (op,) = (op for op in captured.function.ops if op.kind.NAME == "torch_op")
    assert not op.kind.pure
