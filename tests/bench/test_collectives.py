"""The benchmark of collectives runs every kind; what it measures is nobody's business here."""

from __future__ import annotations

from pathlib import Path

import torch
from strategies.ranks import comms, run

from leptonc.bench import collectives


def test_every_kind_but_torchs_own_runs(monkeypatch) -> None:
    monkeypatch.setattr(collectives, "SECONDS", 0.01)
    kinds = list(collectives.KINDS)[:-1]

    def work(comm):
        program = collectives.load(Path(), comm.rank, comm)
        assert len(program([torch.zeros(2), torch.zeros(2)])) == 1
        return [float(program([torch.tensor([k, 4096])])[0]) for k in range(len(kinds))]

    first, second = run(comms(2), work)
    assert first == second and min(first) > 0
