"""Verify a sharded program before anything runs: collectives, parts, and where sums may go.

What is checked: the IR's own invariants; that a value that is a sum over the ranks is read only by
ops that are linear in it, or combined first; that each collective takes what it is for; that cuts
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
        return _cuts_problem(program, op)
    if isinstance(op.kind, collective.Owned):
        return "" if _letters(ins) == "R" else f"takes a whole value, got {_letters(ins)}"
    sums = [p for p in ins if isinstance(p, Partial)]
    makes = any(isinstance(p, Partial) for p in outs)
    if not sums:
        allowed = type(op.kind) in _MAKES_SUMS or not makes
        return "" if allowed else "makes a sum over the ranks of values that are none"
    patterns = _LINEAR.get(type(op.kind), ())
    if not any(matches(_letters(ins), len(ins)) for matches in patterns):
        return f"reads a sum over the ranks before it is added up: {_letters(ins)}"
    return "" if makes else "reads a sum over the ranks, its result is none"


def _letters(placements: tuple[Placement, ...]) -> str:
    return "".join("P" if isinstance(p, Partial) else "S" if isinstance(p, Shard) else "R"
                   for p in placements)  # fmt: skip


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
_MAKES_SUMS = frozenset(
    {contract.Linear, contract.Matmul, contract.Conv, contract.ConvTranspose, reduce.Sum,
     reduce.Amax, reduce.Amin, reduce.Any, pointwise.Where}
)  # fmt: skip
_MEETS: Mapping[type[Kind], _Pattern] = {
    collective.AllReduce: "PR",
    collective.AllGather: "SR",
    collective.ReduceScatter: "PS",
    collective.AllToAll: "SS",
}
