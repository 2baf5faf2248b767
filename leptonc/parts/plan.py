"""parts > plan: what the parts of one split share: the cut program, the model's call, examples."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from leptonc import meaning
from leptonc.capture.captured import Captured
from leptonc.cost.flops import Cost
from leptonc.ir.core import Op, Value
from leptonc.parts.batches import Batching, mixing
from leptonc.parts.carve import Carved


@dataclass(frozen=True)
class PartCost:
    """What a part costs, as estimated from shapes.

    Attributes:
        flops: floating-point operations of a run.
        bytes: bytes that its blocks read and write.
        seconds: time on its device, without arrivals.
        share: part of the whole program's seconds at equal speeds.
        arriving: bytes that cross the cut before it.
        arriving_s: seconds they take.
    """

    flops: int
    bytes: int
    seconds: float
    share: float
    arriving: int
    arriving_s: float


@dataclass(frozen=True)
class Options:
    """How parts are compiled: arguments of ``leptonc.compile``."""

    pipeline: str = "O2"
    precision: str = "fp32"
    verify: str = "final"
    threads: int | None = None
    cache: bool = True
    tune: bool | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """One split.

    Attributes:
        name: of the model.
        captured: how arguments and results of the model are arranged.
        carved: the program in pieces.
        costs: figures of every part.
        speeds: of the devices, as given.
        examples: what every value that crosses a cut is for the example inputs.
        options: how parts are compiled.
        id: tells this split from others.
    """

    name: str
    captured: Captured
    carved: Carved
    costs: tuple[PartCost, ...]
    speeds: tuple[float, ...]
    examples: Examples
    options: Options
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    _mixing: dict[Batching, int | None] = field(default_factory=dict[Batching, "int | None"])

    def __len__(self) -> int:
        return len(self.carved.pieces)

    def mixing(self, where: Batching) -> int | None:
        """Return the index of a result that mixes the rows of a batch, None if none does.

        It is found by interpreting the program, once (twice if two threads ask at a time).
        """
        if where not in self._mixing:
            self._mixing[where] = mixing(self.carved.whole, self.examples.make(), where)
        return self._mixing[where]


@dataclass
class Examples:
    """The example inputs of every part, computed op by op when one is first asked for."""

    carved: Carved
    make: Callable[[], Sequence[Tensor]]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _found: dict[int, tuple[Tensor, ...]] = field(default_factory=dict[int, "tuple[Tensor, ...]"])

    def of(self, index: int) -> tuple[Tensor, ...]:
        """Return the inputs of part ``index``; they are not kept for a second time."""
        with self._lock:
            if index not in self._found:
                values = self._values()
                pieces = enumerate(self.carved.pieces)
                self._found = {i: tuple(values[v] for v in p.sources) for i, p in pieces}
            return self._found.pop(index)

    def _values(self) -> Mapping[Value, Tensor]:
        whole = self.carved.whole
        wanted = {v for p in self.carved.pieces for v in p.sources}
        inputs = self.make()
        found = {p: t for p, t in zip(whole.params, inputs, strict=True) if p in wanted}

        def observe(op: Op, results: tuple[Tensor, ...]) -> None:
            found.update((v, t) for v, t in zip(op.results, results, strict=True) if v in wanted)

        meaning.run(whole, *inputs, observe=observe)
        return found


def interpret(carved: Carved, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what the whole program returns, computed piece by piece with the reference semantics.

    Only values with a name pass from one piece to the next, as they do between devices.
    """
    named: dict[str, Any] = dict(zip(carved.params, tensors, strict=True))
    for piece in carved.pieces:
        made = meaning.run(piece.function, *(named[n] for n in piece.inputs))
        named.update(zip(piece.computed, made, strict=True))
        named.update((n, meaning.tensor_of(k.const)) for n, k in piece.held.items())
    return tuple(named[n] for n in carved.returns)


def cost_of(
    cost: Cost, work_s: float, whole_s: float, speed: float, live: int, link: float
) -> PartCost:
    """Return the figures of one part."""
    share = work_s / whole_s if whole_s else 0.0
    return PartCost(int(cost.flops), int(cost.bytes), work_s / speed, share, live, live / link)
