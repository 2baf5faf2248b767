"""Collectives over shared memory against plain torch, with threads as ranks."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies.collectives import wrong_cases
from strategies.ranks import comms, run

from leptonc.backends.torch_spmd.comm.shared import SharedComm
from leptonc.runtime.group.comm import CommError, PeerError

SLOTS = (512, 4096, 256 << 10)  # many rounds, some, mostly one


@example(world=4, slot=512, seeds=list(range(100, 140)))
@given(
    world=st.integers(1, 4),
    slot=st.sampled_from(SLOTS),
    seeds=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=20),
)
def test_collectives_are_what_plain_torch_says(world: int, slot: int, seeds: list[int]) -> None:
    results = run(comms(world, slot), lambda comm: wrong_cases(comm, seeds))
    assert results == [[]] * world


@given(world=st.integers(2, 4), n=st.integers(1, 50_000), seed=st.integers(0, 1 << 30))
@example(world=3, n=50_000, seed=0)  # large enough for every rank to add a part
def test_all_ranks_hold_the_bits_of_adding_in_rank_order(world: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(n, generator=generator) * 10.0**r for r in range(world)]
    want = xs[0]
    for x in xs[1:]:
        want = want + x
    for got in run(comms(world), lambda comm: comm.all_reduce(xs[comm.rank])):
        assert torch.equal(got.view(torch.int32), want.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("op", ["max", "min", "sum"])
def test_what_is_not_a_number_wins(dtype: torch.dtype, op: str) -> None:
    nan = float("nan")
    xs = torch.tensor([[nan, 1, 1, 1], [2, nan, 2, 2], [3, 3, nan, 3]], dtype=dtype)
    for got in run(comms(3), lambda comm: comm.all_reduce(xs[comm.rank], op)):
        assert got.isnan().tolist() == [True, True, True, False]


def test_halves_are_added_in_float32_and_rounded_once() -> None:
    # In bfloat16 the middle term alone would vanish, and the last with it.
    terms = ([1.0, 2**-8, 2**-30], [1.0, 2**-8, 2**-20])

    def work(comm: SharedComm) -> list[torch.Tensor]:
        x = torch.tensor([t[comm.rank] for t in terms], dtype=torch.bfloat16)
        return [comm.all_reduce(x), comm.reduce_scatter(x, 0, (0, 2, 2, 2))]

    whole, mine = run(comms(3), work)[0]
    assert whole.tolist() == mine.tolist() == [1.0, 1.0 + 2**-7]


def test_many_calls_one_after_another_stay_in_step() -> None:
    def work(comm: SharedComm) -> list[int]:
        wrong = []
        for k in range(3000):
            got = comm.all_reduce(torch.tensor([k * 3 + comm.rank]))
            if int(got) != 2 * k * 3 + 1:
                wrong.append(k)
        return wrong

    assert run(comms(2), work) == [[], []]


def test_two_communicators_do_not_meet() -> None:
    first, second = comms(2), comms(2)

    def work(comm: SharedComm) -> list[float]:
        other = second[comm.rank]
        found = []
        for _ in range(50):
            found.append(float(comm.all_reduce(torch.ones(1))))
            found.append(float(other.all_reduce(torch.full((1,), 10.0))))
            found.append(float(other.all_reduce(torch.full((1,), 100.0))))
        return found

    assert run(first, work) == [[2.0, 20.0, 200.0] * 50] * 2


def test_results_do_not_change_when_memory_is_used_again() -> None:
    def work(comm: SharedComm) -> bool:
        kept = [comm.all_gather(torch.full((5,), k), 0, (0, 5, 10)) for k in range(6)]
        return all(torch.equal(x, torch.full((10,), k)) for k, x in enumerate(kept))

    assert run(comms(2), work) == [True, True]


def test_ranks_that_do_something_else_are_told_so() -> None:
    def work(comm: SharedComm) -> torch.Tensor:
        return comm.all_reduce(torch.ones(3 + comm.rank))

    for error in run(comms(3), work):
        assert isinstance(error, PeerError) and "another collective" in str(error)


def test_types_of_one_size_are_not_mixed_up() -> None:
    def work(comm: SharedComm) -> torch.Tensor:
        return comm.all_reduce(torch.ones(3, dtype=(torch.float32, torch.int32)[comm.rank]))

    assert all(isinstance(e, PeerError) for e in run(comms(2), work))


def test_a_rank_that_gives_up_releases_the_others() -> None:
    def work(comm: SharedComm) -> torch.Tensor | None:
        comm.barrier()
        if comm.rank == 1:
            comm.abort()
            return None
        return comm.all_reduce(torch.ones(3))

    first, _, third = run(comms(3), work)
    for error in (first, third):
        assert isinstance(error, PeerError) and "rank 1 has given up" in str(error)


def test_a_rank_that_never_comes_is_waited_for_until_the_deadline() -> None:
    begin = time.monotonic()
    members = comms(2, deadline_s=0.2)
    (error, _) = run(members, lambda c: None if c.rank else c.all_reduce(torch.ones(3)))
    assert isinstance(error, PeerError) and "rank 1 did not come within 0.2 s" in str(error)
    assert 0.2 <= time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda c: c.all_reduce(torch.ones(2), "mean"), "op 'mean': expected one of"),
        (lambda c: c.all_reduce(torch.ones(2, dtype=torch.complex64)), "sum of torch.complex64"),
        (lambda c: c.all_gather(torch.ones(2), 0, (0, 2)), "expected 3 offsets"),
        (lambda c: c.all_gather(torch.ones(2), 0, (0, 3, 1)), "do not decrease"),
        (lambda c: c.all_gather(torch.ones(2), 0, (0, 3, 5)), "rank 0 holds 2 elements"),
        (lambda c: c.all_gather(torch.ones(2), 1, (0, 2, 4)), "no such axis"),
        (lambda c: c.reduce_scatter(torch.ones(5), 0, (0, 2, 4)), "the axis has 5 elements"),
        (
            lambda c: c.all_to_all(torch.ones(2, 2), 0, (0, 1, 2), 0, (0, 1, 2)),
            "expected two axes",
        ),
        (lambda c: c.all_reduce(torch.ones(2, device="meta")), "expected one on the CPU"),
    ],
)
def test_what_cannot_work_is_refused_before_anybody_waits(call, text: str) -> None:
    with pytest.raises(CommError, match=text):
        call(comms(2)[0])
