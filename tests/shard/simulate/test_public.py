"""``leptonc.simulate`` takes what there is to simulate."""

from __future__ import annotations

import pytest

import leptonc
from leptonc.cost.presets import parse_cluster
from leptonc.errors import PlanError
from leptonc.shard.plan import plan
from leptonc.shard.simulate import Layout, generation
from leptonc.shard.simulate.decoders import decoder, step


def test_plans_programs_and_requests_on_clusters_by_name() -> None:
    fn = step(decoder("megatron-1b"), 1, 64)
    by_name = leptonc.simulate(fn, "4xa100")
    assert by_name.layout == Layout(1, 4, 1, (1,)) and by_name.hourly > 0
    made = plan(fn, parse_cluster("4xa100"))
    assert leptonc.simulate(made, "4xa100").latency_s == pytest.approx(by_name.latency_s)
    assert leptonc.simulate(made, "4xh100").latency_s < by_name.latency_s
    answer = leptonc.simulate(generation(decoder("megatron-1b"), 16, 4), "2xt4", Layout(2), 2)
    assert answer.tokens == 4 and answer.million_tokens == answer.million_requests / 4
    with pytest.raises(PlanError, match="takes 4 devices"):
        leptonc.simulate(made, "2xa100")
