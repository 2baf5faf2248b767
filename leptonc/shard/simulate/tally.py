"""What the program of one rank does, counted once, and what that takes on a device.

Counts do not depend on the machine, so a machine's parameters can be fitted without planning anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonc.cost.cluster import Device, Link
from leptonc.cost.flops import known, nbytes, op_cost
from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.kinds.collective import Collective, Owned
from leptonc.ir.kinds.data import Constant, Full, Iota
from leptonc.shard.measure import exchanged, held_constants, loaded
from leptonc.shard.simulate.repeat import place_of

Place: TypeAlias = "Callable[[Op], int]"
Numbers = NDArray[np.float64]
TERMS = ("arithmetic", "memory", "launch", "communication")
_FREE = (Constant, Full, Iota, Owned)


@dataclass(frozen=True)
class Meeting:
    """A collective: the place of the op that it serves, its kind, and bytes of the whole value."""

    place: int
    kind: str
    whole: float


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one rank's program, whose ops come from ``places`` places of a short one.

    Attributes:
        places: how many.
        at: the place of each op that takes time.
        flops: operations of each such op.
        moved: bytes of each such op.
        dtypes: what each such op calculates in.
        meetings: the collectives, in order.
        weights: bytes of constants that the rank holds, by place.
        state: bytes of parameters that it holds, by the place where each is read first.
        activations: most bytes of other values alive at once.
        ranks: how many ranks meet.
    """

    places: int
    at: NDArray[np.intp]
    flops: Numbers
    moved: Numbers
    dtypes: tuple[str, ...]
    meetings: tuple[Meeting, ...]
    weights: Numbers
    state: Numbers
    activations: float
    ranks: int

    def seconds(self, device: Device, link: Link) -> Mapping[str, Numbers]:
        """Return the seconds at each place, by what is waited for (``TERMS``)."""
        peaks = {t: device.flops.get(t) or max(device.flops.values()) for t in set(self.dtypes)}
        peak = np.array([peaks[t] for t in self.dtypes], np.float64)
        times = np.stack(
            [
                self.flops / peak,
                self.moved / device.bandwidth,
                np.full(len(self.at), device.launch_s),
            ]
        )
        bound, longest = times.argmax(axis=0), times.max(axis=0)
        found: dict[str, Numbers] = {
            name: _sums(self.at, longest * (bound == i), self.places)
            for i, name in enumerate(TERMS[:3])
        }
        found[TERMS[3]] = np.zeros(self.places)
        for m in self.meetings:
            found[TERMS[3]][m.place] += link.collective_s(m.kind, m.whole, self.ranks)
        return found


def tally(local: Function, places: int, ranks: int, place: Place = place_of) -> Tally:
    """Return the counts of a rank's program.

    Args:
        local: the program.
        places: how many places there are.
        ranks: how many ranks meet.
        place: of an op; its origin tells it unless told otherwise.
    """
    timed = [op for op in local.ops if _takes_time(op)]
    costs = [op_cost(op) for op in timed]
    return Tally(
        places,
        np.array([place(op) for op in timed], np.intp),
        np.array([known(c.flops) for c in costs], np.float64),
        np.array([known(c.bytes) for c in costs], np.float64),
        tuple(op.results[0].type.dtype.value for op in timed),
        tuple(
            Meeting(place(op), op.kind.NAME, exchanged(op))
            for op in local.ops
            if isinstance(op.kind, Collective)
        ),
        _weights(local, places, place),
        _state(local, places, place),
        _activations(local),
        ranks,
    )


def _takes_time(op: Op) -> bool:
    free = isinstance(op.kind, (*_FREE, Collective)) or Trait.VIEW in op.kind.traits
    return not free


def _sums(at: NDArray[np.intp], values: Numbers, places: int) -> Numbers:
    return np.bincount(at, values, places).astype(np.float64)


def _weights(local: Function, places: int, place: Place) -> Numbers:
    held = np.zeros(places)
    for value, op in held_constants(local):
        held[place(op)] += known(nbytes((value,)))
    return held


def _state(local: Function, places: int, place: Place) -> Numbers:
    """Return the bytes of parameters: of what a rank reads of them, where that is a slice."""
    held = np.zeros(places)
    for p in local.params:
        users = local.users[p]
        if users:
            held[place(users[0])] += sum(known(nbytes((v,))) for v in set(loaded(local, p)))
    return held


def _activations(local: Function) -> float:
    """Return the most bytes alive of what ops make; parameters and constants are told apart."""
    left = dict(local.use_count)
    size = dict[Value, float]()
    alive = most = 0.0
    for op in local.ops:
        if _takes_time(op) or isinstance(op.kind, Collective):
            own = float(known(nbytes(op.results)))
            size.update(dict.fromkeys(op.results, own / len(op.results)))
            alive += own
            most = max(most, alive)
        for v in dict.fromkeys(op.operands):
            left[v] -= op.operands.count(v)
            if not left[v]:
                alive -= size.get(v, 0.0)
    return most
