"""Every rule: ``gather(op(shards)) == op(full)``, for each strategy, on every rank."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import applications
from strategies.shard_cases import elementwise, plain
from strategies.sharding import (
    Case,
    agrees,
    chosen_for,
    letters,
    lowered,
    single,
    speeds_for,
)

from leptonc.ir.kinds import binary, contract, data, norm, pointwise, quantize, reduce, unary
from leptonc.ir.types import DType
from leptonc.shard.rules import RULES
from leptonc.shard.spread import spread

PLAIN, ELEMENTWISE = tuple(plain()), tuple(elementwise())
EQUAL = (1.0,) * 8
UNEVEN = (1.0, 2.5, 0.7, 1.0, 1.0, 3.0, 1.0, 1.0)

# Sums over the ranks are exact on whole numbers, and so is what only moves elements. Elsewhere a
# kernel takes the last elements of a row one by one, or blocks its loops by the sizes that it gets:
# a part may differ from the whole in the last bits, never because something was summed in parts.
_INEXACT = (
    contract.Attention, norm.BatchNorm, norm.LayerNorm, norm.RmsNorm, norm.GroupNorm, norm.Softmax,
    norm.LogSoftmax, reduce.Var, binary.Atan2, binary.Pow, pointwise.Gelu, pointwise.Softplus,
    pointwise.Elu, quantize.FakeQuantize, data.Recurrent,
)  # fmt: skip
_EXACT_UNARY = (
    unary.Relu, unary.Neg, unary.Abs, unary.Sign, unary.Floor, unary.Ceil, unary.Round,
    unary.Trunc, unary.LogicalNot, unary.IsNan, unary.IsInf, unary.IsFinite, unary.BitwiseNot,
)  # fmt: skip


def tolerance(case: Case) -> float:
    """Return 0.0 for kinds that are exact on small whole numbers.

    A mean divides by its count: that is exact for powers of two.
    """
    if isinstance(case.kind, reduce.Mean):
        count = math.prod(int(case.types[0].shape[a]) for a in case.kind.axes)
        fine = case.types[0].dtype in (DType.F32, DType.F64)
        return 0.0 if count & (count - 1) == 0 else 1e-5 if fine else 1e-2
    if isinstance(case.kind, norm.LayerNorm) and case.types[0].dtype is DType.BF16:
        return 2.0**-7  # one rounding to eight bits on either side
    functions = isinstance(case.kind, unary.KINDS) and not isinstance(case.kind, _EXACT_UNARY)
    return 1e-5 if functions or isinstance(case.kind, _INEXACT) else 0.0


def holds(case: Case, speeds: tuple[float, ...], constants: bool, seed: int = 0) -> None:
    """Assert that every strategy of the op gives what the whole op does."""
    ranks = len(speeds)
    base = single(case, None, constants=False)
    for s in spread(base.fn, ranks).strategies[base.at]:
        made = single(case, s, constants, seed)
        found = spread(made.fn, ranks)
        choice = chosen_for(made, s, found)
        assert choice is not None, f"{letters(s)} is gone behind operands that are sums"
        agrees(made.fn, lowered(made.fn, choice, found, speeds), made.inputs, tolerance(case))


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_parts_make_the_whole(case: Case) -> None:
    holds(case, EQUAL[:2], constants=False)
    holds(case, UNEVEN[:3], constants=True)


@given(st.sampled_from(PLAIN), st.integers(1, 8).flatmap(speeds_for), st.booleans(),
       st.integers(0, 99))  # fmt: skip
def test_parts_make_the_whole_for_any_ranks(
    case: Case, speeds: tuple[float, ...], constants: bool, seed: int
) -> None:
    holds(case, speeds, constants, seed)


@st.composite
def drawn(draw: st.DrawFn) -> Case:
    """Draw a kind that has a rule, its attributes and operands, of sizes up to four."""
    return Case(*draw(applications(draw(st.sampled_from(sorted(RULES, key=str))))))


@given(drawn(), st.integers(2, 4).flatmap(speeds_for), st.booleans())
def test_parts_make_the_whole_for_any_attributes(
    case: Case, speeds: tuple[float, ...], constants: bool
) -> None:
    holds(case, speeds, constants)


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_elementwise_parts_make_the_whole(case: Case) -> None:
    holds(case, UNEVEN[:3], constants=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN + ELEMENTWISE, ids=str)
@pytest.mark.parametrize("ranks", range(1, 9))
def test_parts_make_the_whole_for_all_ranks(case: Case, ranks: int) -> None:
    for speeds in (EQUAL[:ranks], UNEVEN[:ranks]):
        for constants in (False, True):
            holds(case, speeds, constants)


# What the rules are expected to yield at two ranks for the cases above: a rule that stops to fire
# is missed here. R is whole, S1/3 a part of axis 1 in three blocks, P a sum; a form is behind ":".
EXPECTED = {
    "linear": [
        "PR>P", "PRP>P", "RS0>S0", "RS0>S1", "RS0S0>S2", "S0R>S0", "S0RR>S0", "S0S1>P", "S1RR>S1",
        "S1S1>P", "S2S1P>P",
    ],
    "matmul": [
        "PR>P", "RP>P", "RS0>S1", "RS1>S3", "RS2>S2", "RS2>S3", "S0R>S0", "S0S0>S0", "S1R>S1",
        "S2R>S2", "S2S1>P", "S3S0>P", "S3S1>P",
    ],
    "conv": [
        "PR>P", "PRP>P", "RS0>S1", "RS0S0>S1", "S0R>S0", "S0RR>S0", "S1S0>S1", "S1S0S0>S1",
        "S1S1>P", "S1S1P>P", "S2R>S2:halo", "S2RR>S2:halo", "S3R>S3:halo", "S3RR>S3:halo",
    ],
    "conv_transpose": ["PRP>P", "RS1S0>S1", "S0RR>S0", "S1S0P>P", "S1S0S0>S1"],
    "attention": [
        "RRS2R>S2", "RRS3>S3", "RRS3R>S3", "S0S0S0>S0", "S0S0S0R>S0", "S0S0S0S0>S0",
        "S1RR>S1:repeat-keys", "S1RRS1>S1", "S1S1S1>S1", "S1S1S1R>S1", "S1S1S1S0>S1",
        "S1S1S1S1>S1", "S2RR>S2", "S2RRR>S2", "S2RRS0>S2", "S2RRS2>S2",
    ],
    "batch_norm": ["S0RR>S0", "S0RRRR>S0", "S1S0S0>S1", "S1S0S0S0S0>S1", "S2RRRR>S2"],
    "layer_norm": [
        "S0>S0", "S0R>S0", "S0RR>S0", "S1>S1:moments", "S1RR>S1", "S1S0>S1:moments",
        "S2>S2:moments", "S2S0S0>S2:moments",
    ],
    "rms_norm": ["S0R>S0", "S1R>S1", "S2S0>S2:moments"],
    "group_norm": [
        "S0>S0", "S0R>S0", "S0RR>S0", "S1>S1", "S1S0>S1", "S1S0S0>S1", "S1S0S0>S1:moments",
        "S2>S2:moments", "S2R>S2:moments", "S2RR>S2:moments",
    ],
    "softmax": ["S0>S0", "S2>S2"],
    "log_softmax": ["S0>S0", "S1>S1"],
    "cumsum": ["S0>S0", "S2>S2"],
    "sum": ["P>P", "S0>P", "S0>S0", "S1>P", "S1>S1", "S2>P", "S2>S1"],
    "mean": ["P>P", "S0>P:mean", "S0>S0", "S1>P:mean", "S1>S0", "S2>P:mean", "S2>S1"],
    "prod": ["S0>S0", "S2>S1"],
    "amax": ["S0>S0", "S1>Pmax", "S2>S1"],
    "amin": ["S0>Pmin", "S0>S0", "S1>Pmin", "S2>S2"],
    "all": ["S0>S0", "S2>S1"],
    "any": ["S0>Pmax", "S0>S0", "S1>Pmax", "S2>S0", "S2>S2"],
    "var": ["S0>R:moments", "S0>S0", "S1>R:moments", "S1>S1", "S2>R:moments", "S2>S1"],
    "argmax": ["S0>S0", "S2>S1"],
    "argmin": ["S1>S1", "S2>S2"],
    "max_pool": ["S0>S0", "S1>S1", "S2>S2:halo", "S3>S3:halo"],
    "avg_pool": ["S0>S0", "S1>S1", "S2>S2:halo", "S3>S3:halo"],
    "adaptive_avg_pool": ["S0>S0", "S1>S1"],
    "adaptive_max_pool": ["S0>S0", "S1>S1"],
    "reshape": [
        "P>P", "S0/2>S2", "S0>S0", "S1/3>S2", "S1>S0/3", "S1>S0/4", "S1>S1", "S1>S3", "S2>S1",
    ],
    "transpose": ["P>P", "S0>S1", "S1>S2", "S2>S0"],
    "expand": ["P>P", "R>S0", "R>S2", "S0>S1"],
    "slice": ["P>P", "S0>S0", "S1/3>S1:blocks", "S1>S1"],
    "concat": ["PP>P", "PPP>P", "S0S0>S0/2", "S0S0S0>S0", "S1S1>S1", "S1S1S1>S1/3"],
    "flip": ["S0>S0", "S2>S2"],
    "roll": ["S1>S1"],
    "pad": ["S0>S0", "S2>S2"],
    "full": [">S0", ">S1"],
    "iota": [">S0"],
    "constant": [">P:owned", ">S0:constant", ">S1:constant"],
    "embedding": ["RS0>S0", "RS1>S1", "S0R>P:vocabulary", "S1R>S1", "S1R>S2"],
    "index_select": ["RS0>S0", "RS0>S1", "RS1>S1", "S0R>S0", "S1R>S2", "S2R>S1", "S2R>S2"],
    "gather": ["S0S0>S0", "S2S2>S2"],
    "triangle": ["S0>S0"],
    "interpolate": ["S0>S0", "S1>S1"],
    "recurrent": ["S1S1RRRR>S1S1", "S1S1S1RRRR>S1S1S1"],
    "where": ["RPP>P", "RS0R>S1", "S0RR>S0", "S0S0S0>S0", "S1S1S1>S1"],
    "clamp": ["S0>S0", "S1>S1"],
    "cast": ["S0>S0", "S1>S1"],
    "quantize": ["S0R>S0", "S0RR>S0", "S0S0>S0", "S1R>S1", "S1S0S0>S1"],
    "dequantize": ["S0S0>S0", "S0S0S0>S0", "S1R>S1"],
    "fake_quantize": ["S0R>S0", "S1S0>S1", "S2R>S2"],
    "quantize_rows": ["S0>S0S0", "S1>S1S1"],
    "unpack_int4": ["S0>S0", "S1>S1"],
    "int_linear": ["RS0S0>S1", "RS0S0S0>S2", "S0RR>S0", "S0RRR>S0", "S1RRR>S1"],
    "int_avg_pool": ["S0R>S0", "S1R>S1"],
    "int_conv": [
        "RS0S0S0>S1", "S0RR>S0", "S0RRR>S0", "S1S0S0>S1", "S2RR>S2:halo", "S2RRR>S2:halo",
        "S3RRR>S3:halo",
    ],
}  # fmt: skip


def seen(cases: tuple[Case, ...]) -> dict[str, list[str]]:
    """Return the strategies of each kind, whole ones aside."""
    found = defaultdict[str, set[str]](set)
    for case in cases:
        base = single(case, None, constants=False)
        found[case.kind.NAME].update(map(letters, spread(base.fn, 2).strategies[base.at][1:]))
    return {name: sorted(s) for name, s in found.items()}


def test_every_rule_fires() -> None:
    assert seen(PLAIN) == EXPECTED


def test_every_kind_with_a_rule_is_here() -> None:
    assert {type(c.kind) for c in PLAIN + ELEMENTWISE} >= RULES.keys()


_SUMS = {"add": {"PP>P"}, "sub": {"PP>P"}, "mul": {"PR>P", "RP>P"}, "div": {"PR>P"}, "neg": {"P>P"}}


def test_elementwise_rules_cut_every_axis() -> None:
    for name, found in seen(ELEMENTWISE).items():
        one = {"S0>S0", "S1>S1"}
        two = {"S0S0>S0", "S1S1>S1", "S1S0>S1", "RS0>S0", "S0R>S0", "S1R>S1"}
        expected = (one if "S0>S0" in found else two) | _SUMS.get(name, set())
        assert set(found) == expected, name
