"""Bisect > judge: whether results show the symptom: values out of tolerance, or a metric's drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from leptonc import check

Metric = Callable[[Any], float]
Judge = Callable[[Sequence[Tensor]], "str | None"]  # what is wrong with results, or None


@dataclass(frozen=True)
class ByValue:
    """Holds results to the float64 reference, with the tolerance of the compile's own check."""

    reference: check.Reference

    def __call__(self, results: Sequence[Tensor]) -> str | None:
        """Return the output furthest outside its tolerance."""
        bad = self.reference.worst(results)
        return None if bad is None else str(bad)

    def largest(self, results: Sequence[Tensor]) -> check.Difference | None:
        """Return the output nearest to its tolerance or furthest outside."""
        rows = self.reference.compare(results)
        return max(rows, key=lambda d: d.error / max(d.tolerance, 1e-300), default=None)


@dataclass(frozen=True)
class ByMetric:
    """Holds a metric of the results to eager's: it may be lower by at most ``drop``.

    ``restore`` makes what the model returns of a function's results.
    """

    metric: Metric
    restore: Callable[[Sequence[Tensor]], Any]
    want: float
    drop: float

    def __call__(self, results: Sequence[Tensor]) -> str | None:
        """Return the metric that fell too low (NaN has)."""
        got = self.of(results)
        if got >= self.want - self.drop:
            return None
        return f"metric {got:.6g}, eager's is {self.want:.6g}, allowed drop {self.drop:.3g}"

    def of(self, results: Sequence[Tensor]) -> float:
        """Return the metric of results."""
        return float(self.metric(self.restore(results)))
