"""Predictions are those of the planner's programs, and behave as machines do."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies.decoders import decoders, machine, small

from leptonc.cost.cluster import Cluster
from leptonc.errors import PlanError
from leptonc.shard.plan import plan
from leptonc.shard.simulate import Layout, Prediction, Study, generation, simulate, single
from leptonc.shard.simulate.decoders import Decoder, prefill, step
from leptonc.shard.simulate.repeat import shorten

few = settings(max_examples=10)


def _term(p: Prediction, *names: str) -> float:
    return sum(p.terms[n] for n in names)


@given(decoders())
@few
def test_one_device_takes_what_the_unsharded_program_does(d: Decoder) -> None:
    fn = step(d, 2, 32)
    figures = plan(fn, machine(1)).alone
    p = simulate(fn, machine(1))
    assert p.latency_s == pytest.approx(figures.total_s)
    for name in ("arithmetic", "memory", "launch", "communication"):
        assert p.terms[name] == pytest.approx(getattr(figures, f"{name}_s"))
    assert p.terms["transfer"] == p.terms["waiting"] == 0.0
    state = sum(v.type.numel * v.type.dtype.nbytes for v in fn.params)
    assert p.stages[0].memory == pytest.approx(figures.weights + state, rel=0.05)


@given(decoders(), st.sampled_from((2, 4, 8)))
@few
def test_equal_layers_cost_what_the_whole_plan_does(d: Decoder, ranks: int) -> None:
    fn, cluster = step(d, 2, 32), machine(ranks)
    whole = plan(fn, cluster).figures
    assert simulate(fn, cluster).latency_s == pytest.approx(whole.total_s, rel=1e-6)


@given(st.sampled_from((2, 3, 5, 8)), st.integers(1, 4))
@few
def test_a_plan_is_predicted_as_it_is(ranks: int, replicas: int) -> None:
    made = plan(prefill(small(4), 1, 16), machine(ranks))
    p = simulate(made, machine(ranks * replicas), Layout(1, ranks, replicas))
    link = machine(ranks * replicas).link_of(ranks)
    assert link == made.cluster.link_of(ranks)
    assert p.latency_s == pytest.approx(made.figures.total_s)
    assert p.throughput == pytest.approx(replicas / made.figures.total_s)
    with pytest.raises(PlanError, match=f"this plan is for {ranks} ranks"):
        simulate(made, machine(8 * ranks), Layout(2, ranks))


_FACTOR = st.floats(1.0, 50.0)


@given(_FACTOR, _FACTOR, _FACTOR, st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2, 3)))
@few
def test_a_better_machine_is_never_slower(
    flops: float, bandwidth: float, beta: float, tensor: int, pipeline: int
) -> None:
    work, layout = generation(small(), 8, 8), Layout(pipeline, tensor)
    plain = Study(work, machine(24)).predict(layout, 2)
    better = machine(24, flops=1e12 * flops, bandwidth=1e9 * bandwidth, beta=1e9 * beta)
    assert Study(work, better).predict(layout, 2).latency_s <= plain.latency_s * (1 + 1e-6)


@given(st.integers(1, 8), st.sampled_from((1, 2)), st.sampled_from((1, 2, 4)))
@few
def test_replicas_multiply_throughput_alone(replicas: int, tensor: int, pipeline: int) -> None:
    study = Study(generation(small(), 8, 8), machine(64))
    one = study.predict(Layout(pipeline, tensor), 4)
    more = study.predict(Layout(pipeline, tensor, replicas), 4)
    assert more.throughput == pytest.approx(replicas * one.throughput)
    assert (more.latency_s, more.memory) == (one.latency_s, one.memory)
    assert more.million_requests == pytest.approx(one.million_requests)
    times = one.times(replicas)
    assert times.throughput == pytest.approx(more.throughput) and times.layout == more.layout


@given(decoders())
@few
def test_memory_falls_with_ranks_and_stages(d: Decoder) -> None:
    study = Study(generation(d, 8, 8), machine(64, per_node=64))
    for held in (
        [study.predict(Layout(1, t)).memory for t in (1, 2, 4, 8)],
        [study.predict(Layout(p, 1)).memory for p in (1, 2, 4)],
    ):
        assert all(b < a for a, b in itertools.pairwise(held))


def test_weights_and_caches_of_all_devices_are_those_of_one() -> None:
    d = small(6)
    study = Study(generation(d, 16, 16), machine(64))
    one, parts = study.predict(Layout(), 4), study.predict(Layout(2, 4), 4)
    held = sum(s.memory for s in parts.stages) * 4
    assert one.memory < held < 1.35 * one.memory  # norms, tables and activations are everywhere
    cache = 2 * 6 * 4 * 8 * 64 * 32 * 2  # keys and values: layers x batch x heads x width x tokens
    grown = study.predict(Layout(), 8).memory - one.memory
    assert cache <= grown < 1.2 * cache


def test_a_pipeline_with_micro_batches_waits_for_its_longest_stage() -> None:
    cluster = machine(8, alpha=0.0, beta=1e18)
    study = Study(generation(small(8), 64, 1), cluster)
    whole = study.predict(Layout(1, 1), 8)
    split = study.predict(Layout(4, 1, micro_batches=8), 8)
    assert split.layout.micro_batches == (8,)
    times = np.array([s.seconds for s in split.stages]) / 8  # of a micro-batch
    assert split.latency_s == pytest.approx(times.sum() + 7 * times.max())
    assert split.throughput == pytest.approx(8 / (8 * times.max()))
    assert max(s.occupancy for s in split.stages) == pytest.approx(1.0)
    assert _term(split, "waiting") == pytest.approx(7 * times.max())
    assert whole.latency_s < times.sum() * 8 + 1e-9


def test_tokens_wait_for_the_tokens_before() -> None:
    d, cluster = small(8), machine(4, alpha=0.0, beta=1e18)
    one = Study(generation(d, 8, 1), cluster).predict(Layout(4, 1))
    many = Study(generation(d, 8, 11), cluster).predict(Layout(4, 1))
    each = (many.latency_s - one.latency_s) / 10
    alone = simulate(step(d, 1, 8 + 5), machine(1)).latency_s
    assert each == pytest.approx(alone)
    assert max(s.occupancy for s in many.stages) < 0.5  # one request keeps a quarter busy


def test_requests_of_a_program_run_one_by_one() -> None:
    fn, cluster = prefill(small(8), 1, 16), machine(4, alpha=0.0, beta=1e18)
    study = Study(single(fn), cluster)
    one, five = study.predict(Layout()), study.predict(Layout(), 5)
    assert five.latency_s == pytest.approx(5 * one.latency_s)
    assert five.throughput == pytest.approx(one.throughput)
    staged = study.predict(Layout(4), 5)
    assert one.latency_s < staged.latency_s < five.latency_s
    assert 3 * one.throughput < staged.throughput <= 4 * one.throughput * (1 + 1e-9)


def test_ranks_over_machines_meet_over_the_network() -> None:
    fn = step(small(4), 1, 16)
    near, far = machine(8, per_node=8), machine(8, per_node=4)
    inside = simulate(plan(fn, near), near)
    over = simulate(plan(fn, near), far)
    assert over.terms["communication"] > inside.terms["communication"]
    assert over.terms["memory"] == inside.terms["memory"]


def test_what_does_not_fit_is_cut_finer_and_said() -> None:
    d, cluster = small(4), machine(4)
    fast = dataclasses.replace(cluster.device, bandwidth=1e15, flops={"f16": 1e9})
    roomy = dataclasses.replace(cluster, device=fast)
    fn = prefill(d, 4, 64)
    loose = simulate(fn, roomy)  # whole weights on every rank: it divides requests
    tight = dataclasses.replace(fast, memory=0.7 * loose.memory)
    cut = simulate(fn, dataclasses.replace(roomy, device=tight))
    assert loose.fits and cut.fits and cut.memory < loose.memory
    tiny = dataclasses.replace(fast, memory=1e3)
    assert not simulate(fn, dataclasses.replace(roomy, device=tiny)).fits


@pytest.mark.parametrize(
    ("layout", "batch", "said"),
    [
        (Layout(1, 9), 1, "takes 9 devices"),
        (Layout(0, 1), 1, "1 at least"),
        (Layout(), 0, "1 at least"),
    ],
)
def test_impossible_layouts_are_refused(layout: Layout, batch: int, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Study(generation(small(), 8, 8), machine(8)).predict(layout, batch)


def test_more_stages_than_places_are_refused() -> None:
    cluster: Cluster = machine(512)
    study = Study(generation(small(4), 8, 8), cluster)
    most = study.most_stages(1)
    assert study.predict(Layout(most)).latency_s > 0
    with pytest.raises(PlanError, match=f"{most} stages at most"):
        study.predict(Layout(most + 1))


def test_a_thousand_devices_plan_as_few_ops_as_one() -> None:
    d = dataclasses.replace(small(8), layers=200)
    study = Study(generation(d, 8, 8), machine(1024))
    for k in range(11):
        study.predict(Layout(1, 2**k))
        study.predict(Layout(min(2**k, 128), 1))
    assert len(study.parts) == 2 * 11  # a prompt and a token for each number of ranks
    assert all(len(s.function.ops) < 170 for s in study.shorts.values())
    assert all(len(shorten(f).whole.ops) > 9000 for f in study.shorts)
