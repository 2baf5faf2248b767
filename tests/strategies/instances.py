"""Functions that match a rule's left side, drawn from the pattern; comparison by exactness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from leptonc.errors import InferError
from leptonc.ir.core import Builder, Function, Kind, Trait, Value
from leptonc.ir.kinds.data import Full
from leptonc.ir.text import parse
from leptonc.ir.types import DType, TensorType, parse_type
from leptonc.rewrite.pattern import Either, Lit, Many, Node, Opt, Pattern, Var
from leptonc.rewrite.rule import Exactness, Level, Rule

from .kinds import attrs, operand_types, scalar_of, tensor_types


@st.composite
def instances(draw: st.DrawFn, rule: Rule) -> Function:
    """Draw a function whose returned value matches ``rule.lhs`` (or one of the rule's examples)."""
    if rule.examples:
        return parse(draw(st.sampled_from(rule.examples)))
    maker = _Maker(draw, rule)
    try:
        root = maker.node(rule.lhs, None)
    except InferError:
        assume(False)
        raise
    return maker.b.finish(root)


class _Maker:
    """Builds one instance bottom-up; ``at`` is the position in the rule's hints."""

    def __init__(self, draw: Any, rule: Rule) -> None:
        self.draw, self.hints = draw, rule.hints
        self.b, self.bound = Builder("instance"), dict[str, Value]()
        longest = max((len(h) for n, h in rule.hints.items() if n != "xs"), default=1)
        self.at = draw(st.integers(0, longest - 1))

    def hint(self, name: str) -> Any:
        found: Sequence[Any] = self.hints.get(name, ()) if name else ()
        return found[self.at % len(found)] if found else None

    def value(self, p: Pattern, expected: TensorType | None) -> Value:
        if isinstance(p, (Var, Node, Lit)) and p.name and p.name in self.bound:
            return self.bound[p.name]
        if isinstance(p, Either):
            return self.value(self.draw(st.sampled_from(p.options)), expected)
        if isinstance(p, Opt):
            return self.value(p.pattern, expected)
        if isinstance(p, Node):
            return self.node(p, expected)
        made = self.var(p, expected) if isinstance(p, Var) else self.lit(p, expected)
        if p.name:
            self.bound[p.name] = made
        return made

    def var(self, p: Var, expected: TensorType | None) -> Value:
        text = self.hint(p.name)
        type_ = parse_type(text) if text else expected
        if type_ is None:
            type_ = self.draw(tensor_types().filter(p.where or (lambda _: True)))
        assume(p.where is None or p.where(type_))
        return self.b.param(type_, p.name)

    def lit(self, p: Lit, expected: TensorType | None) -> Value:
        dtype = expected.dtype if expected else DType.F32
        value = p.value if p.value is not None else self.hint(p.name)
        if value is not None and p.rtol:  # as far off as the pattern takes it
            value *= 1 + p.rtol * self.draw(st.sampled_from([0.0, 0.99, -0.99]))
        if value is None:
            value = scalar_of(self.draw, dtype)
        number = (
            float(value) if dtype.is_float else bool(value) if dtype is DType.BOOL else int(value)
        )
        return self.b(Full((), number, dtype))

    def node(self, p: Node, expected: TensorType | None) -> Value:
        hint = self.hint(p.name)
        cls = type(hint) if hint is not None else self.draw(st.sampled_from(p.kinds))
        operands = self.operands(p, cls, expected)
        types = tuple(v.type for v in operands)
        kind: Kind = hint if hint is not None else self.draw(attrs(cls, types))
        assume(p.where is None or p.where(kind))
        made = self.b(kind, *operands)
        if p.name:
            self.bound[p.name] = made
        return made

    def operands(self, p: Node, cls: type[Kind], expected: TensorType | None) -> list[Value]:
        args = [a for a in p.args if not isinstance(a, Opt) or self.draw(st.booleans())]
        if len(args) == 1 and isinstance(args[0], Many):
            return self.many(args[0], cls)
        made: list[Value | None] = [None] * len(args)
        same = Trait.ELEMENTWISE in cls.TRAITS and cls.__name__ not in ("Cast", "Where")
        fits: tuple[TensorType, ...] = ()
        for i in sorted(range(len(args)), key=lambda i: isinstance(args[i], Lit)):
            want = fits[i] if i < len(fits) else expected if same else None
            made[i] = v = self.value(args[i], want)
            if not fits and len(args) > 1:
                fits = self.others(cls, v.type, i, len(args))
        return [v for v in made if v is not None]

    def others(self, cls: type[Kind], t: TensorType, i: int, n: int) -> tuple[TensorType, ...]:
        """Return types for all operands where operand ``i``, made first, is of type ``t``."""
        if i:
            return (t,) * n
        types = self.draw(operand_types(cls, t))
        return types if len(types) == n else (t,) * n

    def many(self, p: Many, cls: type[Kind]) -> list[Value]:
        texts = self.hints.get(p.name)
        if texts:
            return [self.b.param(parse_type(str(t))) for t in texts]
        return [self.b.param(t) for t in self.draw(operand_types(cls))]


def nudged(args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return floats moved by one rounding error, to and fro: what an input may be off by."""
    return tuple(map(_nudge, args))


def _nudge(a: torch.Tensor) -> torch.Tensor:
    if not a.is_floating_point() or a.numel() == 0:
        return a
    sign = 1 - 2 * (torch.arange(a.numel()).reshape(a.shape) % 2)
    return (a * (1 + 2 * sign * torch.finfo(a.dtype).eps)).to(a.dtype)


def assert_equal(
    want: Sequence[torch.Tensor],
    got: Sequence[torch.Tensor],
    truth: Sequence[torch.Tensor],
    exact: Exactness,
    moved: Sequence[torch.Tensor] | None = None,
    args: Sequence[torch.Tensor] = (),
) -> None:
    """Assert that two rows of results are as equal as ``exact`` says.

    ``truth`` is in float64, ``moved`` too, but for ``nudged`` inputs: how far these two are apart
    is what rounding alone may do.
    """
    assert len(want) == len(got)
    for w, g, t, near in zip(want, got, truth, moved or truth, strict=True):
        assert w.dtype == g.dtype and w.shape == g.shape
        if not w.is_floating_point() or exact.level in (Level.BITWISE, Level.VALUE):
            assert torch.equal(torch.isnan(w), torch.isnan(g)), (w, g)
            assert torch.equal(torch.nan_to_num(w), torch.nan_to_num(g)), (w, g)
            if exact.level is Level.BITWISE and w.is_floating_point():
                ok = torch.isnan(w)
                assert torch.equal(w.signbit() | ok, g.signbit() | ok), (w, g)
            continue
        slack = exact.bound * max((_largest(a) for a in (t, *args)), default=0.0)
        assert_close(w, g, t, slack, near)


def _largest(a: torch.Tensor) -> float:
    finite = a[torch.isfinite(a)].abs() if a.is_floating_point() else a[:0]
    return float(finite.max()) if finite.numel() else 0.0


def assert_close(
    want: torch.Tensor, got: torch.Tensor, truth: torch.Tensor, slack: float, near: torch.Tensor
) -> None:
    """Assert that ``got`` is about as near to the float64 ``truth`` as ``want``, or ``slack``."""
    assert torch.equal(torch.isnan(want), torch.isnan(got)), (want, got)
    ok = torch.isfinite(want) & torch.isfinite(truth)
    if not ok.any():
        return
    w, g, t = want[ok].double(), got[ok].double(), truth[ok].double()
    near = torch.nan_to_num(near[ok].double())
    slack += 16 * torch.finfo(want.dtype).eps * (float(t.abs().max()) + 1e-30)
    own, moves = float((w - t).abs().max()), float((near - t).abs().max())
    worst, allowed = float((g - t).abs().max()), 4 * own + 4 * moves + slack
    assert worst <= allowed, f"error {worst:g} against float64, allowed {allowed:g}: {want} {got}"
