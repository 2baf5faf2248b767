"""Every pass says why it refused a candidate: a case for each refusal, and what holds for all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings

from leptonc.ir.core import Function, Op, Origin, Value
from leptonc.ir.kinds.binary import Add, Div, Mul, Sub
from leptonc.ir.kinds.contract import Linear, Matmul
from leptonc.ir.kinds.data import Embedding, Full
from leptonc.ir.kinds.norm import BatchNorm, LayerNorm, Softmax
from leptonc.ir.kinds.pointwise import Elu
from leptonc.ir.kinds.quantize import Dequantize
from leptonc.ir.kinds.reduce import Amax, Mean, Sum
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.shape import Pad, Reshape, Transpose
from leptonc.ir.kinds.unary import Exp, Neg, Reciprocal, Relu, Sigmoid, Sqrt
from leptonc.ir.types import DType, TensorType
from leptonc.passes import REGISTRY, pipeline
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import RemarkKind

from .nets import BLOCKS, F32, Net, networks

# ----- one net a refusal --------------------------------------------------------------------------


def random(b: Net, *operands: Value) -> Value:
    """Return an op that draws other numbers each time."""
    kind = TorchOp("aten.rand_like.default", ("$0",), (), (TensorType(F32, (2, 2)),), False)
    return b(kind, operands[0] if operands else b.weight(2, 2))


def drawn_twice(b: Net) -> tuple[Value, ...]:
    x = b.input(2, 2)
    return (b(Add(), random(b, x), random(b, x)),)


def drawn_in_vain(b: Net) -> tuple[Value, ...]:
    x = b.input(2, 2)
    random(b, x)
    return (b(Relu(), x),)


def spread(b: Net) -> tuple[Value, ...]:
    return (b(Mul(), b(Full((2000, 2000), 2.0, F32)), b(Full((), 3.0, F32))),)


def out_of_range(b: Net) -> tuple[Value, ...]:
    index = b(Full((1,), 5, DType.I64))
    return (b(Embedding(), b.weight(2, 3), index),)


def drawn_of_constants(b: Net) -> tuple[Value, ...]:
    return (random(b),)


def norm_of_the_batch(b: Net) -> tuple[Value, ...]:
    y = b.conv(b.input(1, 3, 8, 8), 4)
    args = ("$0", None, None, None, None, True, 0.1, 1e-5, False)
    return (b(TorchOp("aten.batch_norm.default", args, (), (y.type,), True), y),)


def norm_of_a_shared_conv(b: Net) -> tuple[Value, ...]:
    y = b.conv(b.input(1, 3, 8, 8), 4)
    return b.norm(y), b(Relu(), y)


def norm_before_padding(b: Net) -> tuple[Value, ...]:
    return (b.conv(b.norm(b.input(1, 3, 8, 8)), 4),)


def shared_norm_before(b: Net) -> tuple[Value, ...]:
    y = b.norm(b.input(1, 3, 8, 8))
    return b.conv(y, 4, 1), b(Relu(), y)


def norm_of_parameters(b: Net) -> tuple[Value, ...]:
    stats = [b.input(4, hint=h) for h in ("mean", "var", "w", "b")]
    return (b(BatchNorm(1e-5), b.conv(b.input(1, 3, 8, 8), 4), *stats),)


def scaled_by_one_number(b: Net) -> tuple[Value, ...]:
    return (b(Mul(), b.conv(b.input(1, 3, 8, 8), 4), b(Full((), 0.5, F32))),)


def codes_of_16_bits(b: Net) -> tuple[Value, ...]:
    codes = b(Full((4, 4), 3, DType.I16))
    x = b(Dequantize(), b(Full((2, 4), 5, DType.U8)), b(Full((), 0.5, F32)))
    w = b(Dequantize(), codes, b(Full((), 0.5, F32)))
    return (b(Linear(), x, w),)


def computed_codes(b: Net) -> tuple[Value, ...]:
    w = b(Dequantize(), b.param(TensorType(DType.I8, (4, 4)), "codes"), b(Full((), 0.5, F32)))
    return (b(Linear(), b.input(2, 4), w),)


def parallel_with_epilogues(b: Net) -> tuple[Value, ...]:
    x = b.input(2, 4)
    return b(Relu(), b.linear(x, 4)), b(Relu(), b.linear(x, 4))


def parallel_and_computed(b: Net) -> tuple[Value, ...]:
    x, w = b.input(2, 4), b.input(3, 4, hint="w")
    return b.linear(x, 4), b(Linear(), x, w)


def narrow_between(b: Net) -> tuple[Value, ...]:
    return (b.linear(b.linear(b.input(2, 16), 2), 16),)


def flattened_for_others(b: Net) -> tuple[Value, ...]:
    y = b.conv(b.input(1, 8, 4, 4), 8)
    return (b(Softmax(1), b(Reshape((1, 128)), y)),)


def conv_and_softmax(b: Net) -> tuple[Value, ...]:
    y = b.linear(b.input(2, 4), 4)
    return b(Relu(), y), b(Softmax(1), y)


def two_activations(b: Net) -> tuple[Value, ...]:
    return (b(Sigmoid(), b(Relu(), b.linear(b.input(2, 4), 4))),)


def gate_of_itself(b: Net) -> tuple[Value, ...]:
    return (b(Mul(), b.linear(b.input(2, 4), 4), b.input(2, 4, hint="g")),)


def two_residuals(b: Net) -> tuple[Value, ...]:
    y = b(Add(), b.linear(b.input(2, 4), 4), b.input(2, 4, hint="r"))
    return (b(Add(), y, b.input(2, 4, hint="s")),)


def broadcast_residual(b: Net) -> tuple[Value, ...]:
    return (b(Add(), b.linear(b.input(2, 4), 4), b.input(1, 4, hint="r")),)


def scaled_elu(b: Net) -> tuple[Value, ...]:
    return (b(Elu(1.0, 2.0, 1.0), b.linear(b.input(2, 4), 4)),)


def add_of_two_convs(b: Net) -> tuple[Value, ...]:
    x = b.input(1, 4, 8, 8)
    return (b(Add(), b.conv(x, 4), b.conv(x, 4)),)


def small_bands(b: Net) -> tuple[Value, ...]:
    y = b.conv(b.input(1, 4, 8, 8), 8, 1)
    return (b.conv(b.conv(y, 8, groups=8), 4, 1),)


def product_of_no_gate(b: Net) -> tuple[Value, ...]:
    g = b(Relu(), b.input(1, 4, 1, 1, hint="g"))
    return (b.conv(b(Mul(), b.input(1, 4, 64, 64), g), 4, 1),)


def norm_of_a_fused_sum(b: Net) -> tuple[Value, ...]:
    s = b(Add(), b.linear(b.input(2, 4), 4), b.input(2, 4, hint="r"))
    return (b(LayerNorm(1, 1e-5, "none"), s),)


def norm_of_a_broadcast(b: Net) -> tuple[Value, ...]:
    s = b(Add(), b.input(2, 4), b.input(1, 4, hint="r"))
    return (b(LayerNorm(1, 1e-5, "none"), s),)


def dear_small_op(b: Net) -> tuple[Value, ...]:
    return (b(Mul(), b.input(8, 4), b(Exp(), b.input(1, 4, hint="g"))),)


def long_chain(b: Net) -> tuple[Value, ...]:
    y = b.input(8, 4)
    for _ in range(30):
        y = b(Neg(), b(Relu(), y))
    return (y,)


def shared_before_bias(b: Net) -> tuple[Value, ...]:
    y = b.conv(b.input(1, 3, 8, 8), 4)
    return b(Add(), y, b.weight(4, 1, 1)), b(Sigmoid(), y)


def copying_reshape(b: Net) -> tuple[Value, ...]:
    return (b(Relu(), b(Reshape((12,)), b(Transpose((1, 0)), b.input(3, 4)))),)


def views(b: Net) -> tuple[Value, ...]:
    x = b(Transpose((1, 0)), b(Transpose((1, 0)), b.input(3, 4)))
    return (b(Relu(), x),)


def soft(b: Net, axis: int = 1, shared: bool = False) -> tuple[Value, ...]:
    x = b.input(3, 4)
    e = b(Exp(), b(Sub(), x, b(Amax((1,), True), x)))
    y = b(Div(), e, b(Sum((axis,), True), e))
    return (y, b(Neg(), e)) if shared else (y,)


def centred(b: Net, axis: int = 1, eps: float = 1e-5) -> tuple[Value, ...]:
    x = b.input(3, 4)
    d = b(Sub(), x, b(Mean((axis,), True), x))
    variance = b(Add(), b(Mean((axis,), True), b(Mul(), d, d)), b(Full((), eps, F32)))
    return (b(Div(), d, b(Sqrt(), variance)),)


def attended_over_rows(b: Net) -> tuple[Value, ...]:
    scores = b(Matmul(), b.input(2, 4, 4, hint="q"), b.input(2, 4, 4, hint="k"))
    return (b(Matmul(), b(Softmax(1), scores), b.input(2, 4, 4, hint="v")),)


def reflected(b: Net) -> tuple[Value, ...]:
    x = b(Pad((0, 0, 1, 1), (0, 0, 1, 1), "reflect"), b.input(1, 3, 8, 8))
    return (b.conv(x, 4, pad=0),)


def shared_root(b: Net) -> tuple[Value, ...]:
    s = b(Sqrt(), b.input(4))
    return b(Reciprocal(), s), b(Exp(), s)


Make = Callable[[Net], tuple[Value, ...]]
READ = r"is also read by"
CASES: tuple[tuple[str, Make, str], ...] = (
    ("cse", drawn_twice, r"^computed again, though it repeats .*random numbers"),
    ("dce", drawn_in_vain, r"^kept, though nothing reads it: .*random"),
    ("fold-constants", spread, r"result would take 15\.3 MiB, what it is made of takes 0 bytes"),
    ("fold-constants", out_of_range, r"^not computed at compile time: it raises"),
    ("fold-constants", drawn_of_constants, r"^not computed at compile time: .*random"),
    ("fold-batchnorm", norm_of_the_batch, r"^not folded into conv .*: it is in training mode"),
    ("fold-batchnorm", norm_of_a_shared_conv, rf"^not folded into conv .*{READ} relu"),
    ("fold-batchnorm", norm_before_padding, r"^not folded into conv .* after it: padding is zero"),
    ("fold-batchnorm", shared_norm_before, rf"^not folded into conv .* after it: .*{READ} relu"),
    ("fold-batchnorm", norm_of_parameters, r"^not folded: its statistics or weights are no const"),
    ("fold-batchnorm", scaled_by_one_number, r"^not folded into conv .*: the factor is constant"),
    ("fold-quant", codes_of_16_bits, "its weight holds i16 codes"),
    ("decode-weights", computed_codes, "in each run: its codes are computed"),
    ("merge-linear", parallel_with_epilogues, r"^not merged with its neighbours: each has an act"),
    ("merge-linear", parallel_and_computed, r"^not merged with its neighbours: its weight or bias"),
    ("merge-linear", narrow_between, r"^not merged with linear .*: 256 mult.* would save nothing"),
    ("layout", flattened_for_others, r"^its image is copied to be flattened: softmax .* no linear"),
    ("fuse", conv_and_softmax, rf"^not run with linear .*{READ} softmax"),
    ("fuse", two_activations, r"^not run with sigmoid .*: one activation is applied"),
    ("fuse", gate_of_itself, r"^not run with mul .*, but no mul$"),
    ("fuse", two_residuals, r"^not run with add .*: another value is added"),
    ("fuse", broadcast_residual, r"^not run with add .*: what it adds differs in shape"),
    ("fuse", scaled_elu, r"^not run with elu .*: with these attributes"),
    ("fuse", add_of_two_convs, r"^not run with add .* does that already"),
    ("fuse", small_bands, r"^not run in bands with its neighbours: .* stay in the cache"),
    ("fuse", product_of_no_gate, r"^not run with conv .*: its factor is no gate"),
    ("fuse", norm_of_a_fused_sum, r"^not run with the sum .*: linear\+add does that already"),
    ("fuse", norm_of_a_broadcast, r"^not run with the sum .*: its summands differ in shape"),
    ("fuse", dear_small_op, r"^not in one loop with .*: it is smaller, and too dear"),
    ("fuse", long_chain, r"^not in one loop with .*: the chain would have more than 24 ops"),
    ("fuse", shared_before_bias, rf"^no bias of conv .*{READ} sigmoid"),
    ("partition", copying_reshape, r"^its elements are copied"),
    ("partition{max-ops=2}", views, r"^a unit of its own: the unit of relu .* has 2 ops already"),
    ("recognize", lambda b: soft(b, 0), r"^its maximum and its sum do not run along one axis"),
    ("recognize", lambda b: soft(b, 1, True), rf"{READ} neg"),
    ("recognize", lambda b: centred(b, 0), r"do not both run over the last axes"),
    ("recognize", lambda b: centred(b, 1, 0.0), r"^its epsilon is 0"),
    ("recognize", attended_over_rows, r"^its softmax does not run over the keys"),
    ("recognize", reflected, r"^the padding is not zero"),
    ("simplify", shared_root, rf"{READ} exp"),
)  # fmt: skip


def labelled(fn: Function) -> Function:
    """Return ``fn`` with a name for each value and a module and line for each op."""
    new: dict[Value, Value] = {p: Value(p.type, f"p{i}") for i, p in enumerate(fn.params)}
    ops: list[Op] = []
    for i, op in enumerate(fn.ops):
        new.update((r, Value(r.type, f"v{i}")) for r in op.results)
        operands, results = (tuple(new[v] for v in vs) for vs in (op.operands, op.results))
        ops.append(Op(op.kind, operands, results, Origin("", f"net.py:{i}")))
    params = tuple(new[p] for p in fn.params)
    return Function(fn.name, params, tuple(ops), tuple(new[v] for v in fn.returns), fn.dims)


def steps_of(fn: Function, row: str) -> Recorder:
    recorder = Recorder()
    PassManager(pipeline(row), (recorder,)).run(fn)
    return recorder


def walk(fn: Function) -> Iterator[Op]:
    for op in fn.ops:
        yield op
        if isinstance(op.kind, Unit):
            yield from walk(op.kind.body)


def assert_about_the_input(recorder: Recorder) -> None:
    """Assert that a refusal names an op that the pass was given, with its origin."""
    for step in recorder.steps:
        names = {r.hint for op in walk(step.before) for r in op.results}
        origins = {op.origin for op in walk(step.before)}
        for remark in step.remarks:
            if remark.kind is RemarkKind.MISSED:
                said = re.findall(r"%(\w+)", remark.what)
                assert said and names.issuperset(said), f"{remark}"
                assert remark.origin in origins, f"{remark}"


@pytest.mark.parametrize(("row", "make", "why"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_a_refused_candidate_has_its_remark(row: str, make: Make, why: str) -> None:
    b = Net()
    recorder = steps_of(labelled(b.finish(*make(b))), row)
    missed = [r for r in recorder.remarks if r.kind is RemarkKind.MISSED]
    assert any(re.search(why, r.reason) for r in missed), [str(r) for r in missed]
    assert_about_the_input(recorder)


def test_every_pass_has_a_case() -> None:
    assert {row.partition("{")[0] for row, _, _ in CASES} == set(REGISTRY)


@settings(max_examples=40)
@given(networks())
def test_refusals_are_about_what_the_pass_was_given(fn: Function) -> None:
    assert_about_the_input(steps_of(labelled(fn), "O2"))


@pytest.mark.parametrize("make", BLOCKS)
def test_refusals_of_blocks_are_about_what_the_pass_was_given(make: Callable[[], Function]) -> None:
    assert_about_the_input(steps_of(labelled(make()), "O3"))
