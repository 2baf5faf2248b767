"""The parts of bisect on their own: shrinking, slices, data as text, files, limited passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu import memory
from leptonc.bisect import data
from leptonc.bisect.by_pass import guilty_step
from leptonc.bisect.files import read_all, read_inputs
from leptonc.bisect.shrink import smallest
from leptonc.bisect.slices import around, part, resized, values_of, work_of
from leptonc.errors import InferError, InputError
from leptonc.ir.text import dump, parse
from leptonc.ir.verify import verify
from leptonc.passes import pipeline
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Trace

from .test_seeded_faults import run_test_file

FN = parse("""
func @f(%x: f32[4,6], %y: f32[4,6]) {
  %one = full{shape=(4, 6), value=1.0, dtype=f32}() : f32[4,6]
  %a = mul(%x, %one) : f32[4,6]
  %b = relu(%a) : f32[4,6]
  %c = add(%b, %y) : f32[4,6]
  %d = relu(%c) : f32[4,6]
  %e = add(%d, %b) : f32[4,6]
  return %e
}
""")


# ----- shrinking ----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_smallest_is_what_it_takes(count: int, draw: st.DataObject) -> None:
    need = draw.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4))
    found = smallest(range(count), lambda kept: need <= set(kept))
    assert set(found) == need and list(found) == sorted(found)


@given(st.integers(2, 30), st.integers(1, 8))
def test_smallest_leaves_nothing_to_drop(count: int, least: int) -> None:
    """Also where any few will do: no single item can go."""
    least = min(least, count)
    assert len(smallest(range(count), lambda kept: len(kept) >= least)) == least


# ----- slices -------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 4), min_size=1))
def test_a_part_computes_what_the_whole_does(chosen: set[int]) -> None:
    inputs = torch.randn(4, 6), torch.randn(4, 6)
    keep = [op for i, op in enumerate(work_of(FN)) if i in chosen]
    cut = part(FN, keep)
    verify(cut)
    assert len(work_of(cut)) == len(keep)
    env = values_of(FN, inputs, {*cut.params, *cut.returns})
    got = meaning.run(cut, *(env[p] for p in cut.params))
    for v, t in zip(cut.returns, got, strict=True):
        assert torch.equal(env[v], t)


def test_what_others_read_is_returned_and_constants_come_along() -> None:
    (a, b, *_) = work_of(FN)
    cut = part(FN, [a, b])
    assert cut.returns == (b.result,) and len(cut.ops) == 3
    assert [len(around(FN, b, n)) for n in (0, 1, 2)] == [1, 4, 5]


def test_sizes_become_smaller_where_they_fit() -> None:
    small = resized(FN, 6, 2)
    verify(small)
    assert "f32[4,2]" in dump(small) and "f32[4,6]" not in dump(small)
    fn = parse("func @g(%x: f32[4,6]) {\n  %r = reshape{shape=(24,)}(%x) : f32[24]\n  return %r\n}")
    with pytest.raises(InferError):
        resized(fn, 6, 2)


# ----- data ---------------------------------------------------------------------------------------

_DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
_FLOATS = st.floats(width=32)


@given(_DTYPES, st.lists(_FLOATS, max_size=80))
def test_any_tensor_survives_as_text(dtype: torch.dtype, values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    made = _made(data.text_of(tensor))
    assert made.dtype is dtype and made.shape == tensor.shape
    assert torch.equal(made.isnan(), tensor.isnan())
    plain = ~tensor.isnan()
    assert torch.equal(made[plain], tensor[plain])
    assert torch.equal(torch.signbit(made[plain]), torch.signbit(tensor[plain]))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=80))
def test_whole_numbers_survive_as_text(values: list[int]) -> None:
    tensor = torch.tensor(values, dtype=torch.int64)
    assert torch.equal(_made(data.text_of(tensor)), tensor)
    flags = tensor > 0
    assert torch.equal(_made(data.text_of(flags)), flags)


def test_recipes_are_short_and_the_same_everywhere() -> None:
    t = data.scattered((3, 5), "f32", 2)
    assert data.text_of(t) == 'scattered((3, 5), "f32", 2)'
    assert (t[0] * 8).tolist() == [8, 8, -6, -8, -7]
    assert data.scattered((100,), "f32", 0, positive=True).min() > 0
    assert data.text_of(torch.full((9,), 0.5)) == 'filled((9,), "f32", 0.5)'


def _made(text: str) -> torch.Tensor:
    names = {n: getattr(data, n) for n in ("filled", "packed", "scattered", "written")}
    return eval(text, names)  # our own text


# ----- files --------------------------------------------------------------------------------------


def test_inputs_from_every_kind_of_file(tmp_path: Path) -> None:
    a, b = torch.randn(2, 3), torch.arange(4)
    torch.save((a, b), tmp_path / "t.pt")
    torch.save({"x": a}, tmp_path / "d.pt")
    np.save(tmp_path / "a.npy", a.numpy())
    np.savez(tmp_path / "p.npz", a.numpy(), b.numpy())
    np.savez(tmp_path / "n.npz", x=a.numpy())
    safetensors.torch.save_file({"0": a, "1": b}, tmp_path / "s.safetensors")
    for name in ("t.pt", "p.npz", "s.safetensors"):
        assert_close(read_inputs(tmp_path / name), (a, b))
    for name in ("d.pt", "n.npz"):
        assert_close(read_inputs(tmp_path / name), {"x": a})
    both = read_all([str(tmp_path / "a.npy"), "2x3"], lambda specs: (specs,))
    assert len(both) == 2 and both[1] == ["2x3"]
    with pytest.raises(InputError, match="names its arguments"):
        read_all([str(tmp_path / "d.pt"), "2x3"], lambda specs: (specs,))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Trap(), tmp_path / "t.pt")
    np.save(tmp_path / "t.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    for name in ("t.pt", "t.npy"):
        with pytest.raises(InputError, match="cannot read"):
            read_inputs(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="no file"):
        read_inputs(tmp_path / "no.pt")


# ----- passes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simplify", "cse", "fold-constants"])
def test_a_limited_pass_does_the_first_so_many_rewrites(name: str) -> None:
    fn = parse("""
