"""What a sharded program costs on a cluster: seconds by what bounds them, bytes a rank holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leptonc.cost.cluster import Cluster, Device
from leptonc.cost.flops import effective_flops, known, nbytes, op_cost
from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.kinds.collective import AllToAll, Collective, Owned
from leptonc.ir.kinds.data import Constant, Full, Iota
from leptonc.ir.kinds.shape import Slice
from leptonc.shard.program import Spmd

_FREE = (Constant, Full, Iota, Owned)


@dataclass(frozen=True)
class Figures:
    """Predicted for the slowest rank of a call; times in seconds, sizes in bytes.

    Attributes:
        arithmetic_s: of ops that wait for the arithmetic.
        memory_s: of ops that wait for memory.
        launch_s: of ops too small for either.
        communication_s: of collectives.
        collectives: how many.
        sent: bytes of the values that collectives handle.
        weights: constants that a rank holds.
        activations: other values that are alive at once, at most.
    """

    arithmetic_s: float
    memory_s: float
    launch_s: float
    communication_s: float
    collectives: int
    sent: float
    weights: float
    activations: float

    @property
    def compute_s(self) -> float:
        """Seconds outside collectives."""
        return self.arithmetic_s + self.memory_s + self.launch_s

    @property
    def total_s(self) -> float:
        """Seconds of a call."""
        return self.compute_s + self.communication_s

    @property
    def held(self) -> float:
        """Bytes that a rank holds at once."""
        return self.weights + self.activations


def figures(program: Spmd, cluster: Cluster) -> Figures:
    """Return what ``program`` costs on ``cluster``, of the slowest rank."""
    distinct = {tuple(program.sizes(r)[n] for n in program.tables if n != "rank"): r
                for r in range(program.world)}  # fmt: skip
    ranks = distinct.values()
    made = [_of_rank(program.local(r), cluster, program.world) for r in ranks]
    return max(made, key=lambda f: f.total_s)


def whole_figures(fn: Function, cluster: Cluster) -> Figures:
    """Return what the whole program costs on one device of ``cluster``."""
    return _of_rank(fn, cluster, 1)


def _of_rank(fn: Function, cluster: Cluster, world: int) -> Figures:
    bound = {"arithmetic": 0.0, "memory": 0.0, "launch": 0.0}
    communication, count, sent = 0.0, 0, 0.0
    link = cluster.link_of(world)
    for op in fn.ops:
        if isinstance(op.kind, Collective):
            whole = exchanged(op)
            communication += link.collective_s(op.kind.NAME, whole, world)
            count, sent = count + 1, sent + whole
        else:
            name, seconds = _bound(op, cluster.device)
            bound[name] += seconds
    return Figures(
        bound["arithmetic"], bound["memory"], bound["launch"], communication, count, sent,
        weights(fn), activations(fn),
    )  # fmt: skip


def exchanged(op: Op) -> float:
    """Return the bytes of the whole value that a collective of a rank's function handles."""
    if isinstance(op.kind, AllToAll):  # a rank gives a part of it, and gets another
        own = known(op.operands[0].type.shape[op.kind.join])
        return float(known(nbytes(op.operands))) / own * op.kind.join_cuts[-1]
    return float(max(known(nbytes(op.operands)), known(nbytes(op.results))))


def _bound(op: Op, device: Device) -> tuple[str, float]:
    """Return what an op waits for, and how long."""
    if isinstance(op.kind, _FREE) or Trait.VIEW in op.kind.traits:
        return "launch", 0.0
    cost = op_cost(op)
    dtype = op.results[0].type.dtype.value
    peak = device.flops.get(dtype) or max(device.flops.values())
    times = {
        "arithmetic": known(effective_flops(op, device.winograd)) / peak,
        "memory": known(cost.bytes) / device.bandwidth,
        "launch": device.launch_s,
    }
    name = max(times, key=lambda n: times[n])
    return name, times[name]


def held_constants(fn: Function) -> Iterator[tuple[Value, Op]]:
    """Yield what a rank loads: a slice of a constant, or all of it, with the constant's op."""
    seen = set[Value]()
    for op in fn.ops:
        if not isinstance(op.kind, Constant):
            continue
        for v in loaded(fn, op.result):
            if v not in seen:
                seen.add(v)
                yield v, op


def loaded(fn: Function, whole: Value) -> list[Value]:
    """Return the values that are loaded of a constant: through reshapes up to its slices."""
    if whole in fn.returns:
        return [whole]
    found = list[Value]()
    for user in fn.users[whole]:
        if isinstance(user.kind, Slice):
            found.append(user.result)
        elif user.kind.NAME == "reshape" and any(
            isinstance(u.kind, Slice) for u in fn.users[user.result]
        ):
            found += loaded(fn, user.result)
        else:
            return [whole]
    return found


def weights(fn: Function) -> float:
    """Return the bytes of constants that a rank holds, of its local function."""
    return float(sum(known(nbytes((v,))) for v, _ in held_constants(fn)))


def activations(fn: Function) -> float:
    """Return the most bytes of values alive at once, views and constants aside."""
    left = dict(fn.use_count)
    size = {v: float(known(nbytes((v,)))) for v in fn.params}
    alive = most = sum(size.values())
    fixed = {v for v, _ in held_constants(fn)}
    for op in fn.ops:
        own = 0.0
        if Trait.VIEW not in op.kind.traits and not isinstance(op.kind, _FREE):
            own = float(known(nbytes(op.results)))
        for r in op.results:
            size[r] = 0.0 if r in fixed else own / len(op.results)
        alive += own
        most = max(most, alive)
        for v in dict.fromkeys(op.operands):
            left[v] -= op.operands.count(v)
            if not left[v]:
                alive -= size.get(v, 0.0)
    return most
