"""The planner: what it predicts is what the program costs, limits are kept, refusals say why."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies.shard_functions import packed
from strategies.sharding import (
    agrees,
    built,
    cluster_of,
    lowered,
    speeds_for,
    whole_numbers,
)
from torch import Tensor

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.errors import PlanError
from leptonc.ir.core import Builder, Function, Origin
from leptonc.ir.dims import DimRange, symbol
from leptonc.ir.kinds import binary, contract, data, norm, unary
from leptonc.ir.text import dump
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.shard.graph import Graph
from leptonc.shard.measure import figures
from leptonc.shard.parts import Parts
from leptonc.shard.placement import Shard
from leptonc.shard.plan import OBJECTIVES, plan
from leptonc.shard.price import Prices
from leptonc.shard.solve import solve
from leptonc.shard.spread import spread

_CUT_S = 1e-7  # seconds that the planner counts for a cut of what is whole, which is a view
ALPHAS = {"all_reduce": 3e-6, "all_gather": 2e-6, "reduce_scatter": 2e-6, "all_to_all": 2e-6}


def cluster(ranks: int, memory: float = math.inf) -> Cluster:
    """Return devices slow enough, and links fast enough, that sharing pays."""
    device = Device("core", {"f32": 1e9}, 1e9, memory, 1e-7)
    return Cluster("test", device, ranks, Link("wire", 1e10, ALPHAS, 1e-7))


def mlp(width: int = 64, hidden: int = 96, layers: int = 2, batch: int = 8) -> Function:
    """Return blocks of two products with a residual around each, weights as constants."""
    b = Builder("mlp")
    x = b.param(TensorType(DType.F32, (batch, width)), "x")
    for i in range(layers):
        b.origin = Origin(f"layers.{i}")
        up, down = (
            b(data.Constant(const_of(whole_numbers(TensorType(DType.F32, dims), i, -1, 1))), hint=h)
            for h, dims in (("up", (hidden, width)), ("down", (width, hidden)))
        )
        y = b(unary.Relu(), b(contract.Linear(), x, up))
        x = b(binary.Add(), x, b(contract.Linear(), y, down))
        x = b(norm.LayerNorm(1, 1e-5, "none"), x)
    return b.finish(x)


def given_to(fn: Function) -> list[Tensor]:
    return [whole_numbers(p.type, i, -1, 1) for i, p in enumerate(fn.params)]


@given(packed(), st.integers(2, 8).flatmap(speeds_for), st.integers(0, 999))
def test_what_the_planner_minimises_is_what_the_program_costs(
    fn: Function, speeds: tuple[float, ...], seed: int
) -> None:
    """Within a quarter, on ops as small as these.

    Parts of one unit more are counted for every op, moves for every reader; the operations and the
    bytes of an op are divided in proportion, its bias, which may be whole, among them.
    """
    made_up, found = cluster_of(len(speeds), seed), spread(fn, len(speeds))
    prices = Prices(made_up.device, Parts(found.units, speeds), made_up.link)
    graph = Graph(fn, found.strategies, prices, made_up.link, len(speeds))
    choice = solve(graph.pose())
    strategies, shared = graph.chosen(choice.states), graph.brought(choice.states)
    got = figures(lowered(fn, strategies, found, speeds, shared), made_up).total_s
    views = _CUT_S * sum(len(op.operands) for op in fn.ops)
    assert 0.75 * (choice.cost - views) <= got <= 1.25 * choice.cost + 1e-12


def test_figures_of_a_pair_of_products_are_those_on_paper() -> None:
    """Column and row of 8x64x96 on two ranks: half the operations, one sum of 8x64 floats."""
    slow = Link("wire", 1e10, {**ALPHAS, "reduce_scatter": 1e-3}, 1e-7)
    two = dataclasses.replace(cluster(2), link=slow)
    made = plan(mlp(layers=1), two, hints={"up": Shard(0), "down": Shard(1)})
    assert [op.kind.NAME for op in made.program.collectives] == ["all_reduce"]
    f = made.figures
    nbytes = 8 * 64 * 4
    assert f.communication_s == pytest.approx(3e-6 + 2 * (1 / 2) * nbytes / 1e10)
    assert f.sent == nbytes
    assert f.weights == made.alone.weights / 2 == 96 * 64 * 4
    products = 2 * 2 * 8 * 64 * 96 / 2 / 1e9
    assert products <= f.arithmetic_s <= products * 1.1


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_plans_of_a_stack_run(objective: str, ranks: int) -> None:
    fn = mlp()
    made = plan(fn, cluster(ranks), objective=objective)
    assert made.exact and made.objective == objective
    agrees(fn, made.program, given_to(fn), 1e-4)
    assert bool(made.program.collectives) == (ranks > 1)
    assert made.pays == (ranks > 1)
    if ranks > 1:
        assert {op.kind.NAME for op in made.cut_ops} >= {"linear", "relu"}
    assert not {*made.cut_ops} & {*made.whole_ops}


def test_a_plan_is_no_dearer_than_those_it_rejected() -> None:
    made = plan(mlp(), cluster(4))
    assert made.rejected
    assert all(made.figures.total_s <= r.seconds * (1 + 1e-9) for r in made.rejected)
    names = {r.name.split(":")[0] for r in made.rejected}
    assert "every rank runs everything" in names


def test_the_fewest_bytes_take_no_less_time() -> None:
    fast, small = (plan(mlp(), cluster(4), objective=o) for o in OBJECTIVES)
    assert small.figures.weights <= fast.figures.weights
    assert small.figures.total_s >= fast.figures.total_s * (1 - 1e-9)
    assert small.figures.weights == pytest.approx(small.alone.weights / 4)


def test_planning_is_the_same_every_time() -> None:
    one, two = (plan(mlp(), cluster(3)) for _ in range(2))
    assert dump(one.program.function) == dump(two.program.function)
    assert one.strategies == two.strategies


def _stays_whole() -> Cluster:
    """Return a cluster whose messages take longer than anything else."""
    slow = Link("string", 1e6, dict.fromkeys(ALPHAS, 1.0))
    return Cluster("test", Device("core", {"f32": 1e9}, 1e9, math.inf, 1e-7), 4, slow)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.3])
def test_a_limit_of_memory_is_kept(share: float) -> None:
    fn, slow = mlp(256, 256), _stays_whole()
    free = plan(fn, slow)
    assert free.figures.weights == free.alone.weights and not free.program.collectives
    limit = free.figures.held * share
    made = plan(fn, slow, memory=limit)
    assert made.figures.held <= limit
    assert made.figures.total_s >= free.figures.total_s
    agrees(fn, made.program, given_to(fn), 1e-4)


def test_equal_layers_are_cut_one_by_one_until_they_fit() -> None:
    fn, slow = mlp(64, 64, layers=8), _stays_whole()
    fast, small = (plan(fn, slow, objective=o).figures for o in OBJECTIVES)
    between = plan(fn, slow, memory=(fast.held + small.held) / 2).figures
    assert small.held < between.held < fast.held
    assert fast.total_s < between.total_s < 0.7 * small.total_s


def test_a_limit_that_fits_costs_nothing() -> None:
    fn = mlp()
    free = plan(fn, cluster(4))
    made = plan(fn, cluster(4, memory=free.figures.held))
    assert made.figures == free.figures


def test_a_limit_that_nothing_fits_is_refused_with_the_numbers() -> None:
    fn = mlp(1024, 4096, layers=1)
    smallest = plan(fn, cluster(2), objective="memory").figures.held / 2**30
    text = rf"2 x core holds {smallest:.2f} GiB a rank, 0\.01 are there; use more devices"
    with pytest.raises(PlanError, match=text):
        plan(fn, cluster(2), memory=0.01 * 2**30)
    with pytest.raises(PlanError, match=text):
        plan(fn, cluster(2, memory=0.01 * 2**30))


def test_faster_ranks_get_more() -> None:
    made = plan(mlp(), cluster(3), speeds=(1.0, 2.0, 1.0), hints={"up": Shard(0)})
    assert made.program.tables["len96"] == (24, 48, 24)
    assert made.program.tables["off96"] == (0, 24, 72)
    agrees(made.function, made.program, given_to(made.function), 1e-4)


@pytest.mark.parametrize("speeds", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, 1.0, 1.0)])
def test_speeds_that_are_none(speeds: tuple[float, ...]) -> None:
    with pytest.raises(PlanError, match="speeds must be 2 numbers above 0"):
        plan(mlp(), cluster(2), speeds=speeds)


def test_an_unknown_objective() -> None:
    with pytest.raises(PlanError, match="'throughput'; there are: latency, memory"):
        plan(mlp(), cluster(2), objective="throughput")


@given(packed(), st.integers(2, 4).flatmap(speeds_for), st.sampled_from([1, 16, 300]))
def test_small_tables_give_a_program_that_is_right(
    fn: Function, speeds: tuple[float, ...], largest: int
) -> None:
    made_up, found = cluster_of(len(speeds), largest), spread(fn, len(speeds))
    prices = Prices(made_up.device, Parts(found.units, speeds), made_up.link)
    graph = Graph(fn, found.strategies, prices, made_up.link, len(speeds))
    problem = graph.pose()
    choice = solve(problem, largest)
    assert solve(problem).cost * (1 - 1e-12) <= choice.cost < math.inf
    shared = graph.brought(choice.states)
    program = lowered(fn, graph.chosen(choice.states), found, speeds, shared)
    agrees(fn, program, given_to(fn), tolerance=1e-3)


def _named(name: str) -> Function:
    b = Builder("named")
    b.dims = (DimRange(name, 1, 64),)
    x = b.param(TensorType(DType.F32, (symbol(name), 16)), "x")
    w, v = (b.param(TensorType(DType.F32, d), "w") for d in ((96, 16), (7, 96)))
    return b.finish(b(contract.Linear(), b(contract.Linear(), x, w), v))


@pytest.mark.parametrize("name", ["rank", "len96", "off96", "len1"])
def test_a_size_of_the_model_with_the_name_of_a_part_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=f"named: size '{name}' of the model"):
        plan(_named(name), cluster(5))


@pytest.mark.parametrize("name", ["batch", "c", "o", "co1", "s0"])
def test_a_size_of_the_model_stays_a_symbol(name: str) -> None:
    fn = _named(name)
    made = plan(fn, cluster(5), objective="memory")
    assert made.program.collectives
    for batch in (1, 11):
        types = (TensorType(DType.F32, (batch, 16)), *(p.type for p in fn.params[1:]))
        agrees(fn, made.program, [whole_numbers(t, 0) for t in types])


def test_the_cheaper_collective_is_chosen() -> None:
    """Few columns, many rows: rows are shared and gathered, nothing is summed."""
    b, (x, w) = built("f32[4096,64]", "f32[8,64]")
    made = plan(b.finish(b(contract.Linear(), x, w)), cluster(2))
    assert [op.kind.NAME for op in made.program.collectives] == ["all_gather"]


def test_a_plan_under_a_limit_tells_how_far_it_may_be_from_the_best() -> None:
    fn, slow = mlp(64, 64, layers=8), _stays_whole()
    fast, small = (plan(fn, slow, objective=o).figures for o in OBJECTIVES)
    made = plan(fn, slow, memory=(fast.held + small.held) / 2)
    assert 0.0 <= made.gap < 0.2
    assert made.exact == (made.gap == 0.0)
    free = plan(fn, slow)
    assert free.exact and free.gap == 0.0
    assert made.figures.total_s * (1 - made.gap) >= free.figures.total_s * (1 - 1e-9)
