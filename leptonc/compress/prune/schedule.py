"""compress > prune > schedule: sparsity that grows, or moves, while a module trains.

Gradual: the cubic schedule of Zhu & Gupta (2017). Regrowth: RigL (Evci et al., ICML 2020): at a
fixed sparsity the weakest weights go and those of the largest gradient come back from zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leptonc.compress.prune import masks, sparse
from leptonc.compress.prune.groups import module_of
from leptonc.compress.prune.names import check_patterns, matches
from leptonc.compress.raised import Raised
from leptonc.compress.recipe import CompressError

METHODS = ("gradual", "regrow")


@dataclass(frozen=True)
class Target:
    """A weight under the schedule: its parameter and the axis of its outputs."""

    parameter: nn.Parameter
    outputs: int


class PruneSchedule:
    """Keeps weights of a module zero, ever more of them, in any training loop.

    Call :meth:`step` after every ``optimizer.step()``::

        schedule = PruneSchedule(small, sparsity=0.8, steps=1000)
        for x, y in loader:
            optimizer.zero_grad(); loss(small(x), y).backward(); optimizer.step(); schedule.step()

    Attributes:
        masks: by name of parameter, bool, true where a weight stays.
        at: how many steps were made.
    """

    def __init__(
        self,
        module: nn.Module,
        sparsity: float,
        steps: int,
        *,
        begin: int = 0,
        every: int = 1,
        method: str = "gradual",
        pattern: str | None = None,
        regrow: float = 0.3,
        skip: Sequence[str] = (),
    ) -> None:
        """Begin a schedule.

        Args:
            module: what ``leptonc.compress`` returned, or any module: its weights of linear layers
                and convolutions.
            sparsity: the part of each weight that is zero in the end, in (0, 1).
            steps: after which the sparsity is reached and masks stay as they are.
            begin: steps before the first that prunes.
            every: steps between two changes of the masks.
            method: ``"gradual"``, or ``"regrow"``: the full sparsity from the start, and a part
                ``regrow`` of what stays is exchanged at each change, ever less (cosine).
            pattern: ``"8x1"``: whole blocks; see ``Prune``. N:M has no schedule.
            regrow: see ``method``.
            skip: patterns of module paths that are left alone.

        Raises:
            CompressError: an option out of range, no weight, a pattern that matches nothing.
        """
        self.sparsity, self.steps, self.begin, self.every = sparsity, steps, begin, every
        self.method, self.regrow, self.at = method, regrow, 0
        self.pattern = masks.parse(pattern)
        self._check()
        self.targets = _targets(module, skip)
        fitting = {
            n: t for n, t in self.targets.items()
            if masks.fits(t.parameter, self.pattern, t.outputs)
        }  # fmt: skip
        if not fitting:
            raise CompressError(f"PruneSchedule: no weight that pattern={pattern!r} fits")
        self.targets = fitting
        self._kept = {n: torch.ones_like(self._worth(t), dtype=torch.bool)
                      for n, t in fitting.items()}  # fmt: skip
        self.masks: dict[str, Tensor] = {}
        if method == "regrow" and begin == 0:
            self._prune(sparsity)
        self.apply()

    def _check(self) -> None:
        rules = (
            (0 < self.sparsity < 1, f"sparsity={self.sparsity}: must be between 0 and 1"),
            (0 < self.regrow < 1, f"regrow={self.regrow}: must be between 0 and 1"),
            (self.steps > self.begin >= 0, f"steps={self.steps}, begin={self.begin}: must be "
             "0 <= begin < steps"),
            (self.every >= 1, f"every={self.every}: must be 1 or more"),
            (self.method in METHODS, f"method={self.method!r}: must be one of "
             f"{', '.join(METHODS)}"),
            (not self.pattern.of, "N:M has no schedule; Prune(pattern=...) makes it in one shot"),
        )  # fmt: skip
        for good, text in rules:
            if not good:
                raise CompressError(f"PruneSchedule({text})")

    def wanted(self, step: int) -> float:
        """Return the sparsity after ``step`` steps: cubic from 0 at ``begin`` to the full one."""
        if step <= self.begin:
            return 0.0
        if self.method == "regrow":
            return self.sparsity
        done = min(1.0, (step - self.begin) / (self.steps - self.begin))
        return self.sparsity * (1 - (1 - done) ** 3)

    def step(self) -> None:
        """Note that the optimizer made a step: change the masks where due, and apply them."""
        self.at += 1
        inside = self.begin < self.at <= self.steps
        if inside and ((self.at - self.begin) % self.every == 0 or self.at == self.steps):
            self._prune(self.wanted(self.at))
            if self.method == "regrow" and self.at < self.steps:
                self._exchange()
        self.apply()

    def apply(self) -> None:
        """Set to zero what the masks say (an optimizer's momentum moves weights without it)."""
        with torch.no_grad():
            for name, target in self.targets.items():
                p = target.parameter
                mask = masks.spread(self._kept[name], p, self.pattern, target.outputs)
                self.masks[name] = mask
                p.copy_(torch.where(mask, p, torch.zeros_like(p)))

    @property
    def reached(self) -> float:
        """The part of all scheduled weights that the masks hold at zero."""
        gone = sum(int((~m).sum()) for m in self.masks.values())
        return gone / sum(m.numel() for m in self.masks.values())

    def state_dict(self) -> dict[str, object]:
        """Return the masks and the step, for a checkpoint."""
        return {"at": self.at, "kept": {n: k.clone() for n, k in self._kept.items()}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a schedule where :meth:`state_dict` was made. Raises CompressError."""
        kept = state["kept"]
        if not isinstance(kept, Mapping) or set(kept) != set(self._kept):
            raise CompressError("PruneSchedule: this state is of other weights")
        self.at = int(str(state["at"]))
        self._kept = {n: kept[n].clone() for n in self._kept}
        self.apply()

    def _worth(self, target: Target) -> Tensor:
        return masks.worth(target.parameter, self.pattern, target.outputs)

    def _prune(self, sparsity: float) -> None:
        """Take more away until ``sparsity`` of each weight is gone; nothing comes back."""
        for name, target in self.targets.items():
            worth, kept = self._worth(target), self._kept[name]
            count = max(round(sparsity * worth.numel()), int((~kept).sum()))
            self._kept[name] = masks.smallest(worth.masked_fill(~kept, -1.0), count)

    def _exchange(self) -> None:
        """Swap the weakest that stay for those of the largest gradient that do not."""
        part = self.regrow / 2 * (1 + math.cos(math.pi * self.at / self.steps))
        for name, target in self.targets.items():
            grad, kept = target.parameter.grad, self._kept[name]
            if grad is None:
                continue
            gone = ~kept
            count = min(int(part * int(kept.sum())), int(gone.sum()))
            pull = masks.worth(grad, self.pattern, target.outputs)
            worth = self._worth(target).masked_fill(gone, math.inf)
            dropped = ~masks.smallest(worth, count)
            grown = masks.smallest(pull.masked_fill(~gone, -1.0), kept.numel() - count)
            with torch.no_grad():  # what comes back starts at zero, as RigL has it
                fresh = masks.spread(grown, target.parameter, self.pattern, target.outputs)
                target.parameter.masked_fill_(fresh, 0.0)
            self._kept[name] = (kept & ~dropped) | grown


def _targets(module: nn.Module, skip: Sequence[str]) -> dict[str, Target]:
    """Return the weights of linear layers and convolutions that train, by name."""
    if isinstance(module, Raised):
        axes = {w.name: w.outputs for w in sparse.weights_of(module.function)}
    else:
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        axes = {f"{n}.weight" if n else "weight": 0
                for n, m in module.named_modules() if isinstance(m, kinds)}  # fmt: skip
    found = {n: Target(p, axes[n]) for n, p in module.named_parameters()
             if n in axes and p.requires_grad}  # fmt: skip
    check_patterns(skip, [module_of(n) for n in found], "skip")
    found = {n: t for n, t in found.items() if not matches(skip, [module_of(n)])}
    if not found:
        raise CompressError("PruneSchedule: the module has no weight to train")
    return found


__all__ = ["METHODS", "PruneSchedule"]
