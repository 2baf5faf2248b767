"""One rank in the caller's process, and its calls as graphs (with a stand-in for CUDA's)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from strategies.planned import convs, planned

from leptonc.backends.torch_spmd import graphs, store
from leptonc.backends.torch_spmd.alone import AloneGroup
from leptonc.backends.torch_spmd.graphs import Graphs
from leptonc.backends.torch_spmd.units import How
from leptonc.errors import ArtifactError, WorkerError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, x = convs()
    return store.save(tmp_path / "p", planned(model, x, 1).program, How("torch"), "cpu")


def test_a_program_of_one_rank_runs_here(saved: Path) -> None:
    model, x = convs()
    group = AloneGroup(saved)
    (got,) = group.call(x)
    want = model(*x).detach()
    assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    group.restart()
    assert torch.equal(group.call(x)[0], got) and group.pids == ()
    group.close()
    with pytest.raises(WorkerError, match="closed"):
        group.call(x)


def test_a_program_of_other_ranks_is_refused(tmp_path: Path) -> None:
    model, x = convs()
    path = store.save(tmp_path / "p", planned(model, x, 2).program, How("torch"), "cpu")
    with pytest.raises(ArtifactError, match="a program of 2 ranks, 1 are here"):
        AloneGroup(path).start()


class FakeGraph:
    """Remembers what ran while it was captured, and runs it again into the same memory."""

    recording: FakeGraph | None = None

    def __init__(self) -> None:
        self.calls: list = []
        self.freed = False

    def replay(self) -> None:
        for work in self.calls:
            work()

    def reset(self) -> None:
        self.freed = True


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    made: list[FakeGraph] = []

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    def graph() -> FakeGraph:
        made.append(FakeGraph())
        return made[-1]

    @contextlib.contextmanager
    def recording(g: FakeGraph):
        FakeGraph.recording = g
        try:
            yield
        finally:
            FakeGraph.recording = None

    stand_in = type("cuda", (), {})()
    stand_in.Stream, stand_in.current_stream = Stream, Stream
    stand_in.stream = lambda s: contextlib.nullcontext()
    stand_in.CUDAGraph, stand_in.graph = graph, recording
    stand_in.synchronize = lambda: None
    monkeypatch.setattr(graphs.torch, "cuda", stand_in)
    return made


def doubled(calls: list[int]):
    """Return a call that a fake graph can record: it writes twice its input."""

    def run(tensors):
        calls.append(1)
        (x,), out = tensors, torch.empty_like(tensors[0])

        def work() -> None:
            out.copy_(2 * x)

        work()
        if FakeGraph.recording is not None:
            FakeGraph.recording.calls.append(work)
        return (out,)

    return run


def test_a_call_is_captured_once_for_each_shape(cuda: list[FakeGraph]) -> None:
    calls: list[int] = []
    run = Graphs(doubled(calls))
    first = run([torch.ones(3)])[0]
    assert len(cuda) == 1 and len(calls) == 4  # three to warm up, one captured
    second = run([torch.full((3,), 5.0)])[0]
    assert len(calls) == 4, "a replay calls nothing"
    assert first.tolist() == [2.0] * 3, "results are copies: a later call leaves them alone"
    assert second.tolist() == [10.0] * 3
    run([torch.ones(4)])
    assert len(cuda) == 2
    run.free()
    assert all(g.freed for g in cuda) and not run.graphs


def test_what_cannot_be_captured_is_called(cuda: list[FakeGraph]) -> None:
    def run(tensors):
        if FakeGraph.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return (tensors[0] + 1,)

    graphed = Graphs(run)
    assert graphed([torch.ones(2)])[0].tolist() == [2.0, 2.0]
    assert graphed.why == "operation not permitted when stream is capturing"
    assert graphed([torch.zeros(2)])[0].tolist() == [1.0, 1.0]
