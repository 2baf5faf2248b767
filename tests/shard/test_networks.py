"""Whole networks: every plan gives what torch gives, whatever the ranks and the objective."""

from __future__ import annotations

import functools

import pytest
import torch
from strategies.networks import NETWORKS
from strategies.sharding import any_choice, cluster_of, lowered, same_everywhere
from torch import Tensor

from leptonc.capture.frontend import capture
from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.ir.core import Function
from leptonc.meaning.lockstep import run_ranks
from leptonc.passes import pipeline as passes_of
from leptonc.pipeline import PassManager
from leptonc.shard.plan import OBJECTIVES, Plan, plan
from leptonc.shard.program import Spmd
from leptonc.shard.spread import spread

PIPELINE = (
    "fold-constants,simplify{signed-zeros=false},recognize,fold-constants,recognize,cse,dce,"
    "fold-batchnorm,fold-constants,simplify{signed-zeros=false},cse,dce"
)
ALPHAS = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), 1e-9)
CHEAP = Device("core", {"f32": 1e9}, 1e9, launch_s=1e-9), Link("wire", 1e12, ALPHAS)


@functools.cache
def prepared(name: str) -> tuple[Function, tuple[Tensor, ...], Tensor]:
    """Return a network's program, what it is given, and what torch makes of it."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    model.eval()
    with torch.no_grad():
        want = model(*inputs)
    fn = PassManager(passes_of(PIPELINE), ()).run(capture(model, inputs, {}).function)
    return fn, inputs, want


def close(program: Spmd, name: str) -> None:
    """Assert that every rank returns what torch does, to 1e-5 of the largest element."""
    _, inputs, want = prepared(name)
    got = run_ranks(program.function, program.tables, inputs)
    same_everywhere(got)
    ((result,), *_) = got
    assert float((result - want).abs().max()) <= 1e-5 * float(want.abs().max())


def planned(name: str, ranks: int, objective: str) -> Plan:
    return plan(prepared(name)[0], Cluster("cheap", CHEAP[0], ranks, CHEAP[1]), objective=objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_plans_are_right(name: str, ranks: int, objective: str) -> None:
    made = planned(name, ranks, objective)
    close(made.program, name)
    assert made.cut_ops and made.program.collectives


@pytest.mark.parametrize("name", NETWORKS)
def test_other_clusters_and_uneven_ranks(name: str) -> None:
    for seed in range(3):
        cluster = cluster_of(3, seed)
        close(plan(prepared(name)[0], cluster, speeds=(1.0, 2.0, 1.5)).program, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_random_choices_are_right(name: str) -> None:
    fn = prepared(name)[0]
    for seed, speeds in enumerate(((1.0, 1.0), (1.0, 3.0, 2.0), (1.0,) * 4)):
        found = spread(fn, len(speeds))
        choice, shared = any_choice(fn, found, speeds, seed)
        close(lowered(fn, choice, found, speeds, shared), name)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("resnet", {"conv"}),
        ("mobilenet", {"conv"}),
        ("encoder", {"linear", "attention", "embedding"}),
        ("decoder", {"linear", "attention"}),
        ("packed", {"linear", "attention"}),
        ("attention", {"linear", "attention"}),
        ("transformer", {"linear", "attention"}),
        ("primes", {"linear"}),
    ],
)
def test_what_takes_the_time_is_shared(name: str, cut: set[str]) -> None:
    """With messages next to free, no product and no attention is run whole on two ranks."""
    made = planned(name, 2, "latency")
    assert not cut & {op.kind.NAME for op in made.whole_ops}
    assert cut <= {op.kind.NAME for op in made.cut_ops}


@pytest.mark.parametrize("name", ["resnet", "encoder", "decoder", "packed", "transformer"])
def test_the_smallest_plan_holds_its_share(name: str) -> None:
    """On two ranks at most 0.6 of the weights: what has an odd number of units is uneven."""
    made = planned(name, 2, "memory")
    assert made.figures.weights <= 0.62 * made.alone.weights
