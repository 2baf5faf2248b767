"""Devices, links and clusters by name, and what is said of names that there are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.cost.cluster import ALL_GATHER, ALL_REDUCE, SEND, VOLUME, Link, Tiered
from leptonc.cost.presets import CORE, REACHED, SHEETS, cluster, device, link, parse_cluster
from leptonc.errors import PlanError


@pytest.mark.parametrize(
    ("text", "count", "name", "inner", "network", "per_node"),
    [
        ("8xA100", 8, "a100-80", "nvlink3", None, 8),
        ("16xH100", 16, "h100-80", "nvlink4", "ib400", 8),
        ("4xa100-80@pcie", 4, "a100-80", "pcie4", None, 8),
        ("2xcpu", 2, "cpu", "shm", None, 64),
        (" 16 x v100/4+eth25", 16, "v100-32", "nvlink2", "eth25", 4),
        ("1xt4", 1, "t4", "pcie3", None, 4),
    ],
)
def test_text_says_what_there_is(
    text: str, count: int, name: str, inner: str, network: str | None, per_node: int
) -> None:
    c = parse_cluster(text)
    assert (c.count, c.device.name, c.link.name, c.per_node) == (count, name, inner, per_node)
    assert (c.network.name if c.network else None) == network


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xa1000", "did you mean a100-80"),
        ("8xa100@nvlnk3", "did you mean nvlink3"),
        ("0xa100", "one device at least"),
        ("8xa100/0", "one device at least"),
        ("a100", "expected COUNTxDEVICE"),
        ("", "expected COUNTxDEVICE"),
        ("16xa100+carrier", "unknown link 'carrier'"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_cluster(text)


@given(st.sampled_from(sorted(SHEETS)))
def test_a_device_reaches_part_of_its_sheet(name: str) -> None:
    made, sheet = device(name), SHEETS[name]
    assert made.flops["f16"] == pytest.approx(sheet.tensor * REACHED.arithmetic)
    assert made.bandwidth == pytest.approx(sheet.bandwidth * REACHED.bandwidth)
    assert made.flops["bf16"] == made.flops["f16" if sheet.bf16 else "f32"]
    assert made.flops["f32"] <= made.flops["f16"] and made.memory == sheet.memory


def test_a_price_is_the_users() -> None:
    assert parse_cluster("8xa100", 7.0).device.price == 7.0
    assert device("cpu", price=0.5).price == 0.5 != CORE.price
    assert cluster(2, "l4").device.price == SHEETS["l4"].price


_KINDS = st.sampled_from(sorted(VOLUME))
_BYTES = st.floats(1, 1e10)


def _link(beta: float, step: float = 1e-6) -> Link:
    return Link("l", beta, dict.fromkeys(VOLUME, 1e-5), step)


@given(_KINDS, _BYTES, st.floats(1e8, 1e12), st.floats(1.0, 100.0), st.integers(2, 64))
def test_more_bandwidth_is_never_slower(
    kind: str, nbytes: float, beta: float, factor: float, ranks: int
) -> None:
    slow, fast = _link(beta), _link(beta * factor)
    assert fast.collective_s(kind, nbytes, ranks) <= slow.collective_s(kind, nbytes, ranks)
    tiers = [Tiered.of(_link(b * 4), _link(b), 8) for b in (beta, beta * factor)]
    times = [t.collective_s(kind, nbytes, ranks) for t in tiers]
    assert times[1] <= times[0]


@given(_KINDS, _BYTES, st.integers(1, 16), st.integers(2, 64))
def test_over_machines_is_never_faster_than_in_one(
    kind: str, nbytes: float, per_node: int, nodes: int
) -> None:
    inner, network = _link(3e11), _link(2e10)
    over = Tiered.of(inner, network, per_node).collective_s(kind, nbytes, per_node * nodes)
    assert over > inner.collective_s(kind, nbytes, per_node)


@given(_BYTES, st.integers(2, 8), st.integers(2, 64))
def test_two_levels_of_equal_links_move_what_one_does(
    nbytes: float, per_node: int, nodes: int
) -> None:
    free = Link("free", 1e11)
    for kind in (ALL_REDUCE, ALL_GATHER):
        two = Tiered.of(free, free, per_node).collective_s(kind, nbytes, per_node * nodes)
        one = free.collective_s(kind, nbytes, per_node * nodes)
        assert two == pytest.approx(one)


def test_a_group_in_one_machine_meets_over_its_link() -> None:
    c = parse_cluster("16xa100")
    assert c.link_of(8) == link("nvlink3") and isinstance(c.link_of(16), Tiered)
    assert c.link_of(16).collective_s(SEND, 1e6, 2) == c.link.collective_s(SEND, 1e6, 2)
