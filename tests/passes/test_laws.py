"""The laws of every pass, each on drawn networks: alone, and at its place in each pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies.inputs import inputs
from strategies.instances import assert_close, nudged
from strategies.laws import same_bits
from strategies.models import attentions, cnns, models
from strategies.orders import reordered

from leptonc import meaning
from leptonc.errors import InferError
from leptonc.ir.core import Function, Op, Origin, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.kinds.region import Unit
from leptonc.ir.specialize import specialize
from leptonc.ir.text import dump
from leptonc.ir.verify import verify
from leptonc.passes import REGISTRY, load, pipeline
from leptonc.passes.fold_batchnorm import FoldBatchNorm
from leptonc.passes.fuse import Fuse
from leptonc.passes.partition import Partition
from leptonc.pipeline import Pass, PassManager
from leptonc.rewrite.trace import RemarkKind, Trace

from .nets import working_ops

# One example runs every pass and several interpreters: a share of the profile is enough.
FEW = settings(max_examples=max(15, settings.default.max_examples // 8))  # type: ignore[union-attr]


@dataclass(frozen=True)
class Law:
    """What a pass may do: ``bits`` keeps every bit, ``grows`` may leave more ops than it got."""

    bits: bool = False
    grows: bool = False


LAWS: Mapping[str, Law] = {
    "simplify": Law(),
    "recognize": Law(grows=True),  # a norm written out becomes one op and its affine part
    "cse": Law(bits=True),
    "dce": Law(bits=True),
    "fold-constants": Law(bits=True),
    "fold-batchnorm": Law(grows=True),  # before a padded convolution a norm is a product and a sum
    "fold-quant": Law(grows=True),  # a fake quantization becomes two conversions
    "decode-weights": Law(bits=True),
    "merge-linear": Law(grows=True),  # parallel layers become one and a slice for each
    # Copies into another order. Torch sums in another order where strides differ: ``test_layout``
    # holds it to the bits, on networks whose sums are exact.
    "layout": Law(grows=True),
    "fuse": Law(),
    "partition": Law(bits=True),
}


def test_every_pass_has_its_law() -> None:
    assert set(LAWS) == set(REGISTRY)


def work(fn: Function) -> int:
    """Return the number of ops that compute: those of units' bodies, constants not counted."""
    return sum(1 for _ in working_ops(fn))


def assert_no_further(before: Function, after: Function, args: Sequence[torch.Tensor]) -> None:
    """Assert that ``after`` is about as near to float64 as ``before``."""
    want, got = meaning.run(before, *args), meaning.run(after, *args)
    truth = meaning.run(before, *args, precision="f64")
    moved = meaning.run(before, *nudged(args), precision="f64")
    for w, g, t, m in zip(want, got, truth, moved, strict=True):
        assert w.dtype == g.dtype and w.shape == g.shape
        assert_close(w, g, t, 0.0, m) if w.is_floating_point() else same_bits([w], [g])


def assert_law(p: Pass, before: Function, args: Sequence[torch.Tensor]) -> Function:
    """Run ``p`` on ``before`` and assert all that its law says; return the result."""
    law, text, ops = LAWS[p.NAME], dump(before), before.ops
    after = p(before)
    verify(after)
    assert dump(before) == text and before.ops is ops, "the input is never touched"
    assert law.grows or work(after) <= work(before), "op count never grows"
    assert p(after) is after, "idempotent, and says so by identity"
    assert [v.type.logical() for v in after.returns] == [v.type.logical() for v in before.returns]
    if law.bits:
        same_bits(meaning.run(before, *args), meaning.run(after, *args))
    else:
        assert_no_further(before, after, args)
    sizes = meaning.bind_dims(before, [t.shape for t in args])
    verify(specialize(after, sizes))  # symbolic types hold for every size
    return after


