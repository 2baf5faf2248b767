"""Parts of real nets: compiled each on its own, run in a row or pipelined, they are the model."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import Dim
from leptonc.bench.suites import build, pick
from leptonc.capture.frontend import capture
from leptonc.errors import CaptureError, InputError, PartError, PipelineError, TargetError
from leptonc.parts.blocks import blocks_of
from leptonc.parts.plan import Options
from leptonc.parts.split import unit_seconds
from leptonc.parts.weigh import Machine, timed

from .dags import Residual, Several, Tied, normal, seeded

IMAGES = normal(4, 3, 12, 12)
BATCH = {"x": {0: Dim("batch", max=64)}}


def _close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, leptonc.Part]:
    net = seeded(Residual)
    return net, leptonc.split(net, 4, IMAGES, dynamic=BATCH, cache=False)


def test_a_connection_may_cross_several_cuts(residual) -> None:
    net, parts = residual
    _close(leptonc.run(parts, IMAGES), net(IMAGES))
    stem = set(parts[0].outputs) & set(parts[3].inputs)
    assert stem, "the head reads what the first part made"
    assert not any(stem & set(p.outputs) for p in parts[1:3]), "nobody between makes it"


def test_each_part_is_a_compiled_net_of_its_own(residual) -> None:
    _, parts = residual
    values = {"x": IMAGES}
    for part in parts:
        made = part(**{n: values[n] for n in part.inputs})
        assert list(made) == list(part.outputs)
        again = part(*(values[n] for n in part.inputs))
        assert all(torch.equal(made[n], again[n]) for n in made)
        assert part.net.name in part.report()
        assert part.net.ir.params and part.net.schedule.units
        assert [p.hint for p in part.ir.params] == list(part.inputs)
        values |= made
    assert sum(p.cost.share for p in parts) == pytest.approx(1.0)
    assert all(p.weights_bytes for p in parts)


def test_a_part_says_what_it_takes(residual) -> None:
    _, parts = residual
    first, second = parts[0], parts[1]
    name = second.inputs[0]
    good = {n: torch.zeros(1) for n in second.inputs}
    with pytest.raises(InputError, match=r"Residual\[0\].*there is no input foo.*\(x\)"):
        first(x=IMAGES, foo=IMAGES)
    with pytest.raises(InputError, match=rf"Residual\[1\].*missing.*{name}"):
        second(**{n: t for n, t in good.items() if n != name})
    with pytest.raises(InputError, match="got 2 inputs"):
        first(IMAGES, IMAGES)
    with pytest.raises(InputError, match="x given by position and by name"):
        first(IMAGES, x=IMAGES)
    with pytest.raises(InputError, match="x is a int, not a tensor"):
        first(x=1)
    with pytest.raises(InputError, match=f"{name}.*shape"):
        second(**good)
    with pytest.raises(InputError, match="x: expected dtype torch"):
        first(IMAGES.double())


def test_pipelined_micro_batches_are_the_pieces(residual) -> None:
    _, parts = residual
    x = normal(11, 3, 12, 12, seed=5)
    before = threading.active_count()
    got = leptonc.run(parts, x, microbatches=4)
    pieces = [leptonc.run(parts, piece) for piece in torch.split(x, [3, 3, 3, 2])]
    assert torch.equal(got, torch.cat(pieces)), "bit for bit, in order, the last one smaller"
    rows = torch.cat([leptonc.run(parts, x[i : i + 1]) for i in (0, 1)])
    assert torch.equal(leptonc.run(parts, x[:2], microbatches=8), rows), "fewer rows than pieces"
    assert torch.equal(got, leptonc.run(parts, x, microbatches=4, depth=1, deadline_s=60))
    assert threading.active_count() == before


def test_structure_of_results_is_kept() -> None:
    net = seeded(Several)
    args = {"x": normal(3, 6), "pair": (normal(3, 6, seed=1), normal(3, 6, seed=2)),
            "scale": normal(3, 1, seed=3)}  # fmt: skip
    batch = Dim("batch", min=1, max=64)
    sizes = {"x": {0: batch}, "pair": ({0: batch}, {0: batch}), "scale": {0: batch}}
    parts = leptonc.split(net, 3, args, dynamic=sizes, cache=False)
    want = net(**args)
    for more in ({}, {"microbatches": 3}):
        got = leptonc.run(parts, args, **more)
        assert list(got) == list(want) and isinstance(got["mid"][1], tuple)
        _close(got["mid"][0], want["mid"][0])
        _close(got["mid"][1][0], want["mid"][1][0])
        _close(got["out"], want["out"])
        assert got["same"] is args["x"] and got["number"] == 3
    used = [n for p in parts for n in p.inputs]
    assert {"x", "pair.0", "pair.1", "scale"} <= set(used) or len(set(used)) >= 4


def test_a_tied_weight_is_in_one_part_and_handed_on() -> None:
    net, ids = seeded(Tied), torch.arange(12).reshape(2, 6)
    parts = leptonc.split(net, 3, ids, cache=False, machine=Machine(link=1e12))
    want = net(ids)
    _close(leptonc.run(parts, ids), want)
    (name,) = {"embed.weight", "head.weight"} & set(parts[0].outputs)
    assert name in parts[-1].inputs
    given = parts[0](ids)[name]
    assert given.data_ptr() == net.embed.weight.data_ptr(), "the model's own, not a copy"
    table = net.embed.weight.numel() * 4
    assert [p.weights_bytes >= table for p in parts] == [True, False, False]
    assert parts[-1].cost.arriving >= table, "the plan knows that it is sent"


@pytest.mark.parametrize("name", ["conv3", "lstm_cell"])
def test_nets_of_the_suites(name: str) -> None:
    (entry,) = pick(["tiny"], [name])
    net, x = build(entry), entry.inputs(2)
    parts = leptonc.split(net, 3, x)
    want, got = net(*x), leptonc.run(parts, x)
    for w, g in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got)), strict=True):
        _close(g, w)


def test_an_encoder_whose_mask_every_layer_reads() -> None:
    from leptonc.bench.encoder import Encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Encoder(layers=3, width=32, heads=2).eval().requires_grad_(False)
    ids = torch.arange(2 * 8).reshape(2, 8)
    args = (ids, torch.ones_like(ids))
    parts = leptonc.split(net, 3, args)
    _close(leptonc.run(parts, args), net(*args))
    named = {n for n, _ in net.named_parameters()}
    homes: dict[str, list[int]] = {}
    for p in parts:
        for op in p.ir.ops:
            if op.kind.NAME == "constant" and op.result.hint in named:
                homes.setdefault(op.result.hint, []).append(p.index)
    assert homes and all(len(found) == 1 for found in homes.values())


def test_unlike_devices_get_unlike_shares() -> None:
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(12)]).eval()
    x = normal(32, 64)
    slow, fast = leptonc.split(net, 2, x, speeds=[1, 3], pipeline="O0", machine=Machine(link=1e15))
    assert slow.cost.share == pytest.approx(0.25, abs=0.01)
    assert fast.cost.seconds == pytest.approx(slow.cost.seconds, rel=0.1)


def test_measured_units_decide_where_they_are_known() -> None:
    assert timed(["a", "", "b"], [1.0, 2.0, 3.0], {"a": 10.0, "b": 30.0}) == [10.0, 20.0, 30.0]
    assert timed(["a", ""], [1.0, 2.0], {}) == [1.0, 2.0]
    net = seeded(Residual)
    times = unit_seconds(net, IMAGES, None, Options(cache=False, threads=1))
    blocks = blocks_of(capture(net, (IMAGES,)).function, "O2")
    assert set(times) & set(blocks.names), "units of the whole model have the names of blocks"
    assert all(t > 0 for n, t in times.items() if n in blocks.names)
    parts = leptonc.split(net, 3, IMAGES, measure=True, cache=False)
    _close(leptonc.run(parts, IMAGES), net(IMAGES))


def test_symbolic_sizes_cost_what_the_example_says() -> None:
    net = nn.Sequential(*[nn.Linear(16, 16) for _ in range(6)]).eval()
    x, batch = normal(8, 16), {"input": {0: Dim("batch", max=64)}}
    fixed = leptonc.split(net, 3, x, pipeline="O0")
    sizes = leptonc.split(net, 3, x, pipeline="O0", dynamic=batch)
    assert [p.cost for p in fixed] == [p.cost for p in sizes]


def test_what_cannot_be_split() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), normal(2, 4)
    with pytest.raises(PartError, match="into 5 parts: it has 2 ops"):
        leptonc.split(net, 5, x)
    assert len(leptonc.split(net, 2, x)) == 2, "inside of a unit, if nothing else is left"
    with pytest.raises(PartError, match="into 0 parts; ask for at least 1"):
        leptonc.split(net, 0, x)
    with pytest.raises(PartError, match="do not fit 2 parts"):
        leptonc.split(net, 2, x, speeds=[1.0])
    with pytest.raises(PartError, match="positive"):
        leptonc.split(net, 2, x, speeds=[1.0, 0.0])
    with pytest.raises(PipelineError, match="no-such-pass"):
        leptonc.split(net, 1, x, pipeline="no-such-pass")
    with pytest.raises(CaptureError):
        leptonc.split(net.train(), 1, x)


def test_targets_that_are_not_there_are_refused(residual) -> None:
    _, parts = residual
    assert parts[0].to("cpu").target == "cpu" and parts[0].to("cpu") is not parts[0]
    with pytest.raises(TargetError, match="mars"):
        parts[0].to("mars")
    if not torch.cuda.is_available():
        with pytest.raises(TargetError, match="cuda"):
            parts[0].to("cuda:4")


def test_parts_print_as_a_table(residual) -> None:
    _, parts = residual
    lines = repr(parts).splitlines()
    assert len(lines) == 2 + len(parts) and "in 4 parts" in lines[0]
    assert lines[1].split()[:2] == ["part", "ops"] and lines[2].startswith("Residual[0]")
    assert "Residual[3]" in parts._repr_html_() and "<table>" in parts._repr_html_()
    assert "Residual[1]" in repr(parts[1]) and "<table>" in parts[1]._repr_html_()


def test_only_all_parts_of_one_split_are_a_model(residual) -> None:
    _, parts = residual
    other = leptonc.split(nn.Sequential(nn.Linear(4, 4)).eval(), 1, normal(2, 4))
    with pytest.raises(PartError, match="different splits"):
        leptonc.run([*parts[:3], *other], IMAGES)
    with pytest.raises(PartError, match="parts 0 to 3, in this order; got: 0, 2"):
        leptonc.run([parts[0], parts[2]], IMAGES)
    with pytest.raises(PartError, match="no parts"):
        leptonc.run([], IMAGES)
    with pytest.raises(PartError, match="takes the parts of"):
        leptonc.run([len], IMAGES)


# ----- batches ------------------------------------------------------------------------------------


class Centred(nn.Module):
    """Subtracts the mean of the batch: no row is computed alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x - x.mean(0)))


