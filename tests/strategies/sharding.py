"""Programs of ranks for tests: one op under one strategy, random choices, made-up clusters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.dims import free_symbols
from leptonc.ir.kinds import binary, data, reduce
from leptonc.ir.types import TensorType, parse_type
from leptonc.meaning import TORCH_DTYPES, const_of
from leptonc.meaning.lockstep import run_ranks
from leptonc.shard.check import check
from leptonc.shard.graph import Graph
from leptonc.shard.lower import lower
from leptonc.shard.parts import Parts
from leptonc.shard.placement import Partial, Shard
from leptonc.shard.price import Prices
from leptonc.shard.program import Spmd
from leptonc.shard.solve import Problem, solve
from leptonc.shard.spread import Spread
from leptonc.shard.strategy import Strategy

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
TERMS = 8  # that an operand which is a sum over the ranks is made of
_DIVISORS = (binary.Div, binary.FloorDiv, binary.TruncDiv, binary.Remainder, binary.Fmod)
_INDEXED = {data.Embedding: lambda k: 0, data.IndexSelect: lambda k: k.axis,
            data.Gather: lambda k: k.axis}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kind with types of its operands."""

    kind: Kind
    types: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"{self.kind.NAME}({', '.join(map(str, self.types))})"


def whole_numbers(type_: TensorType, seed: int, low: int = -4, high: int = 4) -> Tensor:
    """Return small whole numbers of a static type: their float sums are exact in any order."""
    g = torch.Generator().manual_seed(seed)
    dtype = TORCH_DTYPES[type_.dtype]
    if dtype is torch.bool:
        return torch.randint(0, 2, type_.shape, generator=g).bool()
    low = 0 if dtype is torch.uint8 else low
    return torch.randint(low, high + 1, type_.shape, generator=g).to(dtype)