@pytest.mark.parametrize("name", sorted(REGISTRY))
@settings(max_examples=FEW.max_examples // 2)
@given(data=st.data())
def test_alone(name: str, data: st.DataObject) -> None:
    fn = data.draw(models())
    assert_law(load(name)(), fn, data.draw(inputs(fn)))


@pytest.mark.parametrize("pipe", ["O1", "O2", "O3"])
@FEW
@given(data=st.data())
def test_in_its_place(pipe: str, data: st.DataObject) -> None:
    fn = data.draw(models())
    args = data.draw(inputs(fn))
    for p in pipeline(pipe):
        fn = assert_law(p, fn, args)


@FEW
@given(data=st.data())
def test_whole_pipelines_keep_nan_and_infinities_where_they_are(data: st.DataObject) -> None:
    """On hard inputs: passes that keep every bit keep them there, too."""
    fn = data.draw(models())
    args = data.draw(inputs(fn, special=True))
    for p in pipeline("O2"):
        after = p(fn)
        if LAWS[p.NAME].bits:
            same_bits(meaning.run(fn, *args), meaning.run(after, *args))
        fn = after


# ----- cse and dce --------------------------------------------------------------------------------


@st.composite
def twins(draw: st.DrawFn, fn: Function) -> tuple[Function, int]:
    """Append copies of drawn ops: exact ones, and ones of two operands in another order.

    Returns the function, which returns the copies' results too, and the number of exact copies.
    """
    computing = [op for op in fn.ops if op.operands]
    chosen = draw(st.lists(st.sampled_from(computing), min_size=1, max_size=4))
    ops, returns, exact = list(fn.ops), list(fn.returns), 0
    for op in chosen:
        pair = len(op.operands) == 2
        operands = tuple(draw(st.permutations(op.operands))) if pair else op.operands
        try:
            types = op.kind.infer(tuple(v.type for v in operands))
        except InferError:
            operands, types = op.operands, tuple(r.type for r in op.results)
        made = tuple(Value(t) for t in types)
        exact += operands == op.operands
        ops.append(Op(op.kind, operands, made))
        returns += made
    return Function(fn.name, fn.params, tuple(ops), tuple(returns), fn.dims), exact


@FEW
@given(fn=models(), data=st.data())
def test_cse_merges_equal_ops_and_no_others(fn: Function, data: st.DataObject) -> None:
    before, exact = data.draw(twins(fn))
    args = data.draw(inputs(fn))
    after = assert_law(load("cse")(), before, args)
    assert len(before.ops) - len(after.ops) >= exact
    idle = Function(before.name, before.params, before.ops, fn.returns, fn.dims)
    kept = assert_law(load("dce")(), idle, args)
    assert len(kept.ops) <= len(fn.ops), "what nothing reads is gone"


@pytest.mark.parametrize("name", sorted(REGISTRY))
@settings(max_examples=FEW.max_examples // 2)
@given(data=st.data())
def test_alone_with_other_readers(name: str, data: st.DataObject) -> None:
    fn, _ = data.draw(twins(data.draw(models())))
    assert_law(load(name)(), fn, data.draw(inputs(fn)))


# ----- fold-batchnorm -----------------------------------------------------------------------------

_LAYERS = (Conv, ConvTranspose, Linear)


@FEW
@given(fn=cnns(), data=st.data())
def test_a_layer_with_another_reader_is_not_folded(fn: Function, data: st.DataObject) -> None:
    """Every layer's result is returned as well: a folded scale would show in it."""
    layers = tuple(op.result for op in fn.ops if isinstance(op.kind, _LAYERS))
    watched = Function(fn.name, fn.params, fn.ops, (*fn.returns, *layers), fn.dims)
    assert_no_further(watched, FoldBatchNorm()(watched), data.draw(inputs(fn)))


@FEW
@given(fn=cnns())
def test_no_norm_of_a_network_is_left(fn: Function) -> None:
    after = FoldBatchNorm()(fn)
    assert not any(isinstance(op.kind, BatchNorm) for op in after.ops)


# ----- fuse and partition -------------------------------------------------------------------------


def groups(before: Function, after: Function) -> dict[Op, int]:
    """Return the unit of every op of ``before`` that computes, found by what the units hold.

    Kinds and origins survive fusion, positions do not: ops are told apart by being marked.
    """
    at: dict[object, int] = {}
    for i, op in enumerate(after.ops):
        bodies = op.kind.body.ops if isinstance(op.kind, Unit) else (op,)
        for inner in bodies:
            if not isinstance(inner.kind, (Constant, Full)):
                assert inner.origin.module not in at, "an op stands in two units"
                at[inner.origin.module] = i
    computing = [op for op in before.ops if not isinstance(op.kind, (Constant, Full))]
    return {op: at[op.origin.module] for op in computing if op.origin.module in at}


def marked(fn: Function) -> Function:
    """Return ``fn`` with every op named by its position, so that it can be found again."""
    ops = tuple(replace(op, origin=Origin(f"op{i}")) for i, op in enumerate(fn.ops))
    return Function(fn.name, fn.params, ops, fn.returns, fn.dims)


def reachable(fn: Function) -> dict[Op, set[Op]]:
    """Return for every op the ops that its results reach."""
    found: dict[Op, set[Op]] = {}
    for op in reversed(fn.ops):
        found[op] = set()
        for r in op.results:
            for user in fn.users[r]:
                found[op] |= {user, *found[user]}
    return found


@pytest.mark.parametrize(
    "passes", ["fuse", "layout,fuse", "fuse,partition", "layout,fuse,partition"]
)
@FEW
@given(data=st.data())
def test_groups_partition_the_ops_and_are_convex(passes: str, data: st.DataObject) -> None:
    before = PassManager(pipeline("fold-constants,simplify,cse,dce")).run(data.draw(models()))
    if passes.startswith("layout"):
        before, passes = load("layout")()(before), passes.removeprefix("layout,")
    before = marked(before)
    after = before
    for p in pipeline(passes):
        after = p(after)
    unit = groups(before, after)
    lost = [op for op in before.ops if op not in unit and not _is_data(op)]
    assert all(isinstance(op.kind, Add) for op in lost), "only an added bias may vanish in a layer"
    if passes.endswith("partition"):
        assert all(isinstance(op.kind, Unit) or _is_data(op) for op in after.ops)
    reach = reachable(before)
    for a in unit:
        for b in reach[a]:
            if unit.get(b) != unit[a]:
                back = [c for c in reach[b] if unit.get(c) == unit[a]]
                assert not back, f"{a.kind.NAME} to {b.kind.NAME} leaves its unit and comes back"


def _is_data(op: Op) -> bool:
    return isinstance(op.kind, (Constant, Full))


@FEW
@given(data=st.data())
def test_units_in_any_order_give_the_same_bits(data: st.DataObject) -> None:
    fn = data.draw(models())
    args = data.draw(inputs(fn))
    units = Partition()(Fuse()(fn))
    same_bits(meaning.run(units, *args), meaning.run(data.draw(reordered(units)), *args))


# ----- merge-linear -------------------------------------------------------------------------------


@FEW
@given(fn=attentions())
def test_layers_that_read_one_value_merge_or_say_why(fn: Function) -> None:
    trace = Trace("merge-linear")
    after = load("merge-linear")().run(fn, trace)

    def readers(f: Function, v: Value) -> int:
        return sum(isinstance(op.kind, Linear) and op.operands[0] is v for op in f.users[v])

    count = Counter(isinstance(op.kind, Linear) for op in fn.ops)[True]
    left = Counter(isinstance(op.kind, Linear) for op in after.ops)[True]
    told = [r.reason for r in trace.remarks if r.kind is RemarkKind.MISSED]
    assert left <= count
    if any(readers(after, v) > 1 for v in after.users):
        assert told, "layers of one value are left without a word"
    assert left < count or told or not any(readers(fn, v) > 1 for v in fn.users)
