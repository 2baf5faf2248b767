"""Constants that lie elsewhere: read where somebody looks, and by no pass that need not look."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager

WIDE = 80  # rows of this many columns and more than 52 of them are more than SMALL bytes


def later(tensor: Tensor, reads: list[str], name: str = "w") -> Const:
    """Return ``tensor`` as a constant that lies elsewhere; ``reads`` notes who was looked at."""

    def read() -> Tensor:
        reads.append(name)
        return tensor

    return Const(meaning.type_of(tensor), meaning.Later(read), lambda _: f"{name:0>64}")


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.lists(st.booleans()))
def test_stacked_constants_are_read_when_they_are_looked_at(rows, elsewhere) -> None:
    tensors = [torch.randn(n, WIDE) for n in rows]
    away = [i < len(elsewhere) and elsewhere[i] for i in range(len(rows))]
    reads: list[str] = []
    consts = [
        later(t, reads, str(i)) if a else meaning.const_of(t)
        for i, (t, a) in enumerate(zip(tensors, away, strict=True))
    ]
    for const in consts:
        meaning.set_nonzero_share(const, 1.0)
    made = meaning.stacked(consts)
    large = [a and 4 * n * WIDE > meaning.SMALL for a, n in zip(away, rows, strict=True)]
    assert not (reads and any(large))
    assert torch.equal(meaning.tensor_of(made), torch.cat(tensors))
    assert made.type.shape == (sum(rows), WIDE)
    assert sorted(reads) == sorted(str(i) for i, a in enumerate(away) if a)


def test_what_is_stacked_is_told_apart_by_its_parts() -> None:
    a, b = (later(torch.randn(90, WIDE), [], n) for n in "ab")
    for const in (a, b):
        meaning.set_nonzero_share(const, 1.0)
    digests = {meaning.stacked(list(c)).digest for c in ((a, b), (b, a), (a, a))}
    assert len(digests) == 3
    assert meaning.stacked([a, b]).digest in digests


def program(*weights: Const) -> Function:
    b = Builder("f")
    x = b.param(TensorType(DType.F32, (3, WIDE)), "x")
    return b.finish(*[b(Linear(), x, b(Constant(w))) for w in weights])


def test_no_pass_looks_at_large_weights() -> None:
    reads: list[str] = []
    weights = [later(torch.randn(WIDE, WIDE), reads, n) for n in "abc"]
    for const in weights:
        meaning.set_nonzero_share(const, 1.0)
    after = PassManager(pipeline("O2"), ()).run(program(*weights))
    assert not reads
    x = torch.randn(3, WIDE)
    want = meaning.run(program(*weights), x)
    for got, exact in zip(meaning.run(after, x), want, strict=True):
        torch.testing.assert_close(got, exact)
    assert set(reads) == {"a", "b", "c"}
