"""torch_spmd > graphs: a rank's whole call as one CUDA graph, replayed; plain calls where it fails.

A graph spares the launches of every kernel from Python. It is captured after a few warm-up calls
for each set of input shapes, into memory of its own: inputs are copied in, results copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Run = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
_WARM = 3  # calls before a capture: libraries choose algorithms and allocate in the first ones


@dataclass
class Graph:
    """One captured call."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    results: tuple[Tensor, ...]

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay it on other inputs; results are copies."""
        for held, new in zip(self.inputs, tensors, strict=True):
            held.copy_(new, non_blocking=True)
        self.graph.replay()
        return tuple(t.clone() for t in self.results)

    def free(self) -> None:
        """Let go of the graph before the memory that it uses."""
        self.graph.reset()


@dataclass
class Graphs:
    """Calls as graphs, by the shapes of the inputs.

    Attributes:
        run: the call itself.
        graphs: captured ones; None where capturing failed.
        why: what made capturing fail, empty if nothing did.
    """

    run: Run
    graphs: dict[tuple[object, ...], Graph | None] = field(
        default_factory=dict[tuple[object, ...], "Graph | None"]
    )
    why: str = ""

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what ``run`` returns for CUDA tensors."""
        key = tuple((tuple(t.shape), t.dtype) for t in tensors)
        if key not in self.graphs:
            self.graphs[key] = self._captured(tensors)
        graph = self.graphs[key]
        return self.run(tensors) if graph is None else graph(tensors)

    def _captured(self, tensors: Sequence[Tensor]) -> Graph | None:
        """Return the call as a graph, None if it cannot be one."""
        held = tuple(t.clone() for t in tensors)
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM):
                    self.run(held)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = self.run(held)
        except RuntimeError as error:  # an op that waits for the device, or allocates beside torch
            self.why = str(error).splitlines()[0]
            torch.cuda.synchronize()
            return None
        return Graph(graph, held, tuple(results))

    def free(self) -> None:
        """Let go of all graphs."""
        for graph in self.graphs.values():
            if graph is not None:
                graph.free()
        self.graphs.clear()