class Pooled(nn.Module):
    """Returns nothing with a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.sigmoid(x).sum(0))


def test_a_model_that_mixes_its_batch_is_not_cut_along_it() -> None:
    x = normal(4, 6)
    parts = leptonc.split(seeded(Centred), 2, x, dynamic=BATCH, cache=False)
    with pytest.raises(InputError, match="depend on the whole batch"):
        leptonc.run(parts, x, microbatches=2)
    leptonc.run(parts, x, microbatches=2, check=False)
    parts = leptonc.split(Pooled().eval(), 2, x, dynamic=BATCH, cache=False)
    with pytest.raises(InputError, match="has no axis of size batch"):
        leptonc.run(parts, x, microbatches=2)


def test_a_batch_of_fixed_size() -> None:
    net, x = seeded(Residual), normal(6, 3, 12, 12)
    parts = leptonc.split(net, 2, x[:2], cache=False)
    _close(leptonc.run(parts, x, microbatches=3, batch=0), net(x))
    _close(leptonc.run(parts, x, microbatches=3, batch={"x": 0}), net(x))
    with pytest.raises(InputError, match="batches of 2 only; ask for 3 pieces"):
        leptonc.run(parts, x, microbatches=2, batch=0)
    with pytest.raises(InputError, match="Say batch=0 or"):
        leptonc.run(parts, x, microbatches=3)
    with pytest.raises(InputError, match="no input y"):
        leptonc.run(parts, x, microbatches=3, batch={"y": 0})
    with pytest.raises(InputError, match="no axis 7"):
        leptonc.run(parts, x, microbatches=3, batch=7)
    with pytest.raises(InputError, match="at least 1"):
        leptonc.run(parts, x, microbatches=0)


def test_inputs_whose_batches_differ_are_named() -> None:
    net = seeded(Several)
    args = {"x": normal(4, 6), "pair": (normal(4, 6), normal(4, 6)), "scale": normal(4, 1)}
    batch = Dim("batch", max=64)
    sizes = {"x": {0: batch}, "pair": ({0: batch}, {0: batch}), "scale": {0: batch}}
    parts = leptonc.split(net, 2, args, dynamic=sizes, cache=False)
    with pytest.raises(InputError, match=r"one batch, but x has 4.*scale has 2"):
        leptonc.run(parts, {**args, "scale": normal(2, 1)}, microbatches=2)
    with pytest.raises(InputError, match="no symbolic size 'rows'"):
        leptonc.run(parts, args, microbatches=2, batch="rows")
