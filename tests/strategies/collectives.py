"""Random calls of collectives: what each rank puts in, and what it must get, by plain torch.

Everything follows from a seed, so that every rank can make the whole case for itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
DTYPES = (*FLOATS, *INTS, torch.bool)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")


@dataclass(frozen=True)
class Case:
    """A call: ``call(comm, inputs[comm.rank])`` must be ``expected[comm.rank]``."""

    text: str
    inputs: list[Tensor]
    expected: list[Tensor | None]
    call: Callable[[object, Tensor], Tensor | None]


def make_case(seed: int, world: int) -> Case:
    """Return a call that follows from ``seed``."""
    rng = random.Random(seed)
    shape = tuple(rng.choice((0, 1, 2, 3, 5, 8, 17)) for _ in range(rng.randint(1, 4)))
    if rng.random() < 0.2:
        shape = (rng.randint(1000, 40_000),)
    return MAKERS[rng.choice(KINDS)](rng, shape, rng.choice(DTYPES), world)


def draw(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return random values, some of them special, often not contiguous."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
    transposed = len(shape) > 1 and rng.random() < 0.4
    made = (shape[-1], *shape[1:-1], shape[0]) if transposed else shape
    if dtype in FLOATS:
        x = torch.randn(made, generator=generator, dtype=torch.float64) * 10 ** rng.randint(-3, 3)
        for special in (float("nan"), float("inf"), -0.0):
            if rng.random() < 0.2:
                x[torch.rand(made, generator=generator) < 0.1] = special
        x = x.to(dtype)
    elif dtype == torch.bool:
        x = torch.rand(made, generator=generator) < 0.5
    else:
        info = torch.iinfo(dtype)
        low, high = max(info.min, -(1 << 40)), min(info.max, 1 << 40)
        x = torch.randint(low, high, made, generator=generator).to(dtype)
    return x.transpose(0, -1) if transposed else x


def cuts_of(rng: random.Random, total: int, world: int) -> tuple[int, ...]:
    """Return cuts of ``total`` elements: even or uneven, with empty parts among them."""
    if rng.random() < 0.3:
        return tuple(total * r // world for r in range(world + 1))
    inner = sorted(rng.randint(0, total) for _ in range(world - 1))
    return (0, *inner, total)


def combined(parts: list[Tensor], op: str) -> Tensor:
    """Return the parts combined one after another; halves in float32, truth values as sets."""
    dtype = parts[0].dtype
    if dtype == torch.bool:
        stack = torch.stack(parts)
        return stack.all(0) if op == "min" else stack.any(0)
    join = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum}[op]
    total = parts[0].float() if dtype in (torch.float16, torch.bfloat16) else parts[0].clone()
    for part in parts[1:]:
        total = join(total, part.to(total.dtype))
    return total.to(dtype)


def _all_reduce(rng, shape, dtype, world) -> Case:
    op = rng.choice(("sum", "sum", "max", "min"))
    xs = [draw(rng, shape, dtype) for _ in range(world)]
    want = combined(xs, op)
    return Case(
        f"all_reduce {op} {dtype} {shape}", xs, [want] * world, lambda c, x: c.all_reduce(x, op)
    )


def _all_gather(rng, shape, dtype, world) -> Case:
    axis = rng.randrange(len(shape))
    cuts = cuts_of(rng, shape[axis], world)
    whole = draw(rng, shape, dtype)
    xs = list(whole.split([b - a for a, b in pairwise(cuts)], axis))
    given = axis - len(shape) if rng.random() < 0.3 else axis
    return Case(
        f"all_gather {dtype} {shape} {axis} {cuts}",
        xs, [whole] * world, lambda c, x: c.all_gather(x, given, cuts),
    )  # fmt: skip


def _reduce_scatter(rng, shape, dtype, world) -> Case:
    axis = rng.randrange(len(shape))
    cuts = cuts_of(rng, shape[axis], world)
    xs = [draw(rng, shape, dtype) for _ in range(world)]
    sizes = [b - a for a, b in pairwise(cuts)]
    want = list(combined(xs, "sum").split(sizes, axis))
    return Case(
        f"reduce_scatter {dtype} {shape} {axis} {cuts}",
        xs, want, lambda c, x: c.reduce_scatter(x, axis, cuts),
    )  # fmt: skip


def _all_to_all(rng, shape, dtype, world) -> Case:
    shape = shape if len(shape) > 1 else (*shape, 6)
    split, join = rng.sample(range(len(shape)), 2)
    split_cuts, join_cuts = (cuts_of(rng, shape[a], world) for a in (split, join))
    whole = draw(rng, shape, dtype)
    xs, want = (
        list(whole.split([b - a for a, b in pairwise(cuts)], axis))
        for axis, cuts in ((join, join_cuts), (split, split_cuts))
    )
    return Case(
        f"all_to_all {dtype} {shape} {split} {split_cuts} {join} {join_cuts}",
        xs, want, lambda c, x: c.all_to_all(x, split, split_cuts, join, join_cuts),
    )  # fmt: skip


def _barrier(rng, shape, dtype, world) -> Case:
    return Case("barrier", [torch.empty(0)] * world, [None] * world, lambda c, x: c.barrier())


MAKERS = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "barrier": _barrier,
}


def same(got: Tensor | None, want: Tensor | None) -> bool:
    """Return whether both are the same: type, shape, values; signs of zeros in sums too."""
    if got is None or want is None:
        return got is want
    return (
        got.dtype == want.dtype
        and got.shape == want.shape
        and torch.equal(torch.nan_to_num(got), torch.nan_to_num(want))
        and torch.equal(got.isnan(), want.isnan())
    )


def wrong_cases(comm, seeds: list[int]) -> list[str]:
    """Return the calls, of those that follow from ``seeds``, that are wrong on this rank."""
    found = []
    for seed in seeds:
        case = make_case(seed, comm.world)
        x = case.inputs[comm.rank]
        before = x.clone()
        got = case.call(comm, x)
        if not same(got, case.expected[comm.rank]) or not same(x, before):
            found.append(f"seed {seed}: {case.text}")
    return found
