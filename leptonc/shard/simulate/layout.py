"""How devices are used, and what is predicted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_MILLION = 1e6


@dataclass(frozen=True)
class Layout:
    """Stages of a pipeline, ranks that share each stage, and copies of all of it.

    Attributes:
        pipeline: stages, contiguous parts of the program.
        tensor: ranks that divide every op of a stage.
        replicas: copies, each with requests of its own.
        micro_batches: parts in which a copy's requests run through the stages: one number, or one
            for each phase of the work; 0 asks for what is fastest.
    """

    pipeline: int = 1
    tensor: int = 1
    replicas: int = 1
    micro_batches: int | tuple[int, ...] = 0

    @property
    def devices(self) -> int:
        """How many devices there are in all."""
        return self.pipeline * self.tensor * self.replicas

    def same_copy(self, other: Layout) -> bool:
        """Return whether each copy of ``other`` is divided as those of this layout are."""
        return (self.pipeline, self.tensor) == (other.pipeline, other.tensor)

    def __str__(self) -> str:
        return f"{self.pipeline} stages x {self.tensor} ranks x {self.replicas} replicas"


@dataclass(frozen=True)
class Stage:
    """One stage of a copy.

    Attributes:
        seconds: that it works on a batch of requests, all phases together.
        occupancy: share of the time that it works while the copy is kept busy.
        memory: bytes that each of its devices holds.
    """

    seconds: float
    occupancy: float
    memory: float


@dataclass(frozen=True)
class Prediction:
    """What is predicted of a layout.

    Attributes:
        layout: with the numbers of micro-batches that were chosen.
        batch: requests that a copy serves at once.
        latency_s: from the arrival of a batch to its last result.
        throughput: requests a second of all copies, kept busy.
        memory: bytes that the fullest device holds.
        limit: bytes that a device has.
        hourly: dollars an hour of all devices; 0 where no price is known.
        tokens: results of a request, 0 where it makes none.
        terms: seconds of ``latency_s`` by what is waited for: arithmetic, memory, launch,
            communication, transfer (between stages), waiting (for other parts of the batch).
        stages: one for each stage.
    """

    layout: Layout
    batch: int
    latency_s: float
    throughput: float
    memory: float
    limit: float
    hourly: float
    tokens: int = 0
    terms: Mapping[str, float] = field(default_factory=dict[str, float])
    stages: tuple[Stage, ...] = ()

    def times(self, replicas: int) -> Prediction:
        """Return the prediction for so many replicas of the copy, each with its own requests."""
        factor = replicas / self.layout.replicas
        layout = replace(self.layout, replicas=replicas)
        return replace(
            self, layout=layout, throughput=self.throughput * factor, hourly=self.hourly * factor
        )

    @property
    def fits(self) -> bool:
        """Whether every device has the memory."""
        return self.memory <= self.limit

    @property
    def million_requests(self) -> float:
        """Dollars for a million requests."""
        return self.hourly / 3600 / self.throughput * _MILLION

    @property
    def million_tokens(self) -> float:
        """Dollars for a million tokens made; 0 where a request makes none."""
        return self.million_requests / self.tokens if self.tokens else 0.0

    @property
    def device_seconds(self) -> float:
        """Seconds of a device that a request takes, however devices are paid."""
        return self.layout.devices / self.throughput