def operand(case: Case, i: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return numbers for operand ``i`` of ``case``, in the range that its kind takes there."""
    type_ = TensorType(case.types[i].dtype, shape)
    axis_of = _INDEXED.get(type(case.kind))
    if i == 1 and axis_of is not None:
        rows = case.types[0].shape[axis_of(case.kind)]
        return whole_numbers(type_, seed, 0, int(rows) - 1)
    made = whole_numbers(type_, seed)
    if i == 1 and isinstance(case.kind, _DIVISORS):  # powers of two: quotients are exact
        return torch.where(made.abs() > 2, 4, torch.where(made > 0, 2, 1)).to(made.dtype)
    return made


@dataclass(frozen=True)
class Single:
    """A function of one op, ``at`` in its list, whose operands are ready for a strategy."""

    fn: Function
    at: int
    inputs: tuple[Tensor, ...]


def single(case: Case, like: Strategy | None, constants: bool, seed: int = 0) -> Single:
    """Return a function of the op of ``case``.

    Args:
        case: the kind and its operands.
        like: operands that are sums under it are sums over a leading axis that ranks can share.
        constants: operands but the first are constants where they are no such sums.
        seed: of the numbers.
    """
    b = Builder("single")
    inputs, operands = list[Tensor](), list[Value]()
    for i, t in enumerate(case.types):
        summed = like is not None and isinstance(like.ins[i], Partial)
        if summed:
            wide = t.with_shape((TERMS, *t.shape))
            inputs.append(operand(case, i, wide.shape, seed + i))
            operands.append(b(reduce.Sum((0,)), b.param(wide, f"p{i}")))
        elif constants and i:
            const = const_of(operand(case, i, t.shape, seed + i))
            operands.append(b(data.Constant(const), hint=f"w{i}"))
        else:
            inputs.append(operand(case, i, t.shape, seed + i))
            operands.append(b.param(t, f"p{i}"))
    at = len(b.ops)
    return Single(b.finish(*b.emit(case.kind, *operands)), at, tuple(inputs))


def chosen_for(made: Single, s: Strategy, found: Spread) -> tuple[Strategy, ...] | None:
    """Return a choice for every op under which the one op runs by ``s``; None without ``s``."""
    if s not in found.strategies[made.at]:
        return None
    wanted = dict(zip(made.fn.ops[made.at].operands, s.ins, strict=True))
    choice = list[Strategy]()
    for i, (op, options) in enumerate(zip(made.fn.ops, found.strategies, strict=True)):
        if i == made.at:
            choice.append(s)
        elif isinstance(op.kind, reduce.Sum):
            choice.append(next(o for o in options if o.ins == (Shard(0),)))
        else:
            choice.append(next(o for o in options if o.outs == (wanted[op.result],)))
    return tuple(choice)


def built(*types: str) -> tuple[Builder, list[Value]]:
    """Return a builder with parameters of these types."""
    b = Builder("made")
    return b, [b.param(parse_type(t), f"p{i}") for i, t in enumerate(types)]


def chosen(found: Spread, names: Sequence[str]) -> tuple[Strategy, ...]:
    """Return the strategy of each op by its ``letters``."""
    pairs = zip(found.strategies, names, strict=True)
    return tuple(next(s for s in options if letters(s) == name) for options, name in pairs)


def lowered(
    fn: Function,
    choice: Sequence[Strategy],
    found: Spread,
    speeds: Sequence[float],
    shared: Mapping[Value, object] | None = None,
) -> Spmd:
    """Return the verified program of ranks of these speeds."""
    program = lower(fn, choice, Parts(found.units, speeds), shared)  # type: ignore[arg-type]
    check(program)
    return program


def bits(t: Tensor) -> Tensor:
    """Return the bytes of the elements, in order."""
    flat = torch.empty(t.numel(), dtype=t.dtype).copy_(t.flatten())
    return flat.view(torch.uint8)


def same_everywhere(got: Sequence[tuple[Tensor, ...]]) -> None:
    """Assert that all ranks return the same bits (numbers, NaN, signs of zeros)."""
    for other in got[1:]:
        for a, b in zip(got[0], other, strict=True):
            assert a.dtype is b.dtype
            assert torch.equal(bits(a), bits(b))


def agrees(
    fn: Function, program: Spmd, inputs: Sequence[Tensor], tolerance: float = 0.0
) -> list[tuple[Tensor, ...]]:
    """Assert that every rank returns what ``fn`` does, within ``tolerance``; return the results.

    NaN equals NaN, and 0.0 equals -0.0: zeros that other ranks add turn the latter to the former.
    """
    want = meaning.run(fn, *inputs)
    got = run_ranks(program.function, program.tables, inputs)
    same_everywhere(got)
    for g, w in zip(got[0], want, strict=True):
        torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance, equal_nan=True)
    return got


def letters(s: Strategy) -> str:
    """Return a strategy in short: ``"S1S1R>P"``, with its form behind."""
    ins, outs = ("".join(map(str, side)) for side in (s.ins, s.outs))
    return f"{ins}>{outs}" + (f":{s.form}" if s.form else "")


def cluster_of(ranks: int, seed: int = 0) -> Cluster:
    """Return a made-up cluster; its seed decides what is dear: operations, memory or messages."""
    rng = np.random.default_rng(seed)
    device = Device(
        "core", {"f32": 10 ** rng.uniform(6, 11)}, 10 ** rng.uniform(6, 11),
        launch_s=10 ** rng.uniform(-8, -5),
    )  # fmt: skip
    alphas = {name: 10 ** rng.uniform(-8, -4) for name in COLLECTIVES}
    return Cluster("made-up", device, ranks, Link("wire", 10 ** rng.uniform(6, 11), alphas, 1e-7))


def clusters(most: int = 8) -> st.SearchStrategy[Cluster]:
    """Return a strategy of clusters of 1 to ``most`` ranks."""
    return st.builds(cluster_of, st.integers(1, most), st.integers(0, 999))


def speeds_for(ranks: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Return a strategy of speeds: equal ones, or any."""
    equal = st.just((1.0,) * ranks)
    return equal | st.tuples(*[st.sampled_from([0.5, 1.0, 1.0, 3.0])] * ranks)


def any_choice(
    fn: Function, found: Spread, speeds: Sequence[float], seed: int
) -> tuple[tuple[Strategy, ...], dict[Value, object]]:
    """Return a feasible choice at random: what a solver takes when costs are dice.

    Returns:
        The strategy of each op, and the values that are brought to one place for all readers.
    """
    cluster = cluster_of(len(speeds))
    prices = Prices(cluster.device, Parts(found.units, speeds), cluster.link)
    graph = Graph(fn, found.strategies, prices, cluster.link, len(speeds))
    problem, rng = graph.pose(), np.random.default_rng(seed)

    def dice(table: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(table), rng.random(table.shape), np.inf)

    problem.alone = [dice(t) for t in problem.alone]
    problem.pairs = {pair: dice(t) for pair, t in problem.pairs.items()}
    for node in graph.node.values():  # to run an op whole is dear
        problem.alone[node][0] += 1.0
    choice = _solved(problem)
    return graph.chosen(choice), graph.brought(choice)  # type: ignore[return-value]


def _solved(problem: Problem) -> tuple[int, ...]:
    found = solve(problem)
    assert np.isfinite(found.cost)
    return found.states


def symbols(program: Spmd) -> set[str]:
    """Return the names that sizes and attributes of a program hold."""
    shapes = [v.type.shape for op in program.function.ops for v in op.results]
    attrs = [a for op in program.function.ops for a in _sizes(op)]
    return set(free_symbols(itertools.chain(*shapes, attrs)))


def _sizes(op: Op) -> list[object]:
    flat = list[object]()
    for a in op.kind.attributes.values():
        flat += a if isinstance(a, tuple) else [a]
    return [a for a in flat if hasattr(a, "free_symbols")]
