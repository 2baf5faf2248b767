"""Norms whose rows lie on several ranks: as exact as on one, and chosen where they pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.sharding import agrees, built, chosen, lowered, speeds_for
from torch import Tensor

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds import contract, norm, reduce, unary
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.meaning.lockstep import run_ranks
from leptonc.shard.placement import Shard
from leptonc.shard.plan import Plan, plan
from leptonc.shard.spread import spread

_U = 2.0**-24  # half the distance of two neighbouring floats at 1
_WIDTH = 48


def _rows(offset: float, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, _WIDTH, generator=g) + offset


def _gamma(n: int) -> float:
    """Return the relative error of ``n`` roundings one after the other."""
    return n * _U / (1 - n * _U)


def _bound(x: Tensor) -> Tensor:
    """Return how far the variance of each row may be from the true one.

    A mean of n numbers is off by at most ``d = gamma(n) * mean |x|``, that of the parts, too. With
    means ``m + e``, ``|e| <= d``, squares about the rank's mean are off by ``n_r e**2``, those of
    the means between ranks by ``2 d * |m_r - m| + d**2`` twice over; the mean of ``|m_r - m|`` is
    at most the standard deviation. Each sum of squares is off by ``gamma(n + 4)`` of itself.
    """
    x = x.double()
    var = x.var(1, correction=0)
    d = _gamma(_WIDTH + 2) * x.abs().mean(1)
    return _gamma(_WIDTH + 4) * (var + 5 * d**2) + 4 * d * var.sqrt() + 5 * d**2


@given(st.sampled_from([0.0, 1.0, 100.0, 3e4]), st.integers(1, 6).flatmap(speeds_for),
       st.integers(0, 999))  # fmt: skip
def test_a_variance_over_ranks_keeps_its_error_bound(
    offset: float, speeds: tuple[float, ...], seed: int
) -> None:
    """Beside a mean of 30,000, too: sums of squares, there, know nothing of the variance."""
    x = _rows(offset, seed)
    b, (p,) = built(f"f32[3,{_WIDTH}]")
    fn = b.finish(b(reduce.Var((1,), False, 0.0), p))
    found = spread(fn, len(speeds))
    program = lowered(fn, chosen(found, ["S1>R:moments"]), found, speeds)
    (got,) = run_ranks(program.function, program.tables, [x])[0]
    true = x.double().var(1, correction=0)
    assert ((got.double() - true).abs() <= _bound(x)).all()
    if offset == 3e4:
        naive = (x * x).sum(1) / _WIDTH - x.mean(1) ** 2
        assert ((naive.double() - true).abs() > _bound(x)).any()


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize(
    ("kind", "letters", "types"),
    [
        (norm.LayerNorm(1, 1e-5), "S1S0S0>S1:moments", "f32[3,48] f32[48] f32[48]"),
        (norm.RmsNorm(1, 1e-5), "S1S0>S1:moments", "f32[3,48] f32[48]"),
    ],
)  # fmt: skip
def test_ranks_meet_once(kind: norm.LayerNorm, letters: str, types: str, ranks: int) -> None:
    b, operands = built(*types.split())
    fn = b.finish(b(unary.Neg(), b(kind, *operands)))
    found = spread(fn, ranks)
    program = lowered(fn, chosen(found, [letters, "S1>S1"]), found, (1.0,) * ranks)
    inside = [op.kind.NAME for op in program.collectives]
    assert len(inside) == 2 and inside[-1] == "all_gather"  # the last joins the result
    given = [torch.randn(p.type.shape, generator=torch.Generator().manual_seed(i))
             for i, p in enumerate(fn.params)]  # fmt: skip
    agrees(fn, program, given, 1e-5)


def _wide_norm(rows: int, width: int) -> Function:
    """Return two products of huge rows with a norm between them."""
    b = Builder("wide")
    x = b.param(TensorType(DType.F32, (rows, 64)), "x")
    up, down = (
        b(Constant(const_of(torch.zeros(()).expand(dims))), hint=hint)
        for hint, dims in (("up", (width, 64)), ("down", (64, width)))
    )
    y = b(norm.RmsNorm(1, 1e-5, "none"), b(contract.Linear(), x, up))
    return b.finish(b(contract.Linear(), y, down))


def _planned(alpha: float) -> Plan:
    alphas = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), alpha)
    device = Device("core", {"f32": 1e10}, 1e10, launch_s=1e-6)
    devices = Cluster("test", device, 4, Link("wire", 1e9, alphas, 0.0))
    hints = {"up": Shard(0), "down": Shard(1)}
    return plan(_wide_norm(64, 65536), devices, hints=hints)


def test_a_norm_stays_cut_where_gathering_its_rows_is_dear() -> None:
    """16 MiB a rank would be gathered, for 64 numbers that are summed."""
    made = _planned(1e-5)
    assert [op.kind.NAME for op in made.program.collectives] == ["all_reduce"] * 2
    forms = {op.kind.NAME: s.form for op, s in zip(made.function.ops, made.strategies, strict=True)}
    assert forms["rms_norm"] == "moments"


def test_what_a_norm_on_several_ranks_costs_is_counted() -> None:
    cheap, dear = _planned(1e-5), _planned(1e-4)
    added = dear.figures.total_s - cheap.figures.total_s
    assert added == pytest.approx(len(dear.program.collectives) * 9e-5)
    assert np.isfinite(dear.gap)
