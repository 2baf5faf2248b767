"""All ranks in one process, op by op: sizes of each, memory given back, what is refused."""

from __future__ import annotations

import pytest
import torch

from leptonc import meaning
from leptonc.errors import InputError
from leptonc.ir.text import parse
from leptonc.meaning.lockstep import run_ranks

PAIR = """
func @pair(%x: f32[n,4], %w: f32[6,4], %v: f32[5,6]; c6 in [1, 3]; n in [1, 9]; o6 in [0, 5];
 rank in [0, 2]) {
  %1 = slice{axis=0, start=o6, stop=c6+o6, step=1}(%w) : f32[c6,4]
  %2 = slice{axis=1, start=o6, stop=c6+o6, step=1}(%v) : f32[5,c6]
  %3 = linear(%x, %1) : f32[n,c6]
  %4 = relu(%3) : f32[n,c6]
  %5 = linear(%4, %2) : f32[n,5]
  %6 = all_reduce{op='sum'}(%5) : f32[n,5]
  return %6, %6
}
""".replace("\n rank", " rank")
TABLES = {"rank": (0, 1, 2), "c6": (3, 2, 1), "o6": (0, 3, 5)}
WHOLE = """
func @whole(%x: f32[n,4], %w: f32[6,4], %v: f32[5,6]; n in [1, 9]) {
  %1 = linear(%x, %w) : f32[n,6]
  %2 = relu(%1) : f32[n,6]
  %3 = linear(%2, %v) : f32[n,5]
  return %3
}
"""


def numbers(*dims: int) -> torch.Tensor:
    return torch.arange(float(torch.tensor(dims).prod())).reshape(dims) % 5 - 2


@pytest.mark.parametrize("n", [1, 7])
def test_ranks_of_unequal_parts_give_the_whole(n: int) -> None:
    xs = [numbers(n, 4), numbers(6, 4), numbers(5, 6)]
    got = run_ranks(parse(PAIR), TABLES, xs)
    (want,) = meaning.run(parse(WHOLE), *xs)
    assert len(got) == 3
    assert all(torch.equal(t, want) for results in got for t in results)


def test_an_observer_sees_every_op_of_every_rank() -> None:
    seen = list[tuple[str, list[tuple[int, ...]]]]()
    xs = [numbers(2, 4), numbers(6, 4), numbers(5, 6)]
    run_ranks(
        parse(PAIR), TABLES, xs,
        lambda op, made: seen.append((op.kind.NAME, [tuple(t[0].shape) for t in made])),
    )  # fmt: skip
    assert [name for name, _ in seen] == [
        "slice", "slice", "linear", "relu", "linear", "all_reduce",
    ]  # fmt: skip
    assert seen[2][1] == [(2, 3), (2, 2), (2, 1)]


def test_a_call_changes_no_input() -> None:
    xs = [numbers(2, 4), numbers(6, 4), numbers(5, 6)]
    kept = [t.clone() for t in xs]
    run_ranks(parse(PAIR), TABLES, xs)
    assert all(torch.equal(a, b) for a, b in zip(xs, kept, strict=True))


def test_tables_of_different_worlds_are_refused() -> None:
    xs = [numbers(2, 4), numbers(6, 4), numbers(5, 6)]
    with pytest.raises(InputError, match=r"pair: tables of \[2, 3\] ranks"):
        run_ranks(parse(PAIR), {**TABLES, "c6": (3, 3)}, xs)


def test_sizes_of_the_model_are_checked() -> None:
    with pytest.raises(InputError, match="size n = 10 is outside its range"):
        run_ranks(parse(PAIR), TABLES, [numbers(10, 4), numbers(6, 4), numbers(5, 6)])


def test_parts_that_do_not_fit_their_cuts_are_refused() -> None:
    fn = parse(
        "func @odd(%x: f32[6,2]; c6 in [1, 3]; o6 in [0, 5]; rank in [0, 2]) {\n"
        "  %1 = slice{axis=0, start=o6, stop=c6+o6, step=1}(%x) : f32[c6,2]\n"
        "  %2 = all_gather{axis=0, cuts=(0, 2, 4, 6)}(%1) : f32[6,2]\n"
        "  return %2\n}"
    )
    with pytest.raises(InputError, match=r"parts along axis 0 are \[3, 2, 1\]"):
        run_ranks(fn, TABLES, [numbers(6, 2)])
