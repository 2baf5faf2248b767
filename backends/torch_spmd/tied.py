"""torch_spmd > tied: tables that are looked up in one place and multiplied by in another.

The product has its table packed. The look-up takes its rows from where the constant lies, a mapped
file: of such a table a rank holds the panels alone, and what pages of the file it needs just now.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from leptonc.backends.torch_spmd.weights import Index, Part, Stored, placed
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.ir.kinds.shape import Slice

Key = tuple[object, ...]


def tied(bodies: Iterable[Function]) -> frozenset[Key]:
    """Return the keys of the parts that embeddings look up and other ops read, too."""
    looked, read = set[Key](), set[Key]()
    for body in bodies:
        for op, part in _parts(body):
            users = body.users[op.result]
            looked |= {part.key for u in users if _looks_up(u, op.result)}
            read |= {part.key for u in users if not _looks_up(u, op.result)}
    return frozenset(looked & read)


def placed_apart(
    body: Function, stored: Stored, keys: frozenset[Key]
) -> tuple[Function, tuple[Tensor, ...]]:
    """Return ``body`` with its constants placed, tables of ``keys`` as parameters behind its own.

    Args:
        body: of a unit.
        stored: where constants are.
        keys: what ``tied`` gives.

    Returns:
        the function, and for each of its new parameters the whole constant: the part is cut from
        that without a copy.
    """
    apart = {
        op.result: part
        for op, part in _parts(body)
        if part.key in keys and any(_looks_up(u, op.result) for u in body.users[op.result])
    }
    if not apart:
        return placed(body, stored), ()
    b = Builder(body.name, params=list(body.params), dims=body.dims)
    given = {v: b.param(part.whole.type, v.hint) for v, part in apart.items()}
    given = {v: _cut(b, given[v], part.pieces[0]) for v, part in apart.items()}
    for op in body.ops:
        b.append(_from(op, given))
    everything = (slice(None), slice(None))
    wholes = tuple(stored.look(part.whole, everything) for part in apart.values())
    return placed(b.finish(*body.returns), stored), wholes


def _cut(b: Builder, table: Value, index: Index) -> Value:
    """Append the cuts of ``index``."""
    for axis, at in enumerate(index):
        if at != slice(None):
            table = b(Slice(axis, at.start, at.stop), table)
    return table


def _from(op: Op, given: dict[Value, Value]) -> Op:
    """Return ``op``, a look-up in one of the parameters ``given`` for constants."""
    if not op.operands or op.operands[0] not in given or not _looks_up(op, op.operands[0]):
        return op
    return Op(op.kind, (given[op.operands[0]], *op.operands[1:]), op.results, op.origin)


def _looks_up(op: Op, table: Value) -> bool:
    return isinstance(op.kind, Embedding) and op.operands[0] is table


def _parts(body: Function) -> Iterable[tuple[Op, Part]]:
    for op in body.ops:
        part = op.kind.const.payload if isinstance(op.kind, Constant) else None
        if isinstance(part, Part) and len(part.pieces) == 1:
            yield op, part
