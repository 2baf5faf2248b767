"""Operations and bytes by shape: a figure for each kind, and a few known to everyone."""

from __future__ import annotations

import pytest

from leptonc.cost.flops import FLOPS, Cost, effective_flops, function_cost, known, nbytes, op_cost
from leptonc.ir import kinds
from leptonc.ir.dims import evaluate, parse_dim
from leptonc.ir.kinds.region import Unit
from leptonc.ir.text import parse


def cost(line: str, params: str, dims: str = "") -> Cost:
    fn = parse(f"func @f({params}{dims}) {{\n  %r = {line}\n  return %r\n}}")
    return op_cost(fn.ops[0])


@pytest.mark.parametrize("kind", [k for k in kinds.ALL if k is not Unit], ids=lambda k: k.NAME)
def test_every_kind_has_a_figure(kind) -> None:
    assert kind in FLOPS


@pytest.mark.parametrize(
    ("line", "params", "flops", "moved"),
    [
        ("linear(%x, %w) : f32[5,7]", "%x: f32[5,3], %w: f32[7,3]", 210, 4 * (15 + 21 + 35)),
        ("linear(%x, %w, %b) : f32[5,7]", "%x: f32[5,3], %w: f32[7,3], %b: f32[7]", 245, 312),
        ("matmul(%x, %y) : f32[2,3,5]", "%x: f32[2,3,4], %y: f32[2,4,5]", 240, 4 * (24 + 40 + 30)),
        (
            "conv{stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1}(%x, %w) : f32[1,8,4,4]",
            "%x: f32[1,3,4,4], %w: f32[8,3,3,3]", 2 * 128 * 27, 4 * (48 + 216 + 128),
        ),
        (
            "conv{stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=3}(%x, %w) : f32[1,3,4,4]",
            "%x: f32[1,3,4,4], %w: f32[3,1,3,3]", 2 * 48 * 9, 4 * (48 + 27 + 48),
        ),
        ("add(%x, %y) : f32[2,3]", "%x: f32[2,3], %y: f32[3]", 6, 4 * (6 + 3 + 6)),
        ("relu(%x) : f16[2,3]", "%x: f16[2,3]", 6, 24),
        ("reshape{shape=(6,)}(%x) : f32[6]", "%x: f32[2,3]", 0, 0),
        ("embedding(%w, %i) : f32[2,4]", "%w: f32[1000,4], %i: i64[2]", 0, 32 + 16 + 32),
        ("sum{axes=(1,), keepdim=False}(%x) : f32[2]", "%x: f32[2,3]", 6, 32),
        ("mul(%x, %x) : f32[4]", "%x: f32[4]", 4, 32),
    ],
)  # fmt: skip
def test_figures(line: str, params: str, flops: int, moved: int) -> None:
    assert cost(line, params) == Cost(flops, moved)


def test_symbolic_sizes_stay_symbolic() -> None:
    got = cost("linear(%x, %w) : f32[n,7]", "%x: f32[n,3], %w: f32[7,3]", "; n in [1, 8]")
    assert got.flops == parse_dim("42*n")
    assert evaluate(got.bytes, {"n": 2}) == 4 * (6 + 21 + 14)
    assert known(got.flops, guess=10) == 420 and known(7) == 7


def test_unit_moves_operands_and_results_only() -> None:
    fn = parse(
        """
        func @f(%x: f32[2,3]) {
          %y = unit{name='n', pattern='chain'}(%x) : f32[2,3] {
            func @n(%a: f32[2,3]) {
              %b = neg(%a) : f32[2,3]
              %c = relu(%b) : f32[2,3]
              return %c
            }
          }
          return %y
        }
        """
    )
    assert function_cost(fn) == Cost(12, 48)


def test_values_count_once() -> None:
    fn = parse("func @f(%x: f32[4]) {\n  return %x\n}")
    assert nbytes((fn.params[0], fn.params[0])) == 16


def test_resnet18_figure() -> None:
    """1.81e9 multiply-adds at 224x224, as every paper says; here: of one of its layers."""
    got = cost(
        "conv{stride=(2, 2), padding=(3, 3), dilation=(1, 1), groups=1}(%x, %w) "
        ": f32[1,64,112,112]",
        "%x: f32[1,3,224,224], %w: f32[64,3,7,7]",
    )
    assert got.flops == 2 * 118_013_952


def conv(kernel: int, stride: int = 1, groups: int = 1, dtype: str = "f32") -> str:
    attributes = f"stride=({stride}, {stride}), padding=(0, 0), dilation=(1, 1), groups={groups}"
    out = (8 - kernel) // stride + 1
    return (
        f"func @f(%x: {dtype}[1,4,8,8], %w: {dtype}[4,{4 // groups},{kernel},{kernel}]) {{\n"
        f"  %r = conv{{{attributes}}}(%x, %w) : {dtype}[1,4,{out},{out}]\n  return %r\n}}"
    )


@pytest.mark.parametrize(
    ("text", "gains"),
    [
        (conv(3), True),
        (conv(1), False),
        (conv(5), False),
        (conv(3, stride=2), False),
        (conv(3, groups=4), False),
        (conv(3, dtype="f64"), False),
    ],
)
def test_only_what_kernels_transform_counts_less(text: str, gains: bool) -> None:
    (op,) = parse(text).ops
    whole = op_cost(op).flops
    assert effective_flops(op, 1.0) == whole
    assert effective_flops(op, 2.0) == (whole // 2 if gains else whole)
