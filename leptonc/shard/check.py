"""Verify a sharded program before anything runs: collectives, parts, and where sums may go.

What is checked: the IR's own invariants; that a value that is a sum over the ranks is read only by
ops that are linear in it, or combined first, by the right operation; that nothing made of parts
passes for whole; that each collective takes what it is for, along the axis that is cut; that cuts
are the parts which the ranks hold; that results are whole. All ranks run one function without
branches, so they meet in the same collectives in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leptonc.errors import VerifyError
from leptonc.ir.core import NOWHERE, Kind, Op
from leptonc.ir.dims import Dim, evaluate, free_symbols
from leptonc.ir.kinds import binary, collective, contract, pointwise, reduce, shape, unary
from leptonc.ir.verify import verify
from leptonc.shard.placement import Partial, Placement, Replicate, Shard
from leptonc.shard.program import Spmd, part_sizes

_Pattern = str  # of placements: R whole, S part, P sum, * any but a sum


def check(program: Spmd) -> None:
    """Raise VerifyError at the first op that breaks a rule of sharded programs."""
    verify(program.function)
    for i, op in enumerate(program.function.ops):
        problem = _problem(program, op)
        if problem:
            at = f" at {op.origin}" if op.origin != NOWHERE else ""
            raise VerifyError(
                f"{program.function.name}: op {i} ({op.kind.NAME}{at}): {problem}; "
                "this is a fault of a sharding rule, not of the model"
            )
    for i, v in enumerate(program.function.returns):
        if not isinstance(program.placements[v], Replicate):
            p = program.placements[v]
            raise VerifyError(f"{program.function.name}: result {i} is {p}, it must be whole")


def _problem(program: Spmd, op: Op) -> str:
    """Return what is wrong with an op; "" when nothing is."""
    ins = tuple(program.placements[v] for v in op.operands)
    outs = tuple(program.placements[v] for v in op.results)
    if isinstance(op.kind, collective.Collective):
        want = _MEETS[type(op.kind)]
        if _letters(ins) + _letters(outs) != want:
            return f"takes {_letters(ins)} and gives {_letters(outs)}, {want} expected"
        return _meeting_problem(op, ins[0], outs[0]) or _cuts_problem(program, op)
    if isinstance(op.kind, collective.Owned):
        return "" if _letters(ins) == "R" else f"takes a whole value, got {_letters(ins)}"
    return _sums_problem(op, ins, outs) or _parts_problem(op, ins, outs)


def _sums_problem(op: Op, ins: tuple[Placement, ...], outs: tuple[Placement, ...]) -> str:
    """Return what is wrong with how an op takes and makes sums (or extremes) over the ranks."""
    taken, made = ([p for p in side if isinstance(p, Partial)] for side in (ins, outs))
    if not taken:
        if not made:
            return ""
        makes = _MAKES.get(type(op.kind))
        if makes is None or "S" not in _letters(ins):
            return f"makes a {made[0].op} over the ranks of values that are none"
        return "" if made[0].op == makes else f"makes a {makes} over the ranks, no {made[0].op}"
    patterns = _LINEAR.get(type(op.kind), ())
    if any(p.op != "sum" for p in taken) or not any(
        matches(_letters(ins), len(ins)) for matches in patterns
    ):
        return f"reads a {taken[0].op} over the ranks before it is combined: {_letters(ins)}"
    return "" if made else f"reads a {taken[0].op} over the ranks, its result is none"


def _parts_problem(op: Op, ins: tuple[Placement, ...], outs: tuple[Placement, ...]) -> str:
    """Return what is wrong with an op that reads parts: it makes parts or sums, nothing whole."""
    lost = "S" in _letters(ins) and "R" in _letters(outs)
    return f"reads parts, its result is whole: {_letters(ins)}" if lost else ""


def _letters(placements: tuple[Placement, ...]) -> str:
    return "".join("P" if isinstance(p, Partial) else "S" if isinstance(p, Shard) else "R"
                   for p in placements)  # fmt: skip


def _meeting_problem(op: Op, given: Placement, made: Placement) -> str:
    """Return what is wrong with how a collective combines or joins: it must be as the value is."""
    kind = op.kind
    if isinstance(given, Partial):
        how = kind.op if isinstance(kind, collective.AllReduce) else "sum"
        if given.op != how:
            return f"combines by {how} what is a {given.op} over the ranks"
    cut = made if isinstance(kind, collective.ReduceScatter) else given
    if isinstance(kind, (collective.AllGather, collective.ReduceScatter)) and isinstance(
        cut, Shard
    ):
        axis = cut.axis + (cut.outer > 1)
        if kind.axis != axis:
            return f"works along axis {kind.axis}, parts lie along axis {axis}"
    return ""


def _cuts_problem(program: Spmd, op: Op) -> str:
    """Return what is wrong with the cuts of a collective: they must be the ranks' own parts."""
    kind, given = op.kind, op.operands[0].type.shape
    checks: list[tuple[tuple[int, ...], Dim]] = []
    match kind:
        case collective.AllGather():
            checks = [(kind.cuts, given[kind.axis])]
        case collective.ReduceScatter():
            checks = [(kind.cuts, kind.part)]
        case collective.AllToAll():
            checks = [(kind.join_cuts, given[kind.join]), (kind.split_cuts, kind.part)]
        case _:
            pass
    for cuts, size in checks:
        if len(cuts) != program.world + 1:
            return f"cuts {cuts} are not those of {program.world} ranks"
        if not free_symbols((size,)) <= program.tables.keys():
            return f"the part has {size} elements, which is no size of a rank"
        own = [evaluate(size, program.sizes(r)) for r in range(program.world)]
        if own != list(part_sizes(cuts)):
            return f"ranks hold {own} elements, cuts {cuts} tell of others"
    return ""


_Matches = Callable[[str, int], bool]


def _all_sums(letters: str, n: int) -> bool:
    return letters == "P" * n


def _one_of(*patterns: str) -> _Matches:
    return lambda letters, n: letters in patterns


_PRODUCT = _one_of("PR", "PRP", "SSP")
_LINEAR: Mapping[type[Kind], tuple[_Matches, ...]] = {
    **dict.fromkeys(
        (binary.Add, binary.Sub, unary.Neg, shape.Reshape, shape.Transpose, shape.Expand,
         shape.Slice, shape.Concat, reduce.Sum, reduce.Mean),
        (_all_sums,),
    ),
    binary.Mul: (_one_of("PR", "RP"),),
    binary.Div: (_one_of("PR"),),
    pointwise.Where: (_one_of("RPP"),),
    contract.Matmul: (_one_of("PR", "RP"),),
    **dict.fromkeys((contract.Linear, contract.Conv, contract.ConvTranspose), (_PRODUCT,)),
}  # fmt: skip
_MAKES: Mapping[type[Kind], str] = {
    **dict.fromkeys(
        (contract.Linear, contract.Matmul, contract.Conv, contract.ConvTranspose, reduce.Sum,
         pointwise.Where),
        "sum",
    ),
    **dict.fromkeys((reduce.Amax, reduce.Any), "max"),
    reduce.Amin: "min",
}  # fmt: skip
_MEETS: Mapping[type[Kind], _Pattern] = {
    collective.AllReduce: "PR",
    collective.AllGather: "SR",
    collective.ReduceScatter: "PS",
    collective.AllToAll: "SS",
}
