"""The best layout is the best, and says when fewer devices are."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies.decoders import machine, small

from leptonc.errors import PlanError
from leptonc.shard.simulate import OBJECTIVES, Layout, Study, best_layout, generation, single
from leptonc.shard.simulate.decoders import prefill, step
from leptonc.shard.simulate.search import TIE, sizes
from leptonc.shard.simulate.words import tell

WORK = generation(small(), 16, 8)
few = settings(max_examples=10)


@given(st.integers(1, 300))
def test_sizes_divide_or_are_powers(devices: int) -> None:
    found = sizes(devices)
    assert found[0] == 1 and devices in found and list(found) == sorted(set(found))
    assert all(devices % n == 0 or n.bit_count() == 1 for n in found)


@given(
    st.sampled_from(sorted(OBJECTIVES)), st.sampled_from((1, 2, 6, 8)), st.sampled_from((1, 4)),
    st.sampled_from((0.0, 1e-6, 1e-3)),
)  # fmt: skip
@few
def test_no_layout_is_much_better(objective: str, count: int, batch: int, alpha: float) -> None:
    cluster = machine(count, alpha=alpha)
    found = best_layout(WORK, cluster, objective, batch)
    score, study = OBJECTIVES[objective], Study(WORK, cluster)
    best = score(found.best)[0]
    assert found.best.fits and found.best.layout.devices <= count
    for tensor in sizes(count):
        for pipeline in sizes(count // tensor):
            layout = Layout(pipeline, tensor, count // (tensor * pipeline))
            other = study.predict(layout, batch, busy=objective != "latency")
            assert score(other)[0] >= best - abs(best) * TIE - 1e-12


def test_latency_needs_no_replicas_and_throughput_wants_them() -> None:
    cluster = machine(8, alpha=1e-5)
    assert best_layout(WORK, cluster, "latency").best.layout.replicas == 1
    found = best_layout(WORK, cluster, "throughput", 4)
    assert found.best.layout == dataclasses.replace(found.best.layout, replicas=8)
    assert found.gain == pytest.approx(8.0) and not found.fewer


def test_slow_links_leave_one_device() -> None:
    found = best_layout(WORK, machine(8, alpha=1.0))
    assert found.best.layout.devices == 1 and found.fewer and found.gain == 1.0
    assert found.one is not None and found.worse(found.one) > 1
    text = tell("it", found, machine(8, alpha=1.0))
    assert "best        1 stage x 1 rank x 1 replica: 1 of 8 devices" in text
    assert "fewer are" in text and "one copy on all 8 has" in text


def test_what_one_device_cannot_hold_is_divided() -> None:
    cluster = machine(8)
    alone = best_layout(WORK, cluster).alone
    assert alone is not None
    tight = dataclasses.replace(cluster.device, memory=0.6 * alone.memory)
    found = best_layout(WORK, dataclasses.replace(cluster, device=tight), "cost")
    assert found.alone is None and found.best.layout.devices > 1 and found.best.fits
    assert "one device has too little memory" in tell("it", found, cluster)
    tiny = dataclasses.replace(cluster.device, memory=1e4)
    with pytest.raises(PlanError, match="no layout of 8 x d fits"):
        best_layout(WORK, dataclasses.replace(cluster, device=tiny))


def test_a_tie_goes_to_fewer_devices() -> None:
    found = best_layout(WORK, machine(8, alpha=0.0), "cost", 2)
    assert found.best.layout.replicas == 1
    assert found.best.device_seconds <= min(
        p.device_seconds for p in (*found.others, found.best)
    ) * (1 + TIE)


def test_all_devices_at_work_say_what_they_gain() -> None:
    cluster = machine(4, alpha=0.0, beta=1e18, per_node=4)
    found = best_layout(single(step(small(), 4, 64)), cluster)
    text = tell("it", found, cluster)
    assert not found.fewer and found.gain > 2
    assert f"{found.gain:.2f}x faster than one" in text and "runners-up" in text
    assert f"of {found.tried} layouts tried" in text and "$" in text
    free = dataclasses.replace(cluster, device=dataclasses.replace(cluster.device, price=0.0))
    assert "device hours per million requests" in tell("it", best_layout(WORK, free), free)


def test_an_unknown_objective_is_told() -> None:
    with pytest.raises(PlanError, match="unknown objective 'speed'; there are: latency"):
        best_layout(single(prefill(small(4), 1, 8)), machine(2), "speed")
