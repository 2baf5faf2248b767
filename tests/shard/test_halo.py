"""Images cut by rows or columns: windows at the borders see what they see in the whole."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.sharding import agrees, built, chosen, lowered, speeds_for, whole_numbers

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.errors import PlanError
from leptonc.ir.core import Builder, Function, Kind, Origin
from leptonc.ir.kinds import contract, data, reduce, unary
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.shard.halo import halo
from leptonc.shard.hints import Hints, Spatial
from leptonc.shard.plan import Plan, plan
from leptonc.shard.spread import spread


def _letters(fn: Function, ranks: int) -> set[str]:
    return {s.form for s in spread(fn, ranks).strategies[-1]}


@st.composite
def windows(draw: st.DrawFn) -> tuple[Kind, list[str]]:
    """Draw a convolution or a pool whose output has rows of the input by its stride."""
    kernel, stride, dilation = (draw(st.integers(1, n)) for n in (5, 3, 2))
    span = dilation * (kernel - 1) + 1
    what = draw(st.sampled_from(["conv", "max", "avg"]))
    if what == "avg":
        span, dilation = kernel, 1
    most = span - 1 if what == "conv" else kernel // 2
    before = draw(st.integers(0, most))
    after = before if what != "conv" else draw(st.integers(0, span - 1))
    out = draw(st.integers(8, 16)) * draw(st.integers(1, 3))
    size, wide = stride * out, draw(st.integers(3, 5))
    if what == "conv":
        made = contract.Conv((stride, 1), (before, 1), (dilation, 1), 1, (after, 1))
        return made, [f"f32[1,2,{size},{wide}]", f"f32[3,2,{kernel},3]", "f32[3]"]
    if what == "max":
        made = reduce.MaxPool((kernel, 2), (stride, 1), (before, 1), False, (dilation, 1))
    else:
        made = reduce.AvgPool((kernel, 2), (stride, 1), (before, 1), False, True, 4)
    return made, [f"f32[2,2,{size},{wide}]"]


@given(windows(), st.integers(1, 8).flatmap(speeds_for), st.integers(-4, 0), st.integers(0, 99))
def test_windows_over_a_cut_axis_are_those_of_the_whole(
    made: tuple[Kind, list[str]], speeds: tuple[float, ...], low: int, seed: int
) -> None:
    """Bit for bit on whole numbers; of negative ones alone, padding would win if it were zero."""
    kind, types = made
    b, operands = built(*types)
    fn = b.finish(b(kind, *operands))
    found = spread(fn, len(speeds))
    rows, out = operands[0].type.shape[2], fn.returns[0].type.shape[2]
    offered = [s for s in found.strategies[0] if s.form == "halo" and s.ins[0].axis == 2]  # type: ignore[union-attr]
    assert isinstance(rows, int) and isinstance(out, int)
    if rows != kind.stride[0] * out:  # type: ignore[attr-defined]
        assert not offered
        return
    need = halo(fn.ops[0], 2)
    assert bool(offered) == (need is not None and need.units >= len(speeds))
    given_ = [whole_numbers(p.type, seed + i, -4, low) for i, p in enumerate(fn.params)]
    for s in offered:
        agrees(fn, lowered(fn, (s,), found, speeds), given_)


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (contract.Conv((1, 1), (0, 1), (1, 1)), "f32[1,2,16,16] f32[2,2,3,3]"),
        (contract.Conv((2, 1), (1, 1), (1, 1)), "f32[1,2,17,1] f32[2,2,3,3]"),
        (reduce.AvgPool((3, 1), (1, 1), (1, 0), False, False), "f32[1,2,16,1]"),
        (reduce.MaxPool((2, 1), (2, 1), (0, 0), True), "f32[1,2,16,1]"),
        (reduce.MaxPool((3, 3), (1, 1), (1, 1)), "i8[1,2,16,16]"),
    ],
)
def test_windows_that_are_not_alike_everywhere_are_not_cut(kind: Kind, types: str) -> None:
    b, operands = built(*types.split())
    fn = b.finish(b(kind, *operands))
    assert not any(s.form == "halo" and "S2" in str(s.ins[0]) for s in spread(fn, 2).strategies[-1])


def test_a_unit_has_rows_enough_for_a_neighbour() -> None:
    b, operands = built("f32[1,1,16,8]", "f32[1,1,7,1]")
    fn = b.finish(b(contract.Conv((1, 1), (3, 0), (1, 1)), *operands))
    need = halo(fn.ops[0], 2)
    assert need is not None and (need.before, need.after, need.units) == (3, 3, 4)
    assert "halo" in _letters(fn, 4)
    offered = [s for s in spread(fn, 5).strategies[0] if s.form == "halo"]
    assert all(str(s.ins[0]) == "S3" for s in offered)


def photo(size: int = 64) -> Function:
    """Return layers of a network of images: wide and shallow first, small and deep last."""
    b = Builder("photo")
    x = b.param(TensorType(DType.F32, (1, 3, size, size)), "x")
    channels = (3, 8, 8, 16)
    for i, (c, n) in enumerate(itertools.pairwise(channels)):
        b.origin = Origin(f"body.{i}")
        values = whole_numbers(TensorType(DType.F32, (n, c, 3, 3)), i, -1, 1)
        w = b(data.Constant(const_of(values)), hint=f"w{i}")
        x = b(unary.Relu(), b(contract.Conv((2, 2) if i else (1, 1), (1, 1), (1, 1)), x, w))
    b.origin = Origin("pool")
    x = b(reduce.MaxPool((3, 3), (2, 2), (1, 1)), x)
    b.origin = Origin("head")
    w = b(data.Constant(const_of(whole_numbers(TensorType(DType.F32, (10, 16)), 9, -1, 1))))
    return b.finish(b(contract.Linear(), b(reduce.Sum((2, 3)), x), w))


def planned(beta: float, hints: Hints | None = None, ranks: int = 3, size: int = 64) -> Plan:
    """Return a plan on slow devices that exchange ``beta`` bytes a second, and run it."""
    alphas = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), 1e-6)
    device = Device("core", {"f32": 1e9}, 1e9, launch_s=1e-7)
    fn = photo(size)
    made = plan(fn, Cluster("test", device, ranks, Link("wire", beta, alphas)), hints=hints)
    agrees(fn, made.program, [whole_numbers(fn.params[0].type, 5, -1, 1)])
    return made


def forms(made: Plan) -> dict[str, str]:
    """Return the form of each convolution and pool, by its module."""
    return {
        op.origin.module: s.form
        for op, s in zip(made.function.ops, made.strategies, strict=True)
        if isinstance(op.kind, (contract.Conv, reduce.MaxPool))
    }


def test_the_planner_cuts_large_images_by_rows_where_bytes_are_dear() -> None:
    """Rows of a border are exchanged instead of images; the first layers show it."""
    made = planned(1e8)
    assert forms(made)["body.0"] == forms(made)["body.1"] == "halo"
    assert made.pays and made.exact
    image = 64 * 64 * 8 * 4
    assert made.figures.sent < image  # less than one image between two layers


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_hint_cuts_images(ranks: int) -> None:
    made = planned(1e12, {"body.*": Spatial(2), "pool": Spatial(2)}, ranks)
    assert set(forms(made).values()) == {"halo"}


def test_hints_that_cannot_be_kept_say_why() -> None:
    with pytest.raises(
        PlanError, match=r"hint 'bdy\.\*' matches no convolution or pool; there are"
    ):
        planned(1e9, {"bdy.*": Spatial(2)})
    with pytest.raises(
        PlanError, match=r"max_pool of pool cannot be cut along axis 2: it has 8 un"
    ):
        planned(1e9, {"pool": Spatial(2)}, ranks=9)
    with pytest.raises(PlanError, match=r"conv of body\.1 cannot .* stride times as many rows"):
        planned(1e9, {"body.1": Spatial(2)}, size=63)


def test_nan_and_infinities_cross_borders() -> None:
    b, (x,) = built("f32[1,1,12,4]")
    fn = b.finish(b(reduce.MaxPool((3, 3), (1, 1), (1, 1)), x))
    found = spread(fn, 4)
    image = whole_numbers(x.type, 1)
    image[0, 0, 3, 1], image[0, 0, 6, 2], image[0, 0, 8] = float("nan"), float("inf"), -torch.inf
    agrees(fn, lowered(fn, chosen(found, ["S2>S2:halo"]), found, (1.0, 3.0, 1.0, 1.0)), [image])