func @f(%x: f32[4]) {
  %one = full{shape=(), value=1.0, dtype=f32}() : f32[]
  %two = add(%one, %one) : f32[]
  %three = add(%two, %one) : f32[]
  %a = mul(%x, %one) : f32[4]
  %b = neg(%a) : f32[4]
  %c = neg(%a) : f32[4]
  %d = neg(%a) : f32[4]
  %e = mul(%c, %three) : f32[4]
  %g = mul(%d, %one) : f32[4]
  %h = add(%b, %e) : f32[4]
  %i = add(%h, %g) : f32[4]
  return %i
}
""")
    (p,) = pipeline(name)
    full = Trace(name)
    last = p.run(fn, full)
    total, x = full.fired.total(), torch.randn(4)
    assert total >= 2
    seen = []
    for limit in range(total + 1):
        trace = Trace(name, limit)
        made = p.run(fn, trace)
        verify(made)
        assert trace.fired.total() == limit
        assert_close(meaning.run(made, x), meaning.run(fn, x))
        seen.append(dump(made))
    assert seen[0] == dump(fn) and seen[-1] == dump(last)
    assert len(set(seen)) == total + 1


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_guilty_pass_has_a_right_input_and_a_wrong_result(wrong: list[bool]) -> None:
    """Whatever the steps between do: faults may come, hide and come again."""
    fns = [FN, *(dataclasses.replace(FN) for _ in wrong)]
    bad = {id(f) for f, w in zip(fns[1:], wrong, strict=True) if w}
    steps = [
        Step(i, pipeline("dce")[0], a, b, 0.0, (), {}) for i, (a, b) in enumerate(pairwise(fns))
    ]
    at: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meaning, "run", lambda fn, *inputs: at.append(fn) or (fn,))

        def judge(results: Sequence[Any]) -> str | None:
            return "wrong" if id(results[0]) in bad else None

        found = guilty_step(steps, (), judge)
    if not wrong[-1]:
        assert found is None
        return
    assert found is not None and id(found.after) in bad and id(found.before) not in bad
    if len(steps) <= 16:
        assert found.index == wrong.index(True)
    else:
        assert len(at) <= 8


# ----- units that are wrong only together ---------------------------------------------------------


@pytest.mark.numba
def test_a_stale_buffer_shows_in_units_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (torch.nn.Linear(16, 16) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.softmax(self.first(x), 0)
            return torch.softmax(self.third(torch.softmax(self.second(y), 0)), 0) * y

    model, real, x = Residual().eval(), memory.plan, torch.randn(8, 16)

    def age(life: memory.Lifetime) -> int:
        return life.last - life.first

    def wrong(lifetimes: Sequence[memory.Lifetime], **options: int) -> memory.Plan:
        found = real(lifetimes, **options)
        offsets, oldest = list(found.offsets), max(lifetimes, key=age, default=None)
        # Others go where the one lies that is needed longest.
        for i, life in enumerate(lifetimes):
            if oldest and oldest.first < life.first < life.last < oldest.last:
                offsets[i] = offsets[lifetimes.index(oldest)]
        return dataclasses.replace(found, offsets=tuple(offsets))

    with monkeypatch.context() as patch:
        patch.setattr(memory, "plan", wrong)
        net = leptonc.compile(model, x, verify="off", cache=False, threads=1)
        verdict = net.bisect(x)
        assert verdict.found == "units", verdict
        assert verdict.unit.count(",") >= 1
        with pytest.raises(AssertionError):
            run_test_file(verdict, tmp_path)
    run_test_file(verdict, tmp_path)
