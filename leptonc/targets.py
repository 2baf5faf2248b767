"""Targets: ``"cpu"``, ``"cpu:2"``, ``"cuda"``, ``"cuda:4"``; the number counts devices.

torch reads ``cuda:4`` as the device with index 4. Here it is four devices, as many ranks of one
program; one device is pinned with ``target="cuda", device=4``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from leptonc.errors import TargetError

KINDS = ("cpu", "cuda")
MOST_PROCESSES = 64
_TARGET = re.compile(r"(\w+)(?::(\w+))?")


@dataclass(frozen=True)
class Target:
    """Where a program runs.

    Attributes:
        kind: ``"cpu"`` or ``"cuda"``.
        count: devices, or processes on CPUs; None where the number was left out.
        device: index of the one CUDA device, if it is pinned.
    """

    kind: str
    count: int | None = None
    device: int | None = None

    @property
    def ranks(self) -> int:
        """How many ranks run the program."""
        return self.count or 1

    @property
    def sharded(self) -> bool:
        """Whether the program is divided, or runs on another device than the CPU."""
        return self.kind == "cuda" or self.count is not None

    def __str__(self) -> str:
        return self.kind if self.count is None else f"{self.kind}:{self.count}"

    def explain(self) -> str:
        """Return what the target means, in a line."""
        if self.kind == "cpu":
            return f"{self}: {_processes(self.ranks)} of this machine, one rank each"
        if self.count is None:
            at = "the current CUDA device" if self.device is None else f"CUDA device {self.device}"
            return f"{self}: {at}"
        return (
            f"{self}: {self.ranks} CUDA device{'s' * (self.ranks > 1)}, one rank each (not the "
            f'device of index {self.ranks}; one device is pinned by target="cuda", '
            f"device={self.ranks})"
        )


def parse_target(text: str, device: int | None = None) -> Target:
    """Return the target that ``text`` names. Raises TargetError."""
    m = _TARGET.fullmatch(text)
    if m is None or m[1] not in KINDS:
        raise TargetError(
            f"unknown target {text!r}; there are: cpu, cpu:N (processes), cuda, cuda:N (devices)"
        )
    if m[2] is not None and not m[2].isdigit():
        raise TargetError(f"target {text!r}: {m[2]!r} is no number of devices")
    count = None if m[2] is None else int(m[2])
    if count == 0:
        raise TargetError(f"target {text!r}: at least one device is needed")
    if device is not None and (m[1] != "cuda" or count is not None):
        raise TargetError(f'target {text!r}: device= pins one device of target="cuda"')
    return Target(m[1], count, device)


def check_there(target: Target) -> None:
    """Raise TargetError unless this machine has what ``target`` asks for."""
    if target.kind == "cpu":
        if target.ranks > MOST_PROCESSES:
            raise TargetError(f"target {target}: at most {MOST_PROCESSES} processes of one machine")
        return
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = target.ranks if target.device is None else target.device + 1
    if wanted > there:
        which = target.explain() if target.device is None else f"CUDA device {target.device}"
        raise TargetError(
            f"{which}; this torch finds {there or 'no'} CUDA device{'s' * (there != 1)}. "
            + _instead(target, there)
        )


def _instead(target: Target, there: int) -> str:
    if there:
        return f'Use target="cuda:{there}" or fewer'
    return f'The same plan runs on processes of this machine: target="cpu:{target.ranks}"'


def _processes(n: int) -> str:
    return f"{n} process{'es' * (n > 1)}"
