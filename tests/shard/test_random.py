"""Random programs: any choice of strategies, and any plan, gives what the whole program gives."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import arrays_for, functions
from strategies.inputs import inputs
from strategies.models import models
from strategies.shard_functions import packed
from strategies.sharding import (
    agrees,
    any_choice,
    clusters,
    lowered,
    same_everywhere,
    speeds_for,
    whole_numbers,
)
from torch import Tensor

from leptonc import meaning
from leptonc.cost.cluster import Cluster
from leptonc.ir.core import Function, Kind
from leptonc.ir.kinds import binary, contract, pointwise, reduce, shape, unary
from leptonc.meaning.lockstep import run_ranks
from leptonc.shard.plan import OBJECTIVES, plan
from leptonc.shard.spread import spread

# What keeps whole numbers whole: sums in any order are exact, so every comparison is of bits.
_MOVING = tuple(k for k in shape.KINDS if k is not shape.Relayout)
_EXACT: tuple[type[Kind], ...] = (
    *(unary.Relu, unary.Neg, unary.Abs, unary.Sign, unary.LogicalNot),
    *(binary.Add, binary.Add, binary.Sub, binary.Mul, binary.Mul, binary.Maximum, binary.Ge),
    *(pointwise.Where, pointwise.Clamp),
    *(reduce.Sum, reduce.Sum, reduce.Amax, reduce.Amin, reduce.All, reduce.Any),
    *(reduce.ArgMax, reduce.CumSum),
    *_MOVING * 2,
    *(contract.Linear, contract.Matmul) * 3,
)
_MOST = 2.0**16  # of a value: sums of these are below 2**24, where f32 stops to count


def _exact(fn: Function, xs: tuple[Tensor, ...]) -> None:
    """Reject an example in which a float grows too large to be counted exactly."""

    def look(op: object, results: tuple[Tensor, ...]) -> None:
        for t in results:
            assume(not t.is_floating_point() or bool((t.abs() <= _MOST).all()))

    meaning.run(fn, *xs, observe=look)


@given(functions(10, _EXACT, 2), st.data())
def test_any_choice_gives_the_same_bits(fn: Function, data: st.DataObject) -> None:
    xs = data.draw(arrays_for(fn, special=False))
    _exact(fn, xs)
    speeds = data.draw(st.integers(1, 4).flatmap(speeds_for))
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, data.draw(st.integers(0, 999)))
    agrees(fn, lowered(fn, choice, found, speeds, shared), xs)


@given(functions(10, _EXACT, 2), clusters(4), st.sampled_from(OBJECTIVES), st.data())
def test_any_plan_gives_the_same_bits(
    fn: Function, cluster: Cluster, objective: str, data: st.DataObject
) -> None:
    xs = data.draw(arrays_for(fn, special=False))
    _exact(fn, xs)
    speeds = data.draw(speeds_for(cluster.count))
    made = plan(fn, cluster, objective=objective, speeds=speeds)
    agrees(fn, made.program, xs)


def _small(fn: Function) -> tuple[Tensor, ...]:
    return tuple(whole_numbers(p.type, i, -2, 2) for i, p in enumerate(fn.params))


@given(packed(), st.integers(2, 8).flatmap(speeds_for), st.integers(0, 999))
def test_any_choice_follows_axes_that_are_packed(
    fn: Function, speeds: tuple[float, ...], seed: int
) -> None:
    xs = _small(fn)
    _exact(fn, xs)
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, seed)
    agrees(fn, lowered(fn, choice, found, speeds, shared), xs)


@given(packed(), clusters(), st.sampled_from(OBJECTIVES), st.data())
def test_any_plan_follows_axes_that_are_packed(
    fn: Function, cluster: Cluster, objective: str, data: st.DataObject
) -> None:
    xs = _small(fn)
    _exact(fn, xs)
    made = plan(fn, cluster, objective=objective, speeds=data.draw(speeds_for(cluster.count)))
    agrees(fn, made.program, xs)


@given(models(), st.integers(2, 5).flatmap(speeds_for), st.data())
def test_any_choice_of_a_model_is_close(
    fn: Function, speeds: tuple[float, ...], data: st.DataObject
) -> None:
    """Batch and length may be symbols; fractions are added in another order."""
    xs = data.draw(inputs(fn))
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, data.draw(st.integers(0, 999)))
    program = lowered(fn, choice, found, speeds, shared)
    got = run_ranks(program.function, program.tables, xs)
    same_everywhere(got)
    want, plain = (meaning.run(fn, *xs, precision=p) for p in ("f64", None))
    for g, w, p in zip(got[0], want, plain, strict=True):
        if bool(w.isfinite().all()) and bool(p.isfinite().all()) and w.numel():
            scale = max(float(w.abs().max()), 1.0)
            off = float((p - w).abs().max())
            assert float((g - w).abs().max()) <= 1e-4 * scale + 64 * off
