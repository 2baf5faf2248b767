"""``einsum`` and ``tensordot`` as transposes, reshapes and matrix products."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from string import ascii_letters

from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Value
from leptonc.ir.dims import Dim, product, same_dim
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.contract import Matmul
from leptonc.ir.kinds.reduce import Sum


@dataclass(frozen=True)
class Term:
    """A value with a letter for each axis."""

    value: Value
    letters: str

    def size(self, letter: str) -> Dim:
        """Return the size of the axis of that letter."""
        return self.value.type.shape[self.letters.index(letter)]


def einsum(c: Context, a: Args) -> Value:
    """Import ``einsum`` left to right, two operands at a time. Raises Unclaimed for diagonals."""
    terms, result = _parse(a.equation, [c.cast(t, c.dtype) for t in a.tensors])
    _check(terms)
    left = terms[0]
    for i, right in enumerate(terms[1:], start=2):
        later = set(result).union(*(t.letters for t in terms[i:]))
        left = _contract(c, left, right, later)
    return _finish(c, left, result)


def _parse(equation: str, values: list[Value]) -> tuple[list[Term], str]:
    text = equation.replace(" ", "")
    inputs, arrow, result = text.partition("->")
    specs = inputs.split(",")
    want(len(specs) == len(values), "its equation does not fit its operands")
    free = [ch for ch in ascii_letters if ch not in text]
    ranks = [v.type.rank - len(s.replace("...", "")) for s, v in zip(specs, values, strict=True)]
    dots = max((r for r, s in zip(ranks, specs, strict=True) if "..." in s), default=0)
    batch = "".join(free[:dots])
    terms = [
        Term(v, s.replace("...", batch[dots - r :] if r else ""))
        for s, v, r in zip(specs, values, ranks, strict=True)
    ]
    if not arrow:
        counts = Counter("".join(s.replace("...", "") for s in specs))
        result = "..." * ("..." in inputs) + "".join(sorted(k for k, n in counts.items() if n == 1))
    return terms, result.replace("...", batch)


def _check(terms: list[Term]) -> None:
    sizes: dict[str, Dim] = {}
    for t in terms:
        want(len(set(t.letters)) == len(t.letters), "einsum of a diagonal has no kind")
        for letter in t.letters:
            same = same_dim(sizes.setdefault(letter, t.size(letter)), t.size(letter))
            want(same, "einsum that broadcasts a size of 1 has no kind")


def _summed(c: Context, t: Term, keep: set[str]) -> Term:
    """Return ``t`` with every axis summed whose letter is not kept."""
    axes = tuple(i for i, letter in enumerate(t.letters) if letter not in keep)
    if not axes:
        return t
    return Term(c(Sum(axes), t.value), "".join(ch for ch in t.letters if ch in keep))


def _contract(c: Context, x: Term, y: Term, later: set[str]) -> Term:
    x = _summed(c, x, later | set(y.letters))
    y = _summed(c, y, later | set(x.letters))
    both = [ch for ch in x.letters if ch in y.letters]
    batch = "".join(ch for ch in both if ch in later)
    inner = "".join(ch for ch in both if ch not in later)
    rows = "".join(ch for ch in x.letters if ch not in both)
    columns = "".join(ch for ch in y.letters if ch not in both)
    if not inner:
        return _multiplied(c, x, y, batch, rows, columns)
    sizes = {ch: t.size(ch) for t in (y, x) for ch in t.letters}
    made = c(
        Matmul(),
        _grouped(c, x, sizes, (batch, rows, inner)),
        _grouped(c, y, sizes, (batch, inner, columns)),
    )
    letters = batch + rows + columns
    return Term(c.reshape(made, tuple(sizes[ch] for ch in letters)), letters)


def _grouped(c: Context, t: Term, sizes: dict[str, Dim], groups: tuple[str, str, str]) -> Value:
    """Return ``t`` as a matrix: its batch axes, then each other group as one axis."""
    batch, rows, columns = groups
    value = c.transpose(t.value, [t.letters.index(ch) for ch in batch + rows + columns])
    ends = (product(sizes[ch] for ch in g) for g in (rows, columns))
    return c.reshape(value, (*(sizes[ch] for ch in batch), *ends))


def _multiplied(c: Context, x: Term, y: Term, batch: str, rows: str, columns: str) -> Term:
    """Return the outer product (no axis is summed)."""
    letters = batch + rows + columns
    made = []
    for t in (x, y):
        value = c.transpose(t.value, [t.letters.index(ch) for ch in letters if ch in t.letters])
        shape = tuple(t.size(ch) if ch in t.letters else 1 for ch in letters)
        made.append(c.reshape(value, shape))
    return Term(c(Mul(), *made), letters)


def _finish(c: Context, t: Term, result: str) -> Value:
    t = _summed(c, t, set(result))
    return c.transpose(t.value, [t.letters.index(ch) for ch in result])


def tensordot(c: Context, a: Args) -> Value:
    """Import ``tensordot``: the same as an einsum of distinct letters."""
    x, y = a.self, a.other
    want(x.type.rank + y.type.rank <= len(ascii_letters), "it has too many axes")
    left = list(ascii_letters[: x.type.rank])
    right = list(ascii_letters[x.type.rank : x.type.rank + y.type.rank])
    for i, j in zip(a.dims_self, a.dims_other, strict=True):
        right[j] = left[i]
    shared = set(left) & set(right)
    result = [ch for ch in (*left, *right) if ch not in shared]
    tx, ty = Term(c.cast(x, c.dtype), "".join(left)), Term(c.cast(y, c.dtype), "".join(right))
    _check([tx, ty])
    return _finish(c, _contract(c, tx, ty, set(result)), "".join(result))
